"""Records that are whole, but wrong: refused at opening, or by who reads them."""

from pathlib import Path

import pytest

from kvstore.errors import CorruptionError, NewerFormat
from kvstore.pb import kv_pb2
from kvstore.replica.interfaces import Identity
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.reads import read_range_at_once
from kvstore.state_machine.view import NO_VERSION
from kvstore.storage import record
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.record import RecordType
from kvstore.storage.state_format import StateCodecs
from kvstore.types import ClusterId, NodeId
from tests.state_machine.model import (
    ALL,
    apply,
    compact,
    delete,
    put,
)
from tests.storage.damage import Place
from tests.storage.state_store import (
    KEYS,
    LONG,
    PROGRESS,
    RECORDS,
    Damaged,
    change,
    errors_of,
    head_of,
    named,
    stored,
    version_at,
)

Range = kv_pb2.Range
Compare = kv_pb2.Compare
IN_LEAF = {name: place for name, place in RECORDS.items() if place != PROGRESS}


def test_a_store_of_another_cluster_is_refused(damaged: Damaged) -> None:
    """Goal: a copied directory is not taken for this cluster's own."""
    damaged.state.close()
    stranger = Identity(cluster_id=ClusterId(bytes(16)), node_id=NodeId(7))
    with pytest.raises(CorruptionError) as caught:
        LMDBState.open(damaged.path, stranger)
    assert named(caught.value, PROGRESS)


def test_members_and_restored_clusters_share_records(damaged: Damaged) -> None:
    """Goal: a snapshot of one member is, as it is, the state of another one, and of a
    cluster that was restored from it."""
    damaged.state.close()
    cluster_id = ClusterId(bytes(range(16)))
    for other in (
        Identity(cluster_id=cluster_id, node_id=NodeId(8)),
        Identity(
            cluster_id=ClusterId(bytes(16)), node_id=NodeId(8), state_id=cluster_id
        ),
    ):
        LMDBState.open(damaged.path, other).close()


def test_a_store_that_was_never_created_is_refused(
    tmp_path: Path, identity: Identity
) -> None:
    """Goal: an empty directory is lost data, not an empty store."""
    (tmp_path / "state").mkdir()
    with pytest.raises(CorruptionError, match="missing"):
        LMDBState.open(tmp_path / "state", identity)
    assert list((tmp_path / "state").iterdir()) == []


def test_a_missing_progress_is_refused(damaged: Damaged) -> None:
    """Goal: a store without one is not taken for a new one."""
    change(damaged.state, PROGRESS, None)
    error = damaged.refusal()
    assert named(error, PROGRESS)
    assert "is missing" in str(error)


def test_a_progress_older_than_its_history_is_refused(damaged: Damaged) -> None:
    """Goal: a lost write of its page shows: to replay from there would apply twice.

    Each record is whole.
    """
    older = stored(damaged.state, PROGRESS)
    damaged.state.begin()
    apply(damaged.state, put(b"k"))
    damaged.state.commit()
    change(damaged.state, PROGRESS, older)
    error = damaged.refusal()
    assert named(error, PROGRESS)
    assert (error.expected, error.actual) == ("14", "15")


def test_a_history_older_than_its_progress_is_refused(damaged: Damaged) -> None:
    """Goal: what was applied must be there."""
    change(damaged.state, version_at(14), None)
    error = damaged.refusal()
    assert named(error, PROGRESS)
    assert (error.expected, error.actual) == ("14", "13")


def test_a_history_that_compaction_emptied_opens(damaged: Damaged) -> None:
    """Goal: when the newest change was a delete, and compacted, no version tells."""
    state = damaged.state
    state.begin()
    apply(state, delete(ALL, ALL), compact(15))
    state.commit()
    assert list(state.versions(NO_VERSION)) == []
    assert damaged.reopen().progress.revision == 15


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (head_of(b"b"), head_of(b"c")),
        (head_of(KEYS[-1]), head_of(KEYS[-2])),
        (version_at(6), version_at(14)),
        (version_at(12), version_at(7)),
    ],
)
def test_a_record_at_a_wrong_place_is_refused(
    damaged: Damaged, source: Place, target: Place
) -> None:
    """Goal: a misdirected write of a whole record is as visible as a flipped bit."""
    change(damaged.state, target, stored(damaged.state, source))
    errors = errors_of(damaged.state, damaged.expected)
    assert errors
    assert all(named(error, target) for error in errors)


def test_a_newer_format_is_told_from_damage(
    damaged: Damaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: after a downgrade an operator reads what to do, not that data is lost."""
    state = damaged.state
    head = state.head(b"c")
    assert head is not None
    with monkeypatch.context() as patched:
        patched.setattr(
            record, "_PLAIN_HEADS", {it: bytes([2, it, 0, 0]) for it in RecordType}
        )
        codecs = StateCodecs.of(damaged.identity)
        newer_head = codecs.encode_head(b"c", b"c", head)
        newer_progress = codecs.encode_progress(state.progress, state.sessions.summary)
    change(state, head_of(b"c"), newer_head)
    with pytest.raises(NewerFormat, match="has format 2"):
        read_range_at_once(state, Range(key=b"c"))
    change(state, PROGRESS, newer_progress)
    with pytest.raises(NewerFormat, match="has format 2"):
        damaged.reopen()


def body_record(identity: Identity, place: Place, body: bytes) -> bytes:
    """A record with a valid checksum and any body."""
    it = StateCodecs.of(identity)
    codec = {"kv": it.versions, "heads": it.heads, "meta": it.meta}[place.database]
    kind = {
        "kv": RecordType.VERSION,
        "heads": RecordType.HEAD,
        "meta": RecordType.PROGRESS,
    }[place.database]
    return codec.encode(place.key, record_type=kind, term=1, index=1, body=body)


@pytest.mark.parametrize(
    ("place", "body", "says"),
    [
        (version_at(14), b"", "wrong length"),
        (version_at(14), bytes(37), "wrong length"),
        (version_at(14), bytes(38), "wrong length"),
        (version_at(14), bytes(37) + b"\x09" + b"short", "wrong length"),
        (head_of(b"c"), b"", "another key"),
        (head_of(b"c"), bytes(35), "another key"),
        (head_of(b"c"), bytes(36) + b"c", "another key"),
        (head_of(b"c"), bytes(36) + LONG + b"x" * 100, "another key"),
        (head_of(KEYS[-1]), bytes(36), "another key"),
        (head_of(KEYS[-1]), bytes(36) + LONG + b"x" * 100, "another key"),
    ],
)
def test_what_no_record_can_say_is_damage(
    damaged: Damaged, place: Place, body: bytes, says: str
) -> None:
    """Goal: a valid checksum over nonsense is a defect's work, and is not believed."""
    change(damaged.state, place, body_record(damaged.identity, place, body))
    errors = errors_of(damaged.state, damaged.expected)
    assert errors
    assert all(named(error, place) for error in errors)
    assert all(says in str(error) for error in errors)


def test_a_progress_of_a_wrong_length_is_damage(damaged: Damaged) -> None:
    """Goal: as above, at opening."""
    wrong = body_record(damaged.identity, PROGRESS, bytes(27))
    change(damaged.state, PROGRESS, wrong)
    assert "wrong length" in str(damaged.refusal())


@pytest.mark.parametrize("key", [b"short", bytes(7) + b"\x0d" + bytes(5)])
def test_a_stray_record_among_versions_is_damage(damaged: Damaged, key: bytes) -> None:
    """Goal: whoever goes through history does not step over what nobody wrote."""
    place = Place("kv", key)
    body = bytes(38)
    change(damaged.state, place, body_record(damaged.identity, place, body))
    with pytest.raises(CorruptionError) as caught:
        state_hash(damaged.state)
    assert caught.value.database == "kv"
    damaged.state.begin()
    with pytest.raises(CorruptionError):
        apply(damaged.state, compact(14))
    damaged.state.abort()
