"""Sessions in the durable state: with the progress, or not at all; and damage shows."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct

import pytest

from kvstore.errors import CorruptionError
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry
from kvstore.replica.interfaces import Identity
from kvstore.state_machine import compaction, machine
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.sessions import Run, Session
from kvstore.storage.environment import DATA_FILE
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.memory_state import MemoryState
from kvstore.storage.record import RecordType
from kvstore.storage.scrubber import Scrubber
from kvstore.storage.state_format import StateCodecs, session_key
from kvstore.types import LogIndex, NodeId, Revision
from tests.state_machine.model import apply, delete, entry, put, txn
from tests.state_machine.test_sessions import (
    OPEN,
    close,
    codes,
    expire,
    of,
    opened,
    revisions,
    send,
)
from tests.storage import damage
from tests.storage.damage import OnDisk, Place
from tests.storage.state_store import PROGRESS, change, content_of, stored


@pytest.fixture
def path(tmp_path: Path, identity: Identity) -> Path:
    path = tmp_path / "state"
    LMDBState.create(path, identity)
    return path


@pytest.fixture
def state(path: Path, identity: Identity) -> Iterator[LMDBState]:
    opened_state = LMDBState.open(path, identity)
    opened_state.begin()
    yield opened_state
    opened_state.close()


def commit(state: LMDBState) -> None:
    state.commit()
    state.begin()


def place(session_id: int) -> Place:
    return Place("sessions", session_key(session_id))


def make_log(rng: random.Random, length: int) -> list[Entry]:
    """Entries of sessions that come and go, repeat themselves, and fall behind."""
    log = []
    memory = MemoryState()
    for index in range(1, length + 1):
        activity = memory.sessions.activity()
        batch: list[kv_pb2.Command] = []
        for _ in range(rng.randrange(4)):
            it = rng.choice([*activity, 1])
            session = memory.sessions.get(it)
            newest = session.newest if session else 0
            first = max(1, newest + rng.randrange(-6, 3))
            what = [put(b"k"), put(b"k", prev_kv=1), delete(b"k"), txn(), put(b"")]
            commands = [rng.choice(what) for _ in range(rng.randrange(1, 5))]
            acknowledged = rng.choice([0, 0, max(0, newest - 8), first - 1])
            batch += of(it, first, *commands, acknowledged=acknowledged)
        if rng.random() < 0.3 and len(activity) < 8:
            batch.append(OPEN)
        if rng.random() < 0.1 and activity:
            batch.append(close(rng.choice([*activity])))
        if rng.random() < 0.1:
            few = sorted(activity)[:2]
            batch.append(expire({it: activity[it] for it in few}))
        log.append(entry(index, batch or [put(b"k")]))
        machine.apply(memory, log[-1], want_results=False)
    assert memory.sessions.last_id > len(memory.sessions) > 0
    return log


# --------------------------------------------------------------- crash and replay


def test_a_crash_or_an_abort_takes_sessions_back_with_the_progress(
    path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: after any commit, abort or crash, replayed, the state is what it must be.

    Method: entries are committed in groups; more are applied, then aborted or lost with
    the process (a close without commit). Memory says what each entry leads to.
    """
    monkeypatch.setattr(compaction, "COMPACTION_RECORDS_PER_ENTRY", 4)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    log = make_log(rng, 200)
    memory = MemoryState()
    hashes = [state_hash(memory)]
    for it in log:
        machine.apply(memory, it, want_results=False)
        hashes.append(state_hash(memory))
    state = LMDBState.open(path, identity)
    while (applied := state.progress.index) < len(log):
        assert state_hash(state) == hashes[applied]
        committed = min(len(log), applied + rng.randrange(1, 8))
        state.begin()
        for it in log[applied:committed]:
            machine.apply(state, it, want_results=rng.random() < 0.5)
        assert state_hash(state) == hashes[committed]
        state.commit()
        with state.read_view() as view:
            assert state_hash(view) == hashes[committed]
        state.begin()
        for it in log[committed : committed + rng.randrange(6)]:
            machine.apply(state, it, want_results=False)
        if rng.random() < 0.5:
            state.abort()
            assert state_hash(state) == hashes[committed]
        else:
            state.close()
            state = LMDBState.open(path, identity)
    state.close()


def test_a_repetition_after_a_restart_is_answered_alike(
    path: Path, identity: Identity
) -> None:
    """Goal: replies of every kind are stored: runs of puts, results, errors, none."""
    commands = [put(b"a"), put(b"b"), delete(b"a", prev_kv=True), put(b""), put(b"c")]
    state = LMDBState.open(path, identity)
    state.begin()
    it = opened(state)
    results = send(state, it, 3, *commands)
    large = put(b"d", b"x" * 5000)
    send(state, it, 20, large, put(b"d", prev_kv=1))
    state.commit()
    state.close()
    state = LMDBState.open(path, identity)
    state.begin()
    assert send(state, it, 3, *commands) == results
    assert codes(send(state, it, 20, large, put(b"d"))) == ["", "OutcomeUnknown"]
    assert codes(send(state, it, 22, put(b"d"), acknowledged=21)) == [""]
    assert opened(state) == it + 1
    state.close()


def test_a_snapshot_sees_the_sessions_that_were_committed(state: LMDBState) -> None:
    it = opened(state)
    send(state, it, 1, put(b"a"))
    commit(state)
    send(state, it, 2, put(b"a"))
    apply(state, OPEN)
    with state.read_view() as view:
        assert list(view.sessions.activity()) == [it]
        session = view.sessions.get(it)
        assert session is not None
        assert session.newest == 1


def test_a_failed_commit_takes_sessions_back(
    state: LMDBState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: with no space left, nothing of the transaction stays, here or on disk."""
    it = opened(state)
    commit(state)
    before = state_hash(state)
    send(state, it, 1, put(b"a"))
    apply(state, OPEN)
    with monkeypatch.context() as patched:

        def full(txn: object) -> None:
            state_env.abort(txn)  # type: ignore[arg-type]
            raise OSError(28, "no space")

        state_env = state.environment
        patched.setattr(type(state_env), "commit", lambda _self, txn: full(txn))
        with pytest.raises(OSError, match="no space"):
            state.commit()
    state.begin()
    assert state_hash(state) == before
    assert revisions(send(state, it, 1, put(b"a"))) == [1]


def test_a_copy_of_the_store_is_the_same_state_on_another_member(
    state: LMDBState, tmp_path: Path, identity: Identity
) -> None:
    """Goal: a snapshot is a copy of the file: repetitions are answered there, too."""
    it = opened(state)
    results = send(state, it, 1, put(b"a"), delete(b"a"), put(b"b", prev_kv=1))
    apply(state, OPEN, close(it + 1))
    commit(state)
    other_path = tmp_path / "other"
    other_path.mkdir()
    shutil.copy(state.environment.path / DATA_FILE, other_path / DATA_FILE)
    other = LMDBState.open(
        other_path,
        Identity(cluster_id=identity.cluster_id, node_id=NodeId(99)),
    )
    assert state_hash(other) == state_hash(state)
    other.begin()
    assert send(other, it, 1, put(b"a"), delete(b"a"), put(b"b", prev_kv=1)) == results
    assert opened(other) == it + 2
    other.close()


def test_sessions_that_did_not_change_are_not_written(state: LMDBState) -> None:
    """Goal: a commit costs what was active, not how many are open."""
    one, other = opened(state), opened(state)
    commit(state)
    send(state, one, 1, put(b"a"))
    assert state.sessions.take_changed() == {one}
    send(state, other, 1, put(b"a"))
    commit(state)
    assert state.sessions.take_changed() == set()


# ------------------------------------------------------------------------- damage


@pytest.fixture
def two(state: LMDBState) -> tuple[int, int]:
    """Two sessions with replies, committed; no transaction is open then."""
    one, other = opened(state), opened(state)
    send(state, one, 1, put(b"a"), delete(b"a"))
    send(state, other, 5, put(b"b"))
    state.commit()
    return one, other


Wait = Callable[[Callable[[], bool]], None]


def findings(state: LMDBState, wait_until: Wait) -> dict[Place, str]:
    """What one tour of the scrubber finds."""
    with Scrubber(
        [state.scrub_target()],
        pause_s=3600,
        records_per_second_max=1e9,
        bytes_per_second_max=1e9,
    ) as running:
        wait_until(lambda: running.status().tours[0].tours_completed == 1)
        found = running.status().findings
    return {Place(it.database, bytes.fromhex(it.key_hex)): it.what for it in found}


def test_whole_sessions_have_no_findings(
    state: LMDBState, two: tuple[int, int], wait_until: Wait
) -> None:
    assert len(set(two)) == 2
    assert findings(state, wait_until) == {}


def test_a_flipped_bit_is_found_and_not_taken_on(
    state: LMDBState, two: tuple[int, int], wait_until: Wait
) -> None:
    """Goal: every byte of a session counts, its key's too."""
    where = place(two[0])
    content = content_of(state, where)
    on_disk = OnDisk(state.environment.path, content)
    for byte in range(len(content)):
        with (
            on_disk.flipped(byte, byte % 8),
            state.read_view() as view,
            pytest.raises(CorruptionError),
        ):
            len(view.sessions)
    on_disk.flip()
    assert list(findings(state, wait_until)) == [where]


@pytest.mark.parametrize("lost", ["a session", "a change", "a closing"])
def test_a_write_that_got_lost_is_found(
    state: LMDBState,
    two: tuple[int, int],
    identity: Identity,
    wait_until: Wait,
    lost: str,
) -> None:
    """Goal: whole records, but older than the progress: a command could come twice."""
    where = place(two[0])
    before = stored(state, where)
    state.begin()
    match lost:
        case "a session":
            damaged = None
        case "a change":
            send(state, two[0], 3, put(b"c"))
            damaged = before
        case _:
            apply(state, close(two[0]))
            damaged = before
    state.commit()
    change(state, where, damaged)
    assert "different commits" in findings(state, wait_until)[PROGRESS]
    path = state.environment.path
    state.close()
    with pytest.raises(CorruptionError, match="different commits"):
        LMDBState.open(path, identity)


def test_a_damaged_session_blames_nobody_else(
    state: LMDBState, two: tuple[int, int], wait_until: Wait
) -> None:
    where = place(two[1])
    record = stored(state, where)
    change(state, where, record[:-1])
    assert list(findings(state, wait_until)) == [where]


_RUN = Struct(">QIQI")


@pytest.mark.parametrize(
    ("key", "body"),
    [
        (session_key(1), b"\0"),
        (session_key(1), _RUN.pack(8, 1, 0, 5) + b"four"),
        (session_key(1), _RUN.pack(8, 0, 1, 0)),
        (session_key(1), _RUN.pack(7, 1, 1, 0)),
        (session_key(1), _RUN.pack(8, 2, 1, 0) + _RUN.pack(9, 1, 9, 0)),
        (b"short", b""),
    ],
)
def test_what_no_session_can_say_is_damage(
    identity: Identity, key: bytes, body: bytes
) -> None:
    """Goal: a defective writer's record is refused, though its checksum is right."""
    codecs = StateCodecs.of(identity)
    record = codecs.sessions.encode(
        key, record_type=RecordType.SESSION, term=7, index=3, body=body
    )
    with pytest.raises(CorruptionError):
        codecs.decode_session(key, record)


def test_a_session_is_stored_and_read_as_it_was(identity: Identity) -> None:
    codecs = StateCodecs.of(identity)
    session = Session.load(
        9,
        last_index=LogIndex(70),
        acknowledged=4,
        runs=[
            Run(6, 3, Revision(5), b""),
            Run(9, 1, Revision(0), b"reply" * 20_000),
            Run(11, 1, Revision(0), b""),
            Run((1 << 63) - 1, 1, Revision((1 << 62) + 1), b""),
        ],
    )
    key = session_key(9)
    read = codecs.decode_session(key, codecs.encode_session(session))
    for name in ("id", "last_index", "acknowledged", "runs", "newest", "size"):
        assert getattr(read, name) == getattr(session, name)


def test_the_places_of_these_tests_are_real(
    state: LMDBState, two: tuple[int, int]
) -> None:
    for it in two:
        assert damage.get(state.environment, place(it))
