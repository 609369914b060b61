"""A snapshot is staged, and takes the place of the state: whole, whatever crashes."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvstore.config import Config
from kvstore.errors import CorruptionError, DamagedSnapshot
from kvstore.raft.membership import NOBODY
from kvstore.raft.messages import EntryId, HardState, Snapshot
from kvstore.replica.interfaces import Identity, Member
from kvstore.server.stores import Stores
from kvstore.state_machine.digest import state_hash
from kvstore.storage.data_directory import DataDirectory
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.log_format import EMPTY_CHAIN
from kvstore.storage.snapshot_export import export_path, export_state
from kvstore.storage.staging import StagedState, put_in_place, staged_path
from kvstore.types import ClusterId, LogIndex, NodeId, Term
from tests.storage.test_snapshot_file import fill

IDENTITY = Identity(cluster_id=ClusterId(b"c" * 16), node_id=NodeId(1))
MEMBERS = [Member(node_id=NodeId(1), address="127.0.0.1:7001")]
LAST = EntryId(Term(3), LogIndex(7))
SNAPSHOT_ID = b"i" * 16
CHUNK = 100_000


@pytest.fixture
def sent(tmp_path: Path) -> tuple[bytes, bytes]:
    """The bytes of a leader's state, and its hash."""
    DataDirectory.found(tmp_path / "leader", IDENTITY, MEMBERS)
    state = LMDBState.open(tmp_path / "leader" / "state", IDENTITY)
    fill(state, index=7)
    export = export_state(state, export_path(tmp_path / "exports"))
    content, digest = export.path.read_bytes(), state_hash(state)
    state.close()
    return content, digest


def staged(path: Path, content: bytes) -> StagedState:
    return StagedState(
        path / "incoming",
        IDENTITY,
        snapshot_id=SNAPSHOT_ID,
        last=LAST,
        size_bytes=len(content),
    )


def receive(path: Path, content: bytes, *, to: int | None = None) -> StagedState:
    stage = staged(path, content)
    end = len(content) if to is None else to
    while stage.offset < end:
        start = stage.offset
        stage.write(content[start : min(start + CHUNK, end)], start)
    return stage


def follower(tmp_path: Path) -> Path:
    path = tmp_path / "follower"
    DataDirectory.join(path, IDENTITY, MEMBERS)
    return path


def test_what_has_arrived_is_gone_on_behind(
    tmp_path: Path, sent: tuple[bytes, bytes]
) -> None:
    content, _ = sent
    path = follower(tmp_path)
    receive(path, content, to=250_000)
    stage = staged(path, content)
    assert stage.offset == 250_000
    receive(path, content).finish()


def test_another_snapshot_takes_the_place_of_an_unfinished_one(
    tmp_path: Path, sent: tuple[bytes, bytes]
) -> None:
    """Chunks of two are never mixed (M34)."""
    content, _ = sent
    path = follower(tmp_path)
    receive(path, content, to=250_000)
    other = StagedState(
        path / "incoming", IDENTITY, snapshot_id=b"o" * 16, last=LAST, size_bytes=9
    )
    assert other.offset == 0
    assert not staged_path(path / "incoming", SNAPSHOT_ID).exists()


def cut_short(content: bytes) -> bytes:
    return content[:-5_000]


def zeroed(content: bytes) -> bytes:
    """A page of the tree that was never written."""
    return content[: 4096 * 5] + bytes(4096) + content[4096 * 6 :]


@pytest.mark.parametrize("damage", [cut_short, zeroed])
def test_a_snapshot_that_is_not_whole_is_thrown_away(
    tmp_path: Path, sent: tuple[bytes, bytes], damage: Callable[[bytes], bytes]
) -> None:
    content, _ = sent
    path = follower(tmp_path)
    stage = staged(path, content)
    stage.write(damage(content), 0)
    with pytest.raises(DamagedSnapshot):
        stage.finish()
    assert not stage.directory.exists()


def test_a_sync_that_failed_is_never_followed_by_one_that_counts(
    tmp_path: Path, sent: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel marks lost pages clean: the next sync has nothing to say of them."""
    content, _ = sent
    path = follower(tmp_path)
    stage = receive(path, content)

    def refuse(_fd: int) -> None:
        raise OSError(errno.EIO, "the medium refused")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="refused"):
            stage.finish()
    assert staged(path, content).offset == 0


def test_a_state_put_in_place_twice_is_durable_both_times(
    tmp_path: Path, sent: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever renamed it may have been killed before it was."""
    content, _ = sent
    path = follower(tmp_path)
    stage = receive(path, content)
    stage.finish()
    synced: list[Path] = []
    monkeypatch.setattr("kvstore.storage.staging.fsync_directory", synced.append)
    put_in_place(stage.directory, path / "state")
    put_in_place(stage.directory, path / "state")
    assert synced == [path / "state", path / "state"]


def test_a_snapshot_of_another_entry_than_it_says_is_refused(
    tmp_path: Path, sent: tuple[bytes, bytes]
) -> None:
    content, _ = sent
    path = follower(tmp_path)
    stage = StagedState(
        path / "incoming",
        IDENTITY,
        snapshot_id=SNAPSHOT_ID,
        last=EntryId(Term(3), LogIndex(8)),
        size_bytes=len(content),
    )
    stage.write(content, 0)
    with pytest.raises(DamagedSnapshot):
        stage.finish()


def install_until(path: Path, content: bytes, step: int) -> None:
    """Do the first ``step`` steps of an installation, then crash."""
    stage = receive(path, content)
    if step >= 1:
        stage.finish()
    log = LMDBLog.open(path / "raft", IDENTITY)
    if step >= 2:
        log.install(
            HardState(term=Term(3), vote=None),
            Snapshot(last=LAST, configuration=NOBODY.encode()),
            chain=EMPTY_CHAIN,
            snapshot_id=SNAPSHOT_ID,
        )
    if step >= 3:
        put_in_place(stage.directory, path / "state")
    if step >= 4:
        log.finish_install()
    log.close()


@pytest.mark.parametrize("step", range(5))
def test_a_crash_at_any_step_leaves_the_old_state_or_the_new(
    tmp_path: Path, sent: tuple[bytes, bytes], step: int
) -> None:
    """Log, configuration, sessions and state change together, or not at all."""
    content, digest = sent
    path = follower(tmp_path)
    install_until(path, content, step)
    for _ in range(2):
        stores = Stores.open(Config(data_dir=path))
        try:
            if step < 2:
                assert stores.state.progress.index == 0
                assert (stores.log.first_index, stores.log.last_index) == (1, 0)
            else:
                assert state_hash(stores.state) == digest
                assert len(stores.state.sessions) == 1
                assert (stores.log.first_index, stores.log.last_index) == (8, 7)
                assert stores.log.hard_state.term == 3
            assert stores.log.installing is None
        finally:
            stores.close()
        assert not list((path / "incoming").glob("*"))


def test_a_staged_state_that_is_lost_after_the_note_is_noticed(
    tmp_path: Path, sent: tuple[bytes, bytes]
) -> None:
    """The log has forgotten what the old state would need."""
    content, _ = sent
    path = follower(tmp_path)
    install_until(path, content, 2)
    (staged_path(path / "incoming", SNAPSHOT_ID) / "data.mdb").unlink()
    with pytest.raises(CorruptionError, match="installed"):
        Stores.open(Config(data_dir=path))
