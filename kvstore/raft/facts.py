"""What can be seen of a node from outside; nothing here changes it."""

from collections.abc import Mapping
from types import MappingProxyType

from kvstore.raft import changes, reading
from kvstore.raft.core import Core, Role
from kvstore.raft.log import RaftLog
from kvstore.raft.membership import Configuration
from kvstore.raft.progress import PeerState, Progress
from kvstore.types import LogIndex, NodeId, Term

NO_PROGRESS: Mapping[NodeId, Progress] = MappingProxyType({})


class NodeFacts:
    """The readable side of a :class:`~kvstore.raft.node.RaftNode`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def node_id(self) -> NodeId:
        return self._core.node_id

    @property
    def configuration(self) -> Configuration:
        """The members, by the last configuration in the log, committed or not."""
        return self._core.configuration

    @property
    def configuration_index(self) -> LogIndex:
        """Of the entry that it comes from."""
        return self._core.log.configuration_index

    @property
    def is_removed(self) -> bool:
        """Whether this node was a member, and it is committed that it is none now."""
        core = self._core
        if core.node_id in core.configuration.members:
            return False  # asked often, and the removed may be many
        if core.node_id not in core.configuration.removed:
            return False
        return core.node_id in core.log.configuration_at(core.commit_index).removed

    @property
    def transferee(self) -> NodeId | None:
        """Whom this leader is handing over to."""
        leadership = self._core.leadership
        if leadership is None or leadership.handover is None:
            return None
        return leadership.handover.to

    @property
    def snapshot_peers(self) -> tuple[NodeId, ...]:
        """Peers that need a snapshot of this leader's."""
        leadership = self._core.leadership
        if leadership is None:
            return ()
        return tuple(
            [
                peer
                for peer, progress in leadership.peers
                if progress.state is PeerState.SNAPSHOT
            ]
        )

    @property
    def can_change_members(self) -> bool:
        """Whether this node leads, and no change of the members is under way."""
        leadership = self._core.leadership
        return leadership is not None and changes.is_settled(self._core, leadership)

    @property
    def has_lease(self) -> bool:
        """Whether this leader could answer a read by its lease now."""
        leadership = self._core.leadership
        return leadership is not None and reading.has_lease(self._core, leadership)

    @property
    def role(self) -> Role:
        return self._core.role

    @property
    def is_leader(self) -> bool:
        return self._core.leadership is not None

    @property
    def term(self) -> Term:
        return self._core.term

    @property
    def vote(self) -> NodeId | None:
        """Whom this node voted for in its term; perhaps not durable yet."""
        return self._core.vote

    @property
    def leader_id(self) -> NodeId | None:
        """The leader of this term, if this node knows one."""
        return self._core.leader_id

    @property
    def commit_index(self) -> LogIndex:
        return self._core.commit_index

    @property
    def last_index(self) -> LogIndex:
        return self._core.log.last_index

    @property
    def log(self) -> RaftLog:
        """To look at, as status pages and invariants do; never to change."""
        return self._core.log

    @property
    def progress(self) -> Mapping[NodeId, Progress]:
        """A leader's view of each peer, in ascending order; empty at any other node."""
        leadership = self._core.leadership
        if leadership is None:
            return NO_PROGRESS
        return MappingProxyType(leadership.progress)

    @property
    def is_persisting(self) -> bool:
        """A write is in flight: ``persisted`` is awaited."""
        return self._core.persistence.in_flight is not None

    @property
    def ready_for_writes(self) -> bool:
        """Whether this node leads and the bound on uncommitted data is not reached."""
        leadership = self._core.leadership
        return (
            leadership is not None
            and leadership.handover is None
            and leadership.uncommitted_bytes < self._core.options.uncommitted_bytes_max
        )

    @property
    def ready_for_reads(self) -> bool:
        """Whether this node leads and knows how far its log is committed."""
        leadership = self._core.leadership
        return leadership is not None and leadership.term_committed

    @property
    def uncommitted_bytes(self) -> int:
        """Data of a leader's proposals that are not applied yet."""
        leadership = self._core.leadership
        return 0 if leadership is None else leadership.uncommitted_bytes
