"""A :class:`~kvstore.cli.store.Store` over the asyncio client."""

from types import TracebackType
from typing import Self

from kvstore.cli.options import Connection
from kvstore.client.asynchronous import AsyncClient
from kvstore.pb import kv_pb2


class ClientStore:
    """One client for the life of a command."""

    def __init__(self, connection: Connection) -> None:
        self._client = AsyncClient(connection.endpoints, timeout_s=connection.timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def put(self, request: kv_pb2.Put) -> kv_pb2.PutResult:
        """Write a key."""
        return await self._client.put(
            request.key, request.value, prev_kv=request.prev_kv
        )

    async def delete_range(
        self, request: kv_pb2.DeleteRange
    ) -> kv_pb2.DeleteRangeResult:
        """Delete keys."""
        return await self._client.delete(
            request.key, request.range_end, prev_kv=request.prev_kv
        )

    async def txn(self, request: kv_pb2.Txn) -> kv_pb2.TxnResult:
        """Run a transaction."""
        return await self._client.txn(request.compare, request.success, request.failure)

    async def compact(self, request: kv_pb2.Compact) -> kv_pb2.CompactResult:
        """Give up history."""
        return await self._client.compact(request.revision)

    async def range(self, request: kv_pb2.Range) -> kv_pb2.RangeResult:
        """Read a range."""
        return await self._client.range(
            request.key,
            request.range_end,
            limit=request.limit,
            revision=request.revision,
            keys_only=request.keys_only,
            count_only=request.count_only,
            sort_by=request.sort_target,
            descending=request.sort_order == kv_pb2.Range.DESCEND,
        )
