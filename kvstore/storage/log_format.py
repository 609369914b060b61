"""What the Raft store's records say: bodies, and how they are linked.

Five databases, each a B-tree of its own, so that no single page holds both a fact and
the fact that proves it:

``log``
    index -> entry: ``kind u8 | data``.
``hdr``
    index -> header: ``term u64 | previous term u64 | entry crc u32 | chain(16)``. The
    entry crc is ``record.entry_crc``. ``chain`` is ``blake2b-16(previous chain | term
    u64 | index u64 | entry crc u32)``: it names the whole log up to here, so that an
    older but whole record, which its own checksum cannot betray, does not fit.
``hs_a``, ``hs_b``
    the hard state, twice, written in one transaction: ``term u64 | vote u64 | sequence
    u64 | mode u8 | last index u64 | last term u64 | last chain(16)``. Vote 0 is none.
    With the end of the log in it, a lost tail is told from one never written.
``meta``
    ``base``: what precedes the first entry held: ``index u64 | term u64 | chain(16)``.

All numbers are big-endian, and keys of entries are the index as u64: key order is log
order. Record ``term`` and ``index`` are the entry's; for a hard state, its term and
sequence.
"""

from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from kvstore.errors import CorruptionError, NewerFormat
from kvstore.raft.messages import Entry, EntryKind, HardState
from kvstore.replica.interfaces import Identity
from kvstore.storage.record import RecordCodec, RecordType, entry_crc
from kvstore.types import LogIndex, NodeId, Term

STORE = "raft"
LOG = "log"
HEADERS = "hdr"
HARD_STATES = ("hs_a", "hs_b")
META = "meta"
DATABASES = (LOG, HEADERS, *HARD_STATES, META)

HARD_STATE_KEY = b"hard_state"
BASE_KEY = b"base"

CHAIN_BYTES = 16
EMPTY_CHAIN = bytes(CHAIN_BYTES)
MODE_NORMAL = 0
"""The only mode so far. Others will mark a member that lost promises."""

_HEADER = Struct(">QQI16s")
_LINK = Struct(">16sQQI")
_HARD_STATE = Struct(">QQQBQQ16s")
_BASE = Struct(">QQ16s")
_KINDS = {int(kind): kind for kind in EntryKind}


class Header(NamedTuple):
    """What identifies the entry at an index, and the log before it."""

    term: int
    previous_term: int
    crc: int
    chain: bytes


class LogEnd(NamedTuple):
    """An end of the log: the last entry that is held, or what precedes the first."""

    last: int
    """Index of the entry; 0 before the log."""
    term: int
    chain: bytes


class StoredHardState(NamedTuple):
    """Everything that a hard state record says."""

    hard_state: HardState
    sequence: int
    """Number of the append that wrote it, from 1."""
    end: LogEnd


def entry_key(index: int) -> bytes:
    """Key of an entry and of its header."""
    return index.to_bytes(8, "big")


def link(previous_chain: bytes, term: int, index: int, crc: int) -> bytes:
    """The chain value of the entry that follows ``previous_chain``."""
    return blake2b(
        _LINK.pack(previous_chain, term, index, crc), digest_size=CHAIN_BYTES
    ).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCodecs:
    """The codecs of the five databases, and the bodies on top of them.

    Every ``decode_`` method raises ``CorruptionError`` for a record that is damaged or
    says what cannot be, and ``NewerFormat`` for one from a newer kvstore.
    """

    log: RecordCodec
    headers: RecordCodec
    hard_states: tuple[RecordCodec, ...]
    meta: RecordCodec

    @classmethod
    def of(cls, identity: Identity) -> "LogCodecs":
        return cls(
            log=RecordCodec(identity, STORE, LOG, RecordType.LOG_ENTRY),
            headers=RecordCodec(identity, STORE, HEADERS, RecordType.LOG_HEADER),
            hard_states=tuple(
                RecordCodec(identity, STORE, name, RecordType.HARD_STATE)
                for name in HARD_STATES
            ),
            meta=RecordCodec(identity, STORE, META, RecordType.META),
        )

    def encode_entry(self, entry: Entry) -> bytes:
        return self.log.encode(
            entry_key(entry.index),
            record_type=RecordType.LOG_ENTRY,
            term=entry.term,
            index=entry.index,
            body=entry.kind.to_bytes(1, "big") + entry.data,
        )

    def decode_entry(self, index: int, value: bytes, header: Header) -> Entry:
        """The entry stored at ``index``, if it is the one of ``header``."""
        key = entry_key(index)
        record = self.log.decode(key, value)
        kind = _KINDS.get(record.body[0]) if record.body else None
        if kind is None or record.index != index:
            raise self.log.corruption(key, "is not an entry of this index")
        data = record.body[1:]
        crc = entry_crc(record.term, index, kind, data)
        if record.term != header.term or crc != header.crc:
            raise self.log.corruption(
                key,
                "is not the entry that its header names",
                expected=f"term {header.term}, crc {header.crc:#010x}",
                actual=f"term {record.term}, crc {crc:#010x}",
            )
        return Entry(Term(record.term), LogIndex(index), kind, data)

    def encode_header(self, index: int, header: Header) -> bytes:
        return self.headers.encode(
            entry_key(index),
            record_type=RecordType.LOG_HEADER,
            term=header.term,
            index=index,
            body=_HEADER.pack(*header),
        )

    def decode_header(self, index: int, value: bytes) -> Header:
        """The header stored at ``index``; :meth:`check_link` ties it to the log."""
        key = entry_key(index)
        record = self.headers.decode(key, value)
        if len(record.body) != _HEADER.size or record.index != index:
            raise self.headers.corruption(key, "is not a header of this index")
        header = Header(*_HEADER.unpack(record.body))
        if header.term != record.term or header.previous_term > header.term:
            raise self.headers.corruption(key, "contradicts itself")
        return header

    def check_link(self, index: int, header: Header, before: LogEnd) -> LogEnd:
        """Check that ``header`` follows the end ``before``; the end after it.

        Raises:
            CorruptionError: one of the two is not of this log (a lost write).
        """
        expected = link(before.chain, header.term, index, header.crc)
        if header.previous_term != before.term or header.chain != expected:
            raise self.headers.corruption(
                entry_key(index),
                "does not continue the log before it",
                expected=f"term {before.term}, chain {expected.hex()}",
                actual=f"term {header.previous_term}, chain {header.chain.hex()}",
            )
        return LogEnd(index, header.term, header.chain)

    def encode_hard_state(self, copy: int, stored: StoredHardState) -> bytes:
        hard_state, sequence, end = stored
        return self.hard_states[copy].encode(
            HARD_STATE_KEY,
            record_type=RecordType.HARD_STATE,
            term=hard_state.term,
            index=sequence,
            body=_HARD_STATE.pack(
                hard_state.term, hard_state.vote or 0, sequence, MODE_NORMAL, *end
            ),
        )

    def decode_hard_state(self, copy: int, value: bytes) -> StoredHardState:
        codec = self.hard_states[copy]
        body = codec.body(HARD_STATE_KEY, value)
        if len(body) != _HARD_STATE.size:
            raise codec.corruption(HARD_STATE_KEY, "is not a hard state")
        term, vote, sequence, mode, *end = _HARD_STATE.unpack(body)
        if mode != MODE_NORMAL:
            raise NewerFormat(
                f"the member is in mode {mode}, which this kvstore does not know: "
                "run the kvstore version that wrote it, or a newer one"
            )
        return StoredHardState(
            HardState(term=Term(term), vote=NodeId(vote) if vote else None),
            sequence,
            LogEnd(*end),
        )

    def encode_base(self, base: LogEnd) -> bytes:
        return self.meta.encode(
            BASE_KEY,
            record_type=RecordType.META,
            term=base.term,
            index=base.last,
            body=_BASE.pack(*base),
        )

    def decode_base(self, value: bytes) -> LogEnd:
        body = self.meta.body(BASE_KEY, value)
        if len(body) != _BASE.size:
            raise self.meta.corruption(BASE_KEY, "is not the base of a log")
        return LogEnd(*_BASE.unpack(body))


def missing(codec: RecordCodec, key: bytes) -> CorruptionError:
    """The error for a record that must be there and is not."""
    return codec.corruption(key, "is missing", expected="a record", actual="none")
