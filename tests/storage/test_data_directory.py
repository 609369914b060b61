"""Founding and opening: what is refused, and what the refusal says."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore.errors import (
    ConfigError,
    DamagedDirectory,
    DataDirectoryError,
    DirectoryLocked,
    DirectoryNotFounded,
    ForeignDirectory,
    NewerFormat,
)
from kvstore.raft.membership import NOBODY, Configuration, MemberInfo
from kvstore.replica.interfaces import Identity, Member
from kvstore.storage.checksum import crc32c
from kvstore.storage.data_directory import DataDirectory
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.lmdb_state import LMDBState
from kvstore.types import ClusterId, Epoch, Incarnation, LogIndex, NodeId

MEMBERS = tuple(
    Member(node_id=NodeId(number), address=f"host{number}:7400") for number in (5, 7, 9)
)
WHAT_TO_DO = "replace this member under a new node id, or restore"


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.fixture
def path(tmp_path: Path, identity: Identity) -> Path:
    """A founded, closed directory."""
    DataDirectory.found(tmp_path / "data", identity, MEMBERS)
    return tmp_path / "data"


def test_founded_directory_opens_with_what_it_was_given(
    path: Path, identity: Identity
) -> None:
    """Goal: identity and members come back, and both stores are there and empty."""
    with DataDirectory.open(path, expected=identity) as directory:
        assert directory.identity == identity
        assert directory.members == MEMBERS
        assert directory.path == path
        log = LMDBLog.open(directory.raft_path, identity)
        assert log.last_index == 0
        log.close()
        state = LMDBState.open(directory.state_path, identity)
        assert state.progress.index == 0
        state.close()
    DataDirectory.open(path).close()
    assert names(path) == ["LOCK", "identity", "raft", "state"]


def test_founding_makes_missing_parents(tmp_path: Path, identity: Identity) -> None:
    """Goal: `mkdir -p` is not the user's job; an empty directory is as good as none."""
    DataDirectory.found(tmp_path / "a" / "b" / "c", identity, MEMBERS)
    (tmp_path / "empty" / "lost+found").mkdir(parents=True)  # as on a new volume
    DataDirectory.found(tmp_path / "empty", identity, MEMBERS)
    DataDirectory.open(tmp_path / "a" / "b" / "c").close()
    DataDirectory.open(tmp_path / "empty").close()


def test_second_founding_is_refused(path: Path, identity: Identity) -> None:
    """Goal: no command wipes a member; the message says whose the directory is."""
    before = (path / "identity").read_bytes()
    with pytest.raises(
        DataDirectoryError, match=r"founded already, for member 7 of.*`kvstore serve`"
    ):
        DataDirectory.found(path, identity, MEMBERS)
    assert (path / "identity").read_bytes() == before


@pytest.mark.parametrize("name", ["notes.txt", "raft.old"])
def test_directory_of_somebody_else_is_refused(
    tmp_path: Path, identity: Identity, name: str
) -> None:
    """Goal: neither founding nor opening leaves a trace in a foreign directory."""
    (tmp_path / name).touch()
    with pytest.raises(ForeignDirectory, match=rf"'{name}'.*choose an empty"):
        DataDirectory.found(tmp_path, identity, MEMBERS)
    with pytest.raises(ForeignDirectory, match="something else than kvstore's data"):
        DataDirectory.open(tmp_path)
    assert names(tmp_path) == [name]


def test_file_in_place_of_the_directory_is_refused(
    tmp_path: Path, identity: Identity
) -> None:
    """Goal: a typed error, not whatever the operating system says."""
    (tmp_path / "file").touch()
    with pytest.raises(ForeignDirectory, match="is not a directory"):
        DataDirectory.found(tmp_path / "file", identity, MEMBERS)
    with pytest.raises(ForeignDirectory, match="is not a directory"):
        DataDirectory.open(tmp_path / "file")


@pytest.mark.parametrize(
    ("node_id", "members", "what"),
    [
        (8, MEMBERS, "member 8 is not among"),
        (5, (MEMBERS[0], MEMBERS[0]), "listed twice"),
        (0, (Member(node_id=NodeId(0), address="a:1"),), "between 1 and"),
        (2**63, (Member(node_id=NodeId(2**63), address="a:1"),), "between 1 and"),
    ],
)
def test_founding_that_makes_no_sense_is_refused(
    tmp_path: Path,
    identity: Identity,
    node_id: int,
    members: tuple[Member, ...],
    what: str,
) -> None:
    """Goal: a mistake in the member list shows before anything is on disk."""
    wrong = Identity(cluster_id=identity.cluster_id, node_id=NodeId(node_id))
    with pytest.raises(ConfigError, match=what):
        DataDirectory.found(tmp_path / "data", wrong, members)
    assert not (tmp_path / "data").exists()


def test_absent_and_empty_directories_are_not_founded(tmp_path: Path) -> None:
    """Goal: serving on an empty disk is refused, and nothing is created there."""
    with pytest.raises(DirectoryNotFounded, match=r"is absent: `kvstore init`"):
        DataDirectory.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(
        DirectoryNotFounded, match=r"is empty.*If there was data before, do not"
    ):
        DataDirectory.open(tmp_path)
    assert names(tmp_path) == []


def test_directory_in_use_is_locked(path: Path, identity: Identity) -> None:
    """Goal: two nodes never share a directory; the message names the process."""
    directory = DataDirectory.open(path)
    with pytest.raises(DirectoryLocked, match="open in this process already"):
        DataDirectory.open(path)
    directory.close()
    directory.close()
    DataDirectory.open(path).close()


HOLDER = """
import sys
from pathlib import Path
from kvstore.storage.data_directory import DataDirectory
directory = DataDirectory.open(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_lock_dies_with_its_process(path: Path) -> None:
    """Goal: a crash leaves no lock behind, and no readers of the stores."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(DirectoryLocked, match=f"process {holder.pid}:"):
        DataDirectory.open(path)
    holder.kill()
    holder.wait(10)
    holder.stdout.close()
    holder.stdin.close()
    for name in ("raft", "state"):
        (path / name / "lock.mdb").write_bytes(b"stale")
    DataDirectory.open(path).close()
    assert not (path / "raft" / "lock.mdb").exists()
    assert not (path / "state" / "lock.mdb").exists()


@pytest.mark.parametrize(
    "other",
    [
        Identity(cluster_id=ClusterId(bytes(range(16))), node_id=NodeId(9)),
        Identity(cluster_id=ClusterId(b"d" * 16), node_id=NodeId(7)),
    ],
    ids=["node", "cluster"],
)
def test_directory_of_another_member_is_foreign(path: Path, other: Identity) -> None:
    """Goal: a swapped volume is noticed before the member speaks."""
    with pytest.raises(ForeignDirectory, match="belongs to member 7 of cluster 0001"):
        DataDirectory.open(path, expected=other)
    DataDirectory.open(path).close()


def test_every_damaged_byte_of_the_identity_is_noticed(path: Path) -> None:
    """Goal: one flipped bit, anywhere in the file, is damage and not another member."""
    whole = (path / "identity").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (path / "identity").write_bytes(damaged)
        with pytest.raises(DamagedDirectory, match=WHAT_TO_DO):
            DataDirectory.open(path)
    for cut in (1, 9, 60):
        (path / "identity").write_bytes(whole[:-cut])
        with pytest.raises(DamagedDirectory, match=WHAT_TO_DO):
            DataDirectory.open(path)
    (path / "identity").write_bytes(whole)
    DataDirectory.open(path).close()


def test_identity_that_was_never_ours_is_foreign(path: Path) -> None:
    """Goal: some other program's file of that name is told from a damaged one."""
    (path / "identity").write_bytes(b"-----BEGIN SSH-----\n")
    with pytest.raises(ForeignDirectory, match="was not written by kvstore"):
        DataDirectory.open(path)


def test_older_format_is_refused(path: Path) -> None:
    """Goal: a directory of before the first release is not taken for a damaged one."""
    text = (path / "identity").read_bytes().rpartition(b"crc32c ")[0]
    text = text.replace(b'"format_version": 2', b'"format_version": 1')
    (path / "identity").write_bytes(text + f"crc32c {crc32c(text):08x}\n".encode())
    with pytest.raises(DataDirectoryError, match=r"has format 1.*found the cluster"):
        DataDirectory.open(path)


def test_founders_begin_with_one_configuration(path: Path, identity: Identity) -> None:
    """Goal: the founding members are in the log's base, where consensus looks."""
    with DataDirectory.open(path) as directory:
        log = LMDBLog.open(directory.raft_path, identity)
        configuration = Configuration.decode(log.base_configuration)
        log.close()
    assert configuration.voters == (5, 7, 9)
    assert configuration.members[NodeId(9)] == MemberInfo("host9:7400")


def test_joiner_knows_of_no_voters(tmp_path: Path) -> None:
    """Goal: it can neither vote nor campaign until a leader tells it of members, and
    all of its identity comes back."""
    path = tmp_path / "data"
    identity = Identity(
        cluster_id=ClusterId(b"c" * 16),
        node_id=NodeId(11),
        incarnation=Incarnation(2**63 - 1),
        epoch=Epoch(3),
        state_id=ClusterId(b"s" * 16),
    )
    DataDirectory.join(path, identity, MEMBERS)
    with DataDirectory.open(path, expected=identity) as directory:
        assert (directory.joined, directory.members) == (True, MEMBERS)
        log = LMDBLog.open(directory.raft_path, identity)
        assert Configuration.decode(log.base_configuration) == NOBODY
        log.close()
        LMDBState.open(directory.state_path, identity).close()


RIGHT = Identity(cluster_id=ClusterId(bytes(16)), node_id=NodeId(7))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(RIGHT, node_id=NodeId(0)),
        replace(RIGHT, cluster_id=ClusterId(b"short")),
        replace(RIGHT, state_id=ClusterId(b"short")),
        replace(RIGHT, epoch=Epoch(0)),
        replace(RIGHT, epoch=Epoch(2**15)),
        replace(RIGHT, incarnation=Incarnation(2**63)),
    ],
)
def test_joining_that_makes_no_sense_is_refused(
    tmp_path: Path, wrong: Identity
) -> None:
    """Goal: a mistake shows before anything is on disk."""
    with pytest.raises(ConfigError):
        DataDirectory.join(tmp_path / "data", wrong, MEMBERS)
    assert not (tmp_path / "data").exists()


def test_newer_format_is_refused(path: Path, identity: Identity) -> None:
    """Goal: after a downgrade the message says what to run."""
    text = (path / "identity").read_bytes().rpartition(b"crc32c ")[0]
    text = text.replace(b'"format_version": 2', b'"format_version": 3')
    (path / "identity").write_bytes(text + f"crc32c {crc32c(text):08x}\n".encode())
    with pytest.raises(NewerFormat, match=r"has format 3.*run the version that wrote"):
        DataDirectory.open(path)
    with pytest.raises(NewerFormat):
        DataDirectory.found(path, identity, MEMBERS)


@pytest.mark.parametrize("missing", ["raft/data.mdb", "state/data.mdb", "identity"])
def test_missing_part_is_damage(path: Path, identity: Identity, missing: str) -> None:
    """Goal: neither opening nor founding papers over what was lost."""
    (path / missing).unlink()
    with pytest.raises(DamagedDirectory, match=f"{missing} is missing; .*{WHAT_TO_DO}"):
        DataDirectory.open(path)
    with pytest.raises(DataDirectoryError):
        DataDirectory.found(path, identity, MEMBERS)
    assert (path / "raft").exists()
    assert (path / "state").exists()


class Crashed(BaseException):
    """The process ended here."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the process at the ``step``-th sync or change of a directory."""
    ran = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            nonlocal ran
            ran += 1
            if ran == step:
                raise Crashed
            return real(*arguments, **options)

        return run

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(os, "mkdir", counted(os.mkdir))
    monkeypatch.setattr(os, "rename", counted(os.rename))
    monkeypatch.setattr(Path, "open", counted(Path.open))


def test_interrupted_founding_can_be_repeated(
    tmp_path: Path, identity: Identity
) -> None:
    """Goal: wherever founding stops, it is recognisable, and can be started over.

    Until the rename the directory is not founded; after it, it is.
    """
    step, crashes = 0, 0
    while True:
        step += 1
        path = tmp_path / str(step) / "data"
        path.parent.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            try:
                DataDirectory.found(path, identity, MEMBERS)
            except Crashed:
                crashes += 1
            else:
                break
        try:
            DataDirectory.open(path).close()
        except DirectoryNotFounded:
            DataDirectory.found(path, identity, MEMBERS)
        with DataDirectory.open(path, expected=identity) as directory:
            log = LMDBLog.open(directory.raft_path, identity)
            assert log.last_index == LogIndex(0)
            log.close()
        assert not (path / "identity.founding").exists()
    assert crashes >= 10


def test_interrupted_founding_says_what_to_do(
    tmp_path: Path, identity: Identity
) -> None:
    """Goal: the operator is told to repeat it, and may do so as another member."""
    path = tmp_path / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(Crashed))
        with pytest.raises(Crashed):
            DataDirectory.found(path, identity, MEMBERS)
    with pytest.raises(DirectoryNotFounded, match="interrupted: repeat `kvstore init`"):
        DataDirectory.open(path)
    other = Identity(cluster_id=identity.cluster_id, node_id=NodeId(9))
    DataDirectory.found(path, other, MEMBERS)
    DataDirectory.open(path, expected=other).close()


def test_founding_waits_for_nobody(tmp_path: Path, identity: Identity) -> None:
    """Goal: of two foundings at once, the second is refused and changes nothing."""
    path = tmp_path / "data"
    original = LMDBLog.create.__func__  # type: ignore[attr-defined]
    seen: list[str] = []

    def create(
        cls: type[LMDBLog], where: Path, who: Identity, configuration: bytes
    ) -> None:
        with pytest.raises(DirectoryLocked):
            DataDirectory.found(path, identity, MEMBERS)
        seen.extend(names(path))
        original(cls, where, who, configuration)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LMDBLog, "create", classmethod(create))
        DataDirectory.found(path, identity, MEMBERS)
    assert seen == ["LOCK", "identity.founding"]
    DataDirectory.open(path).close()
