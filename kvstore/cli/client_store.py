"""A :class:`~kvstore.cli.store.Store` over the KV service's unary calls."""

import asyncio
import time
from types import TracebackType
from typing import Self, TypeVar

import grpc.aio
from google.protobuf.message import Message

from kvstore.cli.options import Connection
from kvstore.errors import KVStoreError, Unavailable
from kvstore.pb import kv_pb2
from kvstore.rpc.errors import error_from_rpc

_SERVICE = "/kvstore.v1.KV/"
_MESSAGE_BYTES_MAX = 128 << 20

Response = TypeVar("Response", bound=Message)


class ClientStore:
    """Asks one endpoint after the other until one takes the request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._deadline = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    async def put(self, request: kv_pb2.Put) -> kv_pb2.PutResult:
        """Write a key."""
        return (await self._call("Put", request, kv_pb2.PutResponse)).result

    async def delete_range(
        self, request: kv_pb2.DeleteRange
    ) -> kv_pb2.DeleteRangeResult:
        """Delete keys."""
        response = await self._call("DeleteRange", request, kv_pb2.DeleteRangeResponse)
        return response.result

    async def txn(self, request: kv_pb2.Txn) -> kv_pb2.TxnResult:
        """Run a transaction."""
        return (await self._call("Txn", request, kv_pb2.TxnResponse)).result

    async def compact(self, request: kv_pb2.Compact) -> kv_pb2.CompactResult:
        """Give up history."""
        return (await self._call("Compact", request, kv_pb2.CompactResponse)).result

    async def range(self, request: kv_pb2.Range) -> kv_pb2.RangeResult:
        """Read a range."""
        return (await self._call("Range", request, kv_pb2.RangeResponse)).result

    async def _call(
        self, method: str, request: Message, response: type[Response]
    ) -> Response:
        self._deadline = time.monotonic() + self._connection.timeout_s
        last: KVStoreError = Unavailable("no endpoint")
        for number, endpoint in enumerate(self._connection.endpoints):
            remaining_s = self._deadline - time.monotonic()
            if remaining_s <= 0:
                break
            share_s = remaining_s / (len(self._connection.endpoints) - number)
            try:
                return await self._call_one(
                    endpoint, share_s, method, request, response
                )
            except KVStoreError as error:
                if not (error.definite and error.retryable):
                    raise
                last = error
        raise last

    async def _call_one(
        self,
        endpoint: str,
        connect_timeout_s: float,
        method: str,
        request: Message,
        response: type[Response],
    ) -> Response:
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ]
        async with grpc.aio.insecure_channel(endpoint, options=options) as channel:
            try:
                # Until here nothing was sent: the failure is definite.
                await asyncio.wait_for(channel.channel_ready(), connect_timeout_s)
            except TimeoutError as error:
                raise Unavailable(f"cannot connect to {endpoint}") from error
            call = channel.unary_unary(
                _SERVICE + method,
                request_serializer=type(request).SerializeToString,
                response_deserializer=response.FromString,
            )
            try:
                timeout_s = self._deadline - time.monotonic()
                answer: Response = await call(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise error_from_rpc(error) from error
            return answer
