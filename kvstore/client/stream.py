"""One Operate stream to one node, and what is in flight on it.

What is in flight belongs to the stream, never to the task that awaits it: a cancelled
caller changes nothing for the others.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from kvstore.errors import KVStoreError, LeadershipLost, Unavailable
from kvstore.pb import kv_pb2
from kvstore.rpc.options import CLIENT_CHANNEL_OPTIONS

OPERATE = "/kvstore.v1.KV/Operate"

Done = Callable[[kv_pb2.OperateResponse | None, KVStoreError | None], None]
"""Called once: the node's response, or why there is none."""


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
        self._patience = patience
        self._in_flight: dict[int, Done] = {}
        self._outgoing: list[kv_pb2.OperateRequest] = []
        self._wake = asyncio.Event()
        self._last_id = 0
        self._heard_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Raises ``Unavailable`` (definite: nothing was sent)."""
        self._channel = grpc.aio.insecure_channel(
            self.endpoint, options=CLIENT_CHANNEL_OPTIONS
        )
        try:
            ready = self._channel.channel_ready()
            await asyncio.wait_for(ready, self._patience.connect_s)
        except TimeoutError as error:
            await self._channel.close(None)
            raise Unavailable(f"cannot connect to {self.endpoint}") from error
        operate = self._channel.stream_stream(
            OPERATE,
            request_serializer=kv_pb2.OperateRequest.SerializeToString,
            response_deserializer=kv_pb2.OperateResponse.FromString,
        )
        self._call = operate(None)
        self._heard_at = asyncio.get_running_loop().time()
        for work in (self._write, self._read, self._watch):
            self._tasks.append(asyncio.create_task(work()))

    def send(self, request: kv_pb2.OperateRequest, done: Done) -> None:
        """Queue a request; ``done`` is called once."""
        assert not self.broken
        self._last_id += 1
        request.id = self._last_id
        if not self._in_flight:
            self._heard_at = asyncio.get_running_loop().time()
        self._in_flight[request.id] = done
        self._outgoing.append(request)
        self._wake.set()

    async def close(self) -> None:
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
        self._call.cancel()
        in_flight, self._in_flight = self._in_flight, {}
        for done in in_flight.values():
            message = f"{why} ({self.endpoint}) with the request in flight"
            done(None, LeadershipLost(message))

    async def _write(self) -> None:
        try:
            while not self.broken:
                await self._wake.wait()
                self._wake.clear()
                outgoing, self._outgoing = self._outgoing, []
                for request in outgoing:
                    await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._break("the connection broke")

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for response in self._call:
                self._heard_at = loop.time()
                if (done := self._in_flight.pop(response.id, None)) is not None:
                    done(response, None)
        except grpc.aio.AioRpcError:
            pass
        self._break("the connection ended")

    async def _watch(self) -> None:
        """A paused node answers no pings, though its kernel keeps the connection."""
        loop = asyncio.get_running_loop()
        while not self.broken:
            await asyncio.sleep(self._patience.ping_interval_s)
            if not self._in_flight:
                continue
            if loop.time() - self._heard_at > self._patience.silence_s:
                self._break("the node fell silent")
                return
            ping = kv_pb2.OperateRequest(ping=kv_pb2.Ping())
            self._outgoing.append(ping)
            self._wake.set()
