"""What a replica needs of storage; storage satisfies it structurally."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kvstore.raft.log import StableLog
from kvstore.raft.messages import Entry, HardState
from kvstore.types import ClusterId, NodeId


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


class LogStorage(StableLog, Protocol):
    """The durable Raft log of one node.

    ``append`` runs on one dedicated thread and returns when the data is on the medium;
    the reading methods of ``StableLog`` run on another, at the same time.
    """

    @property
    def hard_state(self) -> HardState: ...

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Make a hard state and entries durable, in one transaction.

        What is stored from the first entry's index on is replaced.

        Raises:
            OSError: the medium refused. The node must stop: a later fsync that succeeds
                proves nothing about this one (fsyncgate).
        """
        ...
