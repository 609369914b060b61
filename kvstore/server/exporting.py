"""Exports of the state: a consistent copy in a file, made beside the writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kvstore.errors import Unavailable
from kvstore.pb import cluster_pb2
from kvstore.rpc.snapshot_codec import SnapshotHeader
from kvstore.rpc.threads import in_thread
from kvstore.server.loop_calls import LoopCalls, settling
from kvstore.server.state_thread import StateCall
from kvstore.storage.record import FORMAT_VERSION
from kvstore.storage.snapshot_export import Export, export_path, export_state
from kvstore.storage.snapshot_file import SnapshotInfo, file_bytes, frames
from kvstore.types import LogIndex

if TYPE_CHECKING:
    from kvstore.server.node import Node
    from kvstore.storage.lmdb_state import LMDBState

EXPORT_GROWTH_BYTES = 1 << 30
"""What is written during an export, at most, without waiting for its end."""


class ExportedState:
    """A :class:`~kvstore.server.snapshot_sender.SnapshotSource`: one file."""

    def __init__(
        self, header: SnapshotHeader, export: Export, *, release: Callable[[], None]
    ) -> None:
        """``release``: the log need not go on from here any more."""
        self._release = release
        self.header = header
        self.compact_revision = export.progress.compact_revision
        self._export = export
        self._fd = os.open(export.path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file. Any thread."""
        return os.pread(self._fd, size, offset)

    def close(self) -> None:
        """The file goes. Twice is not fine."""
        os.close(self._fd)
        self._export.path.unlink(missing_ok=True)
        self._release()


class Exporter:
    """Makes exports of one node's state."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._calls = LoopCalls(asyncio.get_running_loop())

    async def export(self) -> ExportedState:
        """The state as it is about now, and what it is the outcome of.

        Raises:
            Unavailable: the log was cut meanwhile; try again.
            OSError: the medium refused.
        """
        index = await self._commit()
        # Before it is made: on a busy node the log could be cut beyond it meanwhile.
        hold = self._node.replica.hold_log(index)
        path = export_path(self._node.stores.directory.snapshots_path)
        try:
            return await self._export_to(path, hold)
        except BaseException:
            # Also if nobody waits for it any more: the thread has ended by now.
            path.unlink(missing_ok=True)
            self._node.replica.release_log(hold)
            raise

    async def _export_to(self, path: Path, hold: int) -> ExportedState:
        stores, raft = self._node.stores, self._node.replica.raft
        export = await in_thread(export_state, stores.state, path)
        progress = export.progress
        try:
            snapshot = raft.snapshot_at(progress.index)
            chain = await in_thread(stores.log.chain, progress.index)
        except LookupError as error:
            raise Unavailable("the log was cut during an export") from error
        identity = stores.identity
        return ExportedState(
            SnapshotHeader(
                snapshot_id=export.snapshot_id,
                last=snapshot.last,
                chain=chain,
                configuration=snapshot.configuration,
                revision=progress.revision,
                epoch=identity.epoch,
                state_id=identity.origin_id,
                size_bytes=export.size_bytes,
                term=raft.term,
                format_version=FORMAT_VERSION,
            ),
            export,
            release=lambda: self._release(hold),
        )

    def _info(self, source: ExportedState) -> SnapshotInfo:
        header, identity = source.header, self._node.stores.identity
        return SnapshotInfo(
            cluster_id=identity.cluster_id.hex(),
            state_id=header.state_id.hex(),
            epoch=header.epoch,
            node_id=identity.node_id,
            index=header.last.index,
            term=header.last.term,
            revision=header.revision,
            compact_revision=source.compact_revision,
            configuration=header.configuration.decode(),
            size_bytes=header.size_bytes,
        )

    async def file(self) -> AsyncIterator[cluster_pb2.SnapshotPart]:
        """A snapshot file, part by part. Raises as :meth:`export`."""
        source = await self.export()
        try:
            info = self._info(source)
            size_bytes = file_bytes(info)
            made = frames(info, source.read)
            while (data := await in_thread(next, made, b"")) != b"":
                yield cluster_pb2.SnapshotPart(data=data, size_bytes=size_bytes)
        finally:
            await in_thread(source.close)

    def _release(self, hold: int) -> None:
        """From any thread."""
        self._calls.call(self._node.replica.release_log, hold)

    async def _commit(self) -> LogIndex:
        """What is applied so far becomes visible to an export; up to where that is."""
        done: asyncio.Future[LogIndex] = asyncio.get_running_loop().create_future()
        node = self._node

        def commit(state: LMDBState) -> LogIndex:
            node.state_thread.commit(state)
            state.reserve(EXPORT_GROWTH_BYTES)
            return state.progress.index

        node.state_thread.submit(StateCall(commit, settling(done)))
        return await done
