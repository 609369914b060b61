"""The seam between commands and the client: one protocol message in, one out.

Commands build what they ask for and present what comes back; how a leader is found,
what is retried and how errors travel is the client's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from kvstore.cli.options import Connection
from kvstore.client.consistency import ReadLevel
from kvstore.client.results import ResponseHeader
from kvstore.pb import kv_pb2

Answer = TypeVar("Answer")


class Store(Protocol):
    """An open cluster. Every method raises ``KVStoreError``."""

    async def put(self, request: kv_pb2.Put) -> kv_pb2.PutResult: ...

    async def delete_range(
        self, request: kv_pb2.DeleteRange
    ) -> kv_pb2.DeleteRangeResult: ...

    async def txn(self, request: kv_pb2.Txn) -> kv_pb2.TxnResult: ...

    async def compact(self, request: kv_pb2.Compact) -> kv_pb2.CompactResult: ...

    async def read(
        self, request: kv_pb2.Range, level: ReadLevel
    ) -> tuple[kv_pb2.RangeResult, ResponseHeader]: ...


def open_store(connection: Connection) -> AbstractAsyncContextManager[Store]:
    """Connect to the cluster; nothing is sent yet."""
    from kvstore.cli.client_store import ClientStore

    return ClientStore(connection)


def run(
    connection: Connection, operation: Callable[[Store], Awaitable[Answer]]
) -> Answer:
    """Open the cluster, run one operation on it, close.

    Raises:
        KVStoreError: as the client says it.
    """

    async def main() -> Answer:
        async with open_store(connection) as store:
            return await operation(store)

    return asyncio.run(main())
