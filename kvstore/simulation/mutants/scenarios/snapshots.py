"""States that are exported, sent in chunks, staged and put in place."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from kvstore.config import Config
from kvstore.raft.messages import Entry, EntryId, HardState, Snapshot
from kvstore.replica.interfaces import Member
from kvstore.server.stores import Stores
from kvstore.simulation.mutants.noticing import require
from kvstore.simulation.mutants.scenarios.crashing import deaths
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
from kvstore.storage.data_directory import STATE, DataDirectory
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.log_format import CHAIN_BYTES
from kvstore.storage.snapshot_export import Export, export_path, export_state
from kvstore.storage.staging import StagedState, put_in_place
from kvstore.types import Term


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


def installing_is_one_step() -> None:
    """A member dies at every step of installing a snapshot, and starts again."""
    before, after = hashes(HISTORY)[1], hashes(HISTORY)[len(HISTORY)]
    with TemporaryDirectory() as folder:
        export = exported(Path(folder) / "sender", HISTORY)
        made = 0

        def place() -> Path:
            return Path(folder) / str(made)

        _found(place())
        for _ in deaths(lambda: _install(place(), export)):
            _check_installed(place(), before, after)
            made += 1
            _found(place())
        _check_installed(place(), before, after)


def _found(path: Path) -> None:
    """A member that has applied the first entry."""
    member = Member(node_id=OWNER.node_id, address="127.0.0.1:1")
    DataDirectory.found(path, OWNER, [member])
    stores = Stores.open(Config(data_dir=path))
    stores.log.append(HardState(term=Term(1), vote=None), HISTORY[:1])
    stores.close()
    commit(path / STATE, HISTORY[:1])


def _install(path: Path, export: Export) -> None:
    """As the server does it, one step after the other."""
    config = Config(data_dir=path)
    stores = Stores.open(config)
    staged = stage(stores.directory.incoming_path, export)
    receive(staged, export, 0, export.size_bytes)
    staged.finish()
    progress = export.progress
    snapshot = Snapshot(
        last=EntryId(progress.term, progress.index),
        configuration=stores.log.base_configuration,
    )
    stores.log.install(
        None, snapshot, chain=bytes(CHAIN_BYTES), snapshot_id=export.snapshot_id
    )
    stores.state.close()
    stores.install_state(staged.directory, config).close()
    stores.log.finish_install()


def _check_installed(path: Path, before: bytes, after: bytes) -> None:
    stores = Stores.open(Config(data_dir=path))
    try:
        found = stores.log.first_index, state_hash(stores.state)
        require(
            found in ((1, before), (len(HISTORY) + 1, after)),
            "a crash leaves the log of one state, and another state (I11 I13)",
            *(stores.log.first_index, stores.state.progress),
        )
    finally:
        stores.close()
