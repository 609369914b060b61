"""The blocking face of a store: the asyncio one, in a thread of its own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from kvstore.client.asynchronous import TIMEOUT_S, AsyncClient
from kvstore.client.keys import Text, bounds
from kvstore.client.loop_thread import LoopThread
from kvstore.client.results import (
    CompactResult,
    DeleteResult,
    KeyValue,
    NodeStatus,
    PutResult,
    RangeResult,
    TxnResult,
)
from kvstore.client.scan import SCAN_PAGE_PAIRS_MAX, Scan
from kvstore.client.transactions import Compare, Op, SortBy


class Client:
    """The operations of :class:`AsyncClient`, blocking, from any thread.

    Its thread starts with the first call and ends with :meth:`close`. An interrupted
    call (``KeyboardInterrupt``) leaves the outcome of a write unknown.

    A client does not survive a fork: a child's calls raise ``Closed``. Open it in each
    process.
    """

    def __init__(
        self, endpoints: str | Sequence[str], *, timeout_s: float = TIMEOUT_S
    ) -> None:
        client = AsyncClient(endpoints, timeout_s=timeout_s)
        self._thread = LoopThread(lambda: client)

    @classmethod
    def holding(
        cls, make: Callable[[], AbstractAsyncContextManager[AsyncClient]]
    ) -> Self:
        """The blocking face of what ``make`` returns, entered until :meth:`close`.

        Raises what entering raises.
        """
        self = cls.__new__(cls)
        self._thread = LoopThread(make)
        self._thread.start()
        return self

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
        """End. Requests in flight fail as of unknown outcome. Twice is fine."""
        self._thread.close()

    def put(
        self,
        key: Text,
        value: Text,
        *,
        prev_kv: bool = False,
        timeout_s: float | None = None,
    ) -> PutResult:
        """Write a key. ``prev_kv`` asks for the pair that it replaces."""
        return self._thread.run(
            lambda it: it.put(key, value, prev_kv=prev_kv, timeout_s=timeout_s)
        )

    def get(
        self, key: Text, *, revision: int = 0, timeout_s: float | None = None
    ) -> KeyValue | None:
        """The pair at a key, or None: linearizably, or as of ``revision``."""
        return self._thread.run(
            lambda it: it.get(key, revision=revision, timeout_s=timeout_s)
        )

    def range(
        self,
        start: Text = b"",
        end: Text = b"",
        *,
        prefix: Text | None = None,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        without_count: bool = False,
        sort_by: SortBy = "key",
        descending: bool = False,
        timeout_s: float | None = None,
    ) -> RangeResult:
        """Pairs with ``start <= key < end``, or with a prefix, in one answer.

        An empty bound is none: ``range("a")`` is everything from ``a`` on, ``range()``
        everything. An answer is bounded in bytes by the node, and by ``limit`` (0 is no
        limit); ``more`` says if there are further pairs: :meth:`scan` reads them all.
        To count is to look at every key of the range: ``without_count`` saves that.
        """
        return self._thread.run(
            lambda it: it.range(
                start,
                end,
                prefix=prefix,
                limit=limit,
                revision=revision,
                keys_only=keys_only,
                count_only=count_only,
                without_count=without_count,
                sort_by=sort_by,
                descending=descending,
                timeout_s=timeout_s,
            )
        )

    def scan(
        self,
        start: Text = b"",
        end: Text = b"",
        *,
        prefix: Text | None = None,
        revision: int = 0,
        keys_only: bool = False,
        descending: bool = False,
        page_pairs_max: int = SCAN_PAGE_PAIRS_MAX,
        timeout_s: float | None = None,
    ) -> Iterator[KeyValue]:
        """Iterate over every pair of a range in key order, all of one revision.

        The range is read page by page, each within ``timeout_s``, while it is consumed:
        memory holds one page, and writes that come meanwhile are not seen. Raises
        ``Compacted`` if history is compacted past the revision under way.
        """
        start, end = bounds(start, end, prefix)
        scan = Scan(start=start, end=end, revision=revision, descending=descending)
        while scan.more:
            page = self.range(
                scan.start,
                scan.end,
                limit=page_pairs_max,
                revision=scan.revision,
                keys_only=keys_only,
                without_count=True,
                descending=descending,
                timeout_s=timeout_s,
            )
            last = page.items[-1].key if page.items else None
            scan.advance(last=last, more=page.more, revision=page.revision)
            yield from page

    def delete(
        self, key: Text, *, prev_kv: bool = False, timeout_s: float | None = None
    ) -> DeleteResult:
        """Delete a key. ``prev_kv`` asks for the pair deleted."""
        return self._thread.run(
            lambda it: it.delete(key, prev_kv=prev_kv, timeout_s=timeout_s)
        )

    def delete_range(
        self,
        start: Text,
        end: Text,
        *,
        prev_kv: bool = False,
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """Delete every key with ``start <= key < end``; an empty bound is none."""
        return self._thread.run(
            lambda it: it.delete_range(start, end, prev_kv=prev_kv, timeout_s=timeout_s)
        )

    def delete_prefix(
        self, prefix: Text, *, prev_kv: bool = False, timeout_s: float | None = None
    ) -> DeleteResult:
        """Delete every key with a prefix; with an empty one, every key."""
        return self._thread.run(
            lambda it: it.delete_prefix(prefix, prev_kv=prev_kv, timeout_s=timeout_s)
        )

    def txn(
        self,
        *,
        compare: Iterable[Compare] = (),
        then: Iterable[Op] = (),
        otherwise: Iterable[Op] = (),
        timeout_s: float | None = None,
    ) -> TxnResult:
        """Run ``then`` if all of ``compare`` holds, else ``otherwise``, atomically.

        Every comparison, those of nested transactions too, sees the store as it was
        before. No key may be changed twice. See ``kvstore.client.transactions`` for
        examples.
        """
        return self._thread.run(
            lambda it: it.txn(
                compare=compare, then=then, otherwise=otherwise, timeout_s=timeout_s
            )
        )

    def compact(
        self, revision: int, *, timeout_s: float | None = None
    ) -> CompactResult:
        """Give up history below ``revision``; reads below it raise ``Compacted``."""
        return self._thread.run(lambda it: it.compact(revision, timeout_s=timeout_s))

    def status(
        self, endpoint: str | None = None, *, timeout_s: float | None = None
    ) -> NodeStatus:
        """What the node at ``endpoint``, by default the one in use, says of itself.

        Raises ``Unavailable`` if that node does not answer; no other is asked.
        """
        return self._thread.run(lambda it: it.status(endpoint, timeout_s=timeout_s))
