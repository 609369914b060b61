"""The blocking face of the client: the same operations, on a thread of its own.

Safe to share between threads; what they have in flight is coalesced as asyncio callers'
operations are. Not usable in a child after ``fork``: the thread stays with the parent.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Self, TypeVar

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.operations import TIMEOUT_S, Text
from kvstore.client.stream import Patience
from kvstore.errors import Closed
from kvstore.pb import kv_pb2

_LAST_WORDS_S = 1.0

_T = TypeVar("_T")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Client:
    """Blocking operations on a cluster; any node takes them.

    The thread starts with the first operation and ends with :meth:`close`. See
    :class:`kvstore.AsyncClient` for what each operation does and raises; a test holds
    the two to the same signatures.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout_s: float = TIMEOUT_S,
        patience: Patience | None = None,
    ) -> None:
        self._client = AsyncClient(endpoints, timeout_s=timeout_s, patience=patience)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

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
        """Requests in flight fail as of unknown outcome. Closing twice is fine."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    def put(
        self,
        key: Text,
        value: Text,
        *,
        prev_kv: bool = False,
        timeout_s: float | None = None,
    ) -> kv_pb2.PutResult:
        """Write a key."""
        return self._run(
            lambda: self._client.put(key, value, prev_kv=prev_kv, timeout_s=timeout_s)
        )

    def get(
        self, key: Text, *, revision: int = 0, timeout_s: float | None = None
    ) -> kv_pb2.KeyValue | None:
        """The pair at ``key``, linearizably; None if there is none."""
        return self._run(
            lambda: self._client.get(key, revision=revision, timeout_s=timeout_s)
        )

    def range(
        self,
        key: Text = b"\0",
        range_end: Text = b"",
        *,
        prefix: Text | None = None,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        descending: bool = False,
        timeout_s: float | None = None,
    ) -> kv_pb2.RangeResult:
        """Pairs in [key, range_end), or with ``prefix``; ``more`` says if cut."""
        return self._run(
            lambda: self._client.range(
                key,
                range_end,
                prefix=prefix,
                limit=limit,
                revision=revision,
                keys_only=keys_only,
                count_only=count_only,
                descending=descending,
                timeout_s=timeout_s,
            )
        )

    def delete(
        self,
        key: Text,
        range_end: Text = b"",
        *,
        prev_kv: bool = False,
        timeout_s: float | None = None,
    ) -> kv_pb2.DeleteRangeResult:
        """Delete a key, or [key, range_end)."""
        return self._run(
            lambda: self._client.delete(
                key, range_end, prev_kv=prev_kv, timeout_s=timeout_s
            )
        )

    def txn(
        self,
        compare: Sequence[kv_pb2.Compare] = (),
        then: Sequence[kv_pb2.Operation] = (),
        otherwise: Sequence[kv_pb2.Operation] = (),
        *,
        timeout_s: float | None = None,
    ) -> kv_pb2.TxnResult:
        """Run ``then`` if all of ``compare`` holds, else ``otherwise``, atomically."""
        return self._run(
            lambda: self._client.txn(compare, then, otherwise, timeout_s=timeout_s)
        )

    def compact(
        self, revision: int, *, timeout_s: float | None = None
    ) -> kv_pb2.CompactResult:
        """Give up history below ``revision``."""
        return self._run(lambda: self._client.compact(revision, timeout_s=timeout_s))

    def _run(self, operation: Callable[[], Coroutine[None, None, _T]]) -> _T:
        # Under the lock, so that close() cannot stop the loop between the two steps:
        # whatever was submitted before is answered by the client's own close.
        with self._lock:
            if self._closed:
                raise Closed("the client is closed; nothing was sent")
            if self._loop is None:
                self._loop = _new_loop()
                self._thread = threading.Thread(
                    target=_run_loop,
                    args=(self._loop,),
                    name="kvstore-client",
                    daemon=True,
                )
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(operation(), self._loop)
        return future.result()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        # Callers whose requests close() answered still have to be told.
        waiting = asyncio.all_tasks(loop)
        if waiting:
            loop.run_until_complete(asyncio.wait(waiting, timeout=_LAST_WORDS_S))
        loop.close()
