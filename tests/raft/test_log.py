"""The log in memory over the log on disk."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.raft.log import ENTRY_OVERHEAD_BYTES, RaftLog
from kvstore.raft.messages import Entry, EntryKind, HardState, Snapshot
from kvstore.types import LogIndex, NodeId, Term
from tests.raft.disk import Disk
from tests.raft.pieces import entries_of, entry_id, founded

EVERYTHING = 1 << 40


def new_log(disk: Disk, *, cached_bytes_max: int = EVERYTHING) -> RaftLog:
    return RaftLog(disk, cached_bytes_max=cached_bytes_max)


def write(log: RaftLog, disk: Disk) -> None:
    """Everything that must be written is, at once."""
    disk.append(None, log.hand_out())
    log.persisted()


def terms(log: RaftLog) -> list[int]:
    held = range(log.first_index, log.last_index + 1)
    return [int(log.term(LogIndex(index))) for index in held]


def indexes(entries: tuple[Entry, ...]) -> list[int]:
    return [int(entry.index) for entry in entries]


def get(log: RaftLog, start: int, end: int, size: int = EVERYTHING) -> list[int]:
    return indexes(log.entries(LogIndex(start), LogIndex(end), size))


@pytest.mark.parametrize(
    ("bound", "found"),
    [
        # etcd's FindConflictByTerm: the newest entry that may agree.
        ((5, 9), (4, 5)),
        ((4, 9), (4, 5)),
        ((4, 4), (4, 4)),
        ((3, 9), (2, 3)),
        ((2, 2), (2, 2)),
        ((1, 9), (0, 0)),
        ((0, 0), (0, 0)),
    ],
)
def test_the_latest_entry_within_a_bound_is_found(
    bound: tuple[int, int], found: tuple[int, int]
) -> None:
    """It skips all of a conflicting term at once (end of section 5.3)."""
    log = new_log(Disk([2, 2, 2]))
    log.append(entries_of([4, 4], first=4))
    assert log.latest_within(entry_id(*bound)) == entry_id(*found)


@given(
    st.lists(st.integers(1, 6), max_size=12).map(sorted),
    st.integers(0, 12),
    st.integers(0, 7),
    st.integers(0, 15),
)
def test_the_latest_entry_within_a_bound_is_what_a_scan_finds(
    log_terms: list[int], cached: int, term: int, index: int
) -> None:
    """The binary search rests on terms that never fall."""
    cached = min(cached, len(log_terms))
    disk = Disk(log_terms[: len(log_terms) - cached])
    log = new_log(disk)
    if cached:
        log.append(entries_of(log_terms[-cached:], first=disk.last_index + 1))
    expected = min(index, len(log_terms))
    while expected and log_terms[expected - 1] > term:
        expected -= 1
    assert log.latest_within(entry_id(term, index)).index == expected


@pytest.mark.parametrize(
    ("held", "position"),
    [
        ([1, 2, 3], 3),
        ([1, 2], 2),
        ([1, 2, 2], 2),
        ([1, 1, 1], 1),
        ([], 0),
        ([1, 2, 3, 3], 3),
    ],
)
def test_the_first_conflict_is_found(held: list[int], position: int) -> None:
    """etcd's LogMaybeAppend: what is held already is no conflict (mutant M14)."""
    assert new_log(Disk(held)).first_conflict(entries_of([1, 2, 3])) == position


def test_a_write_in_flight_does_not_vouch_for_what_replaced_it() -> None:
    """The ABA of etcd's ``append_aba_race`` (mutant M21): the log is handed out, cut,
    and grown again while the write is under way."""
    disk = Disk([1])
    log = new_log(disk)
    log.append(entries_of([1, 1], first=2))
    in_flight = log.hand_out()
    log.truncate_after(LogIndex(2))
    log.append(entries_of([2], first=3))
    disk.append(None, in_flight)
    log.persisted()
    assert log.stable_index == 2
    assert indexes(log.hand_out()) == [3]
    log.persisted()
    assert log.stable_index == 3


def test_replacing_durable_entries_puts_them_in_doubt() -> None:
    """From there on the disk must be written again before anything is acknowledged."""
    disk = Disk([1, 1, 1], term=2)
    log = new_log(disk)
    log.truncate_after(LogIndex(1))
    assert log.stable_index == 1
    assert terms(log) == [1]
    log.append(entries_of([2], first=2))
    write(log, disk)
    assert disk.terms() == terms(log) == [1, 2]


def test_recent_entries_are_read_from_memory() -> None:
    """What is applied and replicated in step never comes from the disk."""
    disk = Disk(term=1)
    log = new_log(disk)
    log.append(entries_of([1] * 10))
    write(log, disk)
    disk.term_reads = 0
    assert get(log, 3, 7) == [3, 4, 5, 6]
    assert log.term(LogIndex(10)) == log.term(LogIndex(1)) == 1
    assert (disk.entries_reads, disk.term_reads) == (0, 0)


def test_memory_is_bounded_and_the_disk_has_the_rest() -> None:
    """Only what is not durable must stay; reads go on below."""
    disk = Disk(term=1)
    log = new_log(disk, cached_bytes_max=8 * (ENTRY_OVERHEAD_BYTES + 3))
    for first in range(1, 100):
        log.append(entries_of([1], first=first))
        write(log, disk)
        assert log.cached_bytes <= 8 * (ENTRY_OVERHEAD_BYTES + 4)
    log.append(entries_of([1] * 50, first=100))
    assert get(log, 100, 150) == list(range(100, 150))
    assert disk.entries_reads == 0
    assert get(log, 1, 5) == [1, 2, 3, 4]
    assert disk.entries_reads == 1


@pytest.mark.parametrize(("size", "count"), [(0, 1), (3, 1), (6, 2), (8, 2), (9, 3)])
def test_entries_stop_before_a_size_is_passed(size: int, count: int) -> None:
    """But there is always one, or a large entry could never be sent."""
    in_memory = new_log(Disk())
    in_memory.append(entries_of([1, 1, 1, 1]))
    assert len(get(in_memory, 1, 4, size)) == count
    assert len(get(new_log(Disk([1, 1, 1, 1])), 1, 4, size)) == count


def test_an_entry_is_matched_by_term_and_index() -> None:
    """Section 5.3's consistency check."""
    log = new_log(Disk([1, 2]))
    assert log.matches(entry_id(0, 0))
    assert log.matches(entry_id(2, 2))
    assert not log.matches(entry_id(1, 2))
    assert not log.matches(entry_id(2, 3))


def test_terms_that_are_not_held_are_refused() -> None:
    """Nobody mistakes absence for term 0."""
    with pytest.raises(LookupError):
        new_log(Disk([1])).term(LogIndex(2))


@pytest.mark.parametrize(
    ("hard_state", "entries", "what"),
    [
        (HardState(term=Term(1), vote=None), (), "a term never goes back"),
        (HardState(term=Term(2), vote=NodeId(3)), (), "one vote a term"),
        (None, entries_of([2], first=4), "no gaps"),
        (None, entries_of([1], first=3), "never go back"),
        (None, entries_of([3], first=3), "not yet reached"),
    ],
)
def test_a_disk_takes_only_what_a_core_may_write(
    hard_state: HardState | None, entries: tuple[Entry, ...], what: str
) -> None:
    """So every test that drives a core to its disk checks the rules of appending."""
    disk = Disk([1, 2], vote=2)
    with pytest.raises(AssertionError, match=what):
        disk.append(hard_state, entries)
    assert (disk.terms(), disk.hard_state.vote) == ([1, 2], 2)


@pytest.mark.parametrize("cached", [0, 2, 5])
@pytest.mark.parametrize("index", [1, 3, 5])
def test_compaction_leaves_what_follows(cached: int, index: int) -> None:
    """etcd's TestCompaction: entries up to an index are gone, wherever they were; the
    term of the last of them is still known, for what follows builds upon it."""
    disk = Disk([1, 1, 2, 2, 3][: 5 - cached], term=3)
    log = new_log(disk)
    if cached:
        log.append(entries_of([1, 1, 2, 2, 3][5 - cached :], first=6 - cached))
        write(log, disk)
    log.compact_to(LogIndex(index))
    disk.compact(index)
    term = [1, 1, 2, 2, 3][index - 1]
    assert (log.floor, log.first_index) == (entry_id(term, index), index + 1)
    assert log.last_id == entry_id(3, 5)
    held: list[int] = []
    while index + len(held) < 5:
        held += get(log, index + 1 + len(held), 6)
    assert held == list(range(index + 1, 6))
    assert log.term(LogIndex(index)) == term
    with pytest.raises(LookupError):
        log.entries(LogIndex(index), LogIndex(6), 1)
    if index > 1:
        with pytest.raises(LookupError):
            log.term(LogIndex(index - 1))


def test_what_is_compacted_is_taken_for_the_same() -> None:
    """It is committed, so any leader holds the same there."""
    log = new_log(Disk([2], base=(1, 5)))
    assert log.matches(entry_id(1, 4))
    assert log.matches(entry_id(1, 5))
    assert not log.matches(entry_id(2, 5))
    assert log.first_conflict(entries_of([1, 1, 2, 2], first=4)) == 3
    assert log.latest_within(entry_id(0, 3)) == entry_id(1, 5)


def test_only_durable_entries_are_compacted() -> None:
    """The state may be ahead of nothing that a crash could take."""
    log = new_log(Disk([1]))
    log.append(entries_of([1], first=2))
    with pytest.raises(AssertionError):
        log.compact_to(LogIndex(2))


def test_a_log_begins_anew_behind_a_snapshot() -> None:
    """Of what was in memory, being written or durable, nothing is left."""
    log = new_log(Disk([1, 1]))
    log.append(entries_of([1, 1], first=3))
    log.hand_out()
    log.reset(Snapshot(last=entry_id(2, 3), configuration=founded([1, 9]).encode()))
    assert (log.first_index, log.last_id) == (4, entry_id(2, 3))
    assert (log.cached_bytes, log.has_unwritten, log.stable_index) == (0, False, 3)
    assert log.configuration == founded([1, 9])
    log.append(entries_of([2], first=4))
    assert indexes(log.hand_out()) == [4]


def test_configurations_follow_the_log() -> None:
    """Truncated, compacted and looked up with the entries that brought them."""
    log = new_log(Disk(founders=[1]))
    for index, voters in ((2, [1, 2]), (4, [1, 2, 3])):
        log.append(entries_of([1], first=index - 1))
        data = founded(voters).encode()
        entry = Entry(Term(1), LogIndex(index), EntryKind.CONFIGURATION, data)
        log.append((entry,))
    found = [[*log.configuration_at(LogIndex(i)).voters] for i in range(5)]
    assert found == [[1], [1], [1, 2], [1, 2], [1, 2, 3]]
    log.hand_out()
    log.persisted()
    log.compact_to(LogIndex(3))
    assert log.configuration_at(LogIndex(3)) == founded([1, 2])
    assert (log.configuration, log.configuration_index) == (founded([1, 2, 3]), 4)
    log.truncate_after(LogIndex(3))
    assert (log.configuration, log.configuration_index) == (founded([1, 2]), 2)


Step = tuple[str, int]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["append", "truncate", "hand_out", "persist", "compact"]),
            st.integers(0, 5),
        ),
        max_size=40,
    ),
    st.sampled_from([0, 300, EVERYTHING]),
)
def test_the_log_is_a_list_whatever_is_written_when(
    steps: list[Step], cached_bytes_max: int
) -> None:
    """Against a plain list, with a disk that lags: memory over disk reads as the list,
    and what is called durable is on the disk."""
    disk, twin, term = Disk(term=len(steps) + 1), list[Entry](), 1
    log = new_log(disk, cached_bytes_max=cached_bytes_max)
    in_flight: tuple[Entry, ...] | None = None
    for name, number in steps:
        match name:
            case "append" if number:
                new = entries_of([term] * number, first=len(twin) + 1)
                log.append(new)
                twin += new
            case "truncate":
                term += 1
                keep = max(int(log.floor.index), len(twin) - number)
                log.truncate_after(LogIndex(keep))
                del twin[keep:]
            case "hand_out" if in_flight is None and log.has_unwritten:
                in_flight = log.hand_out()
            case "persist" if in_flight is not None:
                disk.append(None, in_flight)
                in_flight = None
                log.persisted()
            case "compact" if in_flight is None:
                log.compact_to(
                    max(log.floor.index, LogIndex(log.stable_index - number))
                )
                disk.compact(log.floor.index)
            case _:
                pass
        floor, stable = int(log.floor.index), int(log.stable_index)
        assert terms(log) == [int(entry.term) for entry in twin[floor:]]
        assert disk.log[: stable - floor] == twin[floor:stable]
        assert log.stable_index <= log.handed_out_index <= log.last_index == len(twin)
        found: list[Entry] = []
        while floor + len(found) < len(twin):
            start = LogIndex(floor + len(found) + 1)
            found += log.entries(start, LogIndex(len(twin) + 1), 7)
        assert found == twin[floor:]
