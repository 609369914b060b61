"""The blocking face of the operations: an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.operations import TIMEOUT_S, Operations, Text
from kvstore.errors import Closed
from kvstore.pb import kv_pb2

_T = TypeVar("_T")


class LoopThread:
    """An event loop in a daemon thread, until ``close``. Does not survive a fork."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="kvstore-loop", daemon=True
        )
        self._thread.start()
        self._closed = False

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run ``work`` on the loop and wait for it."""
        if self._closed:
            work.close()
            raise Closed("it was closed before the call")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Blocking:
    """The operations of :class:`Operations`, blocking, from any thread."""

    def __init__(
        self, make: Callable[[], Awaitable[tuple[Operations, Callable[[], Any]]]]
    ) -> None:
        self._thread = LoopThread()

        async def start() -> tuple[Operations, Callable[[], Any]]:
            return await make()

        try:
            self._operations, self._close = self._thread.run(start())
        except BaseException:
            self._thread.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Twice is fine."""

        async def end() -> None:
            await self._close()

        try:
            self._thread.run(end())
        except Closed:
            return
        self._thread.close()

    def put(self, key: Text, value: Text, **options: Any) -> kv_pb2.PutResult:
        """See :meth:`Operations.put`."""
        return self._thread.run(self._operations.put(key, value, **options))

    def get(self, key: Text, **options: Any) -> kv_pb2.KeyValue | None:
        """See :meth:`Operations.get`."""
        return self._thread.run(self._operations.get(key, **options))

    def range(self, *bounds: Text, **options: Any) -> kv_pb2.RangeResult:
        """See :meth:`Operations.range`."""
        return self._thread.run(self._operations.range(*bounds, **options))

    def delete(self, *bounds: Text, **options: Any) -> kv_pb2.DeleteRangeResult:
        """See :meth:`Operations.delete`."""
        return self._thread.run(self._operations.delete(*bounds, **options))

    def txn(self, *parts: Any, **options: Any) -> kv_pb2.TxnResult:
        """See :meth:`Operations.txn`."""
        return self._thread.run(self._operations.txn(*parts, **options))

    def compact(self, revision: int, **options: Any) -> kv_pb2.CompactResult:
        """See :meth:`Operations.compact`."""
        return self._thread.run(self._operations.compact(revision, **options))


class Client(Blocking):
    """A cluster's blocking client; see :class:`AsyncClient`."""

    def __init__(
        self, endpoints: Sequence[str], *, timeout_s: float = TIMEOUT_S
    ) -> None:
        async def make() -> tuple[Operations, Callable[[], Any]]:
            client = AsyncClient(endpoints, timeout_s=timeout_s)
            return client, client.close

        super().__init__(make)
