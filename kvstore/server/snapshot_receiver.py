"""What becomes of a snapshot that a leader sends to this node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kvstore.errors import Busy, ForeignDirectory, NewerFormat, NotLeader
from kvstore.raft.messages import EntryId, InstallSnapshot
from kvstore.replica.interfaces import Identity
from kvstore.rpc.snapshot_codec import SnapshotHeader
from kvstore.rpc.snapshot_service import StagedSnapshot
from kvstore.storage.record import FORMAT_VERSION
from kvstore.types import LogIndex, NodeId, Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A snapshot that is all there, on disk, and whole."""

    last: EntryId
    chain: bytes
    snapshot_id: bytes
    staged: StagedSnapshot


class CoreView(Protocol):
    """What is asked of the core: ``raft.RaftNode``."""

    @property
    def term(self) -> Term: ...

    @property
    def commit_index(self) -> LogIndex: ...

    @property
    def applied_index(self) -> LogIndex: ...


class StagingReceiver:
    """A :class:`~kvstore.rpc.snapshot_service.SnapshotReceiver` for a node's disk."""

    def __init__(
        self,
        identity: Identity,
        *,
        core: CoreView,
        stage: Callable[[SnapshotHeader], StagedSnapshot],
        on_received: Callable[[Received, InstallSnapshot], None],
    ) -> None:
        """``stage`` may block, and takes place in a thread.

        ``on_received`` is told on the loop what was staged, and what the core must be
        told of it.
        """
        self._identity = identity
        self._core = core
        self._stage = stage
        self._on_received = on_received
        self._told: InstallSnapshot | None = None
        """What the core may not have done with yet."""

    def check(self, sender: NodeId, header: SnapshotHeader) -> None:
        """Whether the snapshot of ``header`` is of use.

        Raises:
            NotLeader: its sender leads no more.
            ForeignDirectory: it is of another history of the store.
            NewerFormat: this version cannot read it.
            Busy: one that arrived before is being installed. Try again.
        """
        core, own = self._core, self._identity
        if header.term < core.term:
            raise NotLeader(
                f"node {sender} sends a snapshot in term {header.term}, and this node "
                f"is in term {core.term}"
            )
        if (header.state_id, header.epoch) != (own.origin_id, own.epoch):
            raise ForeignDirectory(
                f"the snapshot is of epoch {header.epoch} of the state of cluster "
                f"{header.state_id.hex()}; this directory is for epoch {own.epoch} of "
                f"{own.origin_id.hex()}: init it anew, with what a member's status says"
            )
        if header.format_version > FORMAT_VERSION:
            raise NewerFormat(
                f"the snapshot has format {header.format_version}, this kvstore reads "
                f"up to format {FORMAT_VERSION}: run the version that the leader runs"
            )
        if self._is_installing():
            # Its file must stay where it is until it is the state.
            raise Busy(
                "a snapshot is being installed", queue="installed_snapshots", maximum=1
            )

    def stage(self, header: SnapshotHeader) -> StagedSnapshot:
        """What is there of this snapshot already, or nothing of it. May block."""
        return self._stage(header)

    def received(
        self, sender: NodeId, header: SnapshotHeader, staged: StagedSnapshot
    ) -> None:
        """Have the core install it."""
        self._told = InstallSnapshot(
            sender=sender,
            to=self._identity.node_id,
            term=header.term,
            snapshot=header.snapshot,
        )
        received = Received(
            last=header.last,
            chain=header.chain,
            snapshot_id=header.snapshot_id,
            staged=staged,
        )
        self._on_received(received, self._told)

    def _is_installing(self) -> bool:
        if self._told is None:
            return False
        core, index = self._core, self._told.snapshot.last.index
        # The core takes it, or had all that is in it; either way it knows at once that
        # this much is committed. Or it was told too late, in a term that was over.
        too_late = core.term > self._told.term and core.commit_index < index
        if too_late or core.applied_index >= index:
            self._told = None
        return self._told is not None
