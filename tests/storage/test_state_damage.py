"""One flipped bit, anywhere in any record of the state: never a wrong answer.

The bit is flipped in the file, beneath LMDB, which has no checksums of its own.
"""

from collections.abc import Iterator
from pathlib import Path
from struct import Struct, iter_unpack

import lmdb
import pytest

from kvstore.errors import CorruptionError, NewerFormat
from kvstore.pb import kv_pb2
from kvstore.replica.interfaces import Identity
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.reads import read_range_at_once
from kvstore.state_machine.view import NO_VERSION, VersionId
from kvstore.storage import record
from kvstore.storage.environment import DATA_FILE
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.record import RecordType
from kvstore.storage.state_format import StateCodecs
from kvstore.types import ClusterId, NodeId, Revision
from tests.state_machine.model import (
    ALL,
    Model,
    apply,
    compact,
    delete,
    op,
    put,
    step,
    txn,
)
from tests.storage.damage import OnDisk, Place, positions
from tests.storage.state_store import (
    KEYS,
    LONG,
    PROGRESS,
    RECORDS,
    change,
    content_of,
    create,
    end_reading,
    errors_of,
    expected_answers,
    head_of,
    on_disk,
    stored,
    version_at,
)

Range = kv_pb2.Range
Compare = kv_pb2.Compare
IN_LEAF = {name: place for name, place in RECORDS.items() if place != PROGRESS}


class Damaged:
    """An open store, what it must answer, and its file."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self.model: Model = create(path, identity)
        self.expected = expected_answers(self.model)
        self.state = LMDBState.open(path, identity)

    def on_disk(self, place: Place) -> OnDisk:
        return on_disk(self.state, place)

    def reopen(self) -> LMDBState:
        self.state.close()
        self.state = LMDBState.open(self.path, self.identity)
        return self.state


@pytest.fixture
def damaged(tmp_path: Path, identity: Identity) -> Iterator[Damaged]:
    made = Damaged(tmp_path / "state", identity)
    yield made
    made.state.close()


def test_the_undamaged_store_answers_everything(damaged: Damaged) -> None:
    """Goal: what the other tests compare with is what the model says."""
    assert errors_of(damaged.state, damaged.expected) == []
    assert len(damaged.expected) > 50


# ------------------------------------------------------------------- by kind


def named(error: CorruptionError, place: Place) -> bool:
    return (error.store, error.database, error.key_hex) == (
        "state",
        place.database,
        place.key.hex(),
    )


@pytest.mark.parametrize("kind", list(IN_LEAF))
def test_a_flipped_bit_is_named_by_who_reads_it(damaged: Damaged, kind: str) -> None:
    """Goal: the store open, the damage fresh: store, database and key are told."""
    place = RECORDS[kind]
    damaged.on_disk(place).flip()
    errors = errors_of(damaged.state, damaged.expected)
    assert errors
    assert all(named(error, place) for error in errors)
    assert all("fails its checksum" in str(error) for error in errors)
    assert f"record {place.key.hex()} of state/{place.database}" in str(errors[0])


@pytest.mark.parametrize("kind", list(RECORDS))
def test_a_flipped_bit_is_found_at_or_after_opening(
    damaged: Damaged, kind: str
) -> None:
    """Goal: the same with the node down meanwhile."""
    place = RECORDS[kind]
    on_disk = damaged.on_disk(place)
    damaged.state.close()
    on_disk.flip()
    if kind in ("progress", "newest version"):
        with pytest.raises(CorruptionError) as caught:
            LMDBState.open(damaged.path, damaged.identity)
        assert named(caught.value, place)
        return
    state = LMDBState.open(damaged.path, damaged.identity)
    errors = errors_of(state, damaged.expected)
    state.close()
    assert errors
    assert all(named(error, place) for error in errors)


def test_a_damaged_progress_is_never_taken_on(damaged: Damaged) -> None:
    """Goal: from where to replay is not guessed: not at opening, nor by a snapshot."""
    damaged.on_disk(PROGRESS).flip()
    end_reading(damaged.state)
    with (
        pytest.raises(CorruptionError) as caught,
        damaged.state.read_view(),
    ):
        raise AssertionError("a snapshot without progress")
    assert named(caught.value, PROGRESS)
    # What is open knows its progress, and goes on.
    assert errors_of(damaged.state, damaged.expected) == []
    assert named(reopening(damaged), PROGRESS)


# ----------------------------------------------------------- bit by bit


@pytest.mark.parametrize("kind", list(IN_LEAF))
def test_no_flipped_bit_of_a_record_makes_a_wrong_answer(
    damaged: Damaged, kind: str
) -> None:
    """Goal: each bit of the key, and one of each byte of the record, in turn.

    A damaged key leads searches astray: what they do not find must not pass for absent.
    """
    place = RECORDS[kind]
    on_disk = damaged.on_disk(place)
    key_bytes, stride = len(place.key), 1
    if key_bytes > 100:
        stride = 13
    bits = [(byte, bit) for byte in range(0, key_bytes, stride) for bit in range(8)]
    length = len(on_disk.content)
    bits += [(byte, byte % 8) for byte in range(key_bytes, min(length, 160), stride)]
    bits += [(length - 1, 7)]
    for byte, bit in bits:
        with on_disk.flipped(byte, bit):
            errors = errors_of(damaged.state, damaged.expected)
        assert errors, (byte, bit)
        assert {error.store for error in errors} == {"state"}
        assert {error.database for error in errors} <= {place.database, "heads", "kv"}
    assert errors_of(damaged.state, damaged.expected) == []


def test_no_flipped_bit_of_the_progress_opens(damaged: Damaged) -> None:
    """Goal: every byte of the key and the record."""
    on_disk = damaged.on_disk(PROGRESS)
    damaged.state.close()
    for byte in range(len(on_disk.content)):
        with (
            on_disk.flipped(byte, byte % 8),
            pytest.raises(CorruptionError) as caught,
        ):
            LMDBState.open(damaged.path, damaged.identity)
        assert (caught.value.store, caught.value.database) == ("state", "meta")
    damaged.state = LMDBState.open(damaged.path, damaged.identity)


# ------------------------------------------------- pages that lead to records

_HEADER = Struct("<QHHHH")
"""Of a page: number, key size, flags, and where its table of records ends."""
_HEADER_BYTES = 16
_NODE_BYTES = 8
_BRANCH = 1


def table_of(page: bytes) -> list[int]:
    """Where the nodes of a page are, in key order."""
    _, _, _, lower, _ = _HEADER.unpack_from(page)
    return [at for (at,) in iter_unpack("<H", page[_HEADER_BYTES:lower])]


def test_a_record_that_takes_the_place_of_another_shows_in_a_range(
    damaged: Damaged,
) -> None:
    """Goal: a page's table names one record twice, so that its neighbour is gone.

    Both are whole. Their order gives it away, in either direction.
    """
    file = damaged.path / DATA_FILE
    content = content_of(damaged.state, head_of(b"b"))
    data = file.read_bytes()
    with file.open("r+b") as handle:
        for at in positions(data, content):
            page = at - at % 4096
            table = table_of(data[page : page + 4096])
            slot = table.index(at - page - _NODE_BYTES)
            handle.seek(page + _HEADER_BYTES + 2 * slot)
            handle.write(table[slot + 1].to_bytes(2, "little"))
    for order in (Range.ASCEND, Range.DESCEND):
        with pytest.raises(CorruptionError, match="out of order"):
            read_range_at_once(
                damaged.state, Range(key=ALL, range_end=ALL, sort_order=order)
            )


def test_no_flipped_bit_of_a_separator_makes_a_wrong_answer(
    tmp_path: Path, identity: Identity
) -> None:
    """Goal: the keys in branch pages, which choose the leaf, have no checksum at all.

    A search in the wrong leaf finds neighbours that are whole, but not around its key.
    """
    path, keys = tmp_path / "wide", [b"key/%04d" % n for n in range(0, 800, 2)]
    LMDBState.create(path, identity)
    state = LMDBState.open(path, identity)
    state.begin()
    apply(state, *[put(key) for key in keys])
    state.commit()
    file = path / DATA_FILE
    data = file.read_bytes()
    separators = [
        page + node + _NODE_BYTES
        for page in range(0, len(data), 4096)
        if _HEADER.unpack_from(data, page)[2] == _BRANCH
        for node in table_of(data[page : page + 4096])
        if data[page + node + _NODE_BYTES :].startswith(b"key/")
    ]
    assert len(separators) > 5
    noticed = 0
    with file.open("r+b", buffering=0) as handle:
        for at in separators:
            real = int(data[at + 4 : at + 8])
            nearby = range(max(real - 60, 0), min(real + 60, 800))
            for byte, bit in ((4, 0), (5, 0), (6, 1), (6, 3), (7, 1), (7, 7)):
                handle.seek(at + byte)
                handle.write(bytes([data[at + byte] ^ 1 << bit]))
                noticed += separator_noticed(state, nearby)
                handle.seek(at + byte)
                handle.write(data[at + byte : at + byte + 1])
    assert noticed > 5
    assert not separator_noticed(state, range(800))
    state.close()


def separator_noticed(state: LMDBState, numbers: range) -> bool:
    """Whether some read fails; none may be wrong. Only even numbers exist."""
    errors = 0
    for number in numbers:
        key = b"key/%04d" % number
        try:
            found = state.head(key) is not None
        except CorruptionError:
            errors += 1
        else:
            assert found == (number % 2 == 0), key
    expected = [b"key/%04d" % n for n in numbers if n % 2 == 0]
    low, high = b"key/%04d" % numbers.start, b"key/%04d" % numbers.stop
    for reverse in (False, True):
        try:
            keys = [key for key, _ in state.heads(low, high, reverse=reverse)]
        except CorruptionError:
            errors += 1
        else:
            assert keys == (expected[::-1] if reverse else expected)
    return errors > 0


# ------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "command",
    [
        put(b"c"),
        delete(b"c"),
        delete(b"b", b"d"),
        delete(ALL, ALL),
        txn([Compare(key=b"c", version=2)], [op(put(b"x"))]),
        txn([], [op(put(b"x")), op(Range(key=b"c"))]),
    ],
)
@pytest.mark.parametrize("part", ["key", "record"])
def test_a_command_that_meets_damage_is_not_applied(
    damaged: Damaged, command: kv_pb2.Command, part: str
) -> None:
    """Goal: the entry fails whole; neither a second life for a key nor a lost one."""
    state = damaged.state
    damaged.on_disk(head_of(b"c")).flip(0 if part == "key" else -1)
    state.begin()
    with pytest.raises(CorruptionError):
        apply(state, put(b"new"), command)
    state.abort()
    assert state.progress.revision == damaged.model.revision
    assert state.head(b"new") is None
    state.begin()
    apply(state, put(b"a"))  # what does not touch it goes on
    state.commit()


@pytest.mark.parametrize("part", ["key", "record"])
def test_a_new_key_beside_damage_is_not_created(damaged: Damaged, part: str) -> None:
    """Goal: a neighbour that is not whole might be the key itself."""
    damaged.on_disk(head_of(b"c")).flip(0 if part == "key" else -1)
    damaged.state.begin()
    with pytest.raises(CorruptionError):
        apply(damaged.state, put(b"cc"))
    damaged.state.abort()


def test_a_damaged_value_can_be_overwritten_blindly(damaged: Damaged) -> None:
    """Goal: a put needs no value but if asked for it; after it, the key is whole."""
    state = damaged.state
    damaged.on_disk(version_at(14)).flip()
    for command in (
        put(b"c", prev_kv=1),
        txn([Compare(key=b"c", value=b"c2")]),
        delete(b"c", prev_kv=True),
    ):
        state.begin()
        with pytest.raises(CorruptionError) as caught:
            apply(state, command)
        assert named(caught.value, version_at(14))
        state.abort()
    state.begin()
    apply(state, put(b"c", b"c3"))
    state.commit()
    assert read_range_at_once(state, Range(key=b"c")).kvs[0].value == b"c3"


@pytest.mark.parametrize("revision", [6, 7, 12])
def test_compaction_passes_no_damaged_version(damaged: Damaged, revision: int) -> None:
    """Goal: what it frees is named by records; a damaged one must not choose."""
    damaged.on_disk(version_at(revision)).flip()
    damaged.state.begin()
    with pytest.raises(CorruptionError) as caught:
        apply(damaged.state, compact(14), step())
    damaged.state.abort()
    assert named(caught.value, version_at(revision))


def test_a_damaged_end_of_history_is_not_our_bug(damaged: Damaged) -> None:
    """Goal: a last version that seems to lie in the future is refused as damage."""
    damaged.on_disk(version_at(14)).flip(0, 6)  # of the revision, the highest byte
    damaged.state.begin()
    with pytest.raises(CorruptionError) as caught:
        apply(damaged.state, put(b"new"))
    damaged.state.abort()
    assert caught.value.database == "kv"


def test_an_append_out_of_order_is_our_bug(damaged: Damaged) -> None:
    """Goal: on a whole store the same refusal can only be a defect."""
    state = damaged.state
    at, version = next(state.versions(VersionId(Revision(14), 0)))
    state.begin()
    with pytest.raises(AssertionError, match="does not follow"):
        state.append_version(at, version)
    state.abort()


# ----------------------------------------------------------- whole but wrong


def reopening(damaged: Damaged) -> CorruptionError:
    with pytest.raises(CorruptionError) as caught:
        damaged.reopen()
    return caught.value


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
    error = reopening(damaged)
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
    error = reopening(damaged)
    assert named(error, PROGRESS)
    assert (error.expected, error.actual) == ("14", "15")


def test_a_history_older_than_its_progress_is_refused(damaged: Damaged) -> None:
    """Goal: what was applied must be there."""
    change(damaged.state, version_at(14), None)
    error = reopening(damaged)
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
    assert "wrong length" in str(reopening(damaged))


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


# ------------------------------------------------------------- what LMDB says


@pytest.mark.parametrize("kind", [lmdb.CorruptedError, lmdb.BadDbiError])
def test_damage_that_lmdb_finds_is_damage_of_the_store(
    damaged: Damaged, monkeypatch: pytest.MonkeyPatch, kind: type[lmdb.Error]
) -> None:
    """Goal: LMDB's own exceptions never come out, whatever is read."""
    state = damaged.state

    def fail(*_args: object, **_more: object) -> None:
        raise kind("mdb_get")

    monkeypatch.setattr(StateCodecs, "decode_head", fail)
    monkeypatch.setattr(StateCodecs, "decode_version", fail)
    reader = state._reader
    for name in ("check_absent", "heads", "version", "versions"):
        monkeypatch.setattr(type(reader), name, fail)
    with pytest.raises(CorruptionError, match="the state store"):
        state.head(b"zz")
    with pytest.raises(CorruptionError, match="the state store"):
        list(state.heads(b"", None))
    with pytest.raises(CorruptionError, match="the state store"):
        state.version(VersionId(Revision(14), 0))
    with pytest.raises(CorruptionError, match="the state store"):
        list(state.versions(NO_VERSION))
    end_reading(state)
    with (
        pytest.raises(CorruptionError, match="the state store"),
        state.read_view() as view,
    ):
        view.version(VersionId(Revision(14), 0))
