"""What every ``LogStorage`` must do, on each implementation."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstore.raft.membership import NOBODY, Configuration, MemberInfo
from kvstore.raft.messages import Entry, EntryId, EntryKind, HardState, Snapshot
from kvstore.replica.interfaces import Identity, LogStorage
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.memory_log import MemoryLog
from kvstore.types import LogIndex, NodeId, Term

Reopen = Callable[[LogStorage], LogStorage]
Make = Callable[..., list[Entry]]
UNLIMITED = 1 << 40


class Medium:
    """A log and a way to see what a crash leaves of it."""

    def __init__(self, log: LogStorage, reopen: Reopen) -> None:
        self.log = log
        self._reopen = reopen

    def crash(self) -> LogStorage:
        """Forget the object, keep the medium."""
        self.log = self._reopen(self.log)
        return self.log

    def before_and_after_a_crash(self) -> Iterator[LogStorage]:
        yield self.log
        yield self.crash()


@pytest.fixture(params=["memory", "lmdb"])
def medium(
    request: pytest.FixtureRequest, tmp_path: Path, identity: Identity
) -> Iterator[Medium]:
    if request.param == "memory":

        def clone(log: LogStorage) -> LogStorage:
            assert isinstance(log, MemoryLog)
            return log.clone()

        yield Medium(MemoryLog(), clone)
        return
    path = tmp_path / "raft"

    def reopen(log: LogStorage) -> LogStorage:
        assert isinstance(log, LMDBLog)
        log.close()
        return LMDBLog.open(path, identity)

    LMDBLog.create(path, identity)
    made = Medium(LMDBLog.open(path, identity), reopen)
    yield made
    assert isinstance(made.log, LMDBLog)
    made.log.close()


def hard_state(term: int, vote: int | None = None) -> HardState:
    return HardState(term=Term(term), vote=None if vote is None else NodeId(vote))


def held(log: LogStorage) -> list[Entry]:
    end = LogIndex(log.last_index + 1)
    return list(log.entries(log.first_index, end, UNLIMITED))


def test_new_log_is_empty(medium: Medium) -> None:
    """Goal: indexes start at 1, terms at 0, and nobody has been voted for."""
    for log in medium.before_and_after_a_crash():
        assert log.first_index == 1
        assert log.last_index == 0
        assert log.term(LogIndex(0)) == 0
        assert log.hard_state == hard_state(0)
        assert log.entries(LogIndex(1), LogIndex(1), UNLIMITED) == ()


def test_appended_entries_survive_a_crash(medium: Medium, make_entries: Make) -> None:
    """Goal: what append returned from is durable, in one piece."""
    entries = make_entries(1, 5, term=2)
    entries[0] = Entry(Term(1), LogIndex(1), EntryKind.NOOP, b"")
    medium.log.append(hard_state(2, vote=7), entries)
    for log in medium.before_and_after_a_crash():
        assert held(log) == entries
        assert log.last_index == 5
        assert [log.term(LogIndex(i)) for i in range(6)] == [0, 1, 2, 2, 2, 2]
        assert log.hard_state == hard_state(2, vote=7)


def test_hard_state_alone_and_entries_alone(medium: Medium, make_entries: Make) -> None:
    """Goal: either half of an append leaves the other as it was."""
    medium.log.append(hard_state(1, vote=3), make_entries(1, 2))
    medium.log.append(None, make_entries(3, 4))
    medium.log.append(hard_state(4), ())
    log = medium.crash()
    assert log.hard_state == hard_state(4)
    assert held(log) == make_entries(1, 4)
    log.append(hard_state(4, vote=1), [])
    assert medium.crash().hard_state == hard_state(4, vote=1)


@pytest.mark.parametrize("first", [1, 4, 10])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_append_replaces_the_tail(
    medium: Medium, make_entries: Make, first: int, count: int
) -> None:
    """Goal: from the first new index on nothing old stays, however long it was."""
    old = make_entries(1, 10)
    new = make_entries(first, first + count - 1, term=2)
    medium.log.append(hard_state(1), old)
    medium.log.append(hard_state(2), new)
    for log in medium.before_and_after_a_crash():
        assert log.last_index == first + count - 1
        assert held(log) == old[: first - 1] + new
        assert log.term(LogIndex(first)) == 2
        assert log.term(LogIndex(first - 1)) == (1 if first > 1 else 0)
        with pytest.raises(LookupError):
            log.term(LogIndex(first + count))
    log = medium.log
    log.append(None, make_entries(first + count, first + count, term=2))
    assert held(medium.crash())[-1].index == first + count


def test_entries_are_cut_before_the_byte_limit(
    medium: Medium, make_entries: Make
) -> None:
    """Goal: the limit holds, except that progress is always made."""
    entries = make_entries(1, 5, size=100)
    medium.log.append(hard_state(1), entries)
    read = medium.log.entries
    assert read(LogIndex(1), LogIndex(6), 0) == tuple(entries[:1])
    assert read(LogIndex(1), LogIndex(6), 199) == tuple(entries[:1])
    assert read(LogIndex(1), LogIndex(6), 200) == tuple(entries[:2])
    assert read(LogIndex(2), LogIndex(4), UNLIMITED) == tuple(entries[1:3])
    assert read(LogIndex(6), LogIndex(6), UNLIMITED) == ()


@pytest.mark.parametrize("size", [0, 1, 4_000, 65_535, 65_536, 1_000_000])
def test_entries_of_any_size(medium: Medium, make_entries: Make, size: int) -> None:
    """Goal: sizes around the limits of pages and of block checksums."""
    entry = Entry(Term(1), LogIndex(1), EntryKind.COMMANDS, b"d" * size)
    medium.log.append(hard_state(1), [entry])
    assert held(medium.crash()) == [entry]


def test_what_is_not_held_is_a_lookup_error(medium: Medium, make_entries: Make) -> None:
    """Goal: never an empty answer for a question that has none."""
    medium.log.append(hard_state(1), make_entries(1, 3))
    for index in (4, 100):
        with pytest.raises(LookupError):
            medium.log.term(LogIndex(index))
    for start, end in ((0, 2), (1, 5), (5, 5), (3, 2)):
        with pytest.raises(LookupError):
            medium.log.entries(LogIndex(start), LogIndex(end), UNLIMITED)


@pytest.mark.parametrize(
    ("state", "indexes", "term"),
    [
        (None, (5, 6), 2),  # a gap
        (None, (0, 1), 2),  # before the log
        (None, (4, 4), 1),  # a term that goes back
        (None, (4, 4), 3),  # a term not yet reached
        (hard_state(1), (4, 4), 2),  # the hard state goes back
        (hard_state(2, vote=2), (4, 4), 2),  # a second vote in one term
        (hard_state(2), (4, 4), 2),  # a vote forgotten
    ],
)
def test_breaking_the_contract_is_our_bug(
    medium: Medium,
    make_entries: Make,
    state: HardState | None,
    indexes: tuple[int, int],
    term: int,
) -> None:
    """Goal: a defect of the core stops the node before it is written down."""
    medium.log.append(hard_state(2, vote=1), make_entries(1, 3, term=2))
    with pytest.raises(AssertionError):
        medium.log.append(state, make_entries(*indexes, term=term))
    log = medium.crash()
    assert held(log) == make_entries(1, 3, term=2)
    assert log.hard_state == hard_state(2, vote=1)


def test_entries_of_one_append_are_consecutive(
    medium: Medium, make_entries: Make
) -> None:
    """Goal: a hole inside an append is a defect as much as one before it."""
    entries = make_entries(1, 3)
    with pytest.raises(AssertionError, match="consecutive"):
        medium.log.append(hard_state(1), [entries[0], entries[2]])


@given(seed=st.integers(0, 2**32))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_random_appends_agree_with_a_list(
    tmp_path_factory: pytest.TempPathFactory, identity: Identity, seed: int
) -> None:
    """Goal: LMDB, memory and a plain list never differ, over crashes too."""
    rng = random.Random(seed)
    path = tmp_path_factory.mktemp("log") / "raft"
    LMDBLog.create(path, identity)
    durable, memory = LMDBLog.open(path, identity), MemoryLog()
    model: list[Entry] = []
    term = 1
    for _ in range(rng.randrange(1, 12)):
        term += rng.randrange(2)
        first = len(model) + 1 - rng.randrange(min(4, len(model)) + 1)
        entries = [
            Entry(
                Term(term),
                LogIndex(index),
                rng.choice(list(EntryKind)),
                rng.randbytes(rng.randrange(300)),
            )
            for index in range(first, first + rng.randrange(1, 6))
        ]
        for log in (durable, memory):
            log.append(hard_state(term), entries)
        model[first - 1 :] = entries
        if rng.randrange(4) == 0:
            durable.close()
            durable, memory = LMDBLog.open(path, identity), memory.clone()
        assert held(durable) == held(memory) == model
        assert durable.hard_state == memory.hard_state == hard_state(term)
        assert [durable.term(entry.index) for entry in model] == [
            entry.term for entry in model
        ]
    assert durable.findings == ()
    durable.close()


# -------------------------------------------- configurations, compaction, snapshots


def configuration(*voters: int) -> bytes:
    return Configuration(
        voters=tuple(NodeId(voter) for voter in voters),
        members={NodeId(voter): MemberInfo(f"h:{voter}") for voter in voters},
    ).encode()


def reconfigured(make_entries: Make, last: int, *, at: dict[int, bytes]) -> list[Entry]:
    """Entries 1 to ``last``, some of them configurations."""
    entries = make_entries(1, last)
    for index, data in at.items():
        entries[index - 1] = Entry(
            Term(1), LogIndex(index), EntryKind.CONFIGURATION, data
        )
    return entries


ONE, TWO, THREE = configuration(1), configuration(1, 2), configuration(1, 2, 3)


def test_configurations_are_found_without_a_search(
    medium: Medium, make_entries: Make
) -> None:
    """Goal: which entries are configurations is known, over crashes and truncations."""
    assert medium.log.base_configuration == NOBODY.encode()
    medium.log.append(hard_state(1), reconfigured(make_entries, 6, at={2: ONE, 5: TWO}))
    for log in medium.before_and_after_a_crash():
        assert list(log.configurations()) == [(2, ONE), (5, TWO)]
    medium.log.append(hard_state(2), make_entries(4, 9, term=2))
    for log in medium.before_and_after_a_crash():
        assert list(log.configurations()) == [(2, ONE)]
    medium.log.append(hard_state(3), make_entries(1, 1, term=3))
    for log in medium.before_and_after_a_crash():
        assert list(log.configurations()) == []


@pytest.mark.parametrize("to", range(1, 9))
def test_compaction_forgets_what_is_before(
    medium: Medium, make_entries: Make, to: int
) -> None:
    """Goal: the rest of the log stays, and its beginning knows what was before it."""
    entries = reconfigured(make_entries, 8, at={2: ONE, 5: TWO})
    medium.log.append(hard_state(1, vote=4), entries)
    chain = medium.log.chain(LogIndex(to))
    medium.log.compact(LogIndex(to))
    expected = NOBODY.encode() if to < 2 else ONE if to < 5 else TWO
    for log in medium.before_and_after_a_crash():
        assert (log.first_index, log.last_index) == (to + 1, 8)
        assert held(log) == entries[to:]
        assert log.term(LogIndex(to)) == 1
        assert log.chain(LogIndex(to)) == chain
        assert log.base_configuration == expected
        assert [index for index, _ in log.configurations()] == [
            index for index in (2, 5) if index > to
        ]
        assert log.hard_state == hard_state(1, vote=4)
        with pytest.raises(LookupError):
            log.term(LogIndex(to - 1))
        with pytest.raises(LookupError):
            log.entries(LogIndex(to), LogIndex(9), UNLIMITED)
    medium.log.append(hard_state(2), make_entries(9, 10, term=2))
    for log in medium.before_and_after_a_crash():
        assert log.last_index == 10
        assert held(log)[-1].term == 2


def test_compacted_log_can_be_cut_back_to_its_beginning(
    medium: Medium, make_entries: Make
) -> None:
    """Goal: everything that is held may be replaced, and nothing before it."""
    medium.log.append(hard_state(1), reconfigured(make_entries, 6, at={2: ONE, 5: TWO}))
    medium.log.compact(LogIndex(3))
    medium.log.append(hard_state(2), make_entries(4, 4, term=2))
    for log in medium.before_and_after_a_crash():
        assert held(log) == make_entries(4, 4, term=2)
        assert (log.base_configuration, list(log.configurations())) == (ONE, [])
    with pytest.raises(AssertionError):
        medium.log.append(hard_state(2), make_entries(3, 3, term=2))


@pytest.mark.parametrize("last", [2, 4, 40])
def test_snapshot_replaces_the_log(
    medium: Medium, make_entries: Make, last: int
) -> None:
    """Goal: nothing of the log stays, whether the snapshot ends in it or behind it."""
    medium.log.append(hard_state(1), reconfigured(make_entries, 4, at={1: ONE, 3: TWO}))
    medium.log.install(
        hard_state(5, vote=2),
        Snapshot(last=EntryId(Term(3), LogIndex(last)), configuration=THREE),
        chain=b"c" * 16,
        snapshot_id=b"some",
    )
    for log in medium.before_and_after_a_crash():
        assert (log.first_index, log.last_index) == (last + 1, last)
        assert log.hard_state == hard_state(5, vote=2)
        assert log.term(LogIndex(last)) == 3
        assert (log.base_configuration, list(log.configurations())) == (THREE, [])
        with pytest.raises(LookupError):
            log.term(LogIndex(1))
    medium.log.append(None, make_entries(last + 1, last + 2, term=4))
    for log in medium.before_and_after_a_crash():
        assert [entry.index for entry in held(log)] == [last + 1, last + 2]


def test_size_follows_what_is_held(medium: Medium, make_entries: Make) -> None:
    """Goal: compaction can tell from the size when it is due, and when it is done."""
    medium.log.append(hard_state(1), make_entries(1, 100, size=5_000))
    assert 500_000 <= medium.log.size_bytes < 1_000_000
    medium.log.compact(LogIndex(90))
    assert 50_000 <= medium.log.size_bytes < 100_000
