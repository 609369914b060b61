"""Snapshots on their way to a peer that needs more than a log holds: ``Peer.Snapshot``.

A stream is a header, the answer to it (what the receiver holds already), chunks in
order, and answers that say how far it is. It may break anywhere: the next one goes on
where the receiver's file ends, if it is of the same snapshot. What is under way is
bounded by a window of our own: gRPC would buffer megabytes that a break then
loses.

These streams have connections of their own, so that no heartbeat waits behind a chunk.
What is read and written is somebody else's; it may block, and is done in threads.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import grpc

from kvstore.errors import (
    ConfigError,
    DamagedSnapshot,
    InvalidRequest,
    KVStoreError,
    Unavailable,
)
from kvstore.rpc.admission import SERVICE, Hello, refusal_in
from kvstore.rpc.errors import error_from_rpc
from kvstore.rpc.options import MEMBER_CHANNEL_OPTIONS
from kvstore.rpc.snapshot_codec import (
    Progress,
    SnapshotCodec,
    SnapshotHeader,
    decode_progress,
)
from kvstore.rpc.threads import in_thread

METHOD = "Snapshot"
WINDOW_SHARE = 32
"""One break loses at most this part of a large snapshot."""
BURST_S = 0.1
"""A pace that was not used for a while is passed for so long at most."""

_Call = grpc.aio.StreamStreamCall[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOptions:
    """Bounds and patience of the streams.

    Raises:
        ConfigError: a value cannot be used. Definite.
    """

    chunk_bytes: int = 512 * 1024
    """By measurement: half of it costs more turns of the loop, twice of it more memory
    that is new each time."""
    window_bytes_max: int = 4 * 1024 * 1024
    """Sent and not answered; at least two chunks."""
    connect_timeout_s: float = 5.0
    """To connect, be accepted, and hear where to begin."""
    answer_timeout_s: float = 30.0
    """A receiver is silent for so long at most."""
    answer_interval_s: float = 5.0
    """While it checks what it has received, it says this often that it does."""

    def __post_init__(self) -> None:
        for name in type(self).__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive")

    def window_bytes(self, size_bytes: int) -> int:
        """Bytes under way at most, of a snapshot of ``size_bytes``."""
        share = min(self.window_bytes_max, size_bytes // WINDOW_SHARE)
        return max(2 * self.chunk_bytes, share)


class Pace:
    """At most so many bytes a second, of all that share it (a token bucket).

    Written as virtual scheduling: what comes is due when what came before has had its
    time, so those who wait are served in the order of their calls.
    """

    __slots__ = ("_bytes_per_second", "_due_s")

    def __init__(self, bytes_per_second: int) -> None:
        """0: as fast as it goes."""
        self._bytes_per_second = bytes_per_second
        self._due_s = 0.0

    def delay_s(self, count: int, now_s: float) -> float:
        """Take ``count`` bytes; say how long to wait before they are sent."""
        if not self._bytes_per_second:
            return 0.0
        due_s = max(self._due_s, now_s - BURST_S)
        self._due_s = due_s + count / self._bytes_per_second
        return max(0.0, due_s - now_s)

    async def take(self, count: int) -> None:
        """Wait until ``count`` bytes may be sent."""
        delay_s = self.delay_s(count, asyncio.get_running_loop().time())
        if delay_s > 0:
            await asyncio.sleep(delay_s)


async def send_snapshot(
    header: SnapshotHeader,
    read: Callable[[int, int], bytes],
    *,
    address: str,
    hello: Hello,
    codec: SnapshotCodec,
    pace: Pace,
    on_sent: Callable[[int], None],
    options: SnapshotOptions,
) -> None:
    """Send a snapshot to the peer at ``address``, until all of it is there, and whole.

    ``read(offset, size)`` blocks, and gives exactly as many bytes. ``on_sent(bytes)``
    is told what leaves.

    Raises:
        Unavailable: it did not work out, or broke: try again, it goes on there.
        DamagedSnapshot: the receiver found that it is not whole, or we did.
        KVStoreError: what else the receiver answered. (gRPC loses an answer that
            crosses a chunk on its way: that is Unavailable, and the answer to the next
            try is the same.)
        OSError: it cannot be read.
    """
    sending = _Sending(
        header, read, codec=codec, pace=pace, on_sent=on_sent, options=options
    )
    async with grpc.aio.insecure_channel(
        address, options=list(MEMBER_CHANNEL_OPTIONS)
    ) as channel:
        stream = channel.stream_stream(f"/{SERVICE}/{METHOD}", None, None)
        call: _Call = stream(None, metadata=hello.encode())
        try:
            await sending.run(call)
        except TimeoutError as error:
            raise Unavailable("the receiver of a snapshot does not answer") from error
        except grpc.aio.AioRpcError as error:
            raise _error_of(error) from error
        except asyncio.InvalidStateError as error:  # it ended while we wrote
            raise _error_of(
                grpc.aio.AioRpcError(
                    await call.code(),
                    await call.initial_metadata(),
                    await call.trailing_metadata(),
                    details=await call.details(),
                    debug_error_string="",
                )
            ) from error
        finally:
            await sending.close()
            call.cancel()


class _Sending:
    """One stream, from the sender's side."""

    def __init__(
        self,
        header: SnapshotHeader,
        read: Callable[[int, int], bytes],
        *,
        codec: SnapshotCodec,
        pace: Pace,
        on_sent: Callable[[int], None],
        options: SnapshotOptions,
    ) -> None:
        self._header = header
        self._read = read
        self._codec = codec
        self._pace = pace
        self._on_sent = on_sent
        self._options = options
        self._ahead: asyncio.Task[bytes] | None = None
        """Makes the next chunk while this one leaves."""

    async def run(self, call: _Call) -> None:
        size_bytes = self._header.size_bytes
        window_bytes = self._options.window_bytes(size_bytes)
        async with asyncio.timeout(self._options.connect_timeout_s):
            await call.write(self._codec.encode_header(self._header))
            progress = await _answer(call, size_bytes)
        offset = progress.received_bytes
        while not progress.complete:
            count = self._chunk_bytes(offset)
            unanswered = offset - progress.received_bytes
            if count and unanswered + count <= window_bytes:
                await self._send_chunk(call, offset)
                offset += count
            else:
                async with asyncio.timeout(self._options.answer_timeout_s):
                    progress = await _answer(call, offset)

    async def _send_chunk(self, call: _Call, offset: int) -> None:
        if self._ahead is None:
            self._ahead = self._make(offset)
        frame, count = await self._ahead, self._chunk_bytes(offset)
        self._ahead = None
        if self._chunk_bytes(offset + count):
            self._ahead = self._make(offset + count)
        await self._pace.take(count)
        self._on_sent(count)
        await call.write(frame)

    def _make(self, offset: int) -> asyncio.Task[bytes]:
        return asyncio.create_task(in_thread(self._frame_at, offset))

    def _frame_at(self, offset: int) -> bytes:
        count = self._chunk_bytes(offset)
        data = self._read(offset, count)
        if len(data) != count:
            raise DamagedSnapshot(
                f"the file of a snapshot ends at {offset + len(data)} bytes, it should "
                f"have {self._header.size_bytes}"
            )
        return self._codec.encode_chunk(self._header.snapshot_id, offset, data)

    def _chunk_bytes(self, offset: int) -> int:
        return min(self._options.chunk_bytes, self._header.size_bytes - offset)

    async def close(self) -> None:
        """Nothing is read any more when this returns."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.wait((self._ahead,))
            if not self._ahead.cancelled():
                self._ahead.exception()  # what ended the stream came first


async def _answer(call: _Call, sent_bytes: int) -> Progress:
    answer = await call.read()
    if not isinstance(answer, bytes):  # EOF, which the stubs do not know
        raise Unavailable("the receiver of a snapshot ended the stream")
    progress = decode_progress(answer)
    if progress.received_bytes > sent_bytes:
        raise InvalidRequest("more of a snapshot arrived than there is of it")
    return progress


def _error_of(error: grpc.aio.AioRpcError) -> KVStoreError:
    # The stubs type the items as what the synchronous API gives.
    trailing = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata())
    refusal = refusal_in(error.details(), trailing)
    if refusal is not None:
        return refusal.error()
    found = error_from_rpc(error)
    # A bare status says little of a write; of a snapshot, that it may be tried again.
    return found if found.definite else Unavailable(str(found))
