"""What changes in the Raft store: encoded first, then stored in one transaction.

A transaction may have to be run again after the map was grown, so that everything in
here changes nothing but the transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from kvstore.raft.messages import Entry, EntryKind
from kvstore.storage.environment import Environment, Transaction
from kvstore.storage.log_format import (
    BASE_KEY,
    CONFIGURATIONS,
    HARD_STATE_KEY,
    HARD_STATES,
    HEADERS,
    INSTALL_KEY,
    LOG,
    META,
    Header,
    Install,
    LogBase,
    LogCodecs,
    LogEnd,
    StoredHardState,
    entry_key,
    link,
)
from kvstore.storage.record import entry_crc


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Encoded entries and headers, ready to be stored, again if need be."""

    records: tuple[tuple[bytes, bytes, bytes], ...]
    """Key, entry, header."""
    configured: tuple[tuple[bytes, bytes], ...]
    """Key and record of those that are configurations."""
    end: LogEnd
    first: int

    @classmethod
    def of(cls, codecs: LogCodecs, before: LogEnd, entries: Sequence[Entry]) -> Self:
        records = []
        configured = []
        first = entries[0].index if entries else before.last + 1
        for entry in entries:
            term, index = entry.term, entry.index
            crc = entry_crc(term, index, entry.kind, entry.data)
            header = Header(
                term, before.term, crc, link(before.chain, term, index, crc)
            )
            key = entry_key(index)
            records.append(
                (key, codecs.encode_entry(entry), codecs.encode_header(index, header))
            )
            if entry.kind is EntryKind.CONFIGURATION:
                configured.append((key, codecs.encode_configured(index, header)))
            before = LogEnd(index, term, header.chain)
        return cls(
            records=tuple(records),
            configured=tuple(configured),
            end=before,
            first=first,
        )

    def store(self, txn: Transaction, environment: Environment, old_last: int) -> None:
        """Replace what is stored from ``first`` on."""
        if not self.records:
            return
        log, headers = environment.database(LOG), environment.database(HEADERS)
        conf = environment.database(CONFIGURATIONS)
        for index in range(self.first, old_last + 1):
            key = entry_key(index)
            txn.delete(key, db=log)
            txn.delete(key, db=headers)
            txn.delete(key, db=conf)
        for key, entry, header in self.records:
            # append=True: the keys are the greatest, so pages are filled, not halved.
            txn.put(key, entry, db=log, append=True)
            txn.put(key, header, db=headers, append=True)
        for key, record in self.configured:
            txn.put(key, record, db=conf)


def cut(
    txn: Transaction,
    environment: Environment,
    codecs: LogCodecs,
    *,
    first: int,
    base: LogBase,
) -> None:
    """Forget the entries from ``first`` to the new ``base``."""
    databases = [environment.database(n) for n in (LOG, HEADERS, CONFIGURATIONS)]
    for index in range(first, base.end.last + 1):
        key = entry_key(index)
        for database in databases:
            txn.delete(key, db=database)
    put_base(txn, environment, codecs, base)


def begin_anew(
    txn: Transaction,
    environment: Environment,
    codecs: LogCodecs,
    base: LogBase,
    install: Install,
) -> None:
    """Replace the whole log by nothing but a base, and note what is being installed."""
    for name in (LOG, HEADERS, CONFIGURATIONS):
        txn.drop(environment.database(name), delete=False)
    put_base(txn, environment, codecs, base)
    record = codecs.encode_install(install)
    txn.put(INSTALL_KEY, record, db=environment.database(META))


def put_base(
    txn: Transaction, environment: Environment, codecs: LogCodecs, base: LogBase
) -> None:
    """Say where the log begins."""
    txn.put(BASE_KEY, codecs.encode_base(base), db=environment.database(META))


def put_hard_state(
    txn: Transaction,
    environment: Environment,
    codecs: LogCodecs,
    stored: StoredHardState,
) -> None:
    """Write all copies of the hard state."""
    for copy, name in enumerate(HARD_STATES):
        value = codecs.encode_hard_state(copy, stored)
        txn.put(HARD_STATE_KEY, value, db=environment.database(name))
