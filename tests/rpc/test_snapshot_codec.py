"""Frames of a snapshot, there and back."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import CorruptionError, InvalidRequest
from kvstore.pb import peer_pb2
from kvstore.rpc.snapshot_codec import (
    SnapshotCodec,
    decode_progress,
    encode_progress,
)
from kvstore.storage.checksum import crc32c
from tests.rpc.snapshots import HEADER

CODEC = SnapshotCodec(crc=crc32c)
ID = b"one export"


def test_a_header_reads_back() -> None:
    assert CODEC.decode_header(CODEC.encode_header(HEADER)) == HEADER


@pytest.mark.parametrize(
    "change",
    [
        {"snapshot_id": b""},
        {"snapshot_id": b"x" * 65},
        {"state_id": b"short"},
        {"size_bytes": 0},
        {"term": 0},
        {"term": HEADER.last.term - 1},
        {"revision": -1},
        {"configuration": b"{"},
    ],
)
def test_a_header_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    frame = CODEC.encode_header(replace(HEADER, **change))
    with pytest.raises(InvalidRequest):
        CODEC.decode_header(frame)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=300), st.integers(1, 100))
def test_a_chunk_reads_back_and_is_what_protobuf_says(
    offset: int, piece: bytes, times: int
) -> None:
    """The frame is put together by hand, for every length of a varint."""
    data = piece * times
    frame = CODEC.encode_chunk(ID, offset, data)
    assert CODEC.decode_chunk(ID, frame) == (offset, data)
    wire = peer_pb2.SnapshotFrame.FromString(frame)
    assert wire.chunk.crc == crc32c(ID + offset.to_bytes(8, "big") + data)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_152])
def test_lengths_at_the_edges_of_a_varint(size: int) -> None:
    data = bytes(size)
    assert CODEC.decode_chunk(ID, CODEC.encode_chunk(ID, size, data)) == (size, data)


@given(st.data())
def test_no_damaged_chunk_passes(data: st.DataObject) -> None:
    """Nor one of another snapshot (M34)."""
    frame = bytearray(CODEC.encode_chunk(ID, 7 << 20, b"some data of a snapshot"))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((CorruptionError, InvalidRequest)):
        CODEC.decode_chunk(ID, bytes(frame))


def test_a_chunk_of_another_snapshot_is_refused() -> None:
    frame = CODEC.encode_chunk(ID, 0, b"data")
    with pytest.raises(CorruptionError):
        CODEC.decode_chunk(b"another export", frame)


def test_frames_are_not_taken_for_one_another() -> None:
    header, chunk = CODEC.encode_header(HEADER), CODEC.encode_chunk(ID, 0, b"data")
    with pytest.raises(InvalidRequest, match="header"):
        CODEC.decode_header(chunk)
    with pytest.raises(InvalidRequest, match="chunk"):
        CODEC.decode_chunk(ID, header)
    for garbage in (b"\xff\xff\xff", b""):
        with pytest.raises(InvalidRequest):
            CODEC.decode_header(garbage)


def test_progress_reads_back() -> None:
    assert decode_progress(encode_progress(0)) == (0, False)
    assert decode_progress(encode_progress(1 << 40, complete=True)) == (1 << 40, True)
    with pytest.raises(InvalidRequest):
        decode_progress(b"\xff\xff\xff")
