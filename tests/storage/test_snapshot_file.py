"""Snapshot files, and the clusters made of them: whole, or refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvstore.errors import (
    ConfigError,
    CorruptionError,
    DamagedSnapshot,
    DataDirectoryError,
)
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import Entry, EntryKind, HardState
from kvstore.replica.interfaces import Identity, Member
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.view import Head, Progress, Version, VersionId
from kvstore.storage import restoring
from kvstore.storage.data_directory import (
    RAFT,
    RECOVERED,
    DataDirectory,
    write_durably,
)
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.snapshot_export import Export, export_path, export_state
from kvstore.storage.snapshot_file import (
    SnapshotFile,
    SnapshotInfo,
    file_bytes,
    frames,
    verify,
)
from kvstore.types import (
    ClusterId,
    Incarnation,
    LeaseId,
    LogIndex,
    NodeId,
    Revision,
    Term,
)

OLD = Identity(cluster_id=ClusterId(b"o" * 16), node_id=NodeId(1))
NEW_CLUSTER = ClusterId(b"n" * 16)
MEMBERS = [Member(node_id=NodeId(n), address=f"127.0.0.1:{7000 + n}") for n in (1, 2)]
KEYS = 500


def fill(state: LMDBState, *, index: int, keys: int = KEYS) -> None:
    """One revision a key, applied by entry ``index``."""
    state.begin()
    for number in range(1, keys + 1):
        key, at = b"key%06d" % number, VersionId(Revision(number), 0)
        version = Version(
            key, b"v" * 900, at.revision, 1, LeaseId(0), VersionId(Revision(0), 0)
        )
        state.append_version(at, version)
        state.put_head(key, Head(at, at.revision, 1, LeaseId(0)))
    state.sessions.open(LogIndex(index))
    state.progress = Progress(
        index=LogIndex(index),
        term=Term(3),
        revision=Revision(keys),
        compact_revision=Revision(0),
        compaction_cursor=VersionId(Revision(1), 0),
    )
    state.commit()


@pytest.fixture
def old(tmp_path: Path) -> Iterator[LMDBState]:
    DataDirectory.found(tmp_path / "old", OLD, MEMBERS)
    state = LMDBState.open(tmp_path / "old" / "state", OLD)
    fill(state, index=7)
    yield state
    state.close()


def save(state: LMDBState, path: Path) -> Export:
    export = export_state(state, export_path(path.parent / "exports"))
    content = export.path.read_bytes()
    info = SnapshotInfo(
        cluster_id=OLD.cluster_id.hex(),
        state_id=OLD.origin_id.hex(),
        epoch=OLD.epoch,
        node_id=OLD.node_id,
        index=export.progress.index,
        term=export.progress.term,
        revision=export.progress.revision,
        compact_revision=export.progress.compact_revision,
        configuration="{}",
        size_bytes=export.size_bytes,
    )
    with path.open("wb") as file:
        for frame in frames(info, lambda offset, size: content[offset : offset + size]):
            file.write(frame)
    assert path.stat().st_size == file_bytes(info)
    return export


def restored(file: Path, path: Path, node_id: int = 1) -> None:
    restoring.restore(
        file,
        path,
        cluster_id=NEW_CLUSTER,
        node_id=NodeId(node_id),
        incarnation=Incarnation(5),
        members=MEMBERS,
    )


def test_an_export_is_of_one_moment_whatever_is_written_meanwhile(
    old: LMDBState, tmp_path: Path
) -> None:
    before = state_hash(old)
    old.begin()
    old.delete_head(b"key000001")
    export = export_state(old, export_path(tmp_path / "exports"))
    old.abort()
    directory = tmp_path / "copy"
    directory.mkdir()
    export.path.rename(directory / "data.mdb")
    copy = LMDBState.open(directory, OLD)
    assert state_hash(copy) == before
    copy.close()


def test_a_whole_file_is_verified_and_names_its_content(
    old: LMDBState, tmp_path: Path
) -> None:
    save(old, tmp_path / "snap")
    found = verify(tmp_path / "snap")
    assert found.info.revision == KEYS
    assert found.digest == state_hash(old).hex()
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".snap")] == []


def test_every_flipped_byte_and_every_cut_is_found(
    old: LMDBState, tmp_path: Path
) -> None:
    path = tmp_path / "snap"
    save(old, path)
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(DamagedSnapshot):
            verify(path)
        path.write_bytes(whole[:place])
        with pytest.raises(DamagedSnapshot):
            verify(path)
    path.write_bytes(whole)
    assert verify(path).info.index == 7


def test_a_record_that_was_rotten_when_it_was_saved_is_found(
    old: LMDBState, tmp_path: Path
) -> None:
    """The file is as it was written; what was written was not whole."""
    path = tmp_path / "snap"
    export = export_state(old, export_path(tmp_path / "exports"))
    content = export.path.read_bytes().replace(b"v" * 900, b"v" * 899 + b"w", 1)
    with path.open("wb") as file:
        info = SnapshotInfo(
            cluster_id="",
            state_id=OLD.origin_id.hex(),
            epoch=1,
            node_id=1,
            index=7,
            term=3,
            revision=KEYS,
            compact_revision=0,
            configuration="{}",
            size_bytes=len(content),
        )
        for frame in frames(info, lambda at, size: content[at : at + size]):
            file.write(frame)
    with pytest.raises(DamagedSnapshot, match="checksum"):
        verify(path)


def test_a_restored_member_has_the_content_a_new_identity_and_a_higher_epoch(
    old: LMDBState, tmp_path: Path
) -> None:
    save(old, tmp_path / "snap")
    for node_id in (1, 2):
        restored(tmp_path / "snap", tmp_path / f"new{node_id}", node_id)
    hashes = set()
    for node_id in (1, 2):
        with DataDirectory.open(tmp_path / f"new{node_id}") as directory:
            identity = directory.identity
            assert (identity.cluster_id, identity.epoch) == (NEW_CLUSTER, OLD.epoch + 1)
            assert identity.origin_id == OLD.cluster_id
            state = LMDBState.open(directory.state_path, identity)
            assert state.progress.revision == KEYS
            assert len(state.sessions) == 0
            assert state.version(VersionId(Revision(5), 0)) is not None
            hashes.add(state_hash(state))
            state.close()
            log = LMDBLog.open(directory.raft_path, identity)
            assert (log.first_index, log.last_index) == (8, 7)
            assert log.term(LogIndex(7)) == 3
            configuration = Configuration.decode(log.base_configuration)
            assert configuration.voters == (1, 2)
            log.close()
    assert len(hashes) == 1


def test_a_damaged_file_restores_nothing(old: LMDBState, tmp_path: Path) -> None:
    path = tmp_path / "snap"
    save(old, path)
    content = bytearray(path.read_bytes())
    content[-3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedSnapshot):
        restored(path, tmp_path / "new")
    with pytest.raises(DataDirectoryError):
        DataDirectory.open(tmp_path / "new")
    content[-3000] ^= 1
    path.write_bytes(content)
    restored(path, tmp_path / "new")  # started over
    DataDirectory.open(tmp_path / "new").close()


def test_what_is_no_snapshot_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"something else")
    with (
        pytest.raises(DamagedSnapshot, match="not a snapshot"),
        SnapshotFile.open(tmp_path / "file"),
    ):
        pass


def test_the_last_epoch_has_no_next() -> None:
    with pytest.raises(ConfigError):
        restoring.next_epoch(2**15 - 1)


# ---------------------------------------------------------------------- recovery


def survivor(tmp_path: Path) -> Path:
    """Entries to 5 are applied; 6 and 7, one of them a change, are in doubt."""
    path = tmp_path / "survivor"
    DataDirectory.found(path, OLD, MEMBERS)
    log = LMDBLog.open(path / RAFT, OLD)
    change = Configuration.decode(log.base_configuration).encode()
    entries = [
        Entry(Term(1), LogIndex(i), EntryKind.COMMANDS, b"") for i in range(1, 7)
    ]
    entries.append(Entry(Term(2), LogIndex(7), EntryKind.CONFIGURATION, change))
    log.append(HardState(term=Term(4), vote=NodeId(2)), entries)
    log.close()
    state = LMDBState.open(path / "state", OLD)
    state.begin()
    state.progress = Progress(
        index=LogIndex(5),
        term=Term(1),
        revision=Revision(0),
        compact_revision=Revision(0),
        compaction_cursor=VersionId(Revision(1), 0),
    )
    state.commit()
    state.close()
    return path


def recovered(path: Path, address: str | None = None) -> restoring.Recovered:
    return restoring.recover(
        path,
        cluster_id=NEW_CLUSTER,
        incarnation=Incarnation(9),
        address=address,
    )


def check_recovered(path: Path) -> None:
    with DataDirectory.open(path) as directory:
        identity = directory.identity
        assert (identity.cluster_id, identity.epoch) == (NEW_CLUSTER, OLD.epoch + 1)
        log = LMDBLog.open(directory.raft_path, identity)
        assert (log.first_index, log.last_index) == (6, 7)
        assert log.hard_state == HardState(term=Term(4), vote=None)
        assert Configuration.decode(log.base_configuration).voters == (1,)
        # The old members do not come back.
        assert log.configurations() == []
        log.close()
        state = LMDBState.open(directory.state_path, identity)
        assert state.progress.index == 5
        state.close()


def test_a_survivor_becomes_the_only_member_of_a_new_cluster(tmp_path: Path) -> None:
    path = survivor(tmp_path)
    report = recovered(path)
    assert (report.applied_index, report.last_index, report.in_doubt) == (5, 7, 2)
    assert report.old == OLD.cluster_id
    assert report.address == "127.0.0.1:7001"
    check_recovered(path)


def test_a_survivor_may_serve_elsewhere(tmp_path: Path) -> None:
    path = survivor(tmp_path)
    assert recovered(path, "127.0.0.1:7009").address == "127.0.0.1:7009"
    with DataDirectory.open(path) as directory:
        assert [member.address for member in directory.members] == ["127.0.0.1:7009"]


@pytest.mark.parametrize("step", range(7))
def test_an_interrupted_recovery_is_finished_when_it_is_repeated(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before each change of the directory."""
    path = survivor(tmp_path)
    changes = 0

    class Crash(Exception):
        pass

    def counted(change: object) -> object:
        def run(*arguments: object) -> object:
            nonlocal changes
            changes += 1
            if changes > step:
                raise Crash
            return change(*arguments)  # type: ignore[operator]

        return run

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(f"{restoring.__name__}.write_durably", counted(write_durably))
        try:
            recovered(path)
        except Crash:
            interrupted = True
        else:
            interrupted = False
    assert interrupted == (step < 5)
    if (path / RECOVERED).exists():
        with pytest.raises(DataDirectoryError, match="repeat"):
            DataDirectory.open(path)
    if interrupted:
        recovered(path)
    check_recovered(path)


def test_a_torn_identity_does_not_take_the_place_of_the_whole_one(
    tmp_path: Path,
) -> None:
    path = survivor(tmp_path)
    (path / RECOVERED).write_bytes(b"")
    before = (path / "identity").read_bytes()
    with pytest.raises(DataDirectoryError):
        recovered(path)
    assert (path / "identity").read_bytes() == before


def test_a_state_behind_its_log_is_not_recovered(tmp_path: Path) -> None:
    path = survivor(tmp_path)
    log = LMDBLog.open(path / RAFT, OLD)
    log.compact(LogIndex(6))
    log.close()
    with pytest.raises(CorruptionError, match="gone"):
        recovered(path)
