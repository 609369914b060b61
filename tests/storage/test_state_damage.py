"""One flipped bit, anywhere in any record of the state: never a wrong answer.

The bit is flipped in the file, beneath LMDB, which has no checksums of its own.
"""

from pathlib import Path
from struct import Struct, iter_unpack

import lmdb
import pytest

from kvstore.errors import CorruptionError
from kvstore.pb import kv_pb2
from kvstore.replica.interfaces import Identity
from kvstore.state_machine.reads import read_range_at_once
from kvstore.state_machine.view import NO_VERSION, VersionId
from kvstore.storage.environment import DATA_FILE
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.state_format import StateCodecs
from kvstore.types import Revision
from tests.state_machine.model import (
    ALL,
    apply,
    compact,
    delete,
    op,
    put,
    step,
    txn,
)
from tests.storage.damage import positions
from tests.storage.state_store import (
    PROGRESS,
    RECORDS,
    Damaged,
    content_of,
    end_reading,
    errors_of,
    head_of,
    named,
    version_at,
)

Range = kv_pb2.Range
Compare = kv_pb2.Compare
IN_LEAF = {name: place for name, place in RECORDS.items() if place != PROGRESS}


def test_the_undamaged_store_answers_everything(damaged: Damaged) -> None:
    """Goal: what the other tests compare with is what the model says."""
    assert errors_of(damaged.state, damaged.expected) == []
    assert len(damaged.expected) > 50


# ------------------------------------------------------------------- by kind


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
    assert named(damaged.refusal(), PROGRESS)


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
