"""Changes of the cluster that an operator asks of its leader."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvstore.errors import (
    ChangePending,
    Closed,
    KVStoreError,
    LeadershipLost,
    MembershipRefused,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from kvstore.pb import cluster_pb2
from kvstore.raft.membership import (
    AddLearner,
    Change,
    Configuration,
    MemberInfo,
    Promote,
    Remove,
    SetLeases,
)
from kvstore.server.membership_admin import identify
from kvstore.types import NodeId, Revision, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.server.node import Node
    from kvstore.server.requests import Confirmed

PROMOTION_POLL_S = 0.05
"""How often it is looked whether a new member has caught up."""


class Admin:
    """Of one node. Another than the leader says ``NotLeader``, and who leads."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def change(
        self, request: cluster_pb2.ChangeMembershipRequest
    ) -> cluster_pb2.ChangeMembershipResponse:
        """Carry out one change, to its end.

        Raises:
            NotLeader, ChangePending, Unavailable, MembershipRefused: nothing changed.
            OutcomeUnknown: it may be under way, and go on. Or a part of a replacement
                was done; repeated, at the next leader if this one's lead is lost, it
                goes on where it stopped.
        """
        self._check_leads()
        timeout_ms = request.timeout_ms
        match request.WhichOneof("change"):
            case "add":
                await self._add(request.add, timeout_ms)
            case "promote":
                await self._change([Promote(NodeId(request.promote))], timeout_ms)
            case "remove":
                await self._change([Remove(NodeId(request.remove))], timeout_ms)
            case "replace":
                await self._replace(request.replace, timeout_ms)
            case "set_leases":
                await self._change([SetLeases(request.set_leases)], timeout_ms)
            case _:
                raise MembershipRefused("the request names no change")
        return cluster_pb2.ChangeMembershipResponse(
            members=members_of(self._node.replica.raft.configuration),
            leader_id=self._node.replica.raft.leader_id or NodeId(0),
        )

    async def transfer(
        self, request: cluster_pb2.TransferLeadershipRequest
    ) -> cluster_pb2.TransferLeadershipResponse:
        """Hand the lead over.

        Raises:
            NotLeader, ChangePending, MembershipRefused, Unavailable: ``to`` does not
                lead, and will not by this.
            OutcomeUnknown: it may lead yet.
        """
        node = self._node
        self._check_leads()
        to = NodeId(request.to) if request.to else None
        patience = node.patience_ticks(request.timeout_ms)
        await self._wait(
            lambda ticket: node.replica.transfer(ticket, to, patience_ticks=patience)
        )
        raft = node.replica.raft
        return cluster_pb2.TransferLeadershipResponse(
            leader_id=raft.leader_id or NodeId(0), term=raft.term
        )

    async def hand_over(self) -> None:
        """Before an orderly stop: have another lead, if one can. Raises as transfer."""
        node = self._node
        patience = node.patience_ticks(0)
        await self._wait(
            lambda ticket: node.replica.transfer(ticket, None, patience_ticks=patience)
        )

    # ----------------------------------------------------------------- changes

    async def _add(self, added: cluster_pb2.AddMember, timeout_ms: int) -> None:
        """A learner; it becomes a voter by itself once it has caught up."""
        info = await self._identified(added, promotable=not added.learner_only)
        await self._change([AddLearner(NodeId(added.node_id), info)], timeout_ms)

    async def _replace(
        self, request: cluster_pb2.ReplaceMember, timeout_ms: int
    ) -> None:
        """Add, wait until it has caught up, then swap the two in one change.

        Repeated after an interruption, it goes on where it stopped.
        """
        old, new = NodeId(request.old_node_id), NodeId(request.added.node_id)
        raft = self._node.replica.raft
        added = new not in raft.configuration.members
        if added:
            if old not in raft.configuration.members:
                raise MembershipRefused(f"node {old} is not a member")
            info = await self._identified(request.added, promotable=False)
            await self._change([AddLearner(new, info)], timeout_ms)
        deadline = self._deadline(timeout_ms)
        # From here on a part is done: no error may say that nothing was changed.
        while True:
            try:
                self._check_leads()
                if changes := swap(raft.configuration, old, new):
                    await self._change(changes, timeout_ms)
            except ChangePending as error:  # it has to catch up first
                if asyncio.get_running_loop().time() >= deadline:
                    raise OutcomeUnknown(
                        f"node {new} was added and is catching up; repeat the command "
                        f"to finish ({error})"
                    ) from error
                await asyncio.sleep(PROMOTION_POLL_S)
            except MembershipRefused as error:
                if not added:
                    raise
                why = f"node {new} was added, but did not replace node {old}: {error}"
                raise OutcomeUnknown(why) from error
            except (Unavailable, Closed) as error:
                # Whoever leads next can go on: the client asks there.
                raise LeadershipLost(
                    f"node {new} was added, and this node cannot go on ({error}); "
                    "repeat the command to finish"
                ) from error
            else:
                return

    async def _identified(
        self, added: cluster_pb2.AddMember, *, promotable: bool
    ) -> MemberInfo:
        """Dial a node before it is a member: a wrong address must not cost a quorum."""
        identity = self._node.stores.identity
        found = await identify(
            added.address,
            cluster_id=identity.cluster_id,
            node_id=NodeId(added.node_id),
            state_id=identity.origin_id,
        )
        return MemberInfo(added.address, found.incarnation, promotable)

    async def _change(self, changes: Sequence[Change], timeout_ms: int) -> None:
        node = self._node
        patience = node.patience_ticks(timeout_ms)
        await self._wait(
            lambda ticket: node.replica.change_members(
                ticket, changes, patience_ticks=patience
            )
        )

    async def _wait(self, begin: Callable[[Ticket], None]) -> None:
        """Begin something that names a ticket when it is done; wait for that."""
        node = self._node
        waiting = asyncio.get_running_loop().create_future()

        def answer(
            results: bytes,
            revision: Revision,
            error: KVStoreError | None,
            confirmed: Confirmed,
        ) -> None:
            del results, revision, confirmed
            if waiting.done():
                return
            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(error)

        ticket = node.requests.next_ticket()
        begin(ticket)
        node.requests.add(ticket, answer, None)
        node.poll_soon()
        await waiting

    def _check_leads(self) -> None:
        node = self._node
        node.check_open()
        raft = node.replica.raft
        if raft.is_leader:
            return
        leader = raft.leader_id
        info = None if leader is None else raft.configuration.members.get(leader)
        raise NotLeader(
            "this node does not lead",
            leader_id=leader or 0,
            leader_address="" if info is None else info.address,
        )

    def _deadline(self, timeout_ms: int) -> float:
        wanted_ms = timeout_ms or self._node.config.request_timeout_ms
        return asyncio.get_running_loop().time() + wanted_ms / 1_000


def swap(configuration: Configuration, old: NodeId, new: NodeId) -> list[Change]:
    """What is left to do once ``new`` was added for ``old``: nothing if it is done.

    Raises:
        MembershipRefused: somebody else has removed one of them meanwhile.
    """
    if old not in configuration.members:
        if new in configuration.voters:
            return []
        raise MembershipRefused(f"node {old} is not a member")
    if new not in configuration.members:
        # Without it this would be a removal, which nobody asked for.
        raise MembershipRefused(f"node {new} is not a member any more")
    if new in configuration.learners:
        return [Promote(new), Remove(old)]
    return [Remove(old)]


def members_of(configuration: Configuration) -> list[cluster_pb2.Member]:
    """The members, as they travel."""
    return [
        cluster_pb2.Member(
            node_id=node_id,
            address=info.address,
            incarnation=info.incarnation,
            voter=configuration.is_voter(node_id),
            outgoing=node_id in configuration.outgoing
            and node_id not in configuration.voters,
        )
        for node_id, info in configuration.members.items()
    ]
