"""What the state store's records say: four databases, each a B-tree of its own.

``kv``
    ``revision u64 | position u32`` -> VERSION: ``create_revision u64 | version u64 |
    lease i64 | previous revision u64 | previous position u32 | key length u16 | key |
    value``. Key order is the order of history, so writing appends.
``heads``
    stored key -> HEAD: ``revision u64 | position u32 | create_revision u64 | version
    u64 | lease i64 | key``; the key is there only if it is not the stored key itself.
``meta``
    ``progress`` -> PROGRESS: ``revision u64 | compact_revision u64 | cursor revision
    u64 | cursor position u32 | last session id u64 | sessions u32 | index sum u64``;
    the last three are a ``TableSummary``.
``sessions``
    ``session id u64`` -> SESSION: ``first number u64 | length u32 | revision u64 |
    reply bytes u32 | reply`` for each run of replies kept, in order.

Checksums cover the id of the cluster that the state came from, and node 0: all members
hold the same records, and a snapshot is a copy of them.

All numbers are big-endian. Record ``term`` and ``index`` are, for a version and a head,
the revision and position; for the progress, those of the entry applied last; for a
session, the number acknowledged and the index of the last entry with a command of it.

Stored keys. LMDB takes keys of 511 bytes, users may have longer ones. A key of
``LONG_KEY_BYTES`` or more is stored under its first ``LONG_KEY_PREFIX_BYTES`` and the
BLAKE2b-256 of all of it: 480 bytes, which no other stored key has. Stored order is key
order except among keys that share such a prefix; whoever iterates sorts these again,
and holds all of one prefix in memory for it.
"""

from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import Self

from kvstore.replica.interfaces import Identity
from kvstore.state_machine.limits import KEY_BYTES_STORABLE_MAX
from kvstore.state_machine.sessions import Run, Session, TableSummary
from kvstore.state_machine.view import Head, Progress, Version, VersionId
from kvstore.storage.record import RecordCodec, RecordType
from kvstore.types import LeaseId, LogIndex, Revision, Term

STORE = "state"
VERSIONS = "kv"
HEADS = "heads"
META = "meta"
SESSIONS = "sessions"
DATABASES = (VERSIONS, HEADS, META, SESSIONS)

PROGRESS_KEY = b"progress"
LONG_KEY_BYTES = 480
LONG_KEY_PREFIX_BYTES = 448

_DIGEST_BYTES = LONG_KEY_BYTES - LONG_KEY_PREFIX_BYTES
_VERSION_ID = Struct(">QI")
_VERSION = Struct(">QQqQIH")
_HEAD = Struct(">QIQQq")
_PROGRESS = Struct(">QQQIQIQ")
_SESSION_ID = Struct(">Q")
_RUN = Struct(">QIQI")
assert KEY_BYTES_STORABLE_MAX < 1 << 16, "the length of a key is a u16"


def version_key(at: VersionId) -> bytes:
    """Where a version is stored."""
    return _VERSION_ID.pack(*at)


def head_key(key: bytes) -> bytes:
    """Where the head of a key is stored."""
    if len(key) < LONG_KEY_BYTES:
        return key
    return (
        key[:LONG_KEY_PREFIX_BYTES] + blake2b(key, digest_size=_DIGEST_BYTES).digest()
    )


def session_key(session_id: int) -> bytes:
    """Where a session is stored."""
    return _SESSION_ID.pack(session_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCodecs:
    """Records of the state store of one node, to and from bytes.

    Decoding raises ``CorruptionError`` for a record that is damaged or says what none
    can say, and ``NewerFormat`` for one that a newer kvstore wrote.
    """

    versions: RecordCodec
    heads: RecordCodec
    meta: RecordCodec
    sessions: RecordCodec

    @classmethod
    def of(cls, identity: Identity) -> Self:
        owner = identity.state_owner
        return cls(
            versions=RecordCodec(owner, STORE, VERSIONS, RecordType.VERSION),
            heads=RecordCodec(owner, STORE, HEADS, RecordType.HEAD),
            meta=RecordCodec(owner, STORE, META, RecordType.PROGRESS),
            sessions=RecordCodec(owner, STORE, SESSIONS, RecordType.SESSION),
        )

    def encode_version(self, stored_key: bytes, at: VersionId, it: Version) -> bytes:
        key = it.key
        previous = it.previous
        numbers = _VERSION.pack(
            it.create_revision, it.version, it.lease, previous[0], previous[1], len(key)
        )
        return self.versions.encode(
            stored_key,
            record_type=RecordType.VERSION,
            term=at[0],
            index=at[1],
            body=numbers + key + it.value,
        )

    def decode_version(self, stored_key: bytes, record: bytes) -> Version:
        body = self.versions.body(stored_key, record)
        if len(body) >= _VERSION.size:
            create_revision, version, lease, revision, position, key_bytes = (
                _VERSION.unpack_from(body)
            )
            value_at = _VERSION.size + key_bytes
            if len(body) >= value_at > _VERSION.size:
                return Version(
                    body[_VERSION.size : value_at],
                    body[value_at:],
                    create_revision,
                    version,
                    LeaseId(lease),
                    VersionId(revision, position),
                )
        raise self.versions.corruption(
            stored_key, "has a wrong length", actual=len(body)
        )

    def encode_head(self, stored_key: bytes, key: bytes, head: Head) -> bytes:
        revision, position = head.at
        body = _HEAD.pack(
            revision, position, head.create_revision, head.version, head.lease
        )
        return self.heads.encode(
            stored_key,
            record_type=RecordType.HEAD,
            term=revision,
            index=position,
            body=body if stored_key is key else body + key,
        )

    def decode_head(self, stored_key: bytes, record: bytes) -> tuple[bytes, Head]:
        """The key and its head."""
        body = self.heads.body(stored_key, record)
        key = stored_key
        if len(body) != _HEAD.size or len(stored_key) >= LONG_KEY_BYTES:
            key = body[_HEAD.size :]
            if len(key) < LONG_KEY_BYTES or head_key(key) != stored_key:
                raise self.heads.corruption(
                    stored_key, "holds the head of another key", actual=key.hex()
                )
        revision, position, create_revision, version, lease = _HEAD.unpack_from(body)
        return key, Head(
            VersionId(revision, position), create_revision, version, LeaseId(lease)
        )

    def encode_progress(self, progress: Progress, sessions: TableSummary) -> bytes:
        return self.meta.encode(
            PROGRESS_KEY,
            record_type=RecordType.PROGRESS,
            term=progress.term,
            index=progress.index,
            body=_PROGRESS.pack(
                progress.revision,
                progress.compact_revision,
                *progress.compaction_cursor,
                *sessions,
            ),
        )

    def decode_progress(self, record: bytes) -> tuple[Progress, TableSummary]:
        decoded = self.meta.decode(PROGRESS_KEY, record)
        if len(decoded.body) != _PROGRESS.size:
            raise self.meta.corruption(PROGRESS_KEY, "has a wrong length")
        revision, compact_revision, cursor_revision, cursor_position, *sessions = (
            _PROGRESS.unpack(decoded.body)
        )
        progress = Progress(
            index=LogIndex(decoded.index),
            term=Term(decoded.term),
            revision=Revision(revision),
            compact_revision=Revision(compact_revision),
            compaction_cursor=VersionId(Revision(cursor_revision), cursor_position),
        )
        return progress, TableSummary(*sessions)

    def encode_session(self, session: Session) -> bytes:
        parts: list[bytes] = []
        for run in session.runs:
            numbers = _RUN.pack(run.first, run.length, run.revision, len(run.reply))
            parts += (numbers, run.reply)
        return self.sessions.encode(
            session_key(session.id),
            record_type=RecordType.SESSION,
            term=session.acknowledged,
            index=session.last_index,
            body=b"".join(parts),
        )

    def decode_session(self, stored_key: bytes, record: bytes) -> Session:
        decoded = self.sessions.decode(stored_key, record)
        if len(stored_key) != _SESSION_ID.size:
            raise self.sessions.corruption(stored_key, "has a key that no session has")
        body, at = decoded.body, 0
        runs: list[Run] = []
        behind = decoded.term + 1  # the least number that may come next
        while len(body) - at >= _RUN.size:
            first, length, revision, reply_bytes = _RUN.unpack_from(body, at)
            at += _RUN.size + reply_bytes
            if first < behind or not length:
                raise self.sessions.corruption(stored_key, "has replies out of order")
            behind = first + length
            reply = body[at - reply_bytes : at]
            runs.append(Run(first, length, Revision(revision), reply))
        if at != len(body):
            raise self.sessions.corruption(stored_key, "has a wrong length")
        return Session.load(
            *_SESSION_ID.unpack(stored_key),
            last_index=LogIndex(decoded.index),
            acknowledged=decoded.term,
            runs=runs,
        )

    def decode_version_id(self, stored_key: bytes) -> VersionId:
        if len(stored_key) != _VERSION_ID.size:
            raise self.versions.corruption(stored_key, "has a key that no version has")
        revision, position = _VERSION_ID.unpack(stored_key)
        return VersionId(Revision(revision), position)
