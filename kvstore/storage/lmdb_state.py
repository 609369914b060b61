"""The durable state: what commands read and change, in LMDB.

One thread applies entries. It owns the write transaction, which stays open over many
entries and is committed now and then: what a crash takes is applied again from the log,
and the progress, in the same transaction, says from where. The reading methods see the
open transaction, or what was committed last if none is open; they too belong to that
thread. Other threads read what was committed through :meth:`LMDBState.read_view`.

The environment syncs data at each commit but not its meta page (``metasync=False``): a
power cut may take the newest commit, whole.

Room. The memory map cannot grow inside a write transaction, and an entry half applied
cannot be taken back alone. So before every transaction the map is made large enough
that no entry can fill it: the largest change there is, to delete every key, copies at
most the pages there are and appends a tombstone for each key, smaller than the version
it replaces. An entry's own bytes, and the pages that the entries before it in the same
transaction copied, are bounded by ``HEADROOM_BYTES``; a transaction that nears it is
committed at the end of an entry. Address space costs nothing: the file grows by use.

Sessions live in memory. Those that changed are written at each commit, in the same
transaction as the progress: at most ``SESSIONS_BYTES_MAX``, for which there is room.

``state_format.py`` says what is stored, ``state_reader.py`` how it is found.
"""

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NoReturn, Self

import lmdb

from kvstore.replica.interfaces import Identity
from kvstore.state_machine.sessions import (
    EMPTY_SUMMARY,
    SESSIONS_BYTES_MAX,
    SessionTable,
)
from kvstore.state_machine.view import (
    EMPTY_PROGRESS,
    Head,
    Progress,
    ReadView,
    StateView,
    Version,
    VersionId,
)
from kvstore.storage.environment import MAP_BYTES_MAX, Environment, Transaction
from kvstore.storage.scrubber import ScrubTarget
from kvstore.storage.state_format import (
    DATABASES,
    HEADS,
    META,
    PROGRESS_KEY,
    SESSIONS,
    STORE,
    VERSIONS,
    StateCodecs,
    head_key,
    session_key,
    version_key,
)
from kvstore.storage.state_reader import StateReader
from kvstore.storage.state_scrub import scrub_databases

HEADROOM_BYTES = 512 * 1024 * 1024
"""Free in the map before a transaction, beside three times what is used."""
_PAGES_PER_RECORD = 4
"""Pages that a written record copies, roughly: the depth of a tree of 10**8 records."""
_PAGE_BYTES = 4096
_COMMIT_AT_BYTES = HEADROOM_BYTES // 2
assert _COMMIT_AT_BYTES + SESSIONS_BYTES_MAX < HEADROOM_BYTES


class StateSnapshot:
    """What was committed, read-only. Ends with the ``with`` block that gave it."""

    __slots__ = ("_environment", "_reader", "_sessions", "_txn", "progress")

    def __init__(
        self, environment: Environment, reader: StateReader, txn: Transaction
    ) -> None:
        self._environment = environment
        self._reader = reader
        self._txn = txn
        self.progress = reader.progress(txn)
        self._sessions: SessionTable | None = None

    def copy(self, fd: int) -> None:
        """Write exactly this state to a file, as an environment of its own; not synced.

        Raises:
            CorruptionError: its structure is damaged. OSError: the medium refused.
        """
        self._environment.copy(self._txn, fd)

    @property
    def sessions(self) -> SessionTable:
        """Read when first asked for: few readers need them."""
        if self._sessions is None:
            self._sessions = self._reader.sessions(self._txn)
        return self._sessions

    def head(self, key: bytes) -> Head | None:
        return self._reader.head(self._txn, key)

    def heads(
        self, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, Head]]:
        return self._reader.heads(self._txn, start, end, reverse=reverse)

    def version(self, at: VersionId) -> Version | None:
        return self._reader.version(self._txn, at)

    def versions(self, start: VersionId) -> Iterator[tuple[VersionId, Version]]:
        return self._reader.versions(self._txn, start)


class LMDBState:
    """Satisfies ``state_machine.view.StateView``. One thread, but for ``read_view``."""

    __slots__ = (
        "_bytes_pending",
        "_codecs",
        "_committed",
        "_heads",
        "_progress",
        "_reader",
        "_reading",
        "_records_whole",
        "_sessions",
        "_txn",
        "_versions",
        "environment",
        "in_transaction",
        "records_pending",
    )

    def __init__(self, environment: Environment, codecs: StateCodecs) -> None:
        """Takes over an open environment; :meth:`open` is how to get one."""
        self.environment = environment
        self.in_transaction = False
        """Whether a write transaction is open."""
        self.records_pending = 0
        """Records written since the transaction began."""
        self._bytes_pending = 0
        self._records_whole = 0  # of those pending, written by whole entries
        self._codecs = codecs
        self._reader = StateReader(environment, codecs)
        self._versions = environment.database(VERSIONS)
        self._heads = environment.database(HEADS)
        # The write transaction or, while there is none, a reading one once needed.
        self._txn: Transaction | None = None
        self._reading: AbstractContextManager[Transaction] | None = None
        with environment.read() as txn:
            self._progress = self._reader.progress(txn)
            self._reader.check_newest(txn, self._progress)
            # None: to be read anew, for what was not committed is in it no more.
            self._sessions: SessionTable | None = self._reader.sessions(txn)
        self._committed = self._progress

    @classmethod
    def create(cls, path: Path, identity: Identity) -> None:
        """Make an empty state in directory ``path``, durably. Done once, at founding.

        Raises:
            OSError: the medium refused.
        """
        codecs = StateCodecs.of(identity)
        environment = Environment.open(
            path, store=STORE, databases=DATABASES, create=True
        )
        meta = environment.database(META)
        record = codecs.encode_progress(EMPTY_PROGRESS, EMPTY_SUMMARY)
        try:
            environment.write(lambda txn: txn.put(PROGRESS_KEY, record, db=meta))
        finally:
            environment.close()

    @classmethod
    def open(
        cls, path: Path, identity: Identity, *, map_bytes_max: int = MAP_BYTES_MAX
    ) -> Self:
        """Open the state in directory ``path``.

        Raises:
            CorruptionError: it is damaged. Definite.
            NewerFormat: a newer kvstore wrote it.
            OSError: the medium refused.
        """
        environment = Environment.open(
            path,
            store=STORE,
            databases=DATABASES,
            metasync=False,
            map_bytes_max=map_bytes_max,
        )
        try:
            return cls(environment, StateCodecs.of(identity))
        except BaseException:
            environment.close()
            raise

    # ------------------------------------------------------------ transactions

    def begin(self) -> None:
        """Open a write transaction, with room in the map for any entry.

        Waits for readers on other threads if the map must grow.

        Raises:
            OSError: the medium refused, now or at an earlier commit.
        """
        assert not self.in_transaction, "one write transaction at a time"
        self._end_reading()
        self._make_room()
        self._txn = self.environment.begin_write()
        self.in_transaction = True
        self.records_pending = self._bytes_pending = self._records_whole = 0

    def commit(self) -> None:
        """Make everything applied so far durable but for a power cut (see the module).

        Nothing may have been written since the progress was last set: a replay would
        apply that entry twice.

        Raises:
            OSError: it is not known what is stored; what was pending is gone from here.
        """
        assert self.records_pending == self._records_whole, "half an entry"
        txn, progress = self._end_writing(), self._progress
        sessions, self._sessions = self._sessions, None
        self._progress = self._committed  # until it is sure
        try:
            if progress is not self._committed:
                self._write_progress(txn, progress, sessions)
        except lmdb.Error as error:
            self.environment.abort(txn)
            self._refuse(error)
        try:
            self.environment.commit(txn)
        except lmdb.Error as error:
            self._refuse(error)
        self._committed = self._progress = progress
        self._sessions = sessions

    def abort(self) -> None:
        """Forget what was written since the last commit, progress too."""
        txn = self._end_writing()
        self._progress = self._committed
        self._sessions = None
        self.environment.abort(txn)

    def close(self) -> None:
        """Close; what was not committed is forgotten. Twice is fine."""
        if self.in_transaction:
            self.abort()
        self._end_reading()
        self.environment.close()

    @contextmanager
    def read_view(self) -> Iterator[StateSnapshot]:
        """What was committed last, for a ``with`` block on another thread.

        Keep it short: pages that it sees are not reused, and the map cannot grow.
        """
        with self.environment.read() as txn:
            yield StateSnapshot(self.environment, self._reader, txn)

    # -------------------------------------------------------------- facts

    @property
    def progress(self) -> Progress:
        """What has been applied, committed or not."""
        return self._progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        """The end of an entry: the one place where a transaction may end unasked.

        Raises ``OSError`` then as :meth:`commit` does. The record is written at commit.
        """
        assert self.in_transaction, "progress without a transaction"
        self._progress = progress
        self._records_whole = self.records_pending
        copied = self.records_pending * _PAGES_PER_RECORD * _PAGE_BYTES
        if copied + self._bytes_pending > _COMMIT_AT_BYTES:
            self.commit()
            self.begin()

    @property
    def sessions(self) -> SessionTable:
        """The open sessions, as of the progress."""
        if self._sessions is None:
            try:
                txn = self._txn or self._begin_reading()
                self._sessions = self._reader.sessions(txn)
            except lmdb.Error as error:
                self._refuse(error)
        return self._sessions

    @property
    def used_bytes(self) -> int:
        """Size of the store on disk."""
        return self.environment.used_bytes

    def scrub_target(self) -> ScrubTarget:
        """What the scrubber tours: every record, and how records fit together."""
        return ScrubTarget(
            environment=self.environment,
            databases=scrub_databases(self.environment, self._codecs),
        )

    # -------------------------------------------------------------- reading

    def head(self, key: bytes) -> Head | None:
        try:
            txn = self._txn or self._begin_reading()
            return self._reader.head(txn, key)
        except lmdb.Error as error:
            self._refuse(error)

    def heads(
        self, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, Head]]:
        try:
            txn = self._txn or self._begin_reading()
            yield from self._reader.heads(txn, start, end, reverse=reverse)
        except lmdb.Error as error:
            self._refuse(error)

    def version(self, at: VersionId) -> Version | None:
        try:
            txn = self._txn or self._begin_reading()
            return self._reader.version(txn, at)
        except lmdb.Error as error:
            self._refuse(error)

    def versions(self, start: VersionId) -> Iterator[tuple[VersionId, Version]]:
        try:
            txn = self._txn or self._begin_reading()
            yield from self._reader.versions(txn, start)
        except lmdb.Error as error:
            self._refuse(error)

    # -------------------------------------------------------------- writing

    def put_head(self, key: bytes, head: Head) -> None:
        stored_key = head_key(key)
        record = self._codecs.encode_head(stored_key, key, head)
        try:
            self._writing().put(stored_key, record, db=self._heads)
        except lmdb.Error as error:
            self._refuse(error)
        self.records_pending += 1
        self._bytes_pending += len(record)

    def delete_head(self, key: bytes) -> None:
        try:
            self._writing().delete(head_key(key), db=self._heads)
        except lmdb.Error as error:
            self._refuse(error)
        self.records_pending += 1

    def append_version(self, at: VersionId, version: Version) -> None:
        stored_key = version_key(at)
        record = self._codecs.encode_version(stored_key, at, version)
        txn = self._writing()
        try:
            stored = txn.put(stored_key, record, append=True, db=self._versions)
            newest = at if stored else self._reader.newest(txn)  # damaged, or we are
        except lmdb.Error as error:
            self._refuse(error)
        assert stored, f"version {at} does not follow {newest}"
        self.records_pending += 1
        self._bytes_pending += len(record)

    def delete_version(self, at: VersionId) -> None:
        try:
            self._writing().delete(version_key(at), db=self._versions)
        except lmdb.Error as error:
            self._refuse(error)
        self.records_pending += 1

    # -------------------------------------------------------------- helpers

    def _write_progress(
        self, txn: Transaction, progress: Progress, sessions: SessionTable | None
    ) -> None:
        if sessions is None:
            # Not read since what was not committed was forgotten: nothing changed it.
            sessions = self._reader.sessions(txn)
        database = self.environment.database(SESSIONS)
        for session_id in sessions.take_changed():
            session = sessions.get(session_id)
            if session is None:
                txn.delete(session_key(session_id), db=database)
            else:
                record = self._codecs.encode_session(session)
                txn.put(session_key(session_id), record, db=database)
        record = self._codecs.encode_progress(progress, sessions.summary)
        txn.put(PROGRESS_KEY, record, db=self.environment.database(META))

    def _writing(self) -> Transaction:
        txn = self._txn
        assert self.in_transaction, "written without a transaction"
        assert txn is not None
        return txn

    def _begin_reading(self) -> Transaction:
        self._reading = self.environment.read()
        self._txn = self._reading.__enter__()
        return self._txn

    def _end_reading(self) -> None:
        if self._reading is not None:
            self._txn = None
            self._reading.__exit__(None, None, None)
            self._reading = None

    def _end_writing(self) -> Transaction:
        txn = self._writing()
        self._txn = None
        self.in_transaction = False
        return txn

    def reserve(self, growth_bytes: int) -> None:
        """Make room for this much more, so that :meth:`begin` need not grow the map.

        Before another thread reads for long: growth waits until it has ended.
        """
        assert not self.in_transaction
        self._end_reading()
        self._make_room(growth_bytes)

    def _make_room(self, growth_bytes: int = 0) -> None:
        environment = self.environment
        wanted = 3 * (environment.used_bytes + growth_bytes) + HEADROOM_BYTES
        while environment.map_bytes < wanted:
            try:
                environment.grow()
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return  # as large as it may be: there may still be room enough

    def _refuse(self, error: lmdb.Error) -> NoReturn:
        """Raise what the environment promises, and ``OSError`` for a full map."""
        if isinstance(error, lmdb.MapFullError):
            raise OSError(
                errno.ENOSPC, f"the {STORE} store has reached its largest size"
            ) from error
        self.environment.translate(error)


def _satisfies(state: LMDBState, snapshot: StateSnapshot) -> tuple[StateView, ReadView]:
    """For the type checker alone."""
    return state, snapshot
