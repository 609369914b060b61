"""The state that commands read and change, as the state machine needs it.

``storage`` satisfies :class:`StateView` over LMDB and over memory; the state machine
never learns which. Records, not bytes: encoding and checksums belong to storage.

Layout. Each change of a key is one :class:`Version`, stored under its
``(revision, position)``. :class:`Head` is the newest version of each key, found by key
in key order; deleted keys keep their head (a tombstone) until compaction takes it. A
version names the version it replaced, so the history of a key is a chain from its head
backward, and compaction needs no other index: whoever replaced a version names it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kvstore.state_machine.sessions import SessionTable
from kvstore.types import LeaseId, LogIndex, Revision, Term


class VersionId(NamedTuple):
    """Where a version is stored. Ordered as history is."""

    revision: Revision
    position: int
    """Place of the change inside its transaction, from 0."""


NO_VERSION = VersionId(Revision(0), 0)


@dataclass(slots=True)
class Version:
    """One change of one key."""

    key: bytes
    value: bytes
    create_revision: Revision
    """0 marks a tombstone: the key was deleted here."""
    version: int
    """Writes since creation; 0 for a tombstone."""
    lease: LeaseId
    previous: VersionId
    """The version this one replaced (a tombstone too); ``NO_VERSION`` if none."""


@dataclass(slots=True)
class Head:
    """What the newest version of a key is, without its value."""

    at: VersionId
    create_revision: Revision
    """0: the key is deleted."""
    version: int
    lease: LeaseId


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What has been applied. Stored in the same transaction as its effects."""

    index: LogIndex
    term: Term
    revision: Revision
    compact_revision: Revision
    """History below was given up: reads below fail with ``Compacted``."""
    compaction_cursor: VersionId
    """The first version that compaction has not looked at; each one before it has been
    looked at once. Bounded steps move it, each inside the apply of one entry, so
    replicas at one index are alike."""

    @property
    def compaction_pending(self) -> bool:
        """Whether records wait to be deleted. The leader then proposes steps."""
        return self.compaction_cursor.revision <= self.compact_revision


EMPTY_PROGRESS = Progress(
    index=LogIndex(0),
    term=Term(0),
    revision=Revision(0),
    compact_revision=Revision(0),
    compaction_cursor=VersionId(Revision(1), 0),
)
"""Of a state to which nothing was applied."""


class ReadView(Protocol):
    """A state to read. Every read raises ``CorruptionError`` for a bad record.

    Nobody changes a record that a view returned or was given.
    """

    @property
    def progress(self) -> Progress: ...

    @property
    def sessions(self) -> SessionTable:
        """The open sessions. Only ``machine.apply`` changes them."""
        ...

    def head(self, key: bytes) -> Head | None: ...

    def heads(
        self, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, Head]]:
        """Heads of keys in ``[start, end)`` in key order; ``end`` None is unbounded.

        ``reverse``: from the last key to the first. The view must not change while the
        iterator lives.
        """
        ...

    def version(self, at: VersionId) -> Version | None: ...

    def versions(self, start: VersionId) -> Iterator[tuple[VersionId, Version]]:
        """Versions from ``start`` on, in order of history.

        The view must not change while the iterator lives.
        """
        ...


class StateView(ReadView, Protocol):
    """A state with one writer."""

    progress: Progress
    """Set once for each entry, after all its effects."""

    def put_head(self, key: bytes, head: Head) -> None: ...

    def delete_head(self, key: bytes) -> None: ...

    def append_version(self, at: VersionId, version: Version) -> None:
        """``at`` is greater than every version stored so far."""
        ...

    def delete_version(self, at: VersionId) -> None:
        """Missing is fine: compaction repeats itself after a replay."""
        ...
