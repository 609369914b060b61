"""How the scrubber checks the Raft store: each record, and that records fit together.

Checksums prove that a record is one that was written here. They cannot prove that it is
the *newest* one; the header chain, and the two copies of the hard state, can.
"""

from functools import partial

from kvstore.errors import CorruptionError
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import EntryKind
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
    LogCodecs,
    LogEnd,
    StoredHardState,
    entry_key,
)
from kvstore.storage.record import RecordCodec
from kvstore.storage.scrubber import ScrubDatabase


def scrub_databases(
    environment: Environment, codecs: LogCodecs
) -> tuple[ScrubDatabase, ...]:
    """The databases of an open Raft store, with their checks."""
    checks = _LogChecks(environment, codecs)
    return (
        ScrubDatabase(name=LOG, check=checks.entry),
        ScrubDatabase(name=HEADERS, check=checks.header),
        *(
            ScrubDatabase(name=name, check=partial(checks.hard_state, copy))
            for copy, name in enumerate(HARD_STATES)
        ),
        ScrubDatabase(name=CONFIGURATIONS, check=checks.configured),
        ScrubDatabase(name=META, check=checks.meta),
    )


class _LogChecks:
    """A ``RecordCheck`` for each database.

    A neighbour that is itself damaged is passed over: it has a finding of its own, and
    one damaged record should be one finding.
    """

    __slots__ = ("_codecs", "_environment")

    def __init__(self, environment: Environment, codecs: LogCodecs) -> None:
        self._environment = environment
        self._codecs = codecs

    def entry(self, txn: Transaction, key: bytes, value: bytes) -> None:
        codec = self._codecs.log
        codec.body(key, value)
        index = _index(codec, key)
        header = self._header_or_none(txn, index, codec, key)
        if header is None:
            return
        entry = self._codecs.decode_entry(index, value, header)
        conf = self._environment.database(CONFIGURATIONS)
        if entry.kind is EntryKind.CONFIGURATION and txn.get(key, db=conf) is None:
            raise self._codecs.configurations.corruption(
                key, "is missing, but the log has a configuration there"
            )

    def configured(self, txn: Transaction, key: bytes, value: bytes) -> None:
        codec = self._codecs.configurations
        index = _index(codec, key)
        header = self._header_or_none(txn, index, codec, key)
        if header is None:
            return
        self._codecs.check_configured(index, value, header)
        stored = txn.get(key, db=self._environment.database(LOG))
        if stored is None:
            return  # the header's finding
        try:
            entry = self._codecs.decode_entry(index, stored, header)
        except CorruptionError:
            return
        if entry.kind is not EntryKind.CONFIGURATION:
            raise codec.corruption(key, "names an entry that is no configuration")

    def header(self, txn: Transaction, key: bytes, value: bytes) -> None:
        codec = self._codecs.headers
        index = _index(codec, key)
        header = self._codecs.decode_header(index, value)
        if txn.get(key, db=self._environment.database(LOG)) is None:
            raise codec.corruption(key, "names an entry that is missing")
        before = self._end_or_none(txn, index - 1, codec, key)
        if before is not None:
            self._codecs.check_link(index, header, before)

    def hard_state(self, copy: int, txn: Transaction, key: bytes, value: bytes) -> None:
        codec = self._codecs.hard_states[copy]
        if key != HARD_STATE_KEY:
            raise codec.corruption(key, "has a key that no hard state has")
        stored = self._codecs.decode_hard_state(copy, value)
        for other in range(len(HARD_STATES)):
            there = self._hard_state_or_none(txn, other, codec)
            if there is not None and there.sequence > stored.sequence:
                raise codec.corruption(key, "is older than its copy")
        if txn.get(BASE_KEY, db=self._environment.database(META)) is None:
            raise codec.corruption(key, "relies on the base of the log: it is missing")
        end = self._end_or_none(txn, stored.end.last, codec, key)
        conf = txn.cursor(db=self._environment.database(CONFIGURATIONS))
        newest = _index(codec, conf.key()) if conf.last() else 0
        base = self._base_or_none(txn)
        if newest != stored.configured and (
            newest or (base is not None and stored.configured > base.last)
        ):
            raise self._codecs.configurations.corruption(
                entry_key(newest),
                "is not the newest configuration",
                expected=stored.configured,
            )
        if end is not None and end != stored.end:
            raise codec.corruption(
                key,
                "names another end of the log than there is",
                expected=f"term {end.term}, chain {end.chain.hex()}",
                actual=f"term {stored.end.term}, chain {stored.end.chain.hex()}",
            )

    def meta(self, _txn: Transaction, key: bytes, value: bytes) -> None:
        if key == BASE_KEY:
            Configuration.decode(self._codecs.decode_base(value).configuration)
        elif key == INSTALL_KEY:
            self._codecs.decode_install(value)
        else:
            raise self._codecs.meta.corruption(key, "has an unknown key")

    def _header_or_none(
        self, txn: Transaction, index: int, codec: RecordCodec, key: bytes
    ) -> Header | None:
        """The header that the record at ``key`` relies on; None if it is damaged."""
        value = txn.get(entry_key(index), db=self._environment.database(HEADERS))
        if value is None:
            # No tour comes by what is not there: whoever misses it has to say so.
            raise codec.corruption(key, f"relies on header {index}, which is missing")
        try:
            return self._codecs.decode_header(index, value)
        except CorruptionError:
            return None

    def _end_or_none(
        self, txn: Transaction, index: int, codec: RecordCodec, key: bytes
    ) -> LogEnd | None:
        """The log up to ``index``, on which the record at ``key`` relies."""
        base = self._base_or_none(txn)
        if base is not None and index <= base.last:
            return base
        if base is None and not txn.get(
            entry_key(index), db=self._environment.database(HEADERS)
        ):
            return None  # it may be the base
        header = self._header_or_none(txn, index, codec, key)
        return header and LogEnd(index, header.term, header.chain)

    def _base_or_none(self, txn: Transaction) -> LogEnd | None:
        value = txn.get(BASE_KEY, db=self._environment.database(META))
        try:
            return self._codecs.decode_base(value).end if value is not None else None
        except CorruptionError:
            return None

    def _hard_state_or_none(
        self, txn: Transaction, copy: int, codec: RecordCodec
    ) -> StoredHardState | None:
        name = HARD_STATES[copy]
        value = txn.get(HARD_STATE_KEY, db=self._environment.database(name))
        if value is None:
            raise codec.corruption(HARD_STATE_KEY, f"has no copy: {name} is empty")
        try:
            return self._codecs.decode_hard_state(copy, value)
        except CorruptionError:
            return None


def _index(codec: RecordCodec, key: bytes) -> int:
    if len(key) != 8:
        raise codec.corruption(key, "has a key that is no index")
    return int.from_bytes(key, "big")
