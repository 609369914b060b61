"""Requests over gRPC, to one of several endpoints at a time.

Any node takes any request, so one connection is enough; when it breaks, or its node
says that it cannot serve, the next endpoint is tried.
"""

import asyncio
from collections.abc import Sequence

import grpc

from kvstore.client.stream import OperateStream, Patience, reason
from kvstore.client.transport import Done
from kvstore.config import check_address
from kvstore.errors import ConfigError, KVStoreError, Unavailable
from kvstore.pb import cluster_pb2, kv_pb2
from kvstore.rpc.options import CLIENT_CHANNEL_OPTIONS

_STATUS = "/kvstore.v1.Cluster/Status"


class ClusterTransport:
    """A :class:`~kvstore.client.transport.Transport` to a cluster.

    Raises:
        ConfigError: no endpoint, or one that does not read HOST:PORT.
    """

    def __init__(
        self, endpoints: str | Sequence[str], *, patience: Patience | None = None
    ) -> None:
        # A string is a sequence too, of characters.
        listed = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not listed:
            raise ConfigError("a client needs at least one HOST:PORT")
        for endpoint in listed:
            check_address("endpoint", endpoint, port_min=1)
        self._endpoints = listed
        self._next = 0
        self._patience = patience or Patience()
        self._failures: dict[str, str] = {}
        self._stream: OperateStream | None = None
        self._draining: dict[asyncio.Task[None], OperateStream] = {}

    @property
    def recovers(self) -> bool:
        return True

    @property
    def ready(self) -> bool:
        return self._stream is not None and not self._stream.broken

    @property
    def requests_open(self) -> int:
        # What a stream that was left still owes takes up no room on this one.
        return self._stream.requests_open if self._stream is not None else 0

    @property
    def cluster_id(self) -> bytes:
        return self._stream.cluster_id if self._stream is not None else b""

    @property
    def endpoints(self) -> Sequence[str]:
        # The one in use first: it is known to answer.
        used = [self._stream.endpoint] if self._stream is not None else []
        return list(dict.fromkeys([*used, *self._endpoints]))

    @property
    def trouble(self) -> str:
        if not self._failures:
            return "no connection yet"
        tried = ", ".join(
            f"{endpoint} ({why})" for endpoint, why in self._failures.items()
        )
        return f"cannot connect to {tried}"

    async def connect(self) -> None:
        """Try each endpoint once, beginning after the one in use before.

        Raises:
            Unavailable: none answered; says why each did not. Definite.
        """
        old, self._stream = self._stream, None
        if old is not None:
            await old.close()
        for _ in self._endpoints:
            endpoint = self._endpoints[self._next]
            self._next = (self._next + 1) % len(self._endpoints)
            self._failures.setdefault(endpoint, "no answer yet")
            stream = OperateStream(endpoint, self._patience)
            try:
                await stream.open()
            except Unavailable as error:
                self._failures[endpoint] = str(error)
            else:
                self._stream = stream
                self._failures.clear()
                return
        raise Unavailable(self.trouble)

    def send(self, request: kv_pb2.OperateRequest, done: Done) -> None:
        stream = self._stream
        assert stream is not None

        def answered(
            response: kv_pb2.OperateResponse | None, error: KVStoreError | None
        ) -> None:
            elsewhere = done(response, error)
            if elsewhere and self._stream is stream and len(self._endpoints) > 1:
                self._leave(stream)

        stream.send(request, answered)

    def _leave(self, stream: OperateStream) -> None:
        """Ask another node from now on; what is in flight here is still answered."""
        self._stream = None
        draining = asyncio.create_task(stream.drain())
        self._draining[draining] = stream
        draining.add_done_callback(lambda task: self._draining.pop(task, None))

    async def status(
        self, endpoint: str | None, timeout_s: float
    ) -> cluster_pb2.StatusResponse:
        if endpoint is None:
            stream = self._stream
            endpoint = stream.endpoint if stream else self._endpoints[self._next]
        check_address("endpoint", endpoint, port_min=1)
        try:
            return await status_of(endpoint, timeout_s)
        except Unavailable as error:
            raise Unavailable(f"no status of {endpoint}: {error}") from error

    async def close(self) -> None:
        draining = dict(self._draining)
        for task, stream in draining.items():
            task.cancel()
            await stream.close()
        await asyncio.gather(*draining, return_exceptions=True)
        if self._stream is not None:
            await self._stream.close()


class NoAnswer(Unavailable):
    """The node did not answer within the time that it was given."""


async def status_of(endpoint: str, timeout_s: float) -> cluster_pb2.StatusResponse:
    """What the node at ``endpoint`` says of itself, over a connection of its own.

    Raises:
        Unavailable: it does not answer in time; the message says only why. Definite.
    """
    async with grpc.aio.insecure_channel(
        endpoint, options=CLIENT_CHANNEL_OPTIONS
    ) as channel:
        return await ask_status(channel, timeout_s)


async def ask_status(
    channel: grpc.aio.Channel, timeout_s: float
) -> cluster_pb2.StatusResponse:
    """What the node at the other end says of itself.

    Raises:
        NoAnswer: it takes longer than ``timeout_s``. Definite.
        Unavailable: it cannot be asked; the message says only why. Definite.
    """
    ask = channel.unary_unary(
        _STATUS,
        request_serializer=cluster_pb2.StatusRequest.SerializeToString,
        response_deserializer=cluster_pb2.StatusResponse.FromString,
    )
    try:
        status: cluster_pb2.StatusResponse = await ask(
            cluster_pb2.StatusRequest(), timeout=timeout_s
        )
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise NoAnswer(f"no answer in {timeout_s:.3g} s") from error
        raise Unavailable(reason(error)) from error
    return status
