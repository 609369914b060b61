"""The record format: what is written comes back, and nothing else passes for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import CorruptionError, NewerFormat
from kvstore.replica.interfaces import Identity
from kvstore.storage.checksum import crc32c
from kvstore.storage.record import (
    BLOCK_BYTES,
    FORMAT_VERSION,
    HEADER_BYTES,
    Record,
    RecordCodec,
    RecordType,
    entry_crc,
)
from kvstore.types import ClusterId, NodeId

IDENTITY = Identity(cluster_id=ClusterId(b"c" * 16), node_id=NodeId(1))
CODEC = RecordCodec(IDENTITY, "raft", "log", RecordType.LOG_ENTRY)
KEY = (5).to_bytes(8, "big")
U64 = st.integers(0, 2**64 - 1)


def encode(body: bytes, *, key: bytes = KEY) -> bytes:
    return CODEC.encode(
        key, record_type=RecordType.LOG_ENTRY, term=3, index=5, body=body
    )


@given(
    key=st.binary(min_size=1, max_size=64),
    record_type=st.sampled_from(RecordType),
    term=U64,
    index=U64,
    body=st.binary(max_size=400),
)
def test_record_comes_back_as_written(
    key: bytes, record_type: RecordType, term: int, index: int, body: bytes
) -> None:
    """Goal: encode and decode are inverse for every record."""
    codec = RecordCodec(IDENTITY, "state", "any")
    value = codec.encode(
        key, record_type=record_type, term=term, index=index, body=body
    )
    assert codec.decode(key, value) == Record(record_type, term, index, body)
    assert codec.body(key, value) == body


@pytest.mark.parametrize(
    "length",
    [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 200_001],
)
def test_long_record_comes_back_as_written(length: int) -> None:
    """Goal: block checksums appear exactly above 64 KiB, and change nothing else."""
    body = bytes(range(251)) * (length // 251 + 1)
    value = encode(body[:length])
    assert CODEC.decode(KEY, value) == Record(RecordType.LOG_ENTRY, 3, 5, body[:length])
    assert CODEC.body(KEY, value) == body[:length]
    blocks = -(-length // BLOCK_BYTES) if length > BLOCK_BYTES else 0
    assert len(value) == HEADER_BYTES + length + 4 * blocks


def test_stored_bytes_do_not_change_between_releases() -> None:
    """Goal: the format is a promise; this record was written by the first release."""
    expected = "0101000048b4abd7000000000000000300000000000000050000000568656c6c6f"
    assert encode(b"hello").hex() == expected
    coverage = b"c" * 16 + (1).to_bytes(8, "big") + b"raft/log\0" + KEY
    value = bytes.fromhex(expected)
    crc = crc32c(coverage + value[:4] + value[8:])
    assert value[4:8] == crc.to_bytes(4, "big")


def test_any_flipped_bit_of_record_or_key_is_corruption() -> None:
    """Goal: no single bit goes unnoticed; all of them are tried."""
    value = encode(b"some body")
    for bit in range(8 * len(value)):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        for read in (CODEC.decode, CODEC.body):
            with pytest.raises(CorruptionError):
                read(KEY, bytes(damaged))
    for bit in range(8 * len(KEY)):
        key = bytearray(KEY)
        key[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            CODEC.decode(bytes(key), value)


@pytest.mark.parametrize("where", [0, HEADER_BYTES, HEADER_BYTES + BLOCK_BYTES, -1])
def test_flipped_bit_of_a_long_record_is_corruption(where: int) -> None:
    """Goal: as above, in header, first block, last block and block checksums."""
    damaged = bytearray(encode(b"x" * (BLOCK_BYTES + 10)))
    damaged[where] ^= 0x10
    with pytest.raises(CorruptionError):
        CODEC.decode(KEY, bytes(damaged))


def test_damaged_block_is_named() -> None:
    """Goal: whoever repairs a long record learns which part of it to fetch."""
    damaged = bytearray(encode(b"x" * (3 * BLOCK_BYTES)))
    damaged[HEADER_BYTES + BLOCK_BYTES + 7] ^= 1
    with pytest.raises(CorruptionError, match=r"in 64 KiB block\(s\) 1$"):
        CODEC.decode(KEY, bytes(damaged))


@given(cut=st.integers(0, HEADER_BYTES + 8))
def test_truncated_record_is_corruption(cut: int) -> None:
    """Goal: bounds are checked before anything is believed."""
    with pytest.raises(CorruptionError):
        CODEC.decode(KEY, encode(b"some body")[:cut])


@given(garbage=st.binary(min_size=1, max_size=40))
def test_trailing_garbage_is_corruption(garbage: bytes) -> None:
    """Goal: a record ends where it says."""
    with pytest.raises(CorruptionError):
        CODEC.decode(KEY, encode(b"some body") + garbage)


@given(value=st.binary(max_size=80))
def test_noise_is_corruption(value: bytes) -> None:
    """Goal: no input makes the decoder fail in any other way."""
    with pytest.raises(CorruptionError):
        CODEC.decode(KEY, value)


@pytest.mark.parametrize(
    "elsewhere",
    [
        RecordCodec(IDENTITY, "raft", "hdr", RecordType.LOG_ENTRY),
        RecordCodec(IDENTITY, "state", "log", RecordType.LOG_ENTRY),
        RecordCodec(
            Identity(cluster_id=IDENTITY.cluster_id, node_id=NodeId(2)),
            "raft",
            "log",
            RecordType.LOG_ENTRY,
        ),
        RecordCodec(
            Identity(cluster_id=ClusterId(b"d" * 16), node_id=NodeId(1)),
            "raft",
            "log",
            RecordType.LOG_ENTRY,
        ),
    ],
    ids=["database", "store", "node", "cluster"],
)
def test_whole_record_in_another_place_is_corruption(elsewhere: RecordCodec) -> None:
    """Goal: a misdirected write shows though the record itself is whole."""
    with pytest.raises(CorruptionError):
        elsewhere.decode(KEY, encode(b"some body"))
    with pytest.raises(CorruptionError):
        CODEC.decode((6).to_bytes(8, "big"), encode(b"some body"))


def forge(head: bytes, rest: bytes) -> bytes:
    """A record with a valid checksum, whatever it says."""
    coverage = b"c" * 16 + (1).to_bytes(8, "big") + b"raft/log\0" + KEY
    return head + crc32c(coverage + head + rest).to_bytes(4, "big") + rest


def test_newer_format_is_told_from_damage() -> None:
    """Goal: after a downgrade the operator is not sent to replace the disk."""
    rest = encode(b"some body")[8:]
    with pytest.raises(NewerFormat, match="has format 2, this kvstore reads up to 1"):
        CODEC.decode(KEY, forge(bytes([FORMAT_VERSION + 1, 1, 0, 0]), rest))


@pytest.mark.parametrize(
    ("head", "rest", "what"),
    [
        (b"\0\1\0\0", encode(b"body")[8:], "unknown format"),
        (b"\1\1\0\2", encode(b"body")[8:], "unknown format"),
        (b"\1\xee\0\0", encode(b"body")[8:], "wrong type"),
        (b"\1\2\0\0", encode(b"body")[8:], "wrong type"),
        (b"\1\1\0\1", encode(b"body")[8:], "wrong length"),
        (b"\1\1\0\0", encode(b"body")[8:-1], "wrong length"),
        (b"\1\1\0\0", encode(b"body")[8:] + b"x", "trailing bytes"),
        (b"\1\1\0\1", encode(b"b" * 70_000)[8:-4], "damaged block"),
    ],
)
def test_valid_checksum_does_not_excuse_nonsense(
    head: bytes, rest: bytes, what: str
) -> None:
    """Goal: what a defective writer signed is refused all the same."""
    with pytest.raises(CorruptionError, match=what):
        CODEC.decode(KEY, forge(head, rest))
    with pytest.raises(CorruptionError, match=what):
        CODEC.body(KEY, forge(head, rest))


def test_error_names_the_place_and_both_checksums() -> None:
    """Goal: an operator can find the record, a tool can read the fields."""
    value = encode(b"some body")
    with pytest.raises(CorruptionError) as caught:
        CODEC.decode(KEY, value[:-1] + b"?")
    assert "record 0000000000000005 of raft/log fails its checksum" in str(caught.value)
    details = caught.value.details()
    assert details["store"] == "raft"
    assert details["database"] == "log"
    assert details["key_hex"] == KEY.hex()
    assert details["expected"] == f"crc 0x{value[4:8].hex()}"
    assert details["actual"].startswith("crc 0x")
    assert details["actual"] != details["expected"]


def test_entry_crc_covers_everything_that_identifies_an_entry() -> None:
    """Goal: it is the same on every node, and differs if anything in the entry does."""
    crcs = {
        entry_crc(1, 2, 1, b"data"),
        entry_crc(2, 2, 1, b"data"),
        entry_crc(1, 3, 1, b"data"),
        entry_crc(1, 2, 0, b"data"),
        entry_crc(1, 2, 1, b"datb"),
    }
    assert len(crcs) == 5
    wire = (1).to_bytes(8, "big") + (2).to_bytes(8, "big") + b"\x01data"
    assert entry_crc(1, 2, 1, b"data") == crc32c(wire)
