"""What the Raft store's records say: bodies, and how they are linked.

Six databases, each a B-tree of its own, so that no single page holds both a fact and
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
    u64 | mode u8 | last index u64 | last term u64 | last chain(16) | configured u64``.
    Vote 0 is none. With the end of the log in it, a lost tail is told from one never
    written; with the index of the newest configuration entry, a lost page of ``conf``.
``conf``
    index -> the entry crc u32 of a configuration entry: which entries of the log are
    some, without a walk through all of it. What they say stands in ``log``.
``meta``
    ``base``: what precedes the first entry held: ``index u64 | term u64 | chain(16) |
    configuration as of there, encoded``.
    ``install``: the id of a snapshot whose state may still have to take the place of
    the one in the state store; there only meanwhile.

All numbers are big-endian, and keys of entries are the index as u64: key order is log
order. Record ``term`` and ``index`` are the entry's; for a hard state, its term and
sequence.
"""

from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from kvstore.errors import CorruptionError, NewerFormat
from kvstore.raft.messages import Entry, EntryId, EntryKind, HardState
from kvstore.replica.interfaces import Identity
from kvstore.storage.record import RecordCodec, RecordType, entry_crc
from kvstore.types import LogIndex, NodeId, Term

STORE = "raft"
LOG = "log"
HEADERS = "hdr"
HARD_STATES = ("hs_a", "hs_b")
CONFIGURATIONS = "conf"
META = "meta"
DATABASES = (LOG, HEADERS, *HARD_STATES, CONFIGURATIONS, META)

HARD_STATE_KEY = b"hard_state"
BASE_KEY = b"base"
INSTALL_KEY = b"install"

CHAIN_BYTES = 16
EMPTY_CHAIN = bytes(CHAIN_BYTES)
MODE_NORMAL = 0
"""The only mode so far. Others will mark a member that lost promises."""

_HEADER = Struct(">QQI16s")
_LINK = Struct(">16sQQI")
_HARD_STATE = Struct(">QQQBQQ16sQ")
_BASE = Struct(">QQ16s")
_CRC = Struct(">I")
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


EMPTY_LOG = LogEnd(0, 0, EMPTY_CHAIN)
"""The end of a log that nothing was ever appended to."""


class LogBase(NamedTuple):
    """Where the log begins."""

    end: LogEnd
    """What precedes the first entry held."""
    configuration: bytes
    """As of there, encoded."""


class Install(NamedTuple):
    """A snapshot that replaced the log, and whose state may not be in place yet."""

    snapshot_id: bytes
    last: EntryId


class StoredHardState(NamedTuple):
    """Everything that a hard state record says."""

    hard_state: HardState
    sequence: int
    """Number of the append that wrote it, from 1."""
    end: LogEnd
    configured: int
    """Index of the newest configuration entry; not behind the base if none is held."""


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
    """The codecs of the six databases, and the bodies on top of them.

    Every ``decode_`` method raises ``CorruptionError`` for a record that is damaged or
    says what cannot be, and ``NewerFormat`` for one from a newer kvstore.
    """

    log: RecordCodec
    headers: RecordCodec
    hard_states: tuple[RecordCodec, ...]
    configurations: RecordCodec
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
            configurations=RecordCodec(
                identity, STORE, CONFIGURATIONS, RecordType.CONFIGURATION
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
        hard_state, sequence, end, configured = stored
        return self.hard_states[copy].encode(
            HARD_STATE_KEY,
            record_type=RecordType.HARD_STATE,
            term=hard_state.term,
            index=sequence,
            body=_HARD_STATE.pack(
                hard_state.term,
                hard_state.vote or 0,
                sequence,
                MODE_NORMAL,
                *end,
                configured,
            ),
        )

    def decode_hard_state(self, copy: int, value: bytes) -> StoredHardState:
        codec = self.hard_states[copy]
        body = codec.body(HARD_STATE_KEY, value)
        if len(body) != _HARD_STATE.size:
            raise codec.corruption(HARD_STATE_KEY, "is not a hard state")
        term, vote, sequence, mode, *end, configured = _HARD_STATE.unpack(body)
        if mode != MODE_NORMAL:
            raise NewerFormat(
                f"the member is in mode {mode}, which this kvstore does not know: "
                "run the kvstore version that wrote it, or a newer one"
            )
        return StoredHardState(
            HardState(term=Term(term), vote=NodeId(vote) if vote else None),
            sequence,
            LogEnd(*end),
            configured,
        )

    def encode_configured(self, index: int, header: Header) -> bytes:
        """That the entry of ``header`` is a configuration."""
        return self.configurations.encode(
            entry_key(index),
            record_type=RecordType.CONFIGURATION,
            term=header.term,
            index=index,
            body=_CRC.pack(header.crc),
        )

    def check_configured(self, index: int, value: bytes, header: Header) -> None:
        """Check that a record of ``conf`` names the entry of ``header``."""
        key = entry_key(index)
        record = self.configurations.decode(key, value)
        named = (record.term, record.index, record.body)
        if named != (header.term, index, _CRC.pack(header.crc)):
            raise self.configurations.corruption(
                key,
                "names another entry than there is",
                expected=f"term {header.term}, crc {header.crc:08x}",
                actual=f"term {record.term}, crc {record.body.hex()}",
            )

    def encode_base(self, base: LogBase) -> bytes:
        end = base.end
        return self.meta.encode(
            BASE_KEY,
            record_type=RecordType.META,
            term=end.term,
            index=end.last,
            body=_BASE.pack(*end) + base.configuration,
        )

    def decode_base(self, value: bytes) -> LogBase:
        body = self.meta.body(BASE_KEY, value)
        if len(body) <= _BASE.size:
            raise self.meta.corruption(BASE_KEY, "is not the base of a log")
        return LogBase(LogEnd(*_BASE.unpack_from(body)), body[_BASE.size :])

    def encode_install(self, install: Install) -> bytes:
        return self.meta.encode(
            INSTALL_KEY,
            record_type=RecordType.META,
            term=install.last.term,
            index=install.last.index,
            body=install.snapshot_id,
        )

    def decode_install(self, value: bytes) -> Install:
        record = self.meta.decode(INSTALL_KEY, value)
        last = EntryId(Term(record.term), LogIndex(record.index))
        return Install(record.body, last)


def missing(codec: RecordCodec, key: bytes) -> CorruptionError:
    """The error for a record that must be there and is not."""
    return codec.corruption(key, "is missing", expected="a record", actual="none")
