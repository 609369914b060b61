"""The data directory of one member: whose it is, who has it open, what must be in it.

::

    DIR/LOCK              flock; says which process has the directory open
    DIR/identity          format, cluster, member, founding members; with a checksum
    DIR/identity.founding the same, while the founding is not finished
    DIR/raft/             LMDB: the Raft log
    DIR/state/            LMDB: the state machine
    DIR/incoming/         snapshots that arrive; gone once they are installed
    DIR/snapshots/        copies of the state on their way to others; gone with them

A directory is founded once, on purpose, and opened many times. Opening never creates
anything: an empty directory where data used to be must not look like a new member,
which would have forgotten its votes.

Founding is atomic under crashes. ``identity.founding`` comes first and is renamed to
``identity`` last, so that an unfinished founding shows and ``found`` may start it over,
while a directory that lost its ``identity`` never looks like one.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from kvstore.errors import (
    ConfigError,
    DataDirectoryError,
    DirectoryLocked,
    DirectoryNotFounded,
    ForeignDirectory,
)
from kvstore.raft.membership import (
    MEMBERS_MAX,
    NOBODY,
    Configuration,
    MemberInfo,
)
from kvstore.replica.interfaces import Identity, Member
from kvstore.storage.environment import (
    DATA_FILE,
    LOCK_FILE,
    fsync_directory,
)
from kvstore.storage.identity_file import IdentityFile, damaged
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.lmdb_state import LMDBState
from kvstore.types import (
    CLUSTER_ID_BYTES,
    EPOCH_MAX,
    FIRST_EPOCH,
    INCARNATION_MAX,
    NODE_ID_MAX,
    NodeId,
)

LOCK = "LOCK"
IDENTITY = "identity"
FOUNDING = "identity.founding"
RECOVERED = "identity.recovered"
RAFT = "raft"
STATE = "state"
INCOMING = "incoming"
SNAPSHOTS = "snapshots"

_IDENTITY_BYTES_MAX = 1 << 20


class DataDirectory:
    """A founded directory, locked by this process until it is closed."""

    __slots__ = ("_lock_fd", "identity", "joined", "members", "path")

    def __init__(self, path: Path, facts: IdentityFile, lock_fd: int) -> None:
        """Takes over a held lock; :meth:`open` is how to get one."""
        self.path = path
        self.identity = facts.identity
        self.members = facts.members
        """The founding members, as given when the cluster was founded; of a member
        that joined, those that it was told of."""
        self.joined = facts.joined
        """Whether it joined a cluster that others had founded."""
        self._lock_fd: int | None = lock_fd

    @classmethod
    def found(cls, path: Path, identity: Identity, members: Sequence[Member]) -> None:
        """Make ``path`` the data directory of a founding member, durably.

        The directory may exist if it is empty, or if an earlier founding was
        interrupted there; that one is started over.

        Raises:
            ConfigError: ``identity`` and ``members`` make no sense together.
            DirectoryLocked: another process has it open. Nothing was changed.
            DataDirectoryError: it is founded already, or holds something else. Nothing
                was changed.
            OSError: the medium or the operating system refused; found it again.
        """
        check_founders(identity, members)
        configuration = founding_configuration(members).encode()

        def make_stores() -> None:
            LMDBLog.create(path / RAFT, identity, configuration)
            LMDBState.create(path / STATE, identity)

        facts = IdentityFile(identity=identity, members=tuple(members))
        cls.make(path, facts, make_stores)

    @classmethod
    def join(cls, path: Path, identity: Identity, members: Sequence[Member]) -> None:
        """Make ``path`` the directory of one that is to be added to a cluster, durably.

        It knows of no members but as a hint, ``members``: it takes part once a leader
        has found it and told it of them.

        Raises:
            as :meth:`found` does.
        """
        _check_identity(identity)

        def make_stores() -> None:
            LMDBLog.create(path / RAFT, identity, NOBODY.encode())
            LMDBState.create(path / STATE, identity)

        facts = IdentityFile(identity=identity, members=tuple(members), joined=True)
        cls.make(path, facts, make_stores)

    @classmethod
    def make(
        cls, path: Path, facts: IdentityFile, make_stores: Callable[[], None]
    ) -> None:
        """Make ``path`` a data directory with what ``make_stores`` puts there, durably.

        Raises:
            DirectoryLocked, DataDirectoryError, OSError: as :meth:`found` does.
        """
        if path.exists() and not path.is_dir():
            raise ForeignDirectory(f"{path} is not a directory: choose another one")
        _check_may_found(path)
        _make_directories(path)
        lock_fd = _lock(path)
        try:
            _check_may_found(path)  # again, now that nobody else can change it
            write_durably(path / FOUNDING, facts.encode())
            for name in (RAFT, STATE):
                if (path / name).exists():
                    shutil.rmtree(path / name)
            fsync_directory(path)
            make_stores()
            fsync_directory(path)
            (path / FOUNDING).rename(path / IDENTITY)
            fsync_directory(path)
        finally:
            os.close(lock_fd)

    @classmethod
    def open(cls, path: Path, expected: Identity | None = None) -> Self:
        """Lock a founded directory and check that it is whole, and whose it is.

        Raises:
            DirectoryNotFounded: there is nothing, or a founding that was interrupted.
            ForeignDirectory: it is not kvstore's, or not of ``expected``.
            DirectoryLocked: another process has it open.
            NewerFormat: a newer kvstore wrote it.
            DamagedDirectory: a part is missing or unreadable.
            OSError: the operating system refused.
        """
        _check_may_open(path)  # before the lock file is made in a foreign directory
        lock_fd = _lock(path)
        try:
            _check_may_open(path)
            facts = _read_whole(path, expected)
            for name in (RAFT, STATE):
                # Whoever wrote it is gone, for the lock is ours; a crashed process
                # leaves reader slots behind, which keep free pages from being reused.
                (path / name / LOCK_FILE).unlink(missing_ok=True)
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(path, facts, lock_fd)

    @property
    def raft_path(self) -> Path:
        """The directory of the Raft log's environment."""
        return self.path / RAFT

    @property
    def state_path(self) -> Path:
        """The directory of the state store's environment."""
        return self.path / STATE

    @property
    def incoming_path(self) -> Path:
        """Where snapshots arrive."""
        return self.path / INCOMING

    @property
    def snapshots_path(self) -> Path:
        """Where snapshots wait to be sent."""
        return self.path / SNAPSHOTS

    def close(self) -> None:
        """Unlock. Close what was opened inside first. Twice is fine."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a directory's lock for a ``with`` block. Raises ``DirectoryLocked``."""
    lock_fd = _lock(path)
    try:
        yield
    finally:
        os.close(lock_fd)


def _check_may_found(path: Path) -> None:
    """Raise unless ``path`` is absent, empty, or holds an interrupted founding."""
    names = _names(path)
    if IDENTITY in names:
        content = (path / IDENTITY).read_bytes()
        owner = _shown(IdentityFile.decode(content, path / IDENTITY).identity)
        raise DataDirectoryError(
            f"{path} was founded already, for {owner}: start it with `kvstore serve`, "
            "or choose an empty directory for a new member"
        )
    allowed = {LOCK, FOUNDING, RAFT, STATE} if FOUNDING in names else {LOCK}
    strangers = sorted(names - allowed)
    if not strangers:
        return
    if names & {RAFT, STATE}:
        raise damaged(path, f"{IDENTITY} is missing")
    raise ForeignDirectory(
        f"{path} is not empty (it holds {strangers[0]!r}): choose an empty directory, "
        "or one that does not exist yet"
    )


def _check_may_open(path: Path) -> None:
    """Raise unless ``path`` looks founded."""
    if path.exists() and not path.is_dir():
        raise ForeignDirectory(f"{path} is not a directory: choose another one")
    names = _names(path)
    if RECOVERED in names:
        raise DataDirectoryError(
            f"the recovery of {path} was interrupted: repeat `kvstore recover`"
        )
    if IDENTITY in names:
        return
    if FOUNDING in names:
        raise DirectoryNotFounded(
            f"the founding of {path} was interrupted: repeat `kvstore init`"
        )
    if names & {RAFT, STATE}:
        raise damaged(path, f"{IDENTITY} is missing")
    if names - {LOCK}:
        raise ForeignDirectory(
            f"{path} holds something else than kvstore's data: choose another directory"
        )
    raise DirectoryNotFounded(
        f"{path} is {'empty' if path.exists() else 'absent'}: `kvstore init` founds a "
        "member. If there was data before, do not: mount or restore what is missing, "
        "or replace this member under a new node id"
    )


def _read_whole(path: Path, expected: Identity | None) -> IdentityFile:
    """The identity of a whole directory that belongs to ``expected``, if given."""
    with (path / IDENTITY).open("rb") as file:
        content = file.read(_IDENTITY_BYTES_MAX)
    facts = IdentityFile.decode(content, path / IDENTITY)
    if expected is not None and facts.identity != expected:
        raise ForeignDirectory(
            f"{path} belongs to {_shown(facts.identity)}, not to {_shown(expected)}: "
            "correct the setting, or choose another directory"
        )
    for name in (RAFT, STATE):
        if not (path / name / DATA_FILE).is_file():
            raise damaged(path, f"{name}/{DATA_FILE} is missing")
    return facts


def _names(path: Path) -> set[str]:
    """What is in a directory; nothing if it does not exist."""
    if not path.exists():
        return set()
    # A new ext4 volume is not empty, and a volume is a natural data directory.
    return {entry.name for entry in path.iterdir()} - {"lost+found"}


def _make_directories(path: Path) -> None:
    """``mkdir -p``, with every new entry durable."""
    missing = [path] if not path.exists() else []
    while missing and not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        fsync_directory(directory.parent)


def _lock(path: Path) -> int:
    """Take the lock until the descriptor returned is closed, or the process dies.

    Raises:
        DirectoryLocked: somebody else holds it.
    """
    fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        if holder == str(os.getpid()):
            raise DirectoryLocked(
                f"{path} is open in this process already: use what opened it, or close "
                "that first. (Or in another container, whose process has the same id)"
            ) from error
        raise DirectoryLocked(
            f"{path} is open in process {holder}: stop that process first, or choose "
            "another directory (each member has its own)"
        ) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_durably(path: Path, content: bytes) -> None:
    """Write a whole file; it and its name are durable on return."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fsync_directory(path.parent)


def _shown(identity: Identity) -> str:
    return f"member {identity.node_id} of cluster {identity.cluster_id.hex()}"


def founding_configuration(members: Sequence[Member]) -> Configuration:
    """What a cluster of these members begins with; all voters.

    Their incarnations are not known to one another yet, and all founders must begin
    with the same.
    """
    return Configuration(
        voters=tuple(sorted(member.node_id for member in members)),
        members={member.node_id: MemberInfo(member.address) for member in members},
    )


def check_founders(identity: Identity, members: Sequence[Member]) -> None:
    """Raise ``ConfigError`` for a founding that makes no sense."""
    _check_identity(identity)
    ids = [member.node_id for member in members]
    for node_id in ids:
        _check_node_id(node_id)
    if len(ids) > MEMBERS_MAX:
        raise ConfigError(f"{len(ids)} founding members; a cluster has {MEMBERS_MAX}")
    if len(set(ids)) != len(ids):
        raise ConfigError(f"a founding member is listed twice: {ids}")
    if identity.node_id not in ids:
        raise ConfigError(
            f"member {identity.node_id} is not among the founding members {ids}: list "
            "all of them, this one too"
        )


def _check_identity(identity: Identity) -> None:
    _check_node_id(identity.node_id)
    ids = [identity.cluster_id, identity.origin_id]
    if any(len(cluster_id) != CLUSTER_ID_BYTES for cluster_id in ids):
        raise ConfigError(f"a cluster id has {CLUSTER_ID_BYTES} bytes")
    if not FIRST_EPOCH <= identity.epoch <= EPOCH_MAX:
        raise ConfigError(f"an epoch is between {FIRST_EPOCH} and {EPOCH_MAX}")
    if not 0 <= identity.incarnation <= INCARNATION_MAX:
        raise ConfigError(f"an incarnation is between 1 and {INCARNATION_MAX}")


def _check_node_id(node_id: NodeId) -> None:
    if not 0 < node_id <= NODE_ID_MAX:
        raise ConfigError(f"a node id is between 1 and {NODE_ID_MAX}: {node_id}")
