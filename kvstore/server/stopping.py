"""An orderly stop: the lead is handed over, what is in flight is finished."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore.server.node import Node

HANDOVER_S_MAX = 2.0
"""A leader that stops waits this long for another to lead: mostly a few round trips,
and an election timeout if its first choice does not answer."""
LOOK_S = 0.005
DRAIN_S_MAX = 0.5
"""A node that stops waits this long for what is in flight: mostly a round trip."""
RESIGNED_S = 0.03
"""And a leader this long after it resigned: what peers had sent by then is refused."""


async def stop_leading_and_drain(node: Node, ended: asyncio.Future[None]) -> None:
    """Before a node stops, so that a rolling restart costs no request.

    The lead goes first: until another node has it, nobody could take the writes that
    this one refuses.
    """
    node.tell_health(serving=False)
    await _hand_over(node, ended)
    node.replica.drain()
    node.drained = ended.get_loop().create_future()
    node.poll_soon()
    await asyncio.wait(
        (node.drained, ended),
        timeout=DRAIN_S_MAX,
        return_when=asyncio.FIRST_COMPLETED,
    )
    if node.running and node.replica.raft.is_leader and not _is_alone(node):
        # What peers passed on meanwhile is refused by now, and all of them are told to
        # pass nothing on any more. They hear from nobody that leads until they elect,
        # so nothing is on its way here when the connections break.
        node.replica.resign()
        node.poll_soon()
        await asyncio.wait((ended,), timeout=RESIGNED_S)


def _is_alone(node: Node) -> bool:
    return node.replica.raft.configuration.all_voters == (node.node_id,)


async def _hand_over(node: Node, ended: asyncio.Future[None]) -> None:
    if not node.replica.raft.is_leader or _is_alone(node):
        return
    handing_over = asyncio.ensure_future(node.admin.hand_over())
    deadline = asyncio.get_running_loop().time() + HANDOVER_S_MAX
    # Until it leads no more; who leads instead, if all stop at once nobody, is not its
    # business. The core tells nobody when it steps down, so it is looked at.
    while (
        node.replica.raft.is_leader
        and not (ended.done() or handing_over.done())
        and asyncio.get_running_loop().time() < deadline
    ):
        await asyncio.wait(
            (ended, handing_over),
            timeout=LOOK_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
    handing_over.cancel()
    await asyncio.gather(handing_over, return_exceptions=True)
