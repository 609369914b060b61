"""Ranges of keys, at the newest revision or an earlier one.

A read is a generator that stops after every ``SLICE_RECORDS`` records, so that the
thread that applies entries need not wait for its end: entries may be applied, and the
view's transaction may be committed, between two steps. What the read returns is still
the state at the one revision it was started at.

To read the past is to walk from each key's head down the chain of its versions:
O(versions of the key written since). Reading the newest revision walks nothing.
"""

from collections.abc import Callable, Generator
from itertools import islice

from kvstore.errors import Compacted, FutureRevision, NewerFormat
from kvstore.pb import kv_pb2
from kvstore.state_machine.commands import check_start_storable, range_bounds
from kvstore.state_machine.limits import PAIR_OVERHEAD_BYTES, RESPONSE_BYTES_MAX
from kvstore.state_machine.view import Head, ReadView, Version, VersionId
from kvstore.state_machine.writes import stored_version
from kvstore.types import Revision

SLICE_RECORDS = 1000
"""Records read between two stops: a few milliseconds."""

_SLICE_RECORDS_MIN = 32
"""A read of few pairs looks at this many keys at a time: deleted ones may be among them
that compaction has not taken yet."""

Reading = Generator[None, None, kv_pb2.RangeResult]


class Budget:
    """Bytes of pairs that may still go into one answer.

    One pair is returned however large, and by each operation of a transaction: an
    answer may overdraw its budget, by ``overdraft_max``.
    """

    __slots__ = ("_floor", "bytes_left", "has_cut")

    def __init__(self, bytes_left: int, *, overdraft_max: int = 0) -> None:
        self.bytes_left = bytes_left
        self.has_cut = False
        """Whether a pair was left out of the answer for want of room."""
        self._floor = -overdraft_max

    @property
    def is_overdrawn(self) -> bool:
        """Whether the answer passed every bound, and is to be given up."""
        return self.bytes_left < self._floor


def pair_bytes(pair: kv_pb2.KeyValue) -> int:
    """What a pair in an answer takes of its budget."""
    return PAIR_OVERHEAD_BYTES + len(pair.key) + len(pair.value)


def read_range(
    view: ReadView,
    request: kv_pb2.Range,
    *,
    revision: Revision | None = None,
    response_bytes_max: int = RESPONSE_BYTES_MAX,
) -> Reading:
    """Read a range; the generator's value is the result.

    ``revision`` is that of the store at the moment of the read: now if None. Between
    two steps the view may change, by whole entries.

    The result counts every pair in the range, as etcd's does, so the cost is O(keys in
    the range) even with a limit. ``without_count`` makes it O(pairs returned) for a
    range in the order of its keys, ascending or descending. Any other order has to see
    all of the range to know what comes first.

    Raises:
        FutureRevision, Compacted: the revision cannot be read. ``Compacted`` also when
            a compaction overtook a read under way. Definite.
        CorruptionError: a record on the way is damaged. Definite.
    """
    if revision is None:
        revision = view.progress.revision
    return (
        yield from scan(
            view, request, kv_pb2.RangeResult(), revision, Budget(response_bytes_max)
        )
    )


def read_range_at_once(
    view: ReadView,
    request: kv_pb2.Range,
    *,
    response_bytes_max: int = RESPONSE_BYTES_MAX,
) -> kv_pb2.RangeResult:
    """:func:`read_range` without stops."""
    return exhaust(read_range(view, request, response_bytes_max=response_bytes_max))


def exhaust(reading: Reading) -> kv_pb2.RangeResult:
    """Run a read to its end."""
    while True:
        try:
            next(reading)
        except StopIteration as end:
            result: kv_pb2.RangeResult = end.value
            return result


def check_readable(
    requested: int, *, revision: Revision, compact_revision: Revision
) -> None:
    """Raises ``FutureRevision`` or ``Compacted``; 0 or less is the newest."""
    if requested > revision:
        raise FutureRevision(
            f"revision {requested} is in the future: the store is at {revision}",
            current_revision=revision,
        )
    if 0 < requested < compact_revision:
        raise Compacted(
            f"revision {requested} was compacted: history starts at {compact_revision}",
            compact_revision=compact_revision,
        )


def scan(
    view: ReadView,
    request: kv_pb2.Range,
    result: kv_pb2.RangeResult,
    newest: Revision,
    budget: Budget,
) -> Reading:
    """Fill ``result``. ``newest`` is the revision of the store as the reader sees it.

    Inside a transaction that is the revision being written, once it wrote something.
    Raises as :func:`read_range`.
    """
    check_start_storable(request.key, request.range_end)
    compact_revision = view.progress.compact_revision
    at = Revision(request.revision) if request.revision > 0 else newest
    check_readable(at, revision=newest, compact_revision=compact_revision)
    result.revision = newest
    selection = _Selection(request, budget)
    if request.range_end:
        yield from _find_range(view, request, at, selection)
    elif (head := view.head(request.key)) is not None:
        found = yield from _find(view, request.key, head, at)
        if found is not None:
            selection.add(found)
    if not request.without_count:
        result.count = selection.count
    if not request.count_only:
        yield from _fill(
            view,
            selection.chosen(),
            result,
            at=at,
            keys_only=request.keys_only,
            budget=budget,
        )
        result.more = len(result.kvs) < selection.count
    return result


# -------------------------------------------------------- what is in the range, when


class _Found:
    """A pair that exists at the revision read; without its value if nothing read it."""

    __slots__ = ("at", "create_revision", "key", "lease", "value", "version")

    def __init__(self, key: bytes, at: VersionId, what: Head | Version) -> None:
        self.key = key
        self.at = at
        self.create_revision = what.create_revision
        self.version = what.version
        self.lease = what.lease
        self.value = what.value if isinstance(what, Version) else None


def _find_range(
    view: ReadView, request: kv_pb2.Range, at: Revision, selection: "_Selection"
) -> Generator[None, None, None]:
    start, end = range_bounds(request.key, request.range_end)
    with_value = request.sort_target == kv_pb2.Range.VALUE and not request.count_only
    reverse = _is_reverse(request)
    while True:
        # Seek anew for each slice: entries may have been applied since the last.
        wanted = selection.slice_records
        heads = list(islice(view.heads(start, end, reverse=reverse), wanted))
        for key, head in heads:
            if head.at.revision <= at and not with_value:
                if head.create_revision:
                    selection.add(_Found(key, head.at, head))
                continue
            found = yield from _find(view, key, head, at)
            if found is None:
                continue
            if with_value and found.value is None:
                found.value = stored_version(view, found.at, key).value
            selection.add(found)
        if len(heads) < wanted or selection.is_settled:
            return
        if reverse:
            end = heads[-1][0]
        else:
            start = heads[-1][0] + b"\0"
        yield from _stop(view, at)


def _find(
    view: ReadView, key: bytes, head: Head, revision: Revision
) -> Generator[None, None, _Found | None]:
    """The pair of ``key`` as of a revision: down the chain from its head."""
    at = head.at
    if at.revision <= revision:
        return _Found(key, at, head) if head.create_revision else None
    steps = writes = 0
    while at.revision > revision:
        newer = stored_version(view, at, key)
        at, writes = newer.previous, newer.version
        steps += 1
        if steps % SLICE_RECORDS == 0:
            yield from _stop(view, revision)
    if writes == 1:
        # Created after the revision read: it follows nothing, or a tombstone, which
        # compaction may have taken. What any other version follows must be there.
        return None
    return _Found(key, at, stored_version(view, at, key))


def _stop(view: ReadView, revision: Revision) -> Generator[None, None, None]:
    """Let others run; raises ``Compacted`` if they took away what is being read."""
    yield
    # The progress knows nothing yet of a revision that is being written.
    compact_revision = view.progress.compact_revision
    check_readable(revision, revision=revision, compact_revision=compact_revision)


# -------------------------------------------------------- what of it is returned


class _Selection:
    """Counts pairs and keeps those that can be in the answer.

    Pairs come in key order, descending if that is the order asked for. Memory is
    O(pairs that fit into the answer), not O(range): what cannot be in the answer
    whatever comes later is dropped now and then.
    """

    __slots__ = (
        "_bytes_max",
        "_candidates",
        "_descending",
        "_held_bytes",
        "_needs_values",
        "_pairs_max",
        "_size",
        "_sort_key",
        "_stops_early",
        "count",
    )

    def __init__(self, request: kv_pb2.Range, budget: Budget) -> None:
        self.count = 0
        self._candidates: list[_Found] = []
        self._held_bytes = 0
        self._bytes_max = max(budget.bytes_left, 0)
        # One more than fits: the first pair is returned however large.
        self._pairs_max = self._bytes_max // PAIR_OVERHEAD_BYTES + 1
        if request.limit:
            self._pairs_max = min(self._pairs_max, request.limit)
        if request.count_only:
            self._pairs_max = 0
        self._descending = request.sort_order == kv_pb2.Range.DESCEND
        self._sort_key = _sort_key(request)
        self._stops_early = request.without_count and self._sort_key is None
        # Values that are not returned take no room in the answer, nor in memory.
        self._needs_values = (
            not request.keys_only or request.sort_target == kv_pb2.Range.VALUE
        )
        self._size = _key_size if request.keys_only else _pair_size

    @property
    def is_settled(self) -> bool:
        """Whether nothing that may follow changes the answer: it is full, and more."""
        return self._stops_early and self.count > len(self._candidates)

    @property
    def slice_records(self) -> int:
        """How many keys to look at next: not many more than there is use for."""
        if not self._stops_early:
            return SLICE_RECORDS
        needed = self._pairs_max - len(self._candidates) + 1
        return min(max(needed, _SLICE_RECORDS_MIN), SLICE_RECORDS)

    def add(self, found: _Found) -> None:
        self.count += 1
        if not self._needs_values:
            found.value = None
        candidates = self._candidates
        if self._sort_key is None:
            if (
                len(candidates) < self._pairs_max
                and self._held_bytes <= self._bytes_max
            ):
                candidates.append(found)
                self._held_bytes += self._size(found)
            return
        candidates.append(found)
        self._held_bytes += self._size(found)
        if (
            len(candidates) > 2 * self._pairs_max + SLICE_RECORDS
            or self._held_bytes > 2 * self._bytes_max
        ):
            self._prune()

    def chosen(self) -> list[_Found]:
        """The candidates in the order asked for."""
        self._prune()
        return self._candidates

    def _prune(self) -> None:
        """Keep the first that fit. Sizes are lower bounds, so none is lost that may."""
        if self._sort_key is not None:
            # Stable either way: equal ones stay in key order.
            self._candidates.sort(key=self._sort_key, reverse=self._descending)
        kept = size = 0
        for found in self._candidates:
            if kept == self._pairs_max or size > self._bytes_max:
                break
            size += self._size(found)
            kept += 1
        del self._candidates[kept:]
        self._held_bytes = size


def _key_size(found: _Found) -> int:
    return PAIR_OVERHEAD_BYTES + len(found.key)


def _pair_size(found: _Found) -> int:
    return _key_size(found) + (0 if found.value is None else len(found.value))


_SortKey = Callable[[_Found], tuple[int, bytes]]


def _sort_key(request: kv_pb2.Range) -> _SortKey | None:
    """None: the order in which pairs are found. No order is ascending, as in etcd."""
    order = request.sort_order
    if order not in _SORT_ORDERS:
        raise NewerFormat(f"range: sort order {order} is not known to this kvstore")
    match request.sort_target:
        case kv_pb2.Range.KEY:
            return None
        case kv_pb2.Range.VERSION:
            return lambda found: (found.version, b"")
        case kv_pb2.Range.CREATE:
            return lambda found: (found.create_revision, b"")
        case kv_pb2.Range.MOD:
            return lambda found: (found.at.revision, b"")
        case kv_pb2.Range.VALUE:
            return lambda found: (0, found.value or b"")
        case target:
            raise NewerFormat(f"range: sort target {target} is not known here")


def _is_reverse(request: kv_pb2.Range) -> bool:
    """Whether to look at the keys from the last to the first."""
    return (
        request.sort_target == kv_pb2.Range.KEY
        and request.sort_order == kv_pb2.Range.DESCEND
    )


_SORT_ORDERS = frozenset(kv_pb2.Range.SortOrder.values())


def _fill(
    view: ReadView,
    chosen: list[_Found],
    result: kv_pb2.RangeResult,
    *,
    at: Revision,
    keys_only: bool,
    budget: Budget,
) -> Generator[None, None, None]:
    """Put pairs into the result until the limit or the budget ends it."""
    add = result.kvs.add
    for number, found in enumerate(chosen, 1):
        value = b""
        if not keys_only:
            value = found.value or b""
            if found.value is None:
                value = stored_version(view, found.at, found.key).value
        size = PAIR_OVERHEAD_BYTES + len(found.key) + len(value)
        if number > 1 and size > budget.bytes_left:
            budget.has_cut = True
            return
        budget.bytes_left -= size
        pair = add()
        pair.key = found.key
        pair.value = value
        pair.create_revision = found.create_revision
        pair.mod_revision = found.at.revision
        pair.version = found.version
        pair.lease = found.lease
        if number % SLICE_RECORDS == 0:
            yield from _stop(view, at)
