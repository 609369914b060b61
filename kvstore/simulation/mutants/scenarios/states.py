"""The state of one member, on a disk, and what a crash leaves of it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryKind
from kvstore.replica.interfaces import Identity
from kvstore.simulation.mutants.noticing import require
from kvstore.simulation.mutants.scenarios.crashing import deaths
from kvstore.state_machine import machine
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.view import StateView
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.memory_state import MemoryState
from kvstore.types import CLUSTER_ID_BYTES, ClusterId, LogIndex, NodeId, Term

OWNER = Identity(cluster_id=ClusterId(bytes(CLUSTER_ID_BYTES)), node_id=NodeId(1))


def put(key: str, value: str = "v") -> kv_pb2.Command:
    """Write a key."""
    return kv_pb2.Command(put=kv_pb2.Put(key=key.encode(), value=value.encode()))


def delete(key: str) -> kv_pb2.Command:
    """Delete a key."""
    return kv_pb2.Command(delete_range=kv_pb2.DeleteRange(key=key.encode()))


def compact(revision: int) -> kv_pb2.Command:
    """Give up history below a revision."""
    return kv_pb2.Command(compact=kv_pb2.Compact(revision=revision))


def numbered(session_id: int, first: int, *commands: kv_pb2.Command) -> kv_pb2.Command:
    """The header of commands of a session."""
    header = kv_pb2.SessionCommands(
        session_id=session_id, first_number=first, count=len(commands)
    )
    return kv_pb2.Command(session_commands=header)


OPEN_SESSION = kv_pb2.Command(open_session=kv_pb2.OpenSession())


def log_of(*batches: Sequence[kv_pb2.Command]) -> list[Entry]:
    """A log of one term, an entry a batch."""
    return [
        Entry(
            Term(1),
            LogIndex(index),
            EntryKind.COMMANDS,
            kv_pb2.CommandBatch(commands=batch).SerializeToString(),
        )
        for index, batch in enumerate(batches, 1)
    ]


HISTORY = log_of(
    [OPEN_SESSION, put("a"), put("b")],
    [numbered(1, 1, put("a")), put("a", "w"), delete("b")],
    [put("c"), put("c"), delete("a")],
    [compact(6), put("d")],
    [numbered(1, 1, put("a")), put("a", "w"), delete("c")],
)
"""Of each kind of change something, and a command that is sent again."""


def apply_all(view: StateView, log: Iterable[Entry]) -> None:
    """Apply what the view lacks of a log."""
    for entry in log:
        if entry.index > view.progress.index:
            machine.apply(view, entry, want_results=False)


def hashes(log: Sequence[Entry]) -> dict[int, bytes]:
    """What a state must be at each index of the log."""
    ghost = MemoryState()
    found = {0: state_hash(ghost)}
    for entry in log:
        apply_all(ghost, [entry])
        found[entry.index] = state_hash(ghost)
    return found


@contextmanager
def opened(path: Path, owner: Identity = OWNER) -> Iterator[LMDBState]:
    """The state at ``path``; closed again, without a commit."""
    state = LMDBState.open(path, owner)
    try:
        yield state
    finally:
        state.close()


def commit(path: Path, log: Sequence[Entry]) -> None:
    """Apply what the state lacks of a log, in one transaction."""
    with opened(path) as state:
        state.begin()
        apply_all(state, log)
        state.commit()


def crash_leaves_what_was_committed() -> None:
    """A member dies at every step of two commits, and applies the rest again."""
    ghost = hashes(HISTORY)
    with TemporaryDirectory() as folder:
        made = 0

        def place() -> Path:
            return Path(folder) / str(made)

        def act() -> None:
            commit(place(), HISTORY[:3])
            commit(place(), HISTORY)

        LMDBState.create(place(), OWNER)
        for _ in deaths(act):
            _check_recovery(place(), ghost)
            made += 1
            LMDBState.create(place(), OWNER)
        _check_recovery(place(), ghost)


def _check_recovery(path: Path, ghost: dict[int, bytes]) -> None:
    with opened(path) as state:
        index = state.progress.index
        require(
            state_hash(state) == ghost[index],
            "what a crash leaves is no state of the log (I13)",
            index,
        )
    commit(path, HISTORY)
    with opened(path) as state:
        require(
            state_hash(state) == ghost[len(HISTORY)],
            "a log that is applied again makes another state (I13)",
            index,
        )


def revision_survives_compaction() -> None:
    """All is deleted and compacted, and the member dies and starts again."""
    log = log_of([put("a"), put("b")], [delete("a"), delete("b")], [compact(4)], [], [])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        LMDBState.create(path, OWNER)
        commit(path, log)
        with opened(path) as state:
            require(
                state.progress.revision == 4,
                "a revision fell in a crash (I3)",
                state.progress,
            )
        commit(path, [*log, *_further(log, [put("c")])])
        with opened(path) as state:
            head = state.head(b"c")
            require(
                head is not None and head.at.revision == 5,
                "a revision was given to two changes (I3)",
                head,
            )


def _further(log: Sequence[Entry], batch: Sequence[kv_pb2.Command]) -> list[Entry]:
    return log_of(*[()] * len(log), batch)[len(log) :]
