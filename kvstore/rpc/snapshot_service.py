"""Where snapshots of a leader arrive: the receiver's side of ``Peer.Snapshot``."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

import grpc

from kvstore.errors import (
    InvalidRequest,
    KVStoreError,
    NotLeader,
    ProposalDropped,
    Unavailable,
)
from kvstore.rpc.admission import SERVICE, Context, Gate, log
from kvstore.rpc.errors import abort
from kvstore.rpc.snapshot_codec import SnapshotCodec, SnapshotHeader, encode_progress
from kvstore.rpc.snapshots import METHOD, SnapshotOptions
from kvstore.rpc.threads import in_thread, to_its_end
from kvstore.types import NodeId


class StagedSnapshot(Protocol):
    """A snapshot as far as it has arrived, on disk. Everything may block."""

    @property
    def offset(self) -> int:
        """Bytes that are there, from the first on."""
        ...

    def write(self, data: bytes, offset: int) -> None:
        """Add ``data`` at ``offset``, which is where it ends.

        Raises:
            OSError: the medium refused.
        """
        ...

    def finish(self) -> None:
        """All is there: make it durable and check it.

        Raises:
            DamagedSnapshot: it is not whole, and was thrown away.
            OSError: the medium refused.
        """
        ...

    def discard(self) -> None:
        """Throw it away."""
        ...


class SnapshotReceiver(Protocol):
    """What becomes of snapshots here."""

    def check(self, sender: NodeId, header: SnapshotHeader) -> None:
        """On the loop, before anything is taken, and again before it is used.

        Raises:
            KVStoreError: it is not wanted.
        """
        ...

    def stage(self, header: SnapshotHeader) -> StagedSnapshot:
        """What is there of this snapshot already, or nothing of it. May block."""
        ...

    def received(
        self, sender: NodeId, header: SnapshotHeader, staged: StagedSnapshot
    ) -> None:
        """All of it is there, and whole. On the loop."""
        ...


@dataclass(slots=True, eq=False)
class _Turn:
    """One stream that receives, or waits until the one before it has ended."""

    header: SnapshotHeader
    task: asyncio.Task[object]
    superseded: bool = False


class SnapshotService:
    """The incoming streams. One snapshot at a time: the newest."""

    def __init__(
        self,
        *,
        gate: Gate,
        codec: SnapshotCodec,
        receiver: SnapshotReceiver,
        options: SnapshotOptions | None = None,
    ) -> None:
        self._gate = gate
        self._codec = codec
        self._receiver = receiver
        self._options = options or SnapshotOptions()
        self._newest: _Turn | None = None
        self._busy = asyncio.Lock()
        """Held while a file is in use."""
        self._closed = False

    @property
    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """For ``server.add_generic_rpc_handlers``."""
        method = grpc.stream_stream_rpc_method_handler(self.snapshot)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def close(self) -> None:
        """End what is under way. No file is in use any more when this returns."""
        self._closed = True
        if self._newest is not None:
            self._newest.superseded = True
            self._newest.task.cancel()
        async with self._busy:
            pass

    async def snapshot(self, requests: object, context: Context) -> None:
        """One stream."""
        del requests  # context.read() costs less than the iterator
        sender = (await self._gate.enter(context)).sender
        failure: KVStoreError
        try:
            header = self._codec.decode_header(await _read(context))
            await self._take_turn(sender, header, context)
        except KVStoreError as error:
            failure = error
        except OSError as error:
            failure = Unavailable(f"the snapshot cannot be stored: {error}")
        else:
            return
        log(logging.WARNING, "snapshot not received", peer=sender, reason=str(failure))
        await abort(context, failure)

    async def _take_turn(
        self, sender: NodeId, header: SnapshotHeader, context: Context
    ) -> None:
        """Receive when whoever did so before has made room."""
        if self._closed:
            raise Unavailable("this node is stopping")
        self._receiver.check(sender, header)
        task = asyncio.current_task()
        assert task is not None
        before, turn = self._newest, _Turn(header, task)
        if before is not None:
            if header.term < before.header.term:
                raise NotLeader(f"a leader of term {before.header.term} sends already")
            before.superseded = True
            before.task.cancel()
        self._newest = turn
        try:
            async with self._busy:
                await self._receive(sender, turn, context)
        except asyncio.CancelledError:
            if not turn.superseded:
                raise
            task.uncancel()
            raise ProposalDropped("a newer snapshot, or the end, came first") from None
        finally:
            if self._newest is turn:
                self._newest = None

    async def _receive(self, sender: NodeId, turn: _Turn, context: Context) -> None:
        header = turn.header
        staged = await in_thread(self._receiver.stage, header)
        log(
            logging.INFO,
            "snapshot begins",
            peer=sender,
            index=header.last.index,
            bytes=header.size_bytes,
            held=staged.offset,
        )
        await context.write(encode_progress(staged.offset))
        # The next chunk comes in while this one is written.
        ahead = asyncio.ensure_future(_read(context))
        try:
            while staged.offset < header.size_bytes:
                frame = await ahead
                ahead = asyncio.ensure_future(_read(context))
                await in_thread(self._store, header, staged, frame)
                await context.write(encode_progress(staged.offset))
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
        await self._finish(sender, turn, staged, context)
        await context.write(encode_progress(header.size_bytes, complete=True))

    def _store(
        self, header: SnapshotHeader, staged: StagedSnapshot, frame: bytes
    ) -> None:
        offset, data = self._codec.decode_chunk(header.snapshot_id, frame)
        fits = 0 < len(data) <= header.size_bytes - offset
        if offset != staged.offset or not fits:
            raise InvalidRequest(
                f"{len(data)} bytes of a snapshot came at {offset}, not at "
                f"{staged.offset} of {header.size_bytes}"
            )
        staged.write(data, offset)

    async def _finish(
        self, sender: NodeId, turn: _Turn, staged: StagedSnapshot, context: Context
    ) -> None:
        """Check what has arrived, and hand it on, even if its sender is gone by then.

        To read all of it can take minutes; the sender hears that it goes on.
        """
        checking = asyncio.ensure_future(self._hand_over(sender, turn, staged))
        interval_s = self._options.answer_interval_s
        try:
            while not (await asyncio.wait((checking,), timeout=interval_s))[0]:
                await context.write(encode_progress(turn.header.size_bytes))
        finally:
            await to_its_end(checking)

    async def _hand_over(
        self, sender: NodeId, turn: _Turn, staged: StagedSnapshot
    ) -> None:
        await in_thread(staged.finish)
        if not turn.superseded:
            self._receiver.check(sender, turn.header)
            self._receiver.received(sender, turn.header, staged)


async def _read(context: Context) -> bytes:
    frame = await context.read()
    if not isinstance(frame, bytes):  # EOF, which the stubs do not know
        raise Unavailable("the sender of a snapshot ended the stream")
    return frame
