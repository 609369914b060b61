"""A :class:`~kvstore.cli.store.Store` over a client's pipeline."""

from types import TracebackType
from typing import Self

from kvstore.cli.options import Connection
from kvstore.client.cluster import ClusterTransport
from kvstore.client.consistency import ReadLevel
from kvstore.client.pipeline import Pipeline
from kvstore.client.results import ResponseHeader
from kvstore.pb import kv_pb2


class ClientStore:
    """One client for the life of a command: what travels, without the typed face."""

    def __init__(self, connection: Connection) -> None:
        transport = ClusterTransport(connection.endpoints)
        self._pipeline = Pipeline(transport, timeout_s=connection.timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._pipeline.close()

    async def put(self, request: kv_pb2.Put) -> kv_pb2.PutResult:
        """Write a key."""
        result, _ = await self._pipeline.write(kv_pb2.Command(put=request))
        return result.put

    async def delete_range(
        self, request: kv_pb2.DeleteRange
    ) -> kv_pb2.DeleteRangeResult:
        """Delete keys."""
        command = kv_pb2.Command(delete_range=request)
        result, _ = await self._pipeline.write(command)
        return result.delete_range

    async def txn(self, request: kv_pb2.Txn) -> kv_pb2.TxnResult:
        """Run a transaction."""
        result, _ = await self._pipeline.write(kv_pb2.Command(txn=request))
        return result.txn

    async def compact(self, request: kv_pb2.Compact) -> kv_pb2.CompactResult:
        """Give up history."""
        result, _ = await self._pipeline.write(kv_pb2.Command(compact=request))
        return result.compact

    async def read(
        self, request: kv_pb2.Range, level: ReadLevel
    ) -> tuple[kv_pb2.RangeResult, ResponseHeader]:
        """Read a range, and learn what the answer is worth."""
        result, header = await self._pipeline.read(request, level=level)
        return result.range, header
