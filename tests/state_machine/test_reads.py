"""Ranges: every option, at every revision, in bounded answers and bounded steps."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest

from kvstore.errors import Compacted, CorruptionError, FutureRevision, NewerFormat
from kvstore.pb import kv_pb2
from kvstore.simulation.model import Model
from kvstore.state_machine import reads
from kvstore.state_machine.limits import PAIR_OVERHEAD_BYTES
from kvstore.state_machine.reads import exhaust, read_range, read_range_at_once
from kvstore.state_machine.view import Head, StateView, VersionId
from kvstore.types import Revision
from tests.state_machine.model import (
    ALL,
    apply,
    compact,
    delete,
    put,
    step,
    sweep_all,
)

Range = kv_pb2.Range
TARGETS = (Range.KEY, Range.VERSION, Range.CREATE, Range.MOD, Range.VALUE)
ORDERS = (Range.NONE, Range.ASCEND, Range.DESCEND)


def everything(**options: int) -> kv_pb2.Range:
    request = Range(key=ALL, range_end=ALL)
    for name, value in options.items():
        setattr(request, name, value)
    return request


def read(state: StateView, **options: int) -> kv_pb2.RangeResult:
    return read_range_at_once(state, everything(**options))


def keys(result: kv_pb2.RangeResult) -> list[bytes]:
    return [pair.key for pair in result.kvs]


class Watched:
    """A view that counts the heads and versions looked at."""

    def __init__(self, state: StateView) -> None:
        self._state = state
        self.heads_seen = 0
        self.versions_seen = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._state, name)

    def heads(
        self, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, Head]]:
        for it in self._state.heads(start, end, reverse=reverse):
            self.heads_seen += 1
            yield it

    def version(self, at: VersionId) -> object:
        self.versions_seen += 1
        return self._state.version(at)


def watched(state: StateView) -> tuple[Watched, StateView]:
    watch = Watched(state)
    return watch, watch  # type: ignore[return-value]


# ------------------------------------------------------------------ options

HISTORY = [
    put(b"c", b"2"),
    put(b"a", b"1"),
    put(b"d", b""),
    put(b"a", b"3"),
    put(b"e", b"2"),
    put(b"b", b"2"),
    put(b"a", b"2"),
    delete(b"d"),
    put(b"c", b"0"),
    put(b"d", b"4"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_combination_of_options(
    state: StateView, target: int, order: int
) -> None:
    """Goal: order, limit, keys only, count and revision, as the model has it."""
    model = Model()
    apply(state, *HISTORY)
    model.apply(HISTORY)
    for limit, keys_only, count, revision in product(
        (0, 1, 3, 5, 6), (False, True), ("", "count_only", "without_count"), (0, 4, 8)
    ):
        request = everything(
            limit=limit,
            keys_only=keys_only,
            revision=revision,
            sort_target=target,
            sort_order=order,
        )
        if count:
            setattr(request, count, True)
        assert read_range_at_once(state, request) == model.range(request), request


def test_no_order_is_ascending(state: StateView) -> None:
    """Goal: as in etcd, also for other targets than the key."""
    apply(state, *HISTORY)
    for target in TARGETS:
        ascending = read(state, sort_target=target, sort_order=Range.ASCEND)
        assert read(state, sort_target=target) == ascending


def test_equal_ones_stay_in_key_order(state: StateView) -> None:
    """Goal: an answer is the same each time, descending too."""
    apply(state, *[put(key, b"same") for key in (b"c", b"a", b"d", b"b")])
    for order in ORDERS:
        found = read(state, sort_target=Range.VALUE, sort_order=order)
        assert keys(found) == [b"a", b"b", b"c", b"d"]


def test_keys_only_leaves_nothing_else_out(state: StateView) -> None:
    """Goal: revisions, version and lease come without the value."""
    apply(state, put(b"k", b"1"), put(b"k", b"2", lease=4))
    (pair,) = read(state, keys_only=True).kvs
    assert pair == kv_pb2.KeyValue(
        key=b"k", create_revision=1, mod_revision=2, version=2, lease=4
    )


def test_keys_only_reads_no_values(state: StateView) -> None:
    """Goal: nor does a count; both are answered from the heads."""
    apply(state, *[put(b"%d" % n) for n in range(9)])
    for option in ("keys_only", "count_only"):
        watch, view = watched(state)
        read(view, **{option: True})
        assert watch.versions_seen == 0


def test_a_count_returns_no_pairs(state: StateView) -> None:
    """Goal: a limit does not bound it; there is no more to fetch."""
    apply(state, *HISTORY)
    found = read(state, count_only=True, limit=2)
    assert found == kv_pb2.RangeResult(revision=10, count=5)


@pytest.mark.parametrize(("limit", "more"), [(4, True), (5, False), (6, False)])
def test_more_says_whether_the_limit_cut(
    state: StateView, limit: int, more: bool
) -> None:
    """Goal: exact at the bound, counted or not."""
    apply(state, *HISTORY)
    for without_count in (False, True):
        for order in ORDERS:
            found = read(
                state, limit=limit, without_count=without_count, sort_order=order
            )
            assert (len(found.kvs), found.more) == (min(limit, 5), more)
            assert found.count == (0 if without_count else 5)


def test_an_interval_that_holds_nothing_is_empty(state: StateView) -> None:
    """Goal: reversed, empty, behind the last, before the first."""
    apply(state, put(b"m"), put(b"n"))
    for start, end in ((b"z", b"a"), (b"n", b"n"), (b"o", ALL), (b"a", b"m")):
        for order in ORDERS:
            request = Range(key=start, range_end=end, sort_order=order)
            found = read_range_at_once(state, request)
            assert (found.count, found.more, len(found.kvs)) == (0, False, 0)


def test_an_unknown_order_is_of_a_newer_version(state: StateView) -> None:
    """Goal: never an answer in some other order."""
    for tag in (b"\x28\x07", b"\x30\x07"):
        request = everything()
        request.MergeFromString(tag)
        with pytest.raises(NewerFormat):
            read_range_at_once(state, request)


# ---------------------------------------------------------------- revisions


def test_each_revision_shows_what_the_store_held_then(state: StateView) -> None:
    """Goal: creation, overwrite, deletion and recreation, one key at a time."""
    apply(state, put(b"k", b"1"), put(b"k", b"2"), delete(b"k"), put(b"k", b"4"))
    values = []
    for revision in range(1, 5):
        found = read_range_at_once(state, Range(key=b"k", revision=revision))
        assert (found.revision, found.count) == (4, len(found.kvs))
        values.append([(it.value, it.create_revision, it.version) for it in found.kvs])
    assert values == [[(b"1", 1, 1)], [(b"2", 1, 2)], [], [(b"4", 4, 1)]]


def test_zero_and_less_are_the_newest(state: StateView) -> None:
    """Goal: as in etcd."""
    apply(state, *HISTORY)
    newest = read(state, revision=10)
    assert read(state) == read(state, revision=-1) == newest


def test_the_future_cannot_be_read(state: StateView) -> None:
    """Goal: the error says how far the store is."""
    apply(state, *HISTORY)
    with pytest.raises(FutureRevision, match="the store is at 10") as caught:
        read(state, revision=11)
    assert caught.value.current_revision == 10
    with pytest.raises(FutureRevision):
        read_range_at_once(state, Range(key=b"k", revision=11))


def test_compacted_revisions_cannot_be_read(state: StateView) -> None:
    """Goal: from the moment of the compaction; its own revision still can."""
    apply(state, *HISTORY)
    at_six = read(state, revision=6)
    apply(state, compact(6))
    for revision in range(1, 6):
        with pytest.raises(Compacted, match="starts at 6") as caught:
            read(state, revision=revision)
        assert caught.value.compact_revision == 6
    assert read(state, revision=6) == at_six
    sweep_all(state)
    assert read(state, revision=6) == at_six


def test_a_key_written_after_a_swept_tombstone_has_no_past(state: StateView) -> None:
    """Goal: its first version names a tombstone that is gone; that is no damage."""
    apply(state, put(b"k"), delete(b"k"), put(b"other"))
    apply(state, compact(3), put(b"k", b"new"), put(b"k", b"newer"))
    sweep_all(state)
    assert keys(read(state, revision=3)) == [b"other"]
    assert not read_range_at_once(state, Range(key=b"k", revision=3)).kvs
    assert keys(read(state)) == [b"k", b"other"]


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_missing_version_is_damage_to_whoever_needs_it(
    state: StateView, lost: int, compacted: bool
) -> None:
    """Goal: never "no such key" for a key that there is, at any revision.

    Compaction to revision 2 takes the first version; the second survives it, and what
    follows relies on it though it is below the compacted revision.
    """
    apply(state, put(b"k", b"1"), put(b"k", b"2"), put(b"k", b"3"), delete(b"k"))
    apply(state, put(b"k", b"5"))
    if compacted:
        apply(state, put(b"x"), compact(2))
        sweep_all(state)
    if compacted and lost == 1:
        return
    state.delete_version(VersionId(Revision(lost), 0))
    for revision in range(2 if compacted else 1, 6):
        request = Range(key=b"k", revision=revision)
        needed = range(revision, 5)
        # A deletion is answered by the tombstone's head or whoever follows it.
        if lost in needed and not (lost == revision == 4):
            with pytest.raises(CorruptionError, match=f"version {lost}.0") as caught:
                read_range_at_once(state, request)
            error = caught.value
            assert (error.store, error.database) == ("state", "kv")
            assert error.key_hex == b"k".hex()
        else:
            found = read_range_at_once(state, request)
            value = b"%d" % revision
            assert [it.value for it in found.kvs] == ([] if revision == 4 else [value])


# ------------------------------------------------------------------ answers

VALUE_BYTES = 100
PAIR_BYTES = 1 + VALUE_BYTES + PAIR_OVERHEAD_BYTES


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("without_count", [False, True])
def test_an_answer_keeps_to_its_bytes(
    state: StateView, target: int, without_count: bool
) -> None:
    """Goal: exactly at the bound; one byte less leaves a pair out; ``more`` says so."""
    apply(state, *[put(b"%d" % n, b"x" * VALUE_BYTES) for n in range(9)])
    request = everything(sort_target=target, without_count=without_count)
    for bytes_max, pairs in (
        (3 * PAIR_BYTES, 3),
        (3 * PAIR_BYTES - 1, 2),
        (9 * PAIR_BYTES - 1, 8),
        (9 * PAIR_BYTES, 9),
    ):
        found = read_range_at_once(state, request, response_bytes_max=bytes_max)
        assert (len(found.kvs), found.more) == (pairs, pairs < 9)
        assert found.count == (0 if without_count else 9)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("revision", [0, 9])
def test_values_that_are_not_returned_take_no_room(
    state: StateView, target: int, revision: int
) -> None:
    """Goal: keys alone fill an answer, also where values are read on the way."""
    value = b"x" * VALUE_BYTES
    apply(state, *[put(b"%d" % n, value) for n in range(9)])
    apply(state, *[put(b"%d" % n, value) for n in range(9)])
    request = everything(sort_target=target, keys_only=True, revision=revision)
    key_bytes = PAIR_BYTES - VALUE_BYTES
    for bytes_max, pairs in ((9 * key_bytes, 9), (4 * key_bytes, 4)):
        found = read_range_at_once(state, request, response_bytes_max=bytes_max)
        assert (len(found.kvs), found.more) == (pairs, pairs < 9)
        assert {it.value for it in found.kvs} == {b""}


@pytest.mark.parametrize("target", TARGETS)
def test_the_first_pair_is_returned_however_large(
    state: StateView, target: int
) -> None:
    """Goal: a reader of pages gets on, whatever the bound."""
    apply(state, put(b"a", b"x" * 5000), put(b"b", b"x" * 5000))
    for order, first in ((Range.ASCEND, b"a"), (Range.DESCEND, b"b")):
        found = read_range_at_once(
            state,
            everything(sort_order=order, sort_target=target),
            response_bytes_max=1,
        )
        assert len(found.kvs) == 1
        assert found.more
        if target in (Range.KEY, Range.CREATE, Range.MOD):
            assert keys(found) == [first]


def pages(
    state: StateView, request: kv_pb2.Range, response_bytes_max: int
) -> Iterator[kv_pb2.RangeResult]:
    """As a client reads them: behind the last key, at the first page's revision."""
    while True:
        page = read_range_at_once(state, request, response_bytes_max=response_bytes_max)
        yield page
        if not page.more:
            return
        request.revision = request.revision or page.revision
        if request.sort_order == Range.DESCEND:
            request.range_end = page.kvs[-1].key
        else:
            request.key = page.kvs[-1].key + b"\0"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("without_count", [False, True])
@pytest.mark.parametrize("limit", [0, 1, 7])
def test_pages_join_without_gap_or_overlap(
    state: StateView, order: int, without_count: bool, limit: int
) -> None:
    """Goal: all pairs once, in order, though the store changes between the pages."""
    written = [b"%02d" % n for n in range(40)]
    apply(state, *[put(key, b"x" * (int(key) * 37 % 90)) for key in written])
    apply(state, delete(b"13"), delete(b"20", b"23"))
    whole = read(state, sort_order=order)
    request = everything(sort_order=order, without_count=without_count, limit=limit)
    seen: list[kv_pb2.KeyValue] = []
    for page in pages(state, request, 500):
        seen += page.kvs
        apply(state, delete(b"30"), put(b"35"), put(b"13", b"again"))
    assert seen == list(whole.kvs)


@pytest.mark.parametrize("order", ORDERS)
def test_a_page_without_count_costs_what_it_returns(
    state: StateView, order: int
) -> None:
    """Goal: the whole range is looked at only to count it."""
    apply(state, *[put(b"%04d" % n) for n in range(5000)])
    watch, view = watched(state)
    found = read(view, limit=10, sort_order=order, without_count=True)
    assert len(found.kvs) == 10
    assert watch.heads_seen <= 32
    found = read(view, limit=2000, sort_order=order, without_count=True)
    assert len(found.kvs) == 2000
    assert watch.heads_seen <= 32 + 2 * 2000
    found = read(view, limit=10, sort_order=order)
    assert found.count == 5000
    assert watch.heads_seen > 5000


def test_a_page_without_count_passes_deleted_keys(state: StateView) -> None:
    """Goal: tombstones that wait for compaction fill no page."""
    apply(state, *[put(b"%03d" % n) for n in range(300)])
    apply(state, delete(b"000", b"200"))
    for order, first in ((Range.ASCEND, b"200"), (Range.DESCEND, b"299")):
        found = read(state, limit=1, without_count=True, sort_order=order)
        assert (keys(found), found.more) == ([first], True)
    found = read_range_at_once(
        state, Range(key=b"000", range_end=b"200", limit=1, without_count=True)
    )
    assert (keys(found), found.more) == ([], False)


@pytest.mark.parametrize("target", TARGETS)
def test_a_sorted_read_holds_little_more_than_it_returns(
    state: StateView, monkeypatch: pytest.MonkeyPatch, target: int
) -> None:
    """Goal: memory is bounded by the answer, not by the range."""
    monkeypatch.setattr(reads, "SLICE_RECORDS", 10)
    apply(state, *[put(b"%04d" % (n * 7919 % 1000)) for n in range(1000)])
    held = 0
    real = reads._Selection.add

    def add(selection: reads._Selection, found: reads._Found) -> None:
        nonlocal held
        real(selection, found)
        held = max(held, len(selection._candidates))

    monkeypatch.setattr(reads._Selection, "add", add)
    found = read(state, sort_target=target, sort_order=Range.DESCEND, limit=5)
    assert len(found.kvs) == 5
    assert held <= 2 * 5 + 10


# ---------------------------------------------------------------- in slices


def advance(reading: reads.Reading) -> kv_pb2.RangeResult | None:
    """One step; the result at the end."""
    try:
        next(reading)
    except StopIteration as end:
        result: kv_pb2.RangeResult = end.value
        return result
    return None


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "SLICE_RECORDS", 10)


@pytest.mark.usefixtures("small_slices")
def test_a_long_read_stops_every_so_many_records(state: StateView) -> None:
    """Goal: whoever applies entries waits for a slice, never for a whole range."""
    apply(state, *[put(b"%03d" % n) for n in range(100)])
    reading = read_range(state, everything())
    stops = 0
    while (result := advance(reading)) is None:
        stops += 1
    assert result.count == 100
    assert stops == 10 + 10  # looking at the keys, then fetching the values


@pytest.mark.usefixtures("small_slices")
def test_a_long_history_is_walked_in_slices(state: StateView) -> None:
    """Goal: one key written a thousand times since is no long stop either."""
    for _ in range(10):
        apply(state, *[put(b"k", b"%d" % n) for n in range(10)])
    reading = read_range(state, Range(key=b"k", revision=1))
    stops = 0
    while (result := advance(reading)) is None:
        stops += 1
    assert result.kvs[0].value == b"0"
    assert stops == 9


READINGS = {
    "range": everything(revision=100),
    "descending": everything(revision=100, sort_order=Range.DESCEND),
    "history": Range(key=b"000", revision=100),
    "newest": everything(),
}


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("which", list(READINGS))
@pytest.mark.parametrize("stop", range(12))
def test_a_read_overtaken_by_compaction_says_compacted(
    state: StateView, which: str, stop: int
) -> None:
    """Goal: at whatever slice: never a hole in the answer, never false damage.

    All keys are written again and the history read is given up, with the sweep, at
    one stop of the read. One that has nothing left to fetch may still end well.
    """
    apply(state, *[put(b"%03d" % n, b"old") for n in range(100)])
    if which != "newest":
        for _ in range(2):
            apply(state, *[put(b"%03d" % n, b"new") for n in range(100)])
        apply(state, *[put(b"000") for n in range(100)])
    reading = read_range(state, READINGS[which])
    expected = exhaust(read_range(state, READINGS[which]))
    for _ in range(stop):
        if (result := advance(reading)) is not None:
            assert result == expected
            return
    apply(state, *[put(b"%03d" % n, b"newest") for n in range(100)])
    apply(state, compact(state.progress.revision))
    sweep_all(state)
    if stop == 0 and which == "newest":
        # Not begun: the newest is newer now.
        assert {it.value for it in exhaust(reading).kvs} == {b"newest"}
        return
    with pytest.raises(Compacted) as caught:
        exhaust(reading)
    assert caught.value.compact_revision == state.progress.compact_revision


@pytest.mark.usefixtures("small_slices")
def test_a_read_begun_late_for_an_old_moment_says_compacted(
    state: StateView,
) -> None:
    """Goal: ranges of one moment are read one after the other; history may end between.

    Not a damaged store: the versions of that moment were given up.
    """
    apply(state, *[put(b"%03d" % n) for n in range(50)])
    moment = state.progress.revision
    apply(state, *[put(b"%03d" % n) for n in range(50)])
    assert exhaust(read_range(state, everything(), revision=moment)).count == 50
    apply(state, compact(moment + 1))
    sweep_all(state)
    with pytest.raises(Compacted):
        exhaust(read_range(state, everything(), revision=moment))
    with pytest.raises(Compacted):
        exhaust(read_range(state, Range(key=b"000"), revision=moment))


@pytest.mark.usefixtures("small_slices")
def test_compaction_up_to_the_revision_read_does_not_disturb(
    make_state: Callable[[], StateView],
) -> None:
    """Goal: a read at R survives compactions to R, in steps between its slices."""
    state = make_state()
    for value in (b"1", b"2", b"3"):
        apply(state, *[put(b"%03d" % n, value) for n in range(60)])
    apply(state, delete(b"010", b"020"))
    revision = state.progress.revision - 1
    expected = read(state, revision=revision)
    reading = read_range(state, everything(revision=revision))
    assert advance(reading) is None
    apply(state, compact(revision))
    while (result := advance(reading)) is None:
        apply(state, put(b"%03d" % 5), step())
    expected.revision = result.revision
    assert result == expected
