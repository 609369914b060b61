"""A snapshot that arrived takes the place of this node's state and log.

The order makes it one step under crashes: the log begins anew together with a note of
what is being installed, then the staged state is renamed over the old one, then the
note goes. Whoever opens the directory in between finishes what was begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from kvstore.replica.effects import Persist
from kvstore.server.loop_calls import settling
from kvstore.server.scrubbing import start_scrubber
from kvstore.server.state_thread import StateSwap
from kvstore.storage.staging import staged_path

if TYPE_CHECKING:
    from kvstore.raft.messages import EntryId
    from kvstore.server.node import Node
    from kvstore.server.snapshot_receiver import Received
    from kvstore.storage.lmdb_log import LMDBLog
    from kvstore.storage.lmdb_state import LMDBState


class Installing:
    """Of one node, on its event loop. One snapshot at a time, as the core has it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._received: dict[EntryId, Received] = {}
        self._task: asyncio.Task[None] | None = None

    def arrived(self, received: Received) -> None:
        """All of a snapshot is staged; the replica is about to be told."""
        self._received = {received.last: received}

    def install(self, effect: Persist) -> None:
        """Carry out a write that begins with a snapshot."""
        assert self._task is None or self._task.done()
        self._task = asyncio.create_task(self._install(effect))
        self._task.add_done_callback(self._installed)

    def _installed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._node.fail_stop.task_failed(error)

    async def _install(self, effect: Persist) -> None:
        node, snapshot = self._node, effect.snapshot
        assert snapshot is not None
        received = self._received.pop(snapshot.last)
        if (scrubber := node.scrubber) is not None:
            # It reads the state that is about to be closed.
            await asyncio.to_thread(scrubber.close)

        def begin(log: LMDBLog) -> None:
            log.install(
                effect.hard_state,
                snapshot,
                chain=received.chain,
                snapshot_id=received.snapshot_id,
            )

        def end(log: LMDBLog) -> None:
            log.finish_install()
            if effect.entries:
                log.append(None, effect.entries)

        await self._in_log(begin)
        state = await self._swap(received)
        progress = state.progress
        node.state_replaced(replace(node.stores, state=state))
        node.replica.installed(
            snapshot.last,
            revision=progress.revision,
            compact_revision=progress.compact_revision,
            compaction_pending=progress.compaction_pending,
        )
        await self._in_log(end)
        if scrubber is not None:
            node.scrubber = start_scrubber(node.config, node.stores, node.on_finding)
        node.on_persisted(effect.number)

    async def _in_log(self, work: Callable[[LMDBLog], None]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._node.log_thread.call(work, settling(done))
        await done

    async def _swap(self, received: Received) -> LMDBState:
        done: asyncio.Future[LMDBState]
        done = asyncio.get_running_loop().create_future()
        stores, config = self._node.stores, self._node.config

        def open_next() -> LMDBState:
            staged = staged_path(stores.directory.incoming_path, received.snapshot_id)
            return stores.install_state(staged, config)

        self._node.state_thread.submit(StateSwap(open_next, settling(done)))
        return await done

    async def close(self) -> None:
        """Before the threads end: nobody waits any more for what they do.

        Opening the directory again finishes what was begun.
        """
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))
