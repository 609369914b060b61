"""Everything that must hold of a world's members after each of their steps.

``kvstore.raft.invariants`` watches consensus, and :mod:`specification` has to allow
each step of it. This adds what only whole members have: states that are equal at equal
indexes (I12), and that come back from a disk as they were (I13).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kvstore.raft.invariants import ClusterChecker, Member
from kvstore.raft.observed import require
from kvstore.replica.messages import ForwardReply, ForwardWrites
from kvstore.simulation.specification.checker import SpecificationChecker
from kvstore.state_machine.digest import state_hash
from kvstore.types import LogIndex, NodeId

if TYPE_CHECKING:
    from kvstore.raft.messages import Entry, EntryId, Message
    from kvstore.replica.messages import PeerMessage
    from kvstore.simulation.member import SimMember
    from kvstore.storage.memory_log import MemoryLog

FULL_HASH_EVERY = 16
"""Entries between two comparisons of whole states; of their changes every one is."""

Committed = Callable[["SimMember", LogIndex], None]


class Watch:
    """Of one cluster for its whole life. Raises ``InvariantViolation``."""

    def __init__(self, on_committed: Committed) -> None:
        """``on_committed``: the ghost log has grown, and this member holds it."""
        self.checker = ClusterChecker()
        self.specification = SpecificationChecker()
        self._members: dict[NodeId, Member] = {}
        self._disowned: set[NodeId] = set()
        self._digests: dict[LogIndex, int] = {}
        self._hashes: dict[LogIndex, bytes] = {}
        self._seen_committed = LogIndex(0)
        self._on_committed = on_committed

    @property
    def committed_index(self) -> LogIndex:
        """The highest index that anybody ever committed."""
        return self._seen_committed

    # --------------------------------------------------------------------- life

    def added(self, member: SimMember) -> None:
        """A data directory that is new."""
        self._members[member.node_id] = Member(node=None, durable=member.log)

    def wiped(self, node_id: NodeId, before: MemoryLog) -> None:
        """What it was counted for stays so; what is there now counts for nothing."""
        self._members[node_id] = Member(node=None, durable=before)
        self._disowned.add(node_id)

    def started(self, member: SimMember) -> None:
        """It goes on from what its disk holds."""
        index, state = member.applied_index, member.state
        require(
            self._digests.get(index, state.digest) == state.digest,
            "a recovered state is not that of its applied index (I13)",
            *(member.node_id, index),
        )
        self._check_whole(member, "a recovered state is not what it was (I13)")
        if member.node_id in self._disowned:
            return
        assert member.replica is not None
        self._members[member.node_id] = Member(
            node=member.replica.raft, durable=member.log
        )
        for checker in (self.checker, self.specification):
            checker.restarted(member.node_id, index)

    def ended(self, member: SimMember) -> None:
        """What is left of it is its disk."""
        if member.node_id not in self._disowned:
            self._members[member.node_id] = Member(node=None, durable=member.log)
            for checker in (self.checker, self.specification):
                checker.check_member(member.node_id, self._members)

    # -------------------------------------------------------------------- steps

    def polled(self, member: SimMember) -> None:
        """Check what a step can have broken, before anything leaves."""
        if member.node_id not in self._disowned:
            self.checker.check_member(member.node_id, self._members)
            self.specification.check_member(member.node_id, self._members)
            committed = self.checker.committed_index
            if committed != self._seen_committed:
                self._seen_committed = committed
                self._on_committed(member, committed)

    def sent(self, member: SimMember, message: Message) -> None:
        """A message leaves."""
        if member.node_id not in self._disowned:
            self.checker.message_sent(message, member.log)
            self.specification.message_sent(message, member.log)

    def receives(self, member: SimMember, message: PeerMessage) -> None:
        """A member is about to be handed a message."""
        if not (
            member.node_id in self._disowned
            or isinstance(message, ForwardWrites | ForwardReply)
        ):
            self.specification.message_delivered(message, self._members)

    def hands_out(self, member: SimMember, entries: Sequence[Entry]) -> None:
        """Entries go to the state machine."""
        if member.node_id not in self._disowned:
            for checker in (self.checker, self.specification):
                checker.handed_out(member.node_id, entries)

    def applied(self, member: SimMember) -> None:
        """One entry was applied."""
        state = member.state
        index, digest = state.progress.index, state.digest
        require(
            self._digests.setdefault(index, digest) == digest,
            "two states at one index differ (I12)",
            *(member.node_id, index),
        )
        if not index % FULL_HASH_EVERY:
            self._check_whole(member, "two states at one index differ (I12)")

    def exported(self, member: SimMember) -> None:
        """A snapshot is made of its state."""
        self._check_whole(member, "two states at one index differ (I12)")

    def installed(self, member: SimMember, last: EntryId) -> None:
        """A snapshot took the place of its log and state."""
        if member.node_id not in self._disowned:
            for checker in (self.checker, self.specification):
                checker.installed(member.node_id, last)
        self.applied(member)
        self._check_whole(
            member, "a snapshot is not the state that it stands for (I12)"
        )

    def _check_whole(self, member: SimMember, what: str) -> None:
        """Sessions and all."""
        index, full = member.applied_index, state_hash(member.state)
        require(
            self._hashes.setdefault(index, full) == full,
            what,
            *(member.node_id, index),
        )
