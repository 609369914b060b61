"""The durable state under crashes, threads, growth and a disk that refuses."""

import errno
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from time import monotonic

import lmdb
import pytest

from kvstore.errors import Closed
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry
from kvstore.replica.interfaces import Identity
from kvstore.state_machine import compaction, machine
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.reads import read_range_at_once
from kvstore.state_machine.view import EMPTY_PROGRESS, NO_VERSION, VersionId
from kvstore.storage import lmdb_state
from kvstore.storage.environment import Environment, Transaction
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.memory_state import MemoryState
from kvstore.storage.state_format import DATABASES, STORE, StateCodecs
from kvstore.types import ClusterId, NodeId, Revision
from tests.state_machine.model import (
    ALL,
    apply,
    compact,
    delete,
    entry,
    op,
    put,
    step,
    txn,
)

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING = kv_pb2.Range(key=ALL, range_end=ALL)


@pytest.fixture
def path(tmp_path: Path, identity: Identity) -> Path:
    """An empty state, closed."""
    LMDBState.create(tmp_path / "state", identity)
    return tmp_path / "state"


@pytest.fixture
def state(path: Path, identity: Identity) -> Iterator[LMDBState]:
    opened = LMDBState.open(path, identity)
    yield opened
    opened.close()


def commit(state: LMDBState, *commands: kv_pb2.Command) -> None:
    state.begin()
    apply(state, *commands)
    state.commit()


def on_thread(work: Callable[[], object]) -> BaseException | None:
    """Run on another thread; returns what it raised."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).exception(10)


def make_log(seed: int, length: int) -> list[Entry]:
    """Entries with everything in them, of keys short and long, the same for a seed."""
    rng = random.Random(seed)
    keys = [b"%02d" % n for n in range(25)] + [
        b"L" * 448 + bytes([n]) * 60 for n in range(5)
    ]
    log = []
    for index in range(1, length + 1):
        commands = [
            put(rng.choice(keys), rng.randbytes(rng.choice([5, 50, 3000])))
            for _ in range(rng.randrange(6))
        ]
        kind = rng.randrange(8)
        if kind == 0:
            commands.append(
                delete(rng.choice(keys), ALL if rng.random() < 0.1 else b"")
            )
        elif kind == 1:
            commands.append(compact(rng.randrange(1, 3 * index)))
        elif kind == 2:
            nested = txn([], [op(put(rng.choice(keys[:10]))), op(delete(keys[-1]))])
            commands.append(nested)
        elif kind == 3:
            commands.append(step())
        log.append(entry(index, commands))
    return log


def hashes_of(log: list[Entry]) -> list[bytes]:
    """The state's hash after each number of entries, as memory has it."""
    state = MemoryState()
    hashes = [state_hash(state)]
    for it in log:
        machine.apply(state, it, want_results=False)
        hashes.append(state_hash(state))
    return hashes


# ------------------------------------------------------------- crash and replay


def test_a_new_state_is_empty(state: LMDBState) -> None:
    """Goal: founding leaves a progress, and nothing else."""
    assert state.progress == EMPTY_PROGRESS
    assert state_hash(state) == state_hash(MemoryState())
    assert not state.in_transaction
    assert not state.progress.compaction_pending


def test_a_crash_takes_what_was_not_committed_and_nothing_else(
    path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: reopened after any commit, with work pending; replayed, record by record.

    Entries are committed in groups; then some more are applied and lost in a crash (a
    close without commit, which writes as little as a kill).
    """
    monkeypatch.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", 4)
    log = make_log(1, 80)
    hashes = hashes_of(log)
    rng = random.Random(2)
    state = LMDBState.open(path, identity)
    while (applied := state.progress.index) < len(log):
        assert state_hash(state) == hashes[applied]
        state.begin()
        committed = min(len(log), applied + rng.randrange(1, 6))
        for it in log[applied:committed]:
            machine.apply(state, it, want_results=False)
        state.commit()
        lost = min(len(log), committed + rng.randrange(6))
        if lost > committed:
            state.begin()
            for it in log[committed:lost]:
                machine.apply(state, it, want_results=True)
            assert state_hash(state) == hashes[lost]
        state.close()
        state = LMDBState.open(path, identity)
        assert state.progress.index == committed
    assert state_hash(state) == hashes[-1]
    state.close()


def test_an_abort_takes_what_was_not_committed(state: LMDBState) -> None:
    """Goal: progress and records go back together; the entry can be applied again."""
    commit(state, put(b"a", b"1"))
    before = state_hash(state)
    state.begin()
    apply(state, put(b"a", b"2"), put(b"b"))
    assert state.progress.index == 2
    state.abort()
    assert state.progress.index == 1
    assert state_hash(state) == before
    commit(state, put(b"a", b"3"))
    assert read_range_at_once(state, EVERYTHING).kvs[0].value == b"3"


def test_a_commit_without_work_is_fine(state: LMDBState) -> None:
    """Goal: an idle interval costs nothing and changes nothing."""
    commit(state, put(b"a"))
    progress = state.progress
    state.begin()
    state.commit()
    assert state.progress == progress


def test_half_an_entry_is_never_committed(state: LMDBState) -> None:
    """Goal: effects without their progress would be applied twice by a replay."""
    commit(state, put(b"a"))
    version = state.version(VersionId(Revision(1), 0))
    assert version is not None
    state.begin()
    state.append_version(VersionId(Revision(2), 0), version)
    with pytest.raises(AssertionError, match="half an entry"):
        state.commit()
    state.abort()
    assert state.progress.revision == 1


APPLIER = """
import sys
from pathlib import Path
from kvstore.state_machine import compaction, machine
from kvstore.storage.lmdb_state import LMDBState
from tests.storage.test_state_lmdb import KILLED_IDENTITY, make_log
compaction.COMPACTION_RECORDS_PER_ENTRY = 4
log = make_log(int(sys.argv[2]), int(sys.argv[3]))
state = LMDBState.open(Path(sys.argv[1]), KILLED_IDENTITY)
print("open", flush=True)
while (applied := state.progress.index) < len(log):
    state.begin()
    for it in log[applied : applied + 1 + applied % 5]:
        machine.apply(state, it, want_results=False)
    state.commit()
    print(state.progress.index, flush=True)
"""
KILLED_IDENTITY = Identity(cluster_id=ClusterId(bytes(16)), node_id=NodeId(1))


@pytest.mark.slow
def test_a_killed_node_replays_to_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: after SIGKILL at any moment the state opens at an entry, whole.

    Everything that a commit returned for is there, and at most one commit more. For 8
    seconds at most. It does not show what a power cut does: the page cache survives.
    """
    monkeypatch.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", 4)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    log = make_log(seed, 600)
    hashes = hashes_of(log)
    path = tmp_path / "state"
    LMDBState.create(path, KILLED_IDENTITY)
    deadline = monotonic() + 8
    kills = applied = 0
    while monotonic() < deadline and applied < len(log) and kills < 12:
        process = subprocess.Popen(
            [sys.executable, "-c", APPLIER, str(path), str(seed), str(len(log))],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        acknowledged = applied
        for _ in range(rng.randrange(1, 30)):
            line = process.stdout.readline().strip()
            if line.isdigit():
                acknowledged = int(line)
        Event().wait(rng.random() * 0.003)
        process.send_signal(signal.SIGKILL)
        rest = [int(line) for line in process.stdout.read().split() if line.isdigit()]
        process.wait(10)
        process.stdout.close()
        acknowledged = max([acknowledged, *rest])
        state = LMDBState.open(path, KILLED_IDENTITY)
        applied = state.progress.index
        assert acknowledged <= applied <= acknowledged + 5
        assert state_hash(state) == hashes[applied]
        state.close()
        kills += 1
    assert kills >= 3
    state = LMDBState.open(path, KILLED_IDENTITY)
    state.begin()
    for it in log[state.progress.index :]:
        machine.apply(state, it, want_results=False)
    state.commit()
    assert state_hash(state) == hashes[-1]
    state.close()


# --------------------------------------------------------------------- threads


def test_one_transaction_at_a_time(state: LMDBState) -> None:
    """Goal: a second begin would wait for the first one for ever."""
    state.begin()
    with pytest.raises(AssertionError, match="one write transaction"):
        state.begin()
    state.abort()


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_transaction_ends_on_the_thread_that_began_it(
    state: LMDBState, end: str
) -> None:
    """Goal: LMDB would let a foreign commit pass, and hang at the next begin."""
    state.begin()
    apply(state, put(b"a"))
    txn_begun = state._txn
    assert txn_begun is not None
    error = on_thread(getattr(state, end))
    assert isinstance(error, AssertionError)
    assert f"{end} on another thread than begin" in str(error)
    state.environment.abort(txn_begun)  # a node would have ended
    assert on_thread(partial(commit, state, put(b"a"))) is None
    assert state.progress.revision == 1


def test_writing_needs_a_transaction(state: LMDBState) -> None:
    """Goal: nothing is written on the way to nowhere."""
    commit(state, put(b"a"))
    head, at = state.head(b"a"), VersionId(Revision(2), 0)
    version = state.version(VersionId(Revision(1), 0))
    assert head is not None
    assert version is not None
    for write in (
        partial(state.put_head, b"a", head),
        partial(state.delete_head, b"a"),
        partial(state.append_version, at, version),
        partial(state.delete_version, at),
        state.commit,
        state.abort,
        partial(setattr, state, "progress", state.progress),
    ):
        with pytest.raises(AssertionError, match="without a transaction"):
            write()


def test_the_writer_sees_its_transaction_and_snapshots_what_was_committed(
    state: LMDBState,
) -> None:
    """Goal: a snapshot never sees half of what is under way, nor changes while held."""
    commit(state, put(b"a", b"1"))
    state.begin()
    apply(state, put(b"a", b"2"), put(b"b"))

    def values() -> list[bytes]:
        with state.read_view() as view:
            return [it.value for it in read_range_at_once(view, EVERYTHING).kvs]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(values).result(10) == [b"1"]
        assert len(read_range_at_once(state, EVERYTHING).kvs) == 2
        held = state.read_view()
        old = pool.submit(held.__enter__).result(10)
        state.commit()
        commit(state, put(b"a", b"3"), delete(b"b"), compact(5))
        assert old.progress.revision == 1
        assert pool.submit(state_hash, old).result(10) == hash_of(put(b"a", b"1"))
        pool.submit(held.__exit__, None, None, None).result(10)
        assert pool.submit(values).result(10) == [b"3"]


def hash_of(*commands: kv_pb2.Command) -> bytes:
    memory = MemoryState()
    apply(memory, *commands)
    return state_hash(memory)


def test_snapshots_are_whole_beside_a_writer(state: LMDBState) -> None:
    """Goal: two keys that every transaction writes alike are alike in each snapshot."""
    commit(state, put(b"a", b"0"), put(b"b", b"0"))
    done, seen = Event(), list[int]()

    def read() -> None:
        while True:
            last = done.is_set()
            with state.read_view() as view:
                found = read_range_at_once(view, EVERYTHING)
                a, b = (int(it.value) for it in found.kvs)
                assert a == b == view.progress.index - 1
                seen.append(a)
            if last:
                return

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for number in range(1, 300):
            value = b"%d" % number
            commit(state, txn([], [op(put(b"a", value)), op(put(b"b", value))]))
        done.set()
        reader.result(10)
    assert seen == sorted(seen)
    assert seen[-1] == 299


def test_a_state_closes_whatever_it_was_doing(path: Path, identity: Identity) -> None:
    """Goal: from another thread than the one that read; with work pending; twice."""
    state = LMDBState.open(path, identity)
    commit(state, put(b"a"))
    assert on_thread(partial(state.head, b"a")) is None
    state.close()
    state.close()
    with pytest.raises(Closed):
        state.head(b"a")
    with pytest.raises(Closed):
        state.begin()

    state = LMDBState.open(path, identity)
    state.begin()
    apply(state, put(b"b"))
    state.close()
    state = LMDBState.open(path, identity)
    assert state.progress.revision == 1
    state.close()


# ---------------------------------------------------------------------- growth

SMALL = 1 << 20


@pytest.fixture
def small_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules of the module, scaled down 1,024 times."""
    monkeypatch.setattr(lmdb_state, "HEADROOM_BYTES", lmdb_state.HEADROOM_BYTES >> 10)
    monkeypatch.setattr(
        lmdb_state, "_COMMIT_AT_BYTES", lmdb_state._COMMIT_AT_BYTES >> 10
    )


def open_small(
    path: Path, identity: Identity, map_bytes_max: int = 1 << 40
) -> LMDBState:
    environment = Environment.open(
        path,
        store=STORE,
        databases=DATABASES,
        metasync=False,
        map_bytes=SMALL,
        map_bytes_max=map_bytes_max,
    )
    return LMDBState(environment, StateCodecs.of(identity))


@pytest.mark.usefixtures("small_room")
def test_the_map_grows_under_load(path: Path, identity: Identity) -> None:
    """Goal: entries of every kind, none of them ever meets a full map.

    The transaction is never committed by the test: the state does so itself, at the end
    of an entry, before what it copied can fill the map.
    """
    state, model = open_small(path, identity), MemoryState()
    rng = random.Random(4)
    assert state.environment.map_bytes == SMALL
    state.begin()
    for index in range(1, 301):
        keys = [b"%05d" % rng.randrange(3000) for _ in range(20)]
        commands = [put(key, bytes(rng.randrange(800))) for key in keys]
        if index % 60 == 0:
            commands = [delete(ALL, ALL)]
        elif index % 20 == 0:
            commands.append(compact(model.progress.revision))
        it = entry(index, commands)
        machine.apply(state, it, want_results=False)
        machine.apply(model, it, want_results=False)
        assert state.environment.used_bytes < state.environment.map_bytes
    assert state.environment.map_bytes >= 8 * SMALL
    assert state_hash(state) == state_hash(model)
    state.close()
    with_crash = LMDBState.open(path, identity)
    assert 250 < with_crash.progress.index <= 300
    with_crash.close()


@pytest.mark.usefixtures("small_room")
def test_one_entry_may_delete_everything(path: Path, identity: Identity) -> None:
    """Goal: the largest change there is fits into the room made before it.

    30 bytes of command copy every page and append a tombstone for each of 40,000 keys.
    """
    state = open_small(path, identity)
    for batch in range(40):
        commit(state, *[put(b"%03d/%03d" % (batch, n), b"") for n in range(1000)])
    used = state.environment.used_bytes
    (result,) = apply_in_transaction(state, delete(ALL, ALL))
    assert result.delete_range.deleted == 40_000
    assert state.environment.used_bytes < 3 * used + lmdb_state.HEADROOM_BYTES
    assert not read_range_at_once(state, EVERYTHING).kvs
    commit(state, compact(state.progress.revision))
    state.close()


def apply_in_transaction(
    state: LMDBState, *commands: kv_pb2.Command
) -> list[kv_pb2.Result]:
    state.begin()
    results = apply(state, *commands)
    state.commit()
    return results


@pytest.mark.usefixtures("small_room")
def test_a_full_store_refuses_and_lives_on(path: Path, identity: Identity) -> None:
    """Goal: at the largest size: ENOSPC, nothing half applied, and reads go on."""
    state = open_small(path, identity, map_bytes_max=4 * SMALL)

    def fill() -> None:
        for n in range(1000):
            commit(state, put(b"%04d" % n, bytes(20_000)))

    with pytest.raises(OSError, match="the state store has reached") as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    if state.in_transaction:
        state.abort()
    applied = state.progress.revision
    assert applied > 50
    assert read_range_at_once(state, EVERYTHING).count == applied
    state.close()
    state = LMDBState.open(path, identity)  # with more room
    commit(state, put(b"more", bytes(20_000)))
    assert state.progress.revision == applied + 1
    state.close()


# ------------------------------------------------------------ a disk that refuses


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EIO, "state store: fdatasync"), errno.EIO),
        (lmdb.MapFullError("mdb_txn_commit"), errno.ENOSPC),
    ],
)
def test_a_failed_commit_takes_the_progress_back(
    state: LMDBState, monkeypatch: pytest.MonkeyPatch, error: Exception, number: int
) -> None:
    """Goal: nobody is told of an index whose records may be lost."""
    commit(state, put(b"a"))

    def refuse(environment: Environment, begun: Transaction) -> None:
        environment.abort(begun)
        raise error

    state.begin()
    apply(state, put(b"b"))
    assert state.progress.revision == 2
    with monkeypatch.context() as patched:
        patched.setattr(Environment, "commit", refuse)
        with pytest.raises(OSError, match="state store") as caught:
            state.commit()
    assert caught.value.errno == number
    assert not state.in_transaction
    assert state.progress.revision == 1
    assert state.head(b"b") is None


def test_a_progress_that_cannot_be_written_ends_the_transaction(
    state: LMDBState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the write transaction is not left open behind an error."""
    commit(state, put(b"a"))
    state.begin()
    apply(state, put(b"b"))
    with monkeypatch.context() as patched:
        patched.setattr(lmdb_state, "PROGRESS_KEY", b"x" * 600)
        with pytest.raises(lmdb.BadValsizeError):
            state.commit()
    assert not state.in_transaction
    assert state.progress.revision == 1
    commit(state, put(b"c"))
    assert [key for key, _ in state.heads(b"", None)] == [b"a", b"c"]


def test_a_medium_that_refuses_growth_is_not_hidden(
    state: LMDBState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: only the map's own maximum is passed over at begin: room may be left."""

    def refuse(_environment: Environment) -> None:
        raise OSError(errno.ENOMEM, "no address space")

    monkeypatch.setattr(Environment, "grow", refuse)
    monkeypatch.setattr(lmdb_state, "HEADROOM_BYTES", 1 << 40)
    with pytest.raises(OSError, match="no address space"):
        state.begin()
    assert not state.in_transaction


def test_facts_for_the_status(state: LMDBState) -> None:
    """Goal: pending work, size, and whether a sweep waits."""
    assert state.records_pending == 0
    state.begin()
    apply(state, put(b"a"), put(b"a"), put(b"a"))
    assert state.records_pending == 6
    state.commit()
    assert state.used_bytes == state.environment.used_bytes > 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", 1)
        commit(state, compact(3))
        assert state.progress.compaction_pending
    commit(state, step())
    assert not state.progress.compaction_pending
    assert [at.revision for at, _ in state.versions(NO_VERSION)] == [3]
