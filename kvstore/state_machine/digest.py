"""One number for a state: equal on replicas that are the same record by record."""

import hashlib
from struct import Struct

from kvstore.state_machine.view import ReadView, VersionId
from kvstore.types import Revision

_PROGRESS = Struct(">QQQQQI")
_VERSION = Struct(">QIQQqQIII")
_HEAD = Struct(">QIQQqI")


def state_hash(view: ReadView) -> bytes:
    """BLAKE2b-128 over progress, versions and heads, in order. O(records)."""
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
    return digest.digest()
