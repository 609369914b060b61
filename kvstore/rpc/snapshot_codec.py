"""What stands in a stream of ``Peer.Snapshot``: a header, chunks, and the answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError

from kvstore.errors import CorruptionError, InvalidRequest
from kvstore.pb import peer_pb2
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import EntryId, Snapshot
from kvstore.types import (
    CLUSTER_ID_BYTES,
    ClusterId,
    Epoch,
    LogIndex,
    Revision,
    Term,
)

SNAPSHOT_ID_BYTES_MAX = 64

Crc = Callable[[bytes, int], int]
"""``storage.checksum.crc32c``: CRC-32C of data that follows what gave the seed."""

_CHUNK_TAG = b"\x12"  # SnapshotFrame.chunk: field 2, length-delimited
_DATA_TAG = b"\x12"  # SnapshotChunk.data: the same


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotHeader:
    """What a snapshot is, and who sends it in which term."""

    snapshot_id: bytes
    """Names these very bytes: two exports of one state may differ (M34)."""
    last: EntryId
    """The last entry whose effects it contains."""
    chain: bytes
    """Of the log at that entry."""
    configuration: bytes
    """Encoded, as of that entry."""
    revision: Revision
    epoch: Epoch
    state_id: ClusterId
    """What the checksums of its records cover."""
    size_bytes: int
    term: Term
    """The sender's, who leads in it."""
    format_version: int
    """Of the records."""

    @property
    def snapshot(self) -> Snapshot:
        """As the core knows it."""
        return Snapshot(last=self.last, configuration=self.configuration)


class SnapshotChunk(NamedTuple):
    """A piece of a snapshot, checked."""

    offset: int
    data: bytes


class Progress(NamedTuple):
    """How far a receiver is."""

    received_bytes: int
    complete: bool


class SnapshotCodec:
    """Turns all of it into bytes and back."""

    __slots__ = ("_crc",)

    def __init__(self, *, crc: Crc) -> None:
        self._crc = crc

    def encode_header(self, header: SnapshotHeader) -> bytes:
        """The first frame of a stream."""
        wire = peer_pb2.SnapshotHeader(
            snapshot_id=header.snapshot_id,
            last_index=header.last.index,
            last_term=header.last.term,
            chain=header.chain,
            configuration=header.configuration,
            revision=header.revision,
            epoch=header.epoch,
            state_id=header.state_id,
            size_bytes=header.size_bytes,
            term=header.term,
            format_version=header.format_version,
        )
        return peer_pb2.SnapshotFrame(header=wire).SerializeToString()

    def decode_header(self, frame: bytes) -> SnapshotHeader:
        """Read back what :meth:`encode_header` made.

        Raises:
            InvalidRequest: it is no header, or one that makes no sense. Definite.
        """
        wire = _frame(frame, "header").header
        sensible = (
            0 < len(wire.snapshot_id) <= SNAPSHOT_ID_BYTES_MAX
            and len(wire.state_id) == CLUSTER_ID_BYTES
            and 0 < wire.last_term <= wire.term
            and wire.last_index > 0
            and wire.revision >= 0
            and wire.size_bytes > 0
        )
        if not sensible:
            raise InvalidRequest("the header of a snapshot makes no sense")
        try:
            Configuration.decode(wire.configuration)
        except CorruptionError as error:
            raise InvalidRequest("a snapshot has no readable configuration") from error
        return SnapshotHeader(
            snapshot_id=wire.snapshot_id,
            last=EntryId(Term(wire.last_term), LogIndex(wire.last_index)),
            chain=wire.chain,
            configuration=wire.configuration,
            revision=Revision(wire.revision),
            epoch=Epoch(wire.epoch),
            state_id=ClusterId(wire.state_id),
            size_bytes=wire.size_bytes,
            term=Term(wire.term),
            format_version=wire.format_version,
        )

    def encode_chunk(self, snapshot_id: bytes, offset: int, data: bytes) -> bytes:
        """A frame of data.

        Put together by hand: protobuf would copy the data three times, and to copy
        is most of what a transfer costs.
        """
        head = peer_pb2.SnapshotChunk(
            offset=offset, crc=self._chunk_crc(snapshot_id, offset, data)
        ).SerializeToString()
        head += _DATA_TAG + _varint(len(data))
        return b"".join((_CHUNK_TAG, _varint(len(head) + len(data)), head, data))

    def decode_chunk(self, snapshot_id: bytes, frame: bytes) -> SnapshotChunk:
        """Read back what :meth:`encode_chunk` made for the same snapshot.

        Raises:
            InvalidRequest: it is no chunk. Definite.
            CorruptionError: it fails its checksum, or is of another snapshot.
        """
        wire = _frame(frame, "chunk").chunk
        data = wire.data
        actual = self._chunk_crc(snapshot_id, wire.offset, data)
        if actual != wire.crc:
            raise CorruptionError(
                f"{len(data)} bytes of a snapshot at {wire.offset} do not match their "
                "checksum",
                store="network",
                database="snapshot",
                key_hex=f"{wire.offset:016x}",
                expected=f"{wire.crc:08x}",
                actual=f"{actual:08x}",
            )
        return SnapshotChunk(wire.offset, data)

    def _chunk_crc(self, snapshot_id: bytes, offset: int, data: bytes) -> int:
        place = snapshot_id + offset.to_bytes(8, "big")
        return self._crc(data, self._crc(place, 0))


def encode_progress(received_bytes: int, *, complete: bool = False) -> bytes:
    """An answer of the receiver's."""
    return peer_pb2.SnapshotProgress(
        received_bytes=received_bytes, complete=complete
    ).SerializeToString()


def decode_progress(answer: bytes) -> Progress:
    """Read back what :func:`encode_progress` made.

    Raises:
        InvalidRequest: it is none. Definite.
    """
    try:
        wire = peer_pb2.SnapshotProgress.FromString(answer)
    except DecodeError as error:
        raise InvalidRequest(f"not an answer to a snapshot: {error}") from error
    return Progress(wire.received_bytes, wire.complete)


def _frame(frame: bytes, kind: str) -> peer_pb2.SnapshotFrame:
    try:
        wire = peer_pb2.SnapshotFrame.FromString(frame)
    except DecodeError as error:
        raise InvalidRequest(f"not a frame of a snapshot: {error}") from error
    if wire.WhichOneof("frame") != kind:
        raise InvalidRequest(
            f"the {kind} of a snapshot is missing: {wire.WhichOneof('frame')} came"
        )
    return wire


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
