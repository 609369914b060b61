"""The durable Raft log: entries, their headers and the hard state, in LMDB.

``append`` writes everything in one transaction, which is on the medium when it returns.
Reading methods run on other threads at the same time: they see the last *finished*
append, in short transactions of their own, and verify what they return. What is stored
is described in ``log_format.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Self

from kvstore.errors import CorruptionError
from kvstore.raft.log import assert_appendable
from kvstore.raft.messages import Entry, HardState
from kvstore.replica.interfaces import Identity
from kvstore.storage.environment import (
    ADVICE,
    MAP_BYTES_MAX,
    Environment,
    Transaction,
)
from kvstore.storage.log_format import (
    BASE_KEY,
    DATABASES,
    EMPTY_CHAIN,
    HARD_STATE_KEY,
    HARD_STATES,
    HEADERS,
    LOG,
    META,
    STORE,
    Header,
    LogCodecs,
    LogEnd,
    StoredHardState,
    entry_key,
    link,
    missing,
)
from kvstore.storage.log_scrub import scrub_databases
from kvstore.storage.record import Finding, entry_crc
from kvstore.storage.scrubber import ScrubTarget
from kvstore.types import LogIndex, Term

TERMS_CACHED_MAX = 16_384
"""Terms of the newest entries are kept in memory: replication asks for them."""
VERIFIED_ON_OPEN_MAX = 4_096
"""Newest entries that opening reads and checks; the scrubber tours all of them."""


class LMDBLog:
    """Satisfies ``replica.interfaces.LogStorage``."""

    __slots__ = (
        "_append_lock",
        "_base",
        "_codecs",
        "_end",
        "_stored",
        "_terms",
        "environment",
        "findings",
    )

    def __init__(
        self,
        environment: Environment,
        codecs: LogCodecs,
        base: LogEnd,
        stored: StoredHardState,
        findings: tuple[Finding, ...],
    ) -> None:
        """Takes over an open environment; :meth:`open` is how to get one."""
        self.environment = environment
        self.findings = findings
        """Damage that opening found and mended."""
        self._codecs = codecs
        self._base = base
        self._stored = stored
        self._end = stored.end
        self._terms: dict[int, int] = {
            base.last: base.term,
            stored.end[0]: stored.end[1],
        }
        # Held while what is stored and what this object knows may differ.
        self._append_lock = Lock()

    @classmethod
    def create(cls, path: Path, identity: Identity) -> None:
        """Make an empty log in directory ``path``, durably. Done once, at founding.

        Raises:
            OSError: the medium refused.
        """
        codecs = LogCodecs.of(identity)
        empty = LogEnd(0, 0, EMPTY_CHAIN)
        stored = StoredHardState(HardState(term=Term(0), vote=None), 1, empty)
        environment = Environment.open(
            path, store=STORE, databases=DATABASES, create=True
        )
        meta = environment.database(META)

        def work(txn: Transaction) -> None:
            txn.put(BASE_KEY, codecs.encode_base(empty), db=meta)
            _put_hard_state(txn, environment, codecs, stored)

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
        with environment.read() as txn:
            value = txn.get(BASE_KEY, db=environment.database(META))
            if value is None:
                raise missing(codecs.meta, BASE_KEY)
            base = codecs.decode_base(value)
            stored, findings = _read_hard_state(txn, environment, codecs)
            _check_extent(txn, environment, codecs, base, stored.end)
        log = cls(environment, codecs, base, stored, tuple(findings))
        log._check_end()
        if findings:
            environment.write(
                lambda txn: _put_hard_state(txn, environment, codecs, stored)
            )
        return log

    @property
    def hard_state(self) -> HardState:
        return self._stored.hard_state

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(self._base.last + 1)

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
        if index in (0, self._base.last):
            return Term(self._base.term if index else 0)
        if not self._base.last < index <= self._end.last:
            raise LookupError(f"entry {index} is not held")
        try:
            with self.environment.read() as txn:
                return Term(self._header(txn, index).term)
        except CorruptionError:
            with self._append_lock:
                if index > self._end.last:
                    raise LookupError(f"entry {index} is not held") from None
                with self.environment.read() as txn:
                    return Term(self._header(txn, index).term)

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
        with self._append_lock:
            plan = _Append.of(self._codecs, self._end_before(entries), entries)
            end = plan.end if entries else self._end
            stored = StoredHardState(after, self._stored.sequence + 1, end)
            old_last = self._end.last

            def work(txn: Transaction) -> None:
                plan.store(txn, self.environment, old_last)
                _put_hard_state(txn, self.environment, self._codecs, stored)

            self.environment.write(work)
            for entry in entries:
                self._terms[entry.index] = entry.term
            self._stored = stored
            self._end = end
            self._forget_terms(old_last)

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
        index = entries[0].index - 1
        if index == self._base.last:
            return self._base
        with self.environment.read() as txn:
            header = self._header(txn, index)
        return LogEnd(index, header.term, header.chain)

    def _forget_terms(self, old_last: int) -> None:
        """Drop cached terms of entries that were cut off, or are no longer recent."""
        terms, last = self._terms, self._end.last
        for index in range(last + 1, old_last + 1):
            terms.pop(index, None)
        if len(terms) > TERMS_CACHED_MAX:
            oldest = last - TERMS_CACHED_MAX // 2
            for index in [index for index in terms if index < oldest]:
                terms.pop(index, None)

    def _header(self, txn: Transaction, index: int) -> Header:
        key = entry_key(index)
        value = txn.get(key, db=self.environment.database(HEADERS))
        if value is None:
            raise missing(self._codecs.headers, key)
        return self._codecs.decode_header(index, value)

    def _entries(self, start: int, end: int, bytes_max: int) -> tuple[Entry, ...]:
        if not self._base.last < start <= end <= self._end.last + 1:
            raise LookupError(f"entries {start} to {end} are not all held")
        if start == end:
            return ()
        codecs, log = self._codecs, self.environment.database(LOG)
        taken: list[Entry] = []
        total_bytes = 0
        with self.environment.read() as txn:
            before = self._base
            if start - 1 > before.last:
                header = self._header(txn, start - 1)
                before = LogEnd(start - 1, header.term, header.chain)
            for index in range(start, end):
                header = self._header(txn, index)
                before = codecs.check_link(index, header, before)
                key = entry_key(index)
                value = txn.get(key, db=log)
                if value is None:
                    raise missing(codecs.log, key)
                entry = codecs.decode_entry(index, value, header)
                total_bytes += len(entry.data)
                if taken and total_bytes > bytes_max:
                    break
                taken.append(entry)
        return tuple(taken)

    def _check_end(self) -> None:
        """Verify the newest entries and that the log ends where the hard state says."""
        last = self._end.last
        start = max(self._base.last + 1, last + 1 - VERIFIED_ON_OPEN_MAX)
        while start <= last:
            for entry in self._entries(start, last + 1, 16 << 20):
                self._terms[entry.index] = entry.term
                start = entry.index + 1
        with self.environment.read() as txn:
            end = self._base
            if last > end.last:
                header = self._header(txn, last)
                end = LogEnd(last, header.term, header.chain)
        if end != self._end:
            raise self._codecs.headers.corruption(
                entry_key(last),
                "is not the end of the log that the hard state names",
                expected=f"term {self._end.term}, chain {self._end.chain.hex()}",
                actual=f"term {end.term}, chain {end.chain.hex()}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Append:
    """Encoded entries and headers, ready to be stored, again if need be."""

    records: tuple[tuple[bytes, bytes, bytes], ...]
    """Key, entry, header."""
    end: LogEnd
    first: int

    @classmethod
    def of(cls, codecs: LogCodecs, before: LogEnd, entries: Sequence[Entry]) -> Self:
        records = []
        first = entries[0].index if entries else before.last + 1
        for entry in entries:
            term, index = entry.term, entry.index
            crc = entry_crc(term, index, entry.kind, entry.data)
            header = Header(
                term, before.term, crc, link(before.chain, term, index, crc)
            )
            records.append(
                (
                    entry_key(index),
                    codecs.encode_entry(entry),
                    codecs.encode_header(index, header),
                )
            )
            before = LogEnd(index, term, header.chain)
        return cls(records=tuple(records), end=before, first=first)

    def store(self, txn: Transaction, environment: Environment, old_last: int) -> None:
        """Replace what is stored from ``first`` on."""
        if not self.records:
            return
        log, headers = environment.database(LOG), environment.database(HEADERS)
        for index in range(self.first, old_last + 1):
            key = entry_key(index)
            txn.delete(key, db=log)
            txn.delete(key, db=headers)
        for key, entry, header in self.records:
            # append=True: the keys are the greatest, so pages are filled, not halved.
            txn.put(key, entry, db=log, append=True)
            txn.put(key, header, db=headers, append=True)


def _put_hard_state(
    txn: Transaction,
    environment: Environment,
    codecs: LogCodecs,
    stored: StoredHardState,
) -> None:
    for copy, name in enumerate(HARD_STATES):
        value = codecs.encode_hard_state(copy, stored)
        txn.put(HARD_STATE_KEY, value, db=environment.database(name))


def _read_hard_state(
    txn: Transaction, environment: Environment, codecs: LogCodecs
) -> tuple[StoredHardState, list[Finding]]:
    """The newest whole copy of the hard state, and what is wrong with the others.

    The copies are written in one transaction, so an older one is a write that was lost.

    Raises:
        CorruptionError: no copy is whole: this member may have forgotten its vote.
    """
    whole: list[StoredHardState] = []
    damaged: list[CorruptionError] = []
    for copy, name in enumerate(HARD_STATES):
        codec = codecs.hard_states[copy]
        try:
            value = txn.get(HARD_STATE_KEY, db=environment.database(name))
            if value is None:
                raise missing(codec, HARD_STATE_KEY)
            whole.append(codecs.decode_hard_state(copy, value))
        except CorruptionError as error:
            damaged.append(error)
            whole.append(_NO_HARD_STATE)
    newest = max(whole, key=lambda stored: stored.sequence)
    if newest is _NO_HARD_STATE:
        raise damaged[0]
    damaged.extend(
        codecs.hard_states[copy].corruption(
            HARD_STATE_KEY, f"is older than its copy by {newest.sequence - sequence}"
        )
        for copy, (_, sequence, _) in enumerate(whole)
        if 0 < sequence < newest.sequence
    )
    return newest, [
        Finding(
            store=error.store,
            database=error.database,
            key_hex=error.key_hex,
            what=f"{error}; replaced from the other copy",
        )
        for error in damaged
    ]


_NO_HARD_STATE = StoredHardState(
    HardState(term=Term(0), vote=None), 0, LogEnd(0, 0, EMPTY_CHAIN)
)


def _check_extent(
    txn: Transaction,
    environment: Environment,
    codecs: LogCodecs,
    base: LogEnd,
    end: LogEnd,
) -> None:
    """Entries and headers are exactly those from ``base`` to ``end``, without a gap.

    O(1): as many distinct keys between two bounds as fit there leave none out.
    """
    held = end.last - base.last
    for codec in (codecs.log, codecs.headers):
        database = environment.database(codec.database)
        count = txn.stat(database)["entries"]
        if held > 0:
            for index in (base.last + 1, end.last):
                if txn.get(entry_key(index), db=database) is None:
                    raise missing(codec, entry_key(index))
        if count != held:
            raise codec.corruption(
                entry_key(end.last),
                "is not the last of a log without gaps",
                expected=f"{held} records",
                actual=f"{count} records",
            )
        cursor = txn.cursor(db=database)
        if cursor.last() and cursor.key() != entry_key(end.last):
            raise codec.corruption(
                cursor.key(), "lies beyond the end of the log", expected=end.last
            )
