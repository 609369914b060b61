"""Compaction: what goes, when, and that every member gives up the same records."""

from collections.abc import Callable, Iterator

import pytest

from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry
from kvstore.simulation.model import Model
from kvstore.state_machine import compaction, machine
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.reads import read_range_at_once
from kvstore.state_machine.view import NO_VERSION, StateView, Version, VersionId
from kvstore.storage.memory_state import MemoryState
from kvstore.types import Revision
from tests.state_machine.model import (
    ALL,
    apply,
    compact,
    delete,
    entry,
    op,
    put,
    step,
    sweep_all,
    txn,
)

Range = kv_pb2.Range


def records(state: StateView) -> list[tuple[int, bytes]]:
    """Revision and key of each version there is."""
    return [(at.revision, it.key) for at, it in state.versions(NO_VERSION)]


def head_keys(state: StateView) -> list[bytes]:
    return [key for key, _ in state.heads(b"", None)]


# ------------------------------------------------------------- the command


def test_a_compaction_changes_no_pair_and_no_revision(state: StateView) -> None:
    """Goal: it gives up the past only; its result is the store's revision."""
    apply(state, put(b"a"), put(b"a"), put(b"b"))
    before = read_range_at_once(state, Range(key=ALL, range_end=ALL))
    (result,) = apply(state, compact(2))
    assert result.compact == kv_pb2.CompactResult(revision=3)
    sweep_all(state)
    assert read_range_at_once(state, Range(key=ALL, range_end=ALL)) == before
    assert state.progress.revision == 3


@pytest.mark.parametrize(
    ("revision", "code", "details"),
    [
        (2, "Compacted", {"compact_revision": "2"}),
        (1, "Compacted", {"compact_revision": "2"}),
        (4, "FutureRevision", {"current_revision": "3"}),
    ],
)
def test_the_past_is_given_up_once_and_the_future_never(
    state: StateView, revision: int, code: str, details: dict[str, str]
) -> None:
    """Goal: as in etcd; the errors carry the bounds."""
    apply(state, put(b"a"), put(b"a"), put(b"a"), compact(2))
    (result,) = apply(state, compact(revision))
    assert result.error.code == code
    assert dict(result.error.details) == details
    assert state.progress.compact_revision == 2


def test_the_newest_revision_can_be_compacted(state: StateView) -> None:
    """Goal: all history goes, every live pair stays."""
    apply(state, put(b"a"), put(b"b"), put(b"a"), delete(b"b"), compact(4))
    sweep_all(state)
    assert records(state) == [(3, b"a")]
    assert head_keys(state) == [b"a"]


def test_a_store_without_writes_has_nothing_to_compact(state: StateView) -> None:
    """Goal: revision 1 is the future of an empty store."""
    (result,) = apply(state, compact(1))
    assert result.error.code == "FutureRevision"
    assert not state.progress.compaction_pending


# -------------------------------------------------------------- what goes


def test_superseded_versions_and_tombstones_go(state: StateView) -> None:
    """Goal: at or below the revision: the newest of each live key is all that stays."""
    apply(
        state,
        put(b"a"),  # 1, superseded by 3
        put(b"b"),  # 2, deleted by 5
        put(b"a"),  # 3, superseded by 7, which is not compacted
        put(b"c"),  # 4, live
        delete(b"b"),  # 5, a tombstone
        put(b"d"),  # 6, deleted by 8, which is not compacted
        put(b"a"),  # 7
        delete(b"d"),  # 8
        compact(6),
    )
    sweep_all(state)
    kept = [(3, b"a"), (4, b"c"), (6, b"d"), (7, b"a"), (8, b"d")]
    assert records(state) == kept
    assert head_keys(state) == [b"a", b"c", b"d"]


def test_a_tombstone_goes_though_its_key_was_written_again(state: StateView) -> None:
    """Goal: the head of the new life stays."""
    apply(state, put(b"k"), delete(b"k"), put(b"k"), compact(2))
    sweep_all(state)
    assert records(state) == [(3, b"k")]
    assert head_keys(state) == [b"k"]


def test_several_changes_in_one_transaction_are_swept(state: StateView) -> None:
    """Goal: positions matter: each change is looked at."""
    many = [op(put(b"%d" % n)) for n in range(5)]
    apply(state, txn([], many), txn([], many), delete(b"1", b"4"), compact(3))
    sweep_all(state)
    assert records(state) == [(2, b"0"), (2, b"4")]


# ------------------------------------------------------------ bounded steps


class Looks:
    """A view that counts what the sweep looks at and deletes."""

    def __init__(self, state: StateView) -> None:
        self.__dict__.update(state=state, looked=0, deleted=0)

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["state"], name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.__dict__["state"], name, value)

    def versions(self, start: VersionId) -> Iterator[tuple[VersionId, Version]]:
        for it in self.__dict__["state"].versions(start):
            self.__dict__["looked"] += 1
            yield it

    def delete_version(self, at: VersionId) -> None:
        self.__dict__["deleted"] += 1
        self.__dict__["state"].delete_version(at)


def looked_and_deleted(state: StateView, following: Entry) -> tuple[int, int]:
    looks = Looks(state)
    machine.apply(looks, following, want_results=False)  # type: ignore[arg-type]
    return looks.__dict__["looked"], looks.__dict__["deleted"]


@pytest.mark.parametrize("share", [1, 2, 7])
def test_an_entry_takes_a_bounded_share(
    state: StateView, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    """Goal: no entry waits for a sweep of the whole history."""
    monkeypatch.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", share)
    apply(state, *[put(b"%d" % (n % 5)) for n in range(50)])
    following = [compact(50)]
    entries = deleted = 0
    while state.progress.compaction_pending or following:
        it = entry(state.progress.index + 1, following or [step()])
        looked, gone = looked_and_deleted(state, it)
        assert looked <= share + 1  # one more to know where to go on
        assert gone <= 2 * share
        following = []
        entries += 1
        deleted += gone
    assert deleted == 45
    assert entries in (-(-50 // share), -(-50 // share) + 1)
    assert state.progress.compaction_cursor == (51, 0)


def test_the_real_bound_holds(state: StateView) -> None:
    """Goal: the constant that members agree on is the one in force."""
    share = compaction.COMPACTION_RECORDS_PER_ENTRY
    assert share == 256
    apply(state, *[put(b"k", b"") for _ in range(share + 10)])
    apply(state, compact(share + 10))
    assert len(records(state)) == 11
    assert state.progress.compaction_pending
    apply(state)
    assert len(records(state)) == 1
    assert not state.progress.compaction_pending


def test_large_records_end_a_share_early(
    state: StateView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: bounded in bytes too, and one record at least, however large."""
    monkeypatch.setattr(compaction, "COMPACTION_BYTES_PER_ENTRY", 1000)
    apply(state, *[put(b"k", b"x" * 400) for _ in range(6)], put(b"k", b"x" * 5000))
    apply(state, put(b"k"))
    counts = []
    following = [compact(8)]
    while following or state.progress.compaction_pending:
        looked, _ = looked_and_deleted(
            state, entry(state.progress.index + 1, following)
        )
        counts.append(looked)
        following = []
    # Three of 400 bytes pass 1,000; so does the large one alone.
    assert counts == [4, 4, 2, 1]
    assert records(state) == [(8, b"k")]


def test_every_entry_sweeps_and_a_step_does_only_that(
    make_state: Callable[[], StateView], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: while clients write, nobody needs steps; they move the same cursor."""
    monkeypatch.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", 3)
    hashes = []
    for filler in (apply, lambda it: apply(it, step())):
        state = make_state()
        apply(state, *[put(b"k") for _ in range(10)])
        apply(state, compact(10))
        while state.progress.compaction_pending:
            filler(state)
        hashes.append(state_hash(state))
    assert hashes[0] == hashes[1]
    (result,) = apply(state, step())
    assert result.compact == kv_pb2.CompactResult(revision=10)


def test_a_later_compaction_goes_on_where_the_first_one_is(
    state: StateView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: moved on in the middle of a sweep: no record twice, none missed."""
    monkeypatch.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", 2)
    apply(state, *[put(b"%d" % (n % 3)) for n in range(12)])
    apply(state, compact(6))
    cursor = state.progress.compaction_cursor
    apply(state, compact(12))
    assert state.progress.compaction_cursor > cursor
    sweep_all(state)
    assert records(state) == [(10, b"0"), (11, b"1"), (12, b"2")]


def test_history_is_unreadable_before_its_records_are_gone(
    state: StateView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: how far the sweep is can be seen from nowhere but the records."""
    monkeypatch.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", 1)
    apply(state, *[put(b"k", b"%d" % n) for n in range(20)])
    apply(state, compact(20))
    assert len(records(state)) > 15
    (result,) = apply(state, txn([], [op(Range(key=b"k", revision=19))]))
    assert result.error.code == "Compacted"


# ------------------------------------------------------------------ replicas


def script() -> list[list[kv_pb2.Command]]:
    """Entries with writes, deletes and compactions in the middle of sweeps."""
    log: list[list[kv_pb2.Command]] = []
    for n in range(60):
        log.append([put(b"%d" % (n % 7), b"%d" % n), put(b"x%d" % n)])
        if n % 4 == 3:
            log.append([delete(b"x%d" % (n - 2), b"x%d" % n)])
        if n % 9 == 8:
            log.append([put(b"y"), compact(n)])
        if n % 5 == 0:
            log.append([step()])
    return log


@pytest.mark.parametrize("share", [1, 3, 256])
def test_a_sweep_resumes_wherever_it_was_left(
    monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    """Goal: a copy taken after any entry, as by a crash, ends with the same records."""
    monkeypatch.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", share)
    log = [entry(index, it) for index, it in enumerate(script(), 1)]
    state = MemoryState()
    hashes = []
    copies = []
    for it in log:
        copies.append(state.clone())
        machine.apply(state, it, want_results=False)
        hashes.append(state_hash(state))
    for start, copy in enumerate(copies):
        assert copy.progress.index == start
        machine.apply(copy, log[start], want_results=True)
        assert state_hash(copy) == hashes[start]
    # And all the way from a few of them.
    for start in range(0, len(log), 11):
        copy = copies[start]
        for it in log[start + 1 :]:
            machine.apply(copy, it, want_results=False)
        assert state_hash(copy) == hashes[-1]


@pytest.mark.parametrize("share", [1, 2, 256])
def test_what_is_left_is_what_the_model_keeps(
    state: StateView, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    """Goal: record by record, over memory and LMDB, after interleaved compactions."""
    monkeypatch.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", share)
    model = Model()
    for commands in script():
        apply(state, *commands)
        model.apply(commands)
    sweep_all(state)
    assert records(state) == model.kept()
    for revision in range(model.compact_revision, model.revision + 1):
        request = Range(key=ALL, range_end=ALL, revision=revision)
        assert read_range_at_once(state, request) == model.range(request)


def test_deleting_twice_is_harmless(state: StateView) -> None:
    """Goal: the contract of the view: a missing record is not an error."""
    apply(state, put(b"k"))
    state.delete_version(VersionId(Revision(7), 0))
    state.delete_head(b"never")
    assert records(state) == [(1, b"k")]
