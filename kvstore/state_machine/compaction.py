"""Compaction: superseded history is deleted, a bounded number of records an entry.

``Compact`` only moves ``compact_revision``; what lies below can no longer be read from
that moment. The records go later, inside the apply of every entry that follows (of
``CompactionStep`` entries, which a leader proposes while nothing else is written), so
that replicas at one log index are the same record by record.

The sweep looks at each version once in its life, in order of history. A version at or
below ``compact_revision`` makes the one that it replaced unreadable, so that one goes.
A tombstone is itself unreadable, and its head too unless the key was written since.
What survives (the newest version of each live key) is never looked at again: whoever
replaces it names it.
"""

from kvstore.state_machine.view import NO_VERSION, StateView, VersionId
from kvstore.types import Revision

COMPACTION_RECORDS_PER_ENTRY = 256
"""Versions looked at in one entry: each frees two versions and a head at most. Keeps up
with as many writes an entry as clients usually have in flight, and costs an entry about
2 ms. Members must agree on it: changing it makes replicas differ for a while."""

COMPACTION_BYTES_PER_ENTRY = 4 * 1024 * 1024
"""Bytes of keys and values looked at, after which an entry's share ends early."""


def sweep(view: StateView, cursor: VersionId, compact_revision: Revision) -> VersionId:
    """Delete one entry's share of compacted records; returns the cursor behind them.

    Raises:
        CorruptionError: a record is damaged. Definite.
    """
    visited: list[tuple[VersionId, VersionId, bytes | None]] = []
    size = 0
    behind = VersionId(Revision(compact_revision + 1), 0)
    for at, version in view.versions(cursor):
        if at.revision > compact_revision:
            break
        if (
            len(visited) == COMPACTION_RECORDS_PER_ENTRY
            or size >= COMPACTION_BYTES_PER_ENTRY
        ):
            behind = at
            break
        size += len(version.key) + len(version.value)
        deleted_key = None if version.create_revision else version.key
        visited.append((at, version.previous, deleted_key))
    for at, previous, deleted_key in visited:
        if previous != NO_VERSION:
            view.delete_version(previous)
        if deleted_key is not None:
            view.delete_version(at)
            head = view.head(deleted_key)
            if head is not None and head.at == at:
                view.delete_head(deleted_key)
    return behind
