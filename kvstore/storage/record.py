"""The format of a record on disk, and the only code that reads or writes it.

A value in LMDB is (all numbers big-endian, so that a dump reads naturally)::

    offset  size
         0     1  ver       format version, FORMAT_VERSION
         1     1  type      RecordType
         2     2  flags     bit 0: block checksums follow the body
         4     4  crc       CRC-32C, see below
         8     8  term      which version of the thing this is: what the two numbers
        16     8  index     mean is the database's choice
        24     4  body_len  bytes of body, without the block checksums
        28     n  body
      28+n  4*b  CRC-32C of each 64 KiB of body; only with flag bit 0, which is set
                  exactly if the body is longer than 64 KiB

``crc`` covers ``cluster_id(16) | node_id u64 | "store/database" 0x00 | key | value
without crc``. With the place in it, a whole record that turns up at another key, in
another database or on another node's disk is as visible as a flipped bit. (Records of
the state are the same on all members: theirs have node 0, ``Identity.state_owner``.) It
cannot show that a whole *older* record stands here (a lost write); the log's header
chain does that for the log.

Every later format keeps ``ver`` first and ``crc`` at 4 with this coverage, so that a
newer record is told from a damaged one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from kvstore.errors import CorruptionError, NewerFormat
from kvstore.replica.interfaces import Identity
from kvstore.storage import checksum
from kvstore.types import CLUSTER_ID_BYTES

FORMAT_VERSION = 1
HEADER_BYTES = 28
BLOCK_BYTES = 64 * 1024
"""A CRC-32C keeps its full error detection up to about this length."""
BODY_BYTES_MAX = 2**31 - 1
"""LMDB's own limit for a value is 4 GiB; half of it leaves room for everything else."""


class RecordType(IntEnum):
    """What a body is. Values are stored: never renumber, never reuse."""

    LOG_ENTRY = 1
    """A Raft log entry: kind u8, then the entry's data."""
    LOG_HEADER = 2
    """What identifies a log entry, kept away from the entry itself."""
    HARD_STATE = 3
    """Term, vote and the end of the log."""
    META = 4
    """A fact about a whole store."""
    CONFIGURATION = 5
    """Which entry of the log is a configuration."""
    VERSION = 16
    """One change of one key."""
    HEAD = 17
    """The newest version of one key, without its value."""
    PROGRESS = 18
    """How far the state has been applied."""
    LEASE = 19
    """A lease that keys are attached to."""
    SESSION = 20
    """A client's session, with the replies that it may ask for again."""


class Record(NamedTuple):
    """A record that passed every check."""

    type: RecordType
    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One damaged record, as reported by opening a store or by the scrubber."""

    store: str
    database: str
    key_hex: str
    what: str
    """For an operator: what is wrong, and what was done about it if anything was."""


# ver, type and flags are read as one: a table lookup then checks all three.
_HEADER = Struct(">4sIQQI")
_HEAD = Struct(">BBH")
_VERSIONED = Struct(">QQI")
_ENTRY = Struct(">QQB")
_CRC = Struct(">I")
_FLAG_BLOCKS = 1
assert _HEADER.size == HEADER_BYTES

_PLAIN_HEADS = {t: _HEAD.pack(FORMAT_VERSION, t, 0) for t in RecordType}
_BLOCK_HEADS = {t: _HEAD.pack(FORMAT_VERSION, t, _FLAG_BLOCKS) for t in RecordType}


def entry_crc(term: int, index: int, kind: int, data: bytes) -> int:
    """CRC-32C that identifies a log entry on every node.

    It covers ``term u64 | index u64 | kind u8 | data``, travels with the entry
    (``PeerEntry.crc``) and is kept in its header.
    """
    return checksum.crc32c(_ENTRY.pack(term, index, kind) + data)


class RecordCodec:
    """Encodes and checks the records of one database of one node."""

    __slots__ = (
        "_expected",
        "_extend",
        "_prefix_crc",
        "_types",
        "database",
        "store",
    )

    def __init__(
        self,
        identity: Identity,
        store: str,
        database: str,
        expected: RecordType | None = None,
    ) -> None:
        """``expected``: the only type this database holds; any other is corruption.

        Raises:
            ConfigError: no verified CRC-32C. Definite.
        """
        assert len(identity.cluster_id) == CLUSTER_ID_BYTES
        assert store, "the store must be named"
        assert database, "the database must be named"
        assert "\0" not in store + database
        self.store = store
        self.database = database
        self._expected = expected
        self._extend = checksum.verified()
        place = f"{store}/{database}".encode() + b"\0"
        self._prefix_crc = self._extend(
            0, identity.cluster_id + identity.node_id.to_bytes(8, "big") + place
        )
        types = tuple(RecordType) if expected is None else (expected,)
        self._types = {_PLAIN_HEADS[record_type]: record_type for record_type in types}

    def encode(
        self,
        key: bytes,
        *,
        record_type: RecordType,
        term: int,
        index: int,
        body: bytes,
    ) -> bytes:
        """The value to store under ``key``."""
        length = len(body)
        if length > BLOCK_BYTES:
            return self._encode_blocks(key, record_type, term, index, body)
        assert self._expected is None or record_type is self._expected
        head = _PLAIN_HEADS[record_type]
        rest = _VERSIONED.pack(term, index, length) + body
        crc = self._extend(self._prefix_crc, key + head + rest)
        return head + crc.to_bytes(4, "big") + rest

    def decode(self, key: bytes, value: bytes) -> Record:
        """The record stored as ``value`` under ``key``.

        Raises:
            CorruptionError: it is damaged, or does not belong here.
            NewerFormat: it is whole, but a newer kvstore wrote it.
        """
        if len(value) >= HEADER_BYTES:
            head, crc, term, index, length = _HEADER.unpack_from(value)
            if self._extend(self._prefix_crc, key + head + value[8:]) == crc:
                record_type = self._types.get(head)
                if record_type is not None and len(value) == HEADER_BYTES + length:
                    return Record(record_type, term, index, value[HEADER_BYTES:])
        return self._decode_rare(key, value)

    def body(self, key: bytes, value: bytes) -> bytes:
        """The body alone, checked as by :meth:`decode`; a little faster."""
        if len(value) >= HEADER_BYTES:
            head, crc, _, _, length = _HEADER.unpack_from(value)
            if (
                self._extend(self._prefix_crc, key + head + value[8:]) == crc
                and head in self._types
                and len(value) == HEADER_BYTES + length
            ):
                return value[HEADER_BYTES:]
        return self._decode_rare(key, value).body

    def corruption(
        self, key: bytes, what: str, *, expected: object = "", actual: object = ""
    ) -> CorruptionError:
        """The error for a record of this database; ``what`` completes "record …"."""
        shown = key.hex()
        return CorruptionError(
            f"record {shown} of {self.store}/{self.database} {what}",
            store=self.store,
            database=self.database,
            key_hex=shown,
            expected=str(expected),
            actual=str(actual),
        )

    def _encode_blocks(
        self, key: bytes, record_type: RecordType, term: int, index: int, body: bytes
    ) -> bytes:
        assert self._expected is None or record_type is self._expected
        assert BLOCK_BYTES < len(body) <= BODY_BYTES_MAX
        head = _BLOCK_HEADS[record_type]
        rest = b"".join(
            (_VERSIONED.pack(term, index, len(body)), body, *_block_crcs(body))
        )
        crc = self._extend(self._prefix_crc, key + head + rest)
        return head + crc.to_bytes(4, "big") + rest

    def _decode_rare(self, key: bytes, value: bytes) -> Record:
        """Everything but a short, whole record: long ones, newer ones, damaged ones."""
        if len(value) < HEADER_BYTES:
            raise self.corruption(
                key,
                f"is cut short at {len(value)} bytes",
                expected=f">= {HEADER_BYTES} bytes",
                actual=f"{len(value)} bytes",
            )
        head, crc, term, index, length = _HEADER.unpack_from(value)
        version, type_number, flags = _HEAD.unpack(head)
        actual = self._extend(self._prefix_crc, key + head + value[8:])
        if actual != crc:
            raise self.corruption(
                key,
                "fails its checksum" + self._damaged_blocks(flags, length, value),
                expected=f"crc {crc:#010x}",
                actual=f"crc {actual:#010x}",
            )
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"record {key.hex()} of {self.store}/{self.database} has format "
                f"{version}, this kvstore reads up to {FORMAT_VERSION}: "
                "run the kvstore version that wrote it, or a newer one"
            )
        # From here on a whole record with a valid checksum says something impossible:
        # it was written by a defective program, or belongs to another database.
        if version != FORMAT_VERSION or flags & ~_FLAG_BLOCKS:
            raise self.corruption(key, "has an unknown format", actual=head.hex())
        record_type = self._types.get(_HEAD.pack(version, type_number, 0))
        if record_type is None:
            wanted = "a known type" if self._expected is None else self._expected.name
            raise self.corruption(
                key,
                "has the wrong type",
                expected=wanted,
                actual=f"type {type_number}",
            )
        body = value[HEADER_BYTES : HEADER_BYTES + length]
        if bool(flags & _FLAG_BLOCKS) != (length > BLOCK_BYTES) or len(body) != length:
            raise self.corruption(
                key, "has a wrong length", expected=length, actual=len(body)
            )
        table = b"".join(_block_crcs(body)) if flags & _FLAG_BLOCKS else b""
        if value[HEADER_BYTES + length :] != table:
            raise self.corruption(
                key,
                "has damaged block checksums or trailing bytes",
                expected=f"{len(table)} bytes",
                actual=f"{len(value) - HEADER_BYTES - length} bytes",
            )
        return Record(record_type, term, index, body)

    def _damaged_blocks(self, flags: int, length: int, value: bytes) -> str:
        """Which 64 KiB blocks differ, for the error message; empty if not known."""
        if not flags & _FLAG_BLOCKS or not BLOCK_BYTES < length < len(value):
            return ""
        body = value[HEADER_BYTES : HEADER_BYTES + length]
        stored = value[HEADER_BYTES + length :]
        damaged = [
            str(number)
            for number, crc in enumerate(_block_crcs(body))
            if stored[4 * number : 4 * number + 4] != crc
        ]
        return f" in 64 KiB block(s) {', '.join(damaged)}" if damaged else ""


def _block_crcs(body: bytes) -> Iterable[bytes]:
    extend = checksum.verified()
    for start in range(0, len(body), BLOCK_BYTES):
        yield _CRC.pack(extend(0, body[start : start + BLOCK_BYTES]))
