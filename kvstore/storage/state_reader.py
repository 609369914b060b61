"""Find records in the state store, and be sure of those that are not found.

The reading half of ``lmdb_state.py``, over any transaction.
"""

from collections.abc import Iterator
from operator import itemgetter

from kvstore.state_machine.sessions import Session, SessionTable, TableSummary
from kvstore.state_machine.view import NO_VERSION, Head, Progress, Version, VersionId
from kvstore.storage.environment import Environment, Transaction
from kvstore.storage.state_format import (
    HEADS,
    LONG_KEY_BYTES,
    LONG_KEY_PREFIX_BYTES,
    META,
    PROGRESS_KEY,
    SESSIONS,
    VERSIONS,
    StateCodecs,
    head_key,
    version_key,
)

_BEHIND_EVERY_DIGEST = b"\xff" * (LONG_KEY_BYTES - LONG_KEY_PREFIX_BYTES + 1)


class StateReader:
    """The reading half, over any transaction.

    A flipped bit in a *key*, of a record or in a page that leads to records, makes a
    search miss what is there. So what is not found is taken to be absent only if the
    records on both sides of its place are whole, and in order.
    """

    __slots__ = ("_codecs", "_heads", "_meta", "_sessions", "_versions")

    def __init__(self, environment: Environment, codecs: StateCodecs) -> None:
        self._codecs = codecs
        self._heads = environment.database(HEADS)
        self._meta = environment.database(META)
        self._sessions = environment.database(SESSIONS)
        self._versions = environment.database(VERSIONS)

    def progress(self, txn: Transaction) -> Progress:
        return self._progress(txn)[0]

    def _progress(self, txn: Transaction) -> tuple[Progress, TableSummary]:
        record = txn.get(PROGRESS_KEY, db=self._meta)
        if record is None:
            # Every state was created with one.
            raise self._codecs.meta.corruption(PROGRESS_KEY, "is missing")
        return self._codecs.decode_progress(record)

    def sessions(self, txn: Transaction) -> SessionTable:
        """All of them, as of the progress. O(kept replies).

        Raises:
            CorruptionError: one is damaged, or they are not those that the progress
                was written with. Definite.
        """
        expected = self._progress(txn)[1]
        table = SessionTable.load(expected.last_id, self._each_session(txn))
        if table.summary != expected:
            raise self._codecs.meta.corruption(
                PROGRESS_KEY,
                "and the sessions are of different commits",
                expected=tuple(expected),
                actual=tuple(table.summary),
            )
        return table

    def _each_session(self, txn: Transaction) -> Iterator[Session]:
        with txn.cursor(db=self._sessions) as cursor:
            for stored_key, record in cursor:
                yield self._codecs.decode_session(stored_key, record)

    def head(self, txn: Transaction, key: bytes) -> Head | None:
        stored_key = head_key(key)
        record = txn.get(stored_key, db=self._heads)
        if record is None:
            self.check_absent(txn, stored_key)
            return None
        return self._codecs.decode_head(stored_key, record)[1]

    def check_absent(self, txn: Transaction, stored_key: bytes) -> None:
        """Raises ``CorruptionError`` unless no head can be stored there."""
        cursor = txn.cursor(db=self._heads)
        if cursor.set_range(stored_key):
            behind, record = cursor.item()
            self._check_neighbour(behind, record, in_order=behind > stored_key)
            more = cursor.prev()
        else:
            more = cursor.last()
        if more:
            before, record = cursor.item()
            self._check_neighbour(before, record, in_order=before < stored_key)

    def heads(
        self, txn: Transaction, start: bytes, end: bytes | None, *, reverse: bool
    ) -> Iterator[tuple[bytes, Head]]:
        """Keys that share a prefix of LONG_KEY_PREFIX_BYTES are sorted in memory."""
        low, high = start[:LONG_KEY_PREFIX_BYTES], end
        if end is not None and len(end) > LONG_KEY_PREFIX_BYTES:
            high = end[:LONG_KEY_PREFIX_BYTES] + _BEHIND_EVERY_DIGEST
        walk = self._walk_back if reverse else self._walk
        decode = self._codecs.decode_head
        group: list[tuple[bytes, Head]] = []
        prefix = b""
        for stored_key, record in walk(txn, low, high):
            if group and not stored_key.startswith(prefix):
                yield from _within(group, start, end, reverse=reverse)
                group = []
            if len(stored_key) < LONG_KEY_PREFIX_BYTES:
                yield decode(stored_key, record)
            else:
                prefix = stored_key[:LONG_KEY_PREFIX_BYTES]
                group.append(decode(stored_key, record))
        yield from _within(group, start, end, reverse=reverse)

    def check_newest(self, txn: Transaction, progress: Progress) -> None:
        """Raises ``CorruptionError`` unless the newest version is the progress's."""
        newest = self.newest(txn).revision
        # A change is kept at least until compaction passes it.
        due = progress.revision if progress.revision > progress.compact_revision else 0
        if not due <= newest <= progress.revision:
            raise self._codecs.meta.corruption(
                PROGRESS_KEY,
                "and the newest version are of different revisions",
                expected=progress.revision,
                actual=newest,
            )

    def newest(self, txn: Transaction) -> VersionId:
        """The last version in history, its record checked; ``NO_VERSION`` if none."""
        cursor = txn.cursor(db=self._versions)
        if not cursor.last():
            return NO_VERSION
        stored_key, record = cursor.item()
        self._codecs.versions.body(stored_key, record)
        return self._codecs.decode_version_id(stored_key)

    def version(self, txn: Transaction, at: VersionId) -> Version | None:
        stored_key = version_key(at)
        record = txn.get(stored_key, None, self._versions)
        if record is None:
            return None
        return self._codecs.decode_version(stored_key, record)

    def versions(
        self, txn: Transaction, start: VersionId
    ) -> Iterator[tuple[VersionId, Version]]:
        cursor = txn.cursor(db=self._versions)
        if not cursor.set_range(version_key(start)):
            return
        for stored_key, record in cursor.iternext():
            at = self._codecs.decode_version_id(stored_key)
            yield at, self._codecs.decode_version(stored_key, record)

    def _walk(
        self, txn: Transaction, low: bytes, high: bytes | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Stored heads in ``[low, high)``, and all that there are."""
        cursor = txn.cursor(db=self._heads)
        if not cursor.set_range(low):
            if cursor.last():
                last, record = cursor.item()
                self._check_neighbour(last, record, in_order=last < low)
            return
        if cursor.prev():
            before, record = cursor.item()
            self._check_neighbour(before, record, in_order=before < low)
            cursor.next()
        else:
            cursor.first()
        previous = b""
        for stored_key, record in cursor.iternext():
            in_order = low <= stored_key > previous
            if not in_order or (high is not None and stored_key >= high):
                self._check_neighbour(stored_key, record, in_order=in_order)
                return
            yield stored_key, record
            previous = stored_key

    def _walk_back(
        self, txn: Transaction, low: bytes, high: bytes | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """:meth:`_walk` from the last to the first."""
        cursor = txn.cursor(db=self._heads)
        if high is not None and cursor.set_range(high):
            behind, record = cursor.item()
            self._check_neighbour(behind, record, in_order=behind >= high)
            more = cursor.prev()
        else:
            more = cursor.last()
        following = high
        for stored_key, record in cursor.iterprev() if more else ():
            in_order = following is None or stored_key < following
            if not in_order or stored_key < low:
                self._check_neighbour(stored_key, record, in_order=in_order)
                return
            yield stored_key, record
            following = stored_key

    def _check_neighbour(
        self, stored_key: bytes, record: bytes, *, in_order: bool
    ) -> None:
        """Raises ``CorruptionError`` for a record that cannot prove another absent."""
        self._codecs.heads.body(stored_key, record)
        if not in_order:
            raise self._codecs.heads.corruption(stored_key, "is found out of order")


def _within(
    group: list[tuple[bytes, Head]], start: bytes, end: bytes | None, *, reverse: bool
) -> Iterator[tuple[bytes, Head]]:
    """Those of a group in ``[start, end)``, in key order."""
    group.sort(key=itemgetter(0), reverse=reverse)
    for key, head in group:
        if start <= key and (end is None or key < end):
            yield key, head
