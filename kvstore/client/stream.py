"""One Operate stream to one node, and what is in flight on it.

What is in flight belongs to the stream, never to the task that awaits it: a cancelled
caller changes nothing for the others.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from kvstore.errors import KVStoreError, LeadershipLost, Unavailable
from kvstore.pb import kv_pb2
from kvstore.rpc.options import CLIENT_CHANNEL_OPTIONS

OPERATE = "/kvstore.v1.KV/Operate"

Answered = Callable[[kv_pb2.OperateResponse | None, KVStoreError | None], object]
"""Called once: the node's response, or why there is none."""

_REASONS = (
    ("Connection refused", "connection refused"),
    ("Connection reset", "connection reset"),
    ("No route to host", "no route to host"),
    ("Network is unreachable", "network is unreachable"),
    ("DNS resolution failed", "no such host"),
    ("Domain name not found", "no such host"),
    ("Socket closed", "the connection closed"),
)
"""What gRPC's long accounts of a failed connection come to."""
_REASON_CHARACTERS_MAX = 120


@dataclass(slots=True)
class Patience:
    """When a silent node is given up, in seconds."""

    connect_s: float = 1.0
    ping_interval_s: float = 0.25
    silence_s: float = 1.0


class OperateStream:
    """Open until it breaks or is closed; then everything in flight is answered."""

    def __init__(self, endpoint: str, patience: Patience) -> None:
        self.endpoint = endpoint
        self.broken = False
        self.cluster_id = b""
        """As the node said when it was connected to; empty if it did not."""
        self._patience = patience
        self._in_flight: dict[int, Answered] = {}
        self._outgoing: deque[kv_pb2.OperateRequest] = deque()
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._last_id = 0
        self._silent_ticks = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def requests_open(self) -> int:
        """Requests that are not answered yet. Pings are none."""
        return len(self._in_flight)

    async def open(self) -> None:
        """Connect, and wait until the node itself has answered a ping.

        No write leaves before: what fails here was certainly not sent.

        Raises:
            Unavailable: why, in a few words. Definite.
        """
        # A fresh channel each time: its backoff is not gRPC's to remember.
        self._channel = grpc.aio.insecure_channel(
            self.endpoint, options=CLIENT_CHANNEL_OPTIONS
        )
        operate = self._channel.stream_stream(
            OPERATE,
            request_serializer=kv_pb2.OperateRequest.SerializeToString,
            response_deserializer=kv_pb2.OperateResponse.FromString,
        )
        self._call = operate(None)
        try:
            async with asyncio.timeout(self._patience.connect_s):
                await self._call.write(kv_pb2.OperateRequest(ping=kv_pb2.Ping()))
                answered = await self._call.read()
        except (TimeoutError, asyncio.InvalidStateError):
            answered = None
            why = f"no answer in {self._patience.connect_s:g} s"
        except grpc.aio.AioRpcError as error:
            answered = None
            why = reason(error)
        except asyncio.CancelledError:
            self.broken = True
            self._call.cancel()
            await self._channel.close(None)
            raise
        else:
            why = "the node ended the stream"
        if not isinstance(answered, kv_pb2.OperateResponse):
            self.broken = True
            self._call.cancel()
            await self._channel.close(None)
            raise Unavailable(why)
        self.cluster_id = answered.header.cluster_id
        for work in (self._write, self._read, self._watch):
            self._tasks.append(asyncio.create_task(work()))

    def send(self, request: kv_pb2.OperateRequest, done: Answered) -> None:
        """Queue a request; ``done`` is called once."""
        assert not self.broken
        self._last_id += 1
        request.id = self._last_id
        self._in_flight[request.id] = done
        self._outgoing.append(request)
        self._wake.set()

    async def drain(self) -> None:
        """Close once everything in flight is answered. Nothing may be sent any more."""
        while self._in_flight:
            self._answered.clear()
            await self._answered.wait()
        await self.close()

    async def close(self) -> None:
        """Break the stream and free the connection."""
        self._break("the client closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close(None)

    def _break(self, why: str) -> None:
        if self.broken:
            return
        self.broken = True
        self._wake.set()
        self._answered.set()
        self._call.cancel()
        in_flight, self._in_flight = self._in_flight, {}
        unsent = {request.id for request in self._outgoing}
        self._outgoing.clear()
        for request_id, done in in_flight.items():
            if request_id in unsent:
                done(None, Unavailable(f"{why} ({self.endpoint}); nothing was sent"))
            else:
                message = f"{why} ({self.endpoint}) with the request in flight"
                done(None, LeadershipLost(message))

    async def _write(self) -> None:
        outgoing = self._outgoing
        try:
            while not self.broken:
                if outgoing:
                    # Off the queue first: from here on it may have reached the node.
                    await self._call.write(outgoing.popleft())
                else:
                    self._wake.clear()
                    await self._wake.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._break("the connection broke")

    async def _read(self) -> None:
        read = self._call.read
        try:
            while isinstance(response := await read(), kv_pb2.OperateResponse):
                self._silent_ticks = 0
                if (done := self._in_flight.pop(response.id, None)) is not None:
                    done(response, None)
                    if not self._in_flight:
                        self._answered.set()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        self._break("the connection ended")

    async def _watch(self) -> None:
        """A paused node answers no pings, though its kernel keeps the connection.

        Silence is counted in our own ticks, not in time: if this process was the one
        that stood still, one late tick is all that it shows.
        """
        interval_s = self._patience.ping_interval_s
        ticks_max = math.ceil(self._patience.silence_s / interval_s)
        while not self.broken:
            await asyncio.sleep(interval_s)
            if not self._in_flight:
                self._silent_ticks = 0
                continue
            if self._silent_ticks >= ticks_max:
                self._break("the node fell silent")
                return
            self._silent_ticks += 1
            # Id 0 belongs to no request: whatever the answer, it is a sign of life.
            self._outgoing.append(kv_pb2.OperateRequest(ping=kv_pb2.Ping()))
            self._wake.set()


def reason(error: grpc.aio.AioRpcError) -> str:
    """Why a call failed, in a few words."""
    details = error.details() or ""
    for part, words in _REASONS:
        if part in details:
            return words
    return f"{error.code().name}: {details}"[:_REASON_CHARACTERS_MAX]
