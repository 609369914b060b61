"""States that are exported, sent in chunks, staged and put in place."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kvstore.raft.messages import Entry, EntryId
from kvstore.simulation.mutants.noticing import require
from kvstore.simulation.mutants.scenarios.states import (
    HISTORY,
    OWNER,
    commit,
    hashes,
    log_of,
    opened,
    put,
)
from kvstore.state_machine.digest import state_hash
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.snapshot_export import Export, export_path, export_state
from kvstore.storage.staging import StagedState, put_in_place


def state_is_replaced() -> None:
    """A member that has applied something else installs a snapshot."""
    ghost = hashes(HISTORY)[len(HISTORY)]
    with TemporaryDirectory() as folder:
        sender, receiver = Path(folder) / "sender", Path(folder) / "receiver"
        export = exported(sender, HISTORY)
        LMDBState.create(receiver, OWNER)
        commit(receiver, log_of([put("old"), put("a")]))
        staged = stage(Path(folder) / "incoming", export)
        receive(staged, export, 0, export.size_bytes)
        staged.finish()
        put_in_place(staged.directory, receiver)
        with opened(receiver) as state:
            require(
                state_hash(state) == ghost,
                "a snapshot does not become the state (I12)",
                state.progress,
            )
            session = state.sessions.get(1)
            require(
                session is not None and session.reply(1) is not None,
                "a snapshot leaves out what clients were answered (I12 SES)",
            )


def chunks_are_of_one_snapshot() -> None:
    """The leader changes in the middle of a transfer, and sends its own snapshot."""
    ghost = hashes(HISTORY)[len(HISTORY)]
    with TemporaryDirectory() as folder:
        first = exported(Path(folder) / "first", HISTORY[:3])
        second = exported(Path(folder) / "second", HISTORY)
        incoming = Path(folder) / "incoming"
        receive(stage(incoming, first), first, 0, first.size_bytes // 2)
        staged = stage(incoming, second)
        require(
            staged.offset == 0,
            "a snapshot is continued with the chunks of another (I12)",
            staged.offset,
        )
        receive(staged, second, staged.offset, second.size_bytes)
        staged.finish()
        with opened(staged.directory) as state:
            require(
                state_hash(state) == ghost,
                "a snapshot arrives as something else (I12)",
                state.progress,
            )


def exported(path: Path, log: Sequence[Entry]) -> Export:
    """What a member sends that has applied a log, and committed it."""
    LMDBState.create(path, OWNER)
    commit(path, log)
    with opened(path) as state:
        return export_state(state, export_path(path.with_suffix(".exports")))


def stage(incoming: Path, export: Export) -> StagedState:
    """Where a receiver puts it, with what is there of it already."""
    progress = export.progress
    return StagedState(
        incoming,
        OWNER,
        snapshot_id=export.snapshot_id,
        last=EntryId(progress.term, progress.index),
        size_bytes=export.size_bytes,
    )


def receive(staged: StagedState, export: Export, start: int, end: int) -> None:
    """Some of an export arrives."""
    staged.write(export.path.read_bytes()[start:end], start)
