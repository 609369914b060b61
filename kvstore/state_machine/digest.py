"""One number for a state: equal on replicas that are the same record by record."""

import hashlib
from struct import Struct

from kvstore.pb import kv_pb2
from kvstore.state_machine.sessions import Session
from kvstore.state_machine.view import ReadView, VersionId
from kvstore.types import Revision

_PROGRESS = Struct(">QQQQQI")
_VERSION = Struct(">QIQQqQIII")
_HEAD = Struct(">QIQQqI")
_SESSION = Struct(">QQQI")
_RUN = Struct(">QIQI")


def state_hash(view: ReadView) -> bytes:
    """BLAKE2b-128 over progress, versions, heads and sessions, in order. O(records)."""
    digest = hashlib.blake2b(digest_size=16)
    progress = view.progress
    digest.update(
        _PROGRESS.pack(
            progress.index,
            progress.term,
            progress.revision,
            progress.compact_revision,
            *progress.compaction_cursor,
        )
    )
    for at, version in view.versions(VersionId(Revision(0), 0)):
        numbers = _VERSION.pack(
            *at,
            version.create_revision,
            version.version,
            version.lease,
            *version.previous,
            len(version.key),
            len(version.value),
        )
        digest.update(b"v" + numbers + version.key + version.value)
    for key, head in view.heads(b"", None):
        numbers = _HEAD.pack(
            *head.at, head.create_revision, head.version, head.lease, len(key)
        )
        digest.update(b"h" + numbers + key)
    digest.update(view.sessions.last_id.to_bytes(8, "big"))
    for session in view.sessions:
        _add_session(digest, session)
    return digest.digest()


def _add_session(digest: hashlib.blake2b, session: Session) -> None:
    runs = session.runs
    digest.update(
        b"s"
        + _SESSION.pack(session.id, session.acknowledged, session.last_index, len(runs))
    )
    for run in runs:
        reply = _without_wording(run.reply)
        digest.update(
            _RUN.pack(run.first, run.length, run.revision, len(reply)) + reply
        )


def _without_wording(reply: bytes) -> bytes:
    """A kept reply, without what two versions of kvstore may word differently."""
    result = kv_pb2.Result.FromString(reply)
    if not result.HasField("error"):
        return reply
    result.error.message = ""
    return result.SerializeToString(deterministic=True)
