"""The blocking face of a store: the asyncio one, in a thread of its own."""

import functools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from kvstore.client.asynchronous import TIMEOUT_S, AsyncClient
from kvstore.client.consistency import Consistency
from kvstore.client.keys import Text, bounds
from kvstore.client.loop_thread import LoopThread
from kvstore.client.pipeline import SESSIONS
from kvstore.client.results import KeyValue
from kvstore.client.scan import SCAN_PAGE_PAIRS_MAX, Scan

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], Coroutine[object, object, _R]],
) -> Callable[Concatenate["Client", _P], _R]:
    """An operation of the blocking face: like the other one's, but it waits."""

    @functools.wraps(method)
    def call(client: "Client", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return client._thread.run(  # noqa: SLF001 - a method of it
            lambda entered: method(entered, *args, **kwargs)
        )

    call.__module__ = __name__
    call.__qualname__ = f"Client.{method.__name__}"
    return call


class Client:
    """The operations of :class:`AsyncClient`, blocking, from any thread.

    Its thread starts with the first call and ends with :meth:`close`. An interrupted
    call (``KeyboardInterrupt``) leaves the outcome of a write unknown.

    A client does not survive a fork: a child's calls raise ``Closed``. Open it in each
    process.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        timeout_s: float = TIMEOUT_S,
        sessions: bool = SESSIONS,
        consistency: Consistency = Consistency.LINEARIZABLE,
        staleness_ms: int | None = None,
    ) -> None:
        client = AsyncClient(
            endpoints,
            timeout_s=timeout_s,
            sessions=sessions,
            consistency=consistency,
            staleness_ms=staleness_ms,
        )
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

    put = _blocking(AsyncClient.put)
    get = _blocking(AsyncClient.get)
    range = _blocking(AsyncClient.range)
    delete = _blocking(AsyncClient.delete)
    delete_range = _blocking(AsyncClient.delete_range)
    delete_prefix = _blocking(AsyncClient.delete_prefix)
    txn = _blocking(AsyncClient.txn)
    compact = _blocking(AsyncClient.compact)
    status = _blocking(AsyncClient.status)
    members = _blocking(AsyncClient.members)
    add_member = _blocking(AsyncClient.add_member)
    promote_member = _blocking(AsyncClient.promote_member)
    remove_member = _blocking(AsyncClient.remove_member)
    replace_member = _blocking(AsyncClient.replace_member)
    transfer_leadership = _blocking(AsyncClient.transfer_leadership)
    save_snapshot = _blocking(AsyncClient.save_snapshot)
    _level_of = _blocking(AsyncClient._level_of)  # noqa: SLF001 - the other face

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
        consistency: Consistency | None = None,
        staleness_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[KeyValue]:
        """Iterate over every pair of a range in key order, all of one revision.

        The range is read page by page, each within ``timeout_s``, while it is consumed:
        memory holds one page, and writes that come meanwhile are not seen. Raises
        ``Compacted`` if history is compacted past the revision under way.
        """
        start, end = bounds(start, end, prefix)
        scan = Scan(
            start=start,
            end=end,
            revision=revision,
            descending=descending,
            level=self._level_of(consistency, staleness_ms),
        )
        while scan.more:
            page = self.range(
                scan.start,
                scan.end,
                limit=page_pairs_max,
                revision=scan.revision,
                keys_only=keys_only,
                without_count=True,
                descending=descending,
                consistency=scan.level.consistency,
                staleness_ms=scan.level.staleness_ms or None,
                timeout_s=timeout_s,
            )
            last = page.items[-1].key if page.items else None
            scan.advance(last=last, more=page.more, revision=page.revision)
            yield from page
