"""The outgoing stream to one peer: dials, sends what is queued, dials again."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import grpc

from kvstore.errors import ConfigError
from kvstore.rpc.admission import SERVICE, Hello, Refusal, log, refusal_in
from kvstore.rpc.options import MEMBER_CHANNEL_OPTIONS
from kvstore.rpc.peer_queue import PeerQueue
from kvstore.types import NodeId

METHOD = "Exchange"
ACCEPTED_METADATA_KEY = "kvstore-accepted"
"""In the initial metadata of the answer. A refusal has initial metadata too, and gRPC
may deliver them before it says that the call is over."""

_Call = grpc.aio.StreamStreamCall[bytes, bytes]

LASTING_REFUSALS = 7
"""In a row: a peer that cannot be reached for about a second by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOptions:
    """Bounds and patience of the streams.

    Raises:
        ConfigError: a value cannot be used. Definite.
    """

    queue_messages_max: int = 4_096
    """Messages of one kind that wait for one peer: small ones, log entries, writes
    passed on, or answers to those. :class:`PeerQueue` says what is lost past it."""
    queue_bytes_max: int = 64 * 1024 * 1024
    """Bytes of log entries that wait, and of writes passed on."""
    frame_bytes_max: int = 1024 * 1024
    """Large messages join a frame up to here (one larger goes alone), so that small
    ones wait behind this much at most."""
    connect_timeout_s: float = 2.0
    """To connect and be accepted."""
    backoff_s_min: float = 0.02
    backoff_s_max: float = 1.0

    def __post_init__(self) -> None:
        for name in type(self).__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive")


class PeerLink:
    """From ``start`` to ``close``. Callbacks run on the loop and must not wait."""

    def __init__(
        self,
        *,
        hello: Hello,
        address: str,
        options: PeerOptions,
        chance: random.Random,
        on_accepted: Callable[[NodeId], None],
        on_ended: Callable[[NodeId], None],
        on_refused: Callable[[Refusal], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """``hello`` opens each stream. It may change between two."""
        self.connected = False
        self.queue = PeerQueue(
            messages_max=options.queue_messages_max,
            bytes_max=options.queue_bytes_max,
            frame_bytes_max=options.frame_bytes_max,
        )
        self.wake = asyncio.Event()
        """Set when something was queued, or the stream ended."""
        self._up = asyncio.Event()
        self.hello = hello
        self.address = address
        self.last_refusal = ""
        self._refusals = 0
        self._options = options
        self._chance = chance
        self._on_accepted = on_accepted
        self._on_ended = on_ended
        self._on_refused = on_refused
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Dial, and go on until it is closed."""
        assert self._task is None, "started twice"
        self._task = asyncio.create_task(self._run(), name=f"peer {self.hello.to}")
        self._task.add_done_callback(self._done)

    def close(self) -> asyncio.Task[None] | None:
        """End the stream. What is returned, if it ever started, is done soon."""
        if self._task is not None:
            self._task.cancel()
        return self._task

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    async def _run(self) -> None:
        backoff_s = self._options.backoff_s_min
        while True:
            if await self._connect_and_send():
                backoff_s = self._options.backoff_s_min
            # What waited for a connection that never came would be news of the past.
            self.queue.clear()
            if await self._woken(backoff_s * self._chance.uniform(0.5, 1.0)):
                backoff_s = self._options.backoff_s_min
            backoff_s = min(2 * backoff_s, self._options.backoff_s_max)

    def peer_is_up(self) -> None:
        """The peer has just dialled us: do not wait to dial it."""
        self._up.set()

    async def _woken(self, patience_s: float) -> bool:
        """Wait before the next attempt; whether the peer cut the waiting short."""
        self._up.clear()
        try:
            async with asyncio.timeout(patience_s):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    async def _connect_and_send(self) -> bool:
        """Serve one connection to its end. Returns whether it was accepted."""
        # A fresh channel for each attempt: the backoff is ours alone.
        async with grpc.aio.insecure_channel(
            self.address, options=list(MEMBER_CHANNEL_OPTIONS)
        ) as channel:
            exchange = channel.stream_stream(f"/{SERVICE}/{METHOD}", None, None)
            call: _Call = exchange(None, metadata=self.hello.encode())
            try:
                if not await self._is_accepted(call):
                    return False
                await self._send_until_ended(call)
            finally:
                self.connected = False
                call.cancel()
            self._on_ended(self.hello.to)
            await self._tell_refusal(call)
        self._log(logging.INFO, "peer stream ended")
        return True

    async def _is_accepted(self, call: _Call) -> bool:
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                accepted = ACCEPTED_METADATA_KEY in await call.initial_metadata()
                if not accepted:
                    await call.code()
        except TimeoutError:
            self._log_refusal("timeout")
            return False
        if not accepted:
            self._log_refusal(f"{(await call.code()).name}: {await call.details()}")
            await self._tell_refusal(call)
            return False
        self._refusals = 0
        self.last_refusal = ""
        self.connected = True
        self._log(logging.INFO, "peer stream accepted")
        self._on_accepted(self.hello.to)
        return True

    async def _tell_refusal(self, call: _Call) -> None:
        """Say so if the peer ended the stream for a reason that is known."""
        # Each of these is known: the call is over, or was cancelled by us.
        trailing = cast(
            "Iterable[tuple[str, str | bytes]]", await call.trailing_metadata()
        )
        refusal = refusal_in(await call.details(), trailing)
        if refusal is not None:
            self._on_refused(refusal)

    async def _send_until_ended(self, call: _Call) -> None:
        wake = self.wake
        call.add_done_callback(lambda _call: wake.set())
        try:
            while not call.done():
                frame = self.queue.next_frame()
                if frame:
                    await call.write(frame)
                else:
                    wake.clear()
                    await wake.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream ended during the write

    def _log_refusal(self, reason: str) -> None:
        self._refusals += 1
        # Members start and stop at about one time: a warning only of what lasts. And a
        # peer that is down is dialled every second: only what changes is news.
        lasts = self._refusals == LASTING_REFUSALS
        if reason != self.last_refusal or lasts:
            self.last_refusal = reason
            level = logging.INFO
            if self._refusals >= LASTING_REFUSALS:
                level = logging.WARNING
            self._log(level, "peer not reached", address=self.address, reason=reason)

    def _log(self, level: int, event: str, **fields: object) -> None:
        log(level, event, node=self.hello.sender, peer=self.hello.to, **fields)
