"""The durable Raft log: entries, their headers and the hard state, in LMDB.

``append`` writes everything in one transaction, which is on the medium when it returns.
Reading methods run on other threads at the same time: they see the last *finished*
append, in short transactions of their own, and verify what they return. What is stored
is described in ``log_format.py``.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Self

from kvstore.errors import CorruptionError
from kvstore.raft.log import assert_appendable
from kvstore.raft.membership import NOBODY
from kvstore.raft.messages import Entry, EntryKind, HardState, Snapshot
from kvstore.replica.interfaces import Identity
from kvstore.storage.environment import (
    ADVICE,
    MAP_BYTES_MAX,
    Environment,
    Transaction,
)
from kvstore.storage.log_format import (
    CHAIN_BYTES,
    DATABASES,
    EMPTY_LOG,
    INSTALL_KEY,
    LOG,
    META,
    STORE,
    Install,
    LogBase,
    LogCodecs,
    LogEnd,
    StoredHardState,
    entry_key,
    missing,
)
from kvstore.storage.log_open import StoredLog
from kvstore.storage.log_read import end_at, entries_behind
from kvstore.storage.log_scrub import scrub_databases
from kvstore.storage.log_write import (
    Append,
    begin_anew,
    cut,
    put_base,
    put_hard_state,
)
from kvstore.storage.scrubber import ScrubTarget
from kvstore.types import LogIndex, Term

TERMS_CACHED_MAX = 16_384
"""Terms of the newest entries are kept in memory: replication asks for them."""
VERIFIED_ON_OPEN_MAX = 4_096
"""Newest entries that opening reads and checks; the scrubber tours all of them."""
FORGOTTEN_PER_APPEND_MAX = 512
"""Entries that a transaction deletes beside what it writes: nobody waits for more."""


class LMDBLog:
    """Satisfies ``replica.interfaces.LogStorage``."""

    __slots__ = (
        "_append_lock",
        "_base",
        "_codecs",
        "_compact_to",
        "_configured",
        "_end",
        "_stored",
        "_terms",
        "environment",
        "findings",
        "installing",
    )

    def __init__(
        self, environment: Environment, codecs: LogCodecs, stored: StoredLog
    ) -> None:
        """Takes over an open environment; :meth:`open` is how to get one."""
        self.environment = environment
        self.findings = stored.findings
        """Damage that opening found and mended."""
        self.installing = stored.installing
        """The snapshot that :meth:`install` began with and nobody has finished."""
        self._codecs = codecs
        self._base = stored.base
        self._stored = stored.hard_state
        self._end = stored.hard_state.end
        self._configured = stored.configured
        self._compact_to = stored.base.end.last
        self._terms = {end.last: end.term for end in (stored.base.end, self._end)}
        # Held while what is stored and what this object knows may differ.
        self._append_lock = Lock()

    @classmethod
    def create(
        cls,
        path: Path,
        identity: Identity,
        configuration: bytes = NOBODY.encode(),
        *,
        before: LogEnd = EMPTY_LOG,
    ) -> None:
        """Make an empty log in directory ``path``, durably. Done once, at founding.

        ``configuration``: encoded, as of ``before``, which the log continues.

        Raises:
            OSError: the medium refused.
        """
        codecs = LogCodecs.of(identity)
        base = LogBase(before, configuration)
        hard_state = HardState(term=Term(before.term), vote=None)
        stored = StoredHardState(hard_state, 1, before, 0)
        environment = Environment.open(
            path, store=STORE, databases=DATABASES, create=True
        )

        def work(txn: Transaction) -> None:
            put_base(txn, environment, codecs, base)
            put_hard_state(txn, environment, codecs, stored)

        try:
            environment.write(work)
        finally:
            environment.close()

    @classmethod
    def open(
        cls, path: Path, identity: Identity, *, map_bytes_max: int = MAP_BYTES_MAX
    ) -> Self:
        """Open the log in directory ``path`` and verify its end.

        One damaged copy of the hard state is replaced from the other and reported in
        ``findings``.

        Raises:
            CorruptionError: the log is damaged in a way that only other members can
                mend; the message names the record. Nothing was changed.
            NewerFormat: a newer kvstore wrote it.
            OSError: the medium refused.
        """
        environment = Environment.open(
            path, store=STORE, databases=DATABASES, map_bytes_max=map_bytes_max
        )
        try:
            return cls._verified(environment, LogCodecs.of(identity))
        except CorruptionError as error:
            environment.close()
            if not error.database:
                raise  # found by LMDB, and the message already says what to do
            raise CorruptionError(
                f"{error}; {ADVICE}",
                store=error.store,
                database=error.database,
                key_hex=error.key_hex,
                expected=error.expected,
                actual=error.actual,
            ) from error
        except BaseException:
            environment.close()
            raise

    @classmethod
    def _verified(cls, environment: Environment, codecs: LogCodecs) -> Self:
        stored = StoredLog.read(environment, codecs)
        log = cls(environment, codecs, stored)
        log._check_end()
        if stored.findings:
            environment.write(
                lambda txn: put_hard_state(txn, environment, codecs, stored.hard_state)
            )
        return log

    @property
    def hard_state(self) -> HardState:
        return self._stored.hard_state

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(self._base.end.last + 1)

    @property
    def base_configuration(self) -> bytes:
        return self._base.configuration

    def configurations(self) -> Sequence[tuple[LogIndex, bytes]]:
        """See ``StableLog``. One read for each.

        Raises:
            CorruptionError: one is damaged, or says that it is something else.
        """
        return [(LogIndex(at), self._configuration(at)) for at in self._configured]

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self._end.last)

    def term(self, index: LogIndex) -> Term:
        """Term of the entry at ``index``, from its header. O(1) for recent entries.

        Raises:
            LookupError: the entry is not held.
            CorruptionError: its header is damaged.
        """
        term = self._terms.get(index)
        if term is not None and index <= self._end.last:
            return Term(term)
        try:
            return Term(self._log_end(index).term)
        except CorruptionError:
            with self._append_lock:  # as in entries()
                return Term(self._log_end(index).term)

    def chain(self, index: LogIndex) -> bytes:
        """What names the whole log up to an entry, or to what precedes the first one.

        The same on every member that holds the same log.

        Raises:
            LookupError: the entry is not held.
            CorruptionError: its header is damaged.
        """
        try:
            return self._log_end(index).chain
        except CorruptionError:
            with self._append_lock:  # as in entries()
                return self._log_end(index).chain

    def entries(
        self, start: LogIndex, end: LogIndex, bytes_max: int
    ) -> tuple[Entry, ...]:
        """See ``StableLog``. Each entry is checked, and that it continues the log.

        Raises:
            LookupError: an entry of the range is not held.
            CorruptionError: an entry or its header is damaged, or is an older one.
        """
        try:
            return self._entries(start, end, bytes_max)
        except CorruptionError:
            # An append that replaces this range can be durable and not yet known here.
            # Wait for its end and look again, so that only real damage is reported.
            with self._append_lock:
                return self._entries(start, end, bytes_max)

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """See ``LogStorage``. One thread only: LMDB's writer is bound to it.

        Raises:
            OSError: the medium refused. ``ENOSPC``: nothing was stored, and a later
                append may succeed. Any other: nobody knows, and the node must stop.
            CorruptionError: the header before the entries is damaged. Definite.
        """
        after = hard_state or self._stored.hard_state
        assert_appendable(
            self._stored.hard_state,
            after,
            entries,
            first_index=self.first_index,
            last_index=self.last_index,
            term=self.term,
        )
        if entries:
            assert entries[0].index > self._compact_to, "what is compacted is committed"
        with self._append_lock:
            plan = Append.of(self._codecs, self._end_before(entries), entries)
            end = plan.end if entries else self._end
            configured = self._configured_after(entries)
            newest = configured[-1] if configured else 0
            stored = StoredHardState(after, self._stored.sequence + 1, end, newest)
            old_last, base = self._end.last, self._next_base()

            def work(txn: Transaction) -> None:
                plan.store(txn, self.environment, old_last)
                put_hard_state(txn, self.environment, self._codecs, stored)
                self._cut(txn, base)

            self.environment.write(work)
            for entry in entries:
                self._terms[entry.index] = entry.term
            self._stored = stored
            self._configured = configured
            self._end = end
            self._forget_terms(old_last)
            self._move_base(base)

    def compact(self, index: LogIndex) -> None:
        """See ``LogStorage``. The thread of ``append``.

        One transaction deletes ``FORGOTTEN_PER_APPEND_MAX`` entries; each append
        deletes as many of the rest, so that none waits for all of them.

        Raises:
            OSError, CorruptionError: as :meth:`append` does.
        """
        assert index <= self._end.last
        with self._append_lock:
            self._compact_to = max(self._compact_to, index)
            base = self._next_base()
            if base is not self._base:
                self.environment.write(lambda txn: self._cut(txn, base))
                self._move_base(base)

    def install(
        self,
        hard_state: HardState | None,
        snapshot: Snapshot,
        *,
        chain: bytes,
        snapshot_id: bytes,
    ) -> None:
        """See ``LogStorage``. The thread of ``append``.

        From here on :attr:`installing` says, over crashes too, that the state must be
        replaced; then :meth:`finish_install`.

        Raises:
            OSError: as :meth:`append` does.
        """
        last = snapshot.last
        after = hard_state or self._stored.hard_state
        assert_appendable(
            self._stored.hard_state,
            after,
            (),
            first_index=self.first_index,
            last_index=self.last_index,
            term=self.term,
        )
        assert last.index > self._base.end.last, "a snapshot never goes back"
        assert last.term <= after.term, "no snapshot comes from a term not yet reached"
        assert len(chain) == CHAIN_BYTES
        base = LogBase(LogEnd(last.index, last.term, chain), snapshot.configuration)
        install = Install(snapshot_id, last)
        stored = StoredHardState(after, self._stored.sequence + 1, base.end, 0)

        def work(txn: Transaction) -> None:
            begin_anew(txn, self.environment, self._codecs, base, install)
            put_hard_state(txn, self.environment, self._codecs, stored)

        with self._append_lock:
            self.environment.write(work)
            self._terms = {last.index: last.term}
            self._base, self._stored, self._end = base, stored, base.end
            self._configured = []
            self._compact_to = last.index
            self.installing = install

    def finish_install(self) -> None:
        """The state of :attr:`installing` is in its place, durably. Twice is fine.

        Raises:
            OSError: as :meth:`append` does.
        """
        meta = self.environment.database(META)
        self.environment.write(lambda txn: txn.delete(INSTALL_KEY, db=meta))
        self.installing = None

    @property
    def size_bytes(self) -> int:
        """Pages that hold entries, in bytes. O(1)."""
        with self.environment.read() as txn:
            facts = txn.stat(self.environment.database(LOG))
        pages = facts["branch_pages"] + facts["leaf_pages"] + facts["overflow_pages"]
        return int(pages * facts["psize"])

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

    def close(self) -> None:
        """Close the environment. Twice is fine."""
        self.environment.close()

    def _end_before(self, entries: Sequence[Entry]) -> LogEnd:
        """The end of what stays when ``entries`` are appended."""
        if not entries or entries[0].index == self._end.last + 1:
            return self._end
        return self._log_end(entries[0].index - 1)

    def _configured_after(self, entries: Sequence[Entry]) -> list[int]:
        """Indexes of the configurations in the log with ``entries`` appended."""
        if not entries:
            return self._configured
        first = entries[0].index
        return [index for index in self._configured if index < first] + [
            entry.index for entry in entries if entry.kind is EntryKind.CONFIGURATION
        ]

    def _configuration(self, index: int) -> bytes:
        (entry,) = self._entries(index, index + 1, 0)
        if entry.kind is not EntryKind.CONFIGURATION:
            raise self._codecs.configurations.corruption(
                entry_key(index), "names an entry that is no configuration"
            )
        return entry.data

    def _next_base(self) -> LogBase:
        """Where the log begins after one more step of compaction."""
        base = self._base
        last = min(self._compact_to, base.end.last + FORGOTTEN_PER_APPEND_MAX)
        if last == base.end.last:
            return base
        count = bisect_right(self._configured, last)
        configuration = (
            self._configuration(self._configured[count - 1])
            if count
            else base.configuration
        )
        return LogBase(self._log_end(last), configuration)

    def _cut(self, txn: Transaction, base: LogBase) -> None:
        if base is not self._base:
            first = self._base.end.last + 1
            cut(txn, self.environment, self._codecs, first=first, base=base)

    def _move_base(self, base: LogBase) -> None:
        """The log begins at ``base`` now: it is durable."""
        last = base.end.last
        for index in range(self._base.end.last, last):
            self._terms.pop(index, None)
        self._terms[last] = base.end.term
        self._configured = [index for index in self._configured if index > last]
        self._base = base

    def _log_end(self, index: int) -> LogEnd:
        """The log up to an entry, or to its base."""
        base = self._base.end
        if index == base.last:
            return base
        if not base.last < index <= self._end.last:
            raise LookupError(f"entry {index} is not held")
        with self.environment.read() as txn:
            return end_at(txn, self.environment, self._codecs, index)

    def _forget_terms(self, old_last: int) -> None:
        """Drop cached terms of entries that were cut off, or are no longer recent."""
        terms, last = self._terms, self._end.last
        for index in range(last + 1, old_last + 1):
            terms.pop(index, None)
        if len(terms) > TERMS_CACHED_MAX:
            oldest = last - TERMS_CACHED_MAX // 2
            for index in [index for index in terms if index < oldest]:
                terms.pop(index, None)

    def _entries(self, start: int, end: int, bytes_max: int) -> tuple[Entry, ...]:
        base = self._base.end
        if not base.last < start <= end <= self._end.last + 1:
            raise LookupError(f"entries {start} to {end} are not all held")
        if start == end:
            return ()
        with self.environment.read() as txn:
            before = base
            if start - 1 > base.last:
                before = end_at(txn, self.environment, self._codecs, start - 1)
            return entries_behind(
                txn,
                self.environment,
                self._codecs,
                before,
                end=end,
                bytes_max=bytes_max,
            )

    def _check_end(self) -> None:
        """Verify the newest entries and that the log ends where the hard state says."""
        last = self._end.last
        start = max(self._base.end.last + 1, last + 1 - VERIFIED_ON_OPEN_MAX)
        while start <= last:
            for entry in self._entries(start, last + 1, 16 << 20):
                self._terms[entry.index] = entry.term
                start = entry.index + 1
                is_configuration = entry.kind is EntryKind.CONFIGURATION
                if is_configuration and entry.index not in self._configured:
                    raise missing(self._codecs.configurations, entry_key(entry.index))
        end = self._log_end(last)
        if end != self._end:
            raise self._codecs.headers.corruption(
                entry_key(last),
                "is not the end of the log that the hard state names",
                expected=f"term {self._end.term}, chain {self._end.chain.hex()}",
                actual=f"term {end.term}, chain {end.chain.hex()}",
            )
