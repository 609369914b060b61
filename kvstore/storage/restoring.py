"""New clusters out of old states: a snapshot restored, a survivor recovered.

Both make a *new* cluster, with an id of its own and a higher epoch, so that members of
the old one are refused and nobody compares revisions of the two.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kvstore.errors import ConfigError, CorruptionError, DamagedSnapshot
from kvstore.raft.messages import Entry, EntryKind, HardState
from kvstore.replica.interfaces import Identity, Member
from kvstore.storage.data_directory import (
    IDENTITY,
    RAFT,
    RECOVERED,
    STATE,
    DataDirectory,
    check_founders,
    founding_configuration,
    locked,
    write_durably,
)
from kvstore.storage.environment import DATA_FILE, LOCK_FILE, fsync_directory
from kvstore.storage.identity_file import IdentityFile
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.log_format import EMPTY_CHAIN, LogEnd
from kvstore.storage.snapshot_file import SnapshotFile, SnapshotInfo
from kvstore.types import (
    EPOCH_MAX,
    ClusterId,
    Epoch,
    Incarnation,
    LogIndex,
    NodeId,
    Term,
)

_COPY_BYTES = 16 << 20
_OLD_RAFT = f"{RAFT}.before-recovery"
_NEW_RAFT = f"{RAFT}.recovered"


def restore(
    file: Path,
    data_dir: Path,
    *,
    cluster_id: ClusterId,
    node_id: NodeId,
    incarnation: Incarnation,
    members: Sequence[Member],
    last_known_epoch: int = 0,
) -> tuple[SnapshotInfo, Epoch]:
    """Make a founding member of a new cluster out of a snapshot file. Blocks.

    All founders are restored from the same file, with the same ``cluster_id`` and
    ``members``. Revisions go on from the snapshot's, in an epoch above it and above
    ``last_known_epoch``. Client sessions are over.

    Raises:
        DamagedSnapshot: the file is not whole. ``data_dir`` is as good as new.
        ConfigError, DataDirectoryError, OSError: as ``DataDirectory.found``.
    """
    with SnapshotFile.open(file) as snapshot:
        info = snapshot.info
        epoch = next_epoch(max(info.epoch, last_known_epoch))
        identity = Identity(
            cluster_id=cluster_id,
            node_id=node_id,
            incarnation=incarnation,
            epoch=epoch,
            state_id=ClusterId(bytes.fromhex(info.state_id)),
        )
        check_founders(identity, members)
        configuration = founding_configuration(members).encode()

        def make_stores() -> None:
            before = LogEnd(info.index, info.term, EMPTY_CHAIN)
            LMDBLog.create(data_dir / RAFT, identity, configuration, before=before)
            (data_dir / STATE).mkdir()
            try:
                snapshot.extract(data_dir / STATE)
                _sync(data_dir / STATE / DATA_FILE)
                _begin_anew(data_dir / STATE, identity, info)
            except CorruptionError as error:
                raise DamagedSnapshot(f"{file}: {error}") from error

        facts = IdentityFile(identity=identity, members=tuple(members))
        DataDirectory.make(data_dir, facts, make_stores)
    return info, epoch


def _begin_anew(path: Path, identity: Identity, info: SnapshotInfo) -> None:
    """Check a state that was extracted, and end its sessions."""
    state = LMDBState.open(path, identity)
    try:
        progress = state.progress
        if (progress.index, progress.term) != (info.index, info.term):
            raise DamagedSnapshot(
                f"the state has applied entry {progress.index} of term "
                f"{progress.term}, and the snapshot says {info.index} of {info.term}"
            )
        state.begin()
        for session in list(state.sessions):
            state.sessions.close(session.id)
        state.progress = replace(progress)
        state.commit()
        state.environment.sync()
    finally:
        state.close()
    (path / LOCK_FILE).unlink(missing_ok=True)
    fsync_directory(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What :func:`recover` made of a survivor."""

    old: ClusterId | None
    """The cluster that was; None: an interrupted recovery was finished."""
    new: Identity
    applied_index: LogIndex
    """Certainly committed, and kept."""
    last_index: LogIndex
    """Kept too, and from now on committed, whether it was or not."""
    revision: int
    address: str
    """Where it will serve."""

    @property
    def in_doubt(self) -> int:
        """Entries of which nobody can tell whether they were committed."""
        return self.last_index - self.applied_index


def recover(
    data_dir: Path,
    *,
    cluster_id: ClusterId,
    incarnation: Incarnation,
    address: str | None = None,
) -> Recovered:
    """Make the only member of a new cluster out of one survivor. Offline; blocks.

    What the lost majority had committed and this member did not have is lost. What this
    member's log holds is kept, also if it was never committed. An interrupted recovery
    is finished when it is repeated. ``address``: where it will serve, if not where it
    did.

    Raises:
        ConfigError: nothing says where it will serve.
        DataDirectoryError, CorruptionError: the directory cannot be used; the message
            says why. Nothing was changed.
        OSError: the medium refused; repeat it.
    """
    if (data_dir / RECOVERED).exists():
        with locked(data_dir):
            content = (data_dir / RECOVERED).read_bytes()
            IdentityFile.decode(content, data_dir / RECOVERED)
            _finish(data_dir)
        return _as_it_stands(data_dir)
    with DataDirectory.open(data_dir) as directory:
        old = directory.identity
        new = Identity(
            cluster_id=cluster_id,
            node_id=old.node_id,
            incarnation=incarnation,
            epoch=next_epoch(old.epoch),
            state_id=old.origin_id,
        )
        address = address or _address_of(old.node_id, directory.members)
        member = Member(node_id=old.node_id, address=address)
        check_founders(new, [member])
        recovered = _rewrite_log(directory, old, new, member)
        facts = IdentityFile(identity=new, members=(member,))
        # Under its name only once it is whole: from then on there is no way back.
        draft = data_dir / f"{RECOVERED}.draft"
        write_durably(draft, facts.encode())
        draft.rename(data_dir / RECOVERED)
        fsync_directory(data_dir)
        _finish(data_dir)
    return recovered


def _as_it_stands(data_dir: Path) -> Recovered:
    """Of a recovery that had been interrupted, and is finished now."""
    with DataDirectory.open(data_dir) as directory:
        identity = directory.identity
        log = LMDBLog.open(directory.raft_path, identity)
        last = log.last_index
        log.close()
        state = LMDBState.open(directory.state_path, identity)
        progress = state.progress
        state.close()
    return Recovered(
        old=None,
        new=identity,
        applied_index=progress.index,
        last_index=last,
        revision=progress.revision,
        address=_address_of(identity.node_id, directory.members),
    )


def _address_of(node_id: NodeId, members: Sequence[Member]) -> str:
    for member in members:
        if member.node_id == node_id:
            return member.address
    raise ConfigError("say where the node will serve: nothing in its directory does")


def _rewrite_log(
    directory: DataDirectory, old: Identity, new: Identity, member: Member
) -> Recovered:
    """A log for the new identity, aside: it goes on where the state stands."""
    log = LMDBLog.open(directory.raft_path, old)
    try:
        if log.installing is not None:
            raise CorruptionError(
                "a snapshot is half installed: start the node once to finish that",
                store="raft",
            )
        state = LMDBState.open(directory.state_path, old)
        progress = state.progress
        # The log is about to be cut there, and a commit may not be durable yet.
        state.environment.sync()
        state.close()
        if progress.index < log.first_index - 1:
            raise CorruptionError(
                f"the state has applied entry {progress.index}, but the log begins at "
                f"{log.first_index}: entries between them are gone",
                store="state",
            )
        path = directory.path / _NEW_RAFT
        shutil.rmtree(path, ignore_errors=True)
        before = LogEnd(progress.index, progress.term, EMPTY_CHAIN)
        configuration = founding_configuration([member]).encode()
        LMDBLog.create(path, new, configuration, before=before)
        _copy_entries(log, path, new, progress.index)
        last = log.last_index
    finally:
        log.close()
    (directory.path / _NEW_RAFT / LOCK_FILE).unlink(missing_ok=True)
    fsync_directory(directory.path)
    return Recovered(
        old=old.cluster_id,
        new=new,
        applied_index=progress.index,
        last_index=LogIndex(max(last, progress.index)),
        revision=progress.revision,
        address=member.address,
    )


def _copy_entries(log: LMDBLog, path: Path, new: Identity, after: LogIndex) -> None:
    target = LMDBLog.open(path, new)
    try:
        target.append(HardState(term=log.hard_state.term, vote=None), ())
        start = LogIndex(after + 1)
        while start <= log.last_index:
            end = LogIndex(log.last_index + 1)
            entries = log.entries(start, end, _COPY_BYTES)
            target.append(None, [_without_members(entry) for entry in entries])
            start = LogIndex(entries[-1].index + 1)
    finally:
        target.close()


def _without_members(entry: Entry) -> Entry:
    """The old members must not come back by an entry of the old log."""
    if entry.kind is EntryKind.CONFIGURATION:
        return Entry(Term(entry.term), entry.index, EntryKind.NOOP, b"")
    return entry


def _finish(data_dir: Path) -> None:
    """Put the recovered log and identity in place. Can be repeated."""
    if (data_dir / _NEW_RAFT).exists():
        if (data_dir / RAFT).exists():
            shutil.rmtree(data_dir / _OLD_RAFT, ignore_errors=True)
            (data_dir / RAFT).rename(data_dir / _OLD_RAFT)
        (data_dir / _NEW_RAFT).rename(data_dir / RAFT)
        fsync_directory(data_dir)
    (data_dir / RECOVERED).rename(data_dir / IDENTITY)
    fsync_directory(data_dir)
    shutil.rmtree(data_dir / _OLD_RAFT, ignore_errors=True)


def next_epoch(epoch: int) -> Epoch:
    """Raises ``ConfigError`` past the last one."""
    if epoch >= EPOCH_MAX:
        raise ConfigError(f"epoch {epoch} is the last that there is")
    return Epoch(epoch + 1)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
