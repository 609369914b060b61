"""Every error that kvstore raises on purpose.

Each class states two things (after Maelstrom's ``errors.edn`` and aiokafka):

``definite``
    the operation was certainly not applied. An indefinite error means that it may have
    been, or may yet be.
``retryable``
    the same request can succeed later without a change. Retrying is safe only if the
    error is also definite, or the request may be applied twice.

::

    KVStoreError
    ├─ InvalidRequest                         definite
    │  ├─ RequestTooLarge
    │  ├─ Compacted
    │  ├─ FutureRevision
    │  ├─ EpochChanged
    │  ├─ SessionExpired
    │  └─ MembershipRefused
    ├─ Unavailable                            definite, retryable
    │  ├─ NotLeader
    │  ├─ ProposalDropped
    │  ├─ Behind
    │  ├─ ChangePending
    │  └─ Busy
    ├─ OutcomeUnknown                         indefinite
    │  ├─ DeadlineExceeded
    │  └─ LeadershipLost
    ├─ CorruptionError                        definite, retryable at another node
    ├─ DataDirectoryError                     definite
    │  ├─ DirectoryLocked
    │  ├─ DirectoryNotFounded
    │  ├─ ForeignDirectory
    │  ├─ NewerFormat
    │  ├─ DamagedDirectory
    │  └─ IdentityLost
    ├─ DamagedSnapshot                        definite
    ├─ Removed                                definite
    ├─ ConfigError                            definite
    └─ Closed                                 definite

Standard library only; every package may import this module.
"""

from typing import ClassVar


class KVStoreError(Exception):
    """Base of the tree. Never raised itself."""

    definite: ClassVar[bool] = True
    retryable: ClassVar[bool] = False

    def details(self) -> dict[str, str]:
        """The fields that travel with the error, by constructor keyword, as text."""
        return {}


class InvalidRequest(KVStoreError):
    """The request breaks a rule that no retry mends. Nothing was applied."""

    command_index: int | None = None
    """Which command of a batch, from 0, if it was one. Travels with the error."""


class RequestTooLarge(InvalidRequest):
    """A named limit was passed. ``actual`` and ``maximum`` are in the limit's unit."""

    def __init__(
        self, message: str, *, limit: str = "", actual: int = 0, maximum: int = 0
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.actual = int(actual)
        self.maximum = int(maximum)

    def details(self) -> dict[str, str]:
        return {
            "limit": self.limit,
            "actual": str(self.actual),
            "maximum": str(self.maximum),
        }


class Compacted(InvalidRequest):
    """The revision asked for lies below ``compact_revision``: its history is gone."""

    def __init__(self, message: str, *, compact_revision: int = 0) -> None:
        super().__init__(message)
        self.compact_revision = int(compact_revision)

    def details(self) -> dict[str, str]:
        return {"compact_revision": str(self.compact_revision)}


class FutureRevision(InvalidRequest):
    """The revision asked for does not exist yet; the newest is ``current_revision``."""

    def __init__(self, message: str, *, current_revision: int = 0) -> None:
        super().__init__(message)
        self.current_revision = int(current_revision)

    def details(self) -> dict[str, str]:
        return {"current_revision": str(self.current_revision)}


class EpochChanged(InvalidRequest):
    """The revision is of another epoch: the store was restored from a backup since.

    Revisions of two epochs do not compare. Forget what was read, and read anew.
    """

    def __init__(self, message: str, *, epoch: int = 0) -> None:
        super().__init__(message)
        self.epoch = int(epoch)

    def details(self) -> dict[str, str]:
        return {"epoch": str(self.epoch)}


class SessionExpired(InvalidRequest):
    """The client's session is gone, so the command was not carried out *now*.

    Whether an earlier attempt of the same command was, this node cannot tell any more:
    a client that made one must report an unknown outcome.
    """


class MembershipRefused(InvalidRequest):
    """The change of members makes no sense, or would be unsafe. Nothing was changed."""


class Unavailable(KVStoreError):
    """No node could take the request. It was certainly not applied; try again."""

    retryable = True


class NotLeader(Unavailable):
    """This node does not lead. ``leader_id`` is whom it follows; 0 is nobody.

    ``leader_address`` is where that one serves, if it is known.
    """

    def __init__(
        self, message: str, *, leader_id: int = 0, leader_address: str = ""
    ) -> None:
        super().__init__(message)
        self.leader_id = int(leader_id)
        self.leader_address = leader_address

    def details(self) -> dict[str, str]:
        return {
            "leader_id": str(self.leader_id),
            "leader_address": self.leader_address,
        }


class ProposalDropped(Unavailable):
    """The request was let go before it reached a log, as at a leader change."""


class Behind(Unavailable):
    """This node has not applied what the client saw elsewhere. Another one may have.

    ``revision`` is what it has applied.
    """

    def __init__(self, message: str, *, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = int(revision)

    def details(self) -> dict[str, str]:
        return {"revision": str(self.revision)}


class ChangePending(Unavailable):
    """Not yet: another change of members is under way, or a learner lags.

    Nothing was changed.
    """


class Busy(Unavailable):
    """A bounded queue is full (backpressure). Retry after a pause.

    ``queue`` names it; ``maximum`` is its bound, in the unit that the name ends in.
    """

    def __init__(self, message: str, *, queue: str = "", maximum: int = 0) -> None:
        super().__init__(message)
        self.queue = queue
        self.maximum = int(maximum)

    def details(self) -> dict[str, str]:
        return {"queue": self.queue, "maximum": str(self.maximum)}


class OutcomeUnknown(KVStoreError):
    """The request may have been applied, or may yet be. Read before you write again."""

    definite = False


class DeadlineExceeded(OutcomeUnknown):
    """The caller's time ran out after the request had left."""


class LeadershipLost(OutcomeUnknown):
    """The leader changed, or its connection broke, with the request in flight."""


class CorruptionError(KVStoreError):
    """A stored record fails its checksum or stands where it does not belong.

    The node does not serve it. Another node may hold it whole, so a *read* can be
    retried there.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        store: str = "",
        database: str = "",
        key_hex: str = "",
        expected: str = "",
        actual: str = "",
    ) -> None:
        super().__init__(message)
        self.store = store
        self.database = database
        self.key_hex = key_hex
        self.expected = expected
        self.actual = actual

    def details(self) -> dict[str, str]:
        return {
            "store": self.store,
            "database": self.database,
            "key_hex": self.key_hex,
            "expected": self.expected,
            "actual": self.actual,
        }


class DataDirectoryError(KVStoreError):
    """A data directory cannot be used; the message says what to do about it."""


class DirectoryLocked(DataDirectoryError):
    """Another process has the directory open."""


class DirectoryNotFounded(DataDirectoryError):
    """The directory is empty or absent: ``kvstore init`` founds a member."""


class ForeignDirectory(DataDirectoryError):
    """The directory belongs to another cluster or node, or is not kvstore's."""


class NewerFormat(DataDirectoryError):
    """A newer kvstore wrote the directory."""


class DamagedDirectory(DataDirectoryError):
    """A part of the directory is missing or unreadable."""


class IdentityLost(DataDirectoryError):
    """The cluster knows this member by another data directory.

    The member's disk was lost and its directory made anew under the old id. It has
    forgotten what it promised, so no member listens to it: replace it under a new id.
    """


class DamagedSnapshot(KVStoreError):
    """A snapshot file, or one that a peer sent, is not whole. Nothing was changed."""


class Removed(KVStoreError):
    """This node was removed from its cluster, and has stopped. Its id is spent."""


class ConfigError(KVStoreError):
    """A setting, or two settings together, cannot be used."""


class Closed(KVStoreError):
    """The client, store or node was closed before the call."""
