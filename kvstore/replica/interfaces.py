"""What a replica needs of storage; storage satisfies it structurally."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kvstore.raft.log import StableLog
from kvstore.raft.messages import Entry, HardState, Snapshot
from kvstore.types import (
    FIRST_EPOCH,
    UNKNOWN_INCARNATION,
    ClusterId,
    Epoch,
    Incarnation,
    LogIndex,
    NodeId,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One founding member."""

    node_id: NodeId
    address: str
    """``host:port`` at which it serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose directory it is."""

    cluster_id: ClusterId
    node_id: NodeId
    incarnation: Incarnation = UNKNOWN_INCARNATION
    """0 only in tests: every directory draws its own."""
    epoch: Epoch = FIRST_EPOCH
    """The same for all members: a restore makes a new cluster."""
    state_id: ClusterId | None = None
    """Of the cluster whose state this is, if it was restored from another's snapshot:
    records of the state vouch for it. None: ``cluster_id``."""

    @property
    def origin_id(self) -> ClusterId:
        """What the checksums of the state's records cover."""
        return self.cluster_id if self.state_id is None else self.state_id

    @property
    def state_owner(self) -> "Identity":
        """Whose the state's records are: all members', for they hold the same ones.

        So a snapshot is a copy of them as they are.
        """
        return Identity(cluster_id=self.origin_id, node_id=NodeId(0))


class LogStorage(StableLog, Protocol):
    """The durable Raft log of one node.

    ``append`` runs on one dedicated thread and returns when the data is on the medium;
    the reading methods of ``StableLog`` run on another, at the same time.
    """

    @property
    def hard_state(self) -> HardState: ...

    @property
    def size_bytes(self) -> int:
        """Data of the entries held, about."""
        ...

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Make a hard state and entries durable, in one transaction.

        What is stored from the first entry's index on is replaced.

        Raises:
            OSError: the medium refused. The node must stop: a later fsync that succeeds
                proves nothing about this one (fsyncgate).
        """
        ...

    def compact(self, index: LogIndex) -> None:
        """Forget entries up to ``index``, which the state has durably. Same thread.

        They are never asked for again. They may go little by little, with the appends
        that follow; then ``first_index`` moves as little, together with
        ``base_configuration``.

        Raises:
            OSError: as ``append`` does.
        """
        ...

    def chain(self, index: LogIndex) -> bytes:
        """What names the whole log up to an entry, or to ``first_index - 1``.

        Raises:
            LookupError: the entry is not held.
        """
        ...

    def install(
        self,
        hard_state: HardState | None,
        snapshot: Snapshot,
        *,
        chain: bytes,
        snapshot_id: bytes,
    ) -> None:
        """Begin anew behind a snapshot, durably, in one transaction. Same thread.

        ``chain`` is of the snapshot's last entry. The state that belongs to it must be
        at hand before, under ``snapshot_id``, whatever happens after.

        Raises:
            OSError: as ``append`` does.
        """
        ...
