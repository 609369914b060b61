"""Reads entries and headers of the Raft store, and checks each one."""

from kvstore.raft.messages import Entry
from kvstore.storage.environment import Environment, Transaction
from kvstore.storage.log_format import (
    HEADERS,
    LOG,
    Header,
    LogCodecs,
    LogEnd,
    entry_key,
    missing,
)


def end_at(
    txn: Transaction, environment: Environment, codecs: LogCodecs, index: int
) -> LogEnd:
    """The log up to an entry that it holds.

    Raises:
        CorruptionError: its header is damaged or missing.
    """
    header = _header(txn, environment, codecs, index)
    return LogEnd(index, header.term, header.chain)


def entries_behind(
    txn: Transaction,
    environment: Environment,
    codecs: LogCodecs,
    before: LogEnd,
    *,
    end: int,
    bytes_max: int,
) -> tuple[Entry, ...]:
    """Entries that follow ``before``, up to ``end`` or about ``bytes_max`` of data.

    At least one.

    Raises:
        CorruptionError: one is damaged or missing, or does not continue the log.
    """
    log = environment.database(LOG)
    taken: list[Entry] = []
    total_bytes = 0
    for index in range(before.last + 1, end):
        header = _header(txn, environment, codecs, index)
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


def _header(
    txn: Transaction, environment: Environment, codecs: LogCodecs, index: int
) -> Header:
    key = entry_key(index)
    value = txn.get(key, db=environment.database(HEADERS))
    if value is None:
        raise missing(codecs.headers, key)
    return codecs.decode_header(index, value)
