"""Read a range of any size: page by page, all of one revision."""

from collections.abc import AsyncIterator, Callable

from kvstore.cli.reading import Reader
from kvstore.client.scan import Scan
from kvstore.pb import kv_pb2

PAGE_PAIRS_MAX = 10_000
"""A page is bounded in bytes too, by the server's own limit."""

_SORT_KEYS: dict[int, Callable[[kv_pb2.KeyValue], int | bytes]] = {
    kv_pb2.Range.VERSION: lambda pair: pair.version,
    kv_pb2.Range.CREATE: lambda pair: pair.create_revision,
    kv_pb2.Range.MOD: lambda pair: pair.mod_revision,
    kv_pb2.Range.VALUE: lambda pair: pair.value,
}


async def read_pages(
    reader: Reader, request: kv_pb2.Range
) -> AsyncIterator[kv_pb2.RangeResult]:
    """Yield the pairs that ``request`` names, at most its ``limit`` (0: all).

    In key order, memory holds one page. In another order the server can only sort what
    fits into one response; a range beyond that is read whole and sorted here.

    Raises:
        KVStoreError: as the client says it. ``Compacted`` if history was compacted
            past the first page's revision meanwhile: the rest cannot be read.
    """
    if request.sort_target == kv_pb2.Range.KEY:
        async for page in _pages_by_key(reader, request):
            yield page
        return
    first = await reader.range(request)
    if not first.more or len(first.kvs) == request.limit:
        yield first
        return
    yield await _sorted_here(reader, request, first)


async def _pages_by_key(
    reader: Reader, request: kv_pb2.Range
) -> AsyncIterator[kv_pb2.RangeResult]:
    ask = kv_pb2.Range()
    ask.CopyFrom(request)
    # Counting would look at the whole rest of the range for each page.
    ask.without_count = True
    scan = Scan(
        start=request.key,
        end=request.range_end,
        revision=request.revision,
        descending=request.sort_order == kv_pb2.Range.DESCEND,
    )
    left = request.limit
    while scan.more:
        ask.key, ask.range_end, ask.revision = scan.start, scan.end, scan.revision
        ask.limit = min(left, PAGE_PAIRS_MAX) if left else PAGE_PAIRS_MAX
        page = await reader.range(ask)
        yield page
        last = page.kvs[-1].key if page.kvs else None
        scan.advance(last=last, more=page.more, revision=page.revision)
        if left:
            left -= len(page.kvs)
            if not left:
                return


async def _sorted_here(
    reader: Reader, request: kv_pb2.Range, first: kv_pb2.RangeResult
) -> kv_pb2.RangeResult:
    by_key = kv_pb2.Range(
        key=request.key,
        range_end=request.range_end,
        revision=request.revision if request.revision > 0 else first.revision,
        # Sorting by value needs the values, shown or not.
        keys_only=request.keys_only and request.sort_target != kv_pb2.Range.VALUE,
    )
    pairs: list[kv_pb2.KeyValue] = []
    async for page in _pages_by_key(reader, by_key):
        pairs += page.kvs
    pairs.sort(
        key=_SORT_KEYS[request.sort_target],
        reverse=request.sort_order == kv_pb2.Range.DESCEND,
    )
    return kv_pb2.RangeResult(
        revision=first.revision,
        kvs=pairs[: request.limit] if request.limit else pairs,
        more=bool(request.limit) and len(pairs) > request.limit,
        count=len(pairs),
    )
