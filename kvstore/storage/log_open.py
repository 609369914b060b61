"""What opening the Raft store checks, before anything of it is believed."""

from typing import NamedTuple, Self

from kvstore.errors import CorruptionError
from kvstore.raft.messages import HardState
from kvstore.storage.environment import Environment, Transaction
from kvstore.storage.log_format import (
    BASE_KEY,
    CONFIGURATIONS,
    EMPTY_LOG,
    HARD_STATE_KEY,
    HARD_STATES,
    HEADERS,
    INSTALL_KEY,
    META,
    Install,
    LogBase,
    LogCodecs,
    LogEnd,
    StoredHardState,
    entry_key,
    missing,
)
from kvstore.storage.record import Finding
from kvstore.types import Term


class StoredLog(NamedTuple):
    """What the store says of the log as a whole."""

    base: LogBase
    hard_state: StoredHardState
    configured: list[int]
    """Indexes of the configuration entries held, ascending."""
    installing: Install | None
    findings: tuple[Finding, ...]
    """Copies of the hard state to be replaced from the newest."""

    @classmethod
    def read(cls, environment: Environment, codecs: LogCodecs) -> Self:
        """Read it all, and check that it agrees.

        Raises:
            CorruptionError: only other members can mend it.
            NewerFormat: a newer kvstore wrote it.
        """
        meta = environment.database(META)
        with environment.read() as txn:
            value = txn.get(BASE_KEY, db=meta)
            if value is None:
                raise missing(codecs.meta, BASE_KEY)
            base = codecs.decode_base(value)
            hard_state, findings = _read_hard_state(txn, environment, codecs)
            _check_extent(txn, environment, codecs, base.end, hard_state.end)
            configured = _read_configured(
                txn, environment, codecs, base.end, hard_state
            )
            note = txn.get(INSTALL_KEY, db=meta)
        installing = None if note is None else codecs.decode_install(note)
        return cls(base, hard_state, configured, installing, tuple(findings))


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
        for copy, (_, sequence, _, _) in enumerate(whole)
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


_NO_HARD_STATE = StoredHardState(HardState(term=Term(0), vote=None), 0, EMPTY_LOG, 0)


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


def _read_configured(
    txn: Transaction,
    environment: Environment,
    codecs: LogCodecs,
    base: LogEnd,
    stored: StoredHardState,
) -> list[int]:
    """Indexes of the configuration entries held, ascending. O(their number).

    Raises:
        CorruptionError: a record of them is damaged, or the newest one is missing.
    """
    codec = codecs.configurations
    configured: list[int] = []
    cursor = txn.cursor(db=environment.database(CONFIGURATIONS))
    for key, value in cursor:
        index = int.from_bytes(key, "big")
        if len(key) != 8 or not base.last < index <= stored.end.last:
            raise codec.corruption(key, "names an entry that the log does not hold")
        header = txn.get(key, db=environment.database(HEADERS))
        if header is None:
            raise missing(codecs.headers, key)
        codecs.check_configured(index, value, codecs.decode_header(index, header))
        configured.append(index)
    newest = configured[-1] if configured else 0
    expected = stored.configured if stored.configured > base.last else 0
    if newest != expected:
        raise codec.corruption(
            entry_key(max(newest, expected)),
            "is not the newest configuration that the hard state names",
            expected=expected,
            actual=newest,
        )
    return configured
