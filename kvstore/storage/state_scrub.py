"""How the scrubber checks the state store: each record, and that records fit together.

A checksum cannot prove that a record is the newest one written at its place. Heads and
versions are written together into different trees, so that a page of either that fell
back to an older state shows: a key's head names a version that exists and says the same
of it, no version of a key is newer than its head, what a version follows is there until
compaction takes it, and the newest version is of the revision that the progress has.
The progress also says how many sessions there are, and sums up when they were active.

What cannot show is that a whole transaction was lost, all its pages and LMDB's meta
page. Then the progress is an older one too, and the log is replayed from there.
"""

from kvstore.errors import CorruptionError
from kvstore.state_machine.view import Head, Version, VersionId
from kvstore.storage.environment import Environment, Transaction
from kvstore.storage.scrubber import ScrubDatabase
from kvstore.storage.state_format import (
    HEADS,
    META,
    PROGRESS_KEY,
    SESSIONS,
    VERSIONS,
    StateCodecs,
    head_key,
    version_key,
)
from kvstore.storage.state_reader import StateReader


def scrub_databases(
    environment: Environment, codecs: StateCodecs
) -> tuple[ScrubDatabase, ...]:
    """The databases of an open state store, with their checks."""
    checks = _StateChecks(environment, codecs)
    return (
        ScrubDatabase(name=VERSIONS, check=checks.version),
        ScrubDatabase(name=HEADS, check=checks.head),
        ScrubDatabase(name=META, check=checks.meta),
        ScrubDatabase(name=SESSIONS, check=checks.session),
    )


class _StateChecks:
    """A ``RecordCheck`` for each database.

    A neighbour that is itself damaged is passed over: it has a finding of its own.
    """

    __slots__ = ("_codecs", "_environment", "_reader")

    def __init__(self, environment: Environment, codecs: StateCodecs) -> None:
        self._environment = environment
        self._codecs = codecs
        self._reader = StateReader(environment, codecs)

    def version(self, txn: Transaction, key: bytes, value: bytes) -> None:
        version = self._codecs.decode_version(key, value)
        at = self._codecs.decode_version_id(key)
        stored_key = head_key(version.key)
        record = txn.get(stored_key, db=self._environment.database(HEADS))
        if record is None:
            raise self._codecs.heads.corruption(
                stored_key, f"is missing, but its version {at} is there"
            )
        head = self._head_or_none(stored_key, record)
        if head is not None and head.at < at:
            raise self._codecs.heads.corruption(
                stored_key, "is older than a version of its key", expected=at
            )
        if version.version != 1:
            # The first of a life follows a tombstone or nothing: nobody reads that.
            self._check_previous(txn, key, at, version.previous)

    def _check_previous(
        self, txn: Transaction, key: bytes, at: VersionId, previous: VersionId
    ) -> None:
        versions = self._environment.database(VERSIONS)
        if txn.cursor(db=versions).set_key(version_key(previous)):
            return  # whole or not, it is looked at in its turn
        try:
            progress = self._reader.progress(txn)
        except CorruptionError:
            return
        if at >= progress.compaction_cursor:
            raise self._codecs.versions.corruption(
                key, f"follows version {previous}, which is missing"
            )

    def head(self, txn: Transaction, key: bytes, value: bytes) -> None:
        user_key, head = self._codecs.decode_head(key, value)
        stored_key = version_key(head.at)
        record = txn.get(stored_key, db=self._environment.database(VERSIONS))
        if record is None:
            raise self._codecs.heads.corruption(
                key, f"names version {head.at}, which is missing"
            )
        version = self._version_or_none(stored_key, record)
        if version is not None and (
            version.key,
            version.create_revision,
            version.version,
            version.lease,
        ) != (user_key, head.create_revision, head.version, head.lease):
            raise self._codecs.heads.corruption(
                key, f"and its version {head.at} say different things"
            )

    def meta(self, txn: Transaction, key: bytes, value: bytes) -> None:
        self._codecs.meta.body(key, value)
        if key == PROGRESS_KEY:
            try:
                self._reader.check_newest(txn, self._codecs.decode_progress(value)[0])
                self._reader.sessions(txn)
            except CorruptionError as error:
                if error.database == META:
                    raise

    def session(self, _txn: Transaction, key: bytes, value: bytes) -> None:
        self._codecs.decode_session(key, value)

    def _head_or_none(self, stored_key: bytes, record: bytes) -> Head | None:
        try:
            return self._codecs.decode_head(stored_key, record)[1]
        except CorruptionError:
            return None

    def _version_or_none(self, stored_key: bytes, record: bytes) -> Version | None:
        try:
            return self._codecs.decode_version(stored_key, record)
        except CorruptionError:
            return None
