"""The state of one node, and the only ways to change its role.

``election``, ``replication`` and ``reading`` are functions over this state, one file a
section of the paper; ``node`` is the face that callers see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from kvstore.errors import CorruptionError
from kvstore.raft.events import (
    BecameCandidate,
    BecamePreCandidate,
    CampaignReason,
    Committed,
    ConfigurationChanged,
    Elected,
    Event,
    LeaderChanged,
    ReadsRejected,
    StepDownReason,
    SteppedDown,
)
from kvstore.raft.log import RaftLog, StableLog
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import (
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Message,
    ReadIndexReply,
)
from kvstore.raft.options import RaftOptions
from kvstore.raft.persistence import Persistence
from kvstore.raft.progress import Inflight, Progress
from kvstore.raft.reads import ForwardedReads, Lease, PendingRead, ReadRounds
from kvstore.raft.ready import ReadState
from kvstore.raft.timer import ElectionTimer
from kvstore.types import LogIndex, NodeId, ReadyNumber, Term

if TYPE_CHECKING:
    import random


class Role(Enum):
    """What a node is. ``PRE_CANDIDATE``: it asks whether it could win (section 9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


ALLOWED_TRANSITIONS: Mapping[Role, frozenset[Role]] = {
    # Straight to a candidate only if the leader hands over: it asks nobody's leave.
    Role.FOLLOWER: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.PRE_CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.LEADER}),
    Role.LEADER: frozenset({Role.FOLLOWER}),
}
"""Figure 4 of the paper, with the pre-vote before it. Anything else is a bug."""


@dataclass(slots=True)
class Parting:
    """A removed peer on its way out."""

    index: LogIndex
    """Of the entry that removes it: once it holds that as committed, it is done."""
    deadline_tick: int


@dataclass(slots=True)
class Handover:
    """A transfer of leadership under way (dissertation section 3.10)."""

    to: NodeId
    deadline_tick: int
    told: bool = False
    """It was told to campaign."""


class Leadership:
    """What only a leader has; it is built on election and dropped on stepping down."""

    __slots__ = (
        "_charges",
        "handover",
        "heartbeat_elapsed_ticks",
        "lease",
        "parting",
        "peers",
        "progress",
        "quorum_elapsed_ticks",
        "reads",
        "term_committed",
        "uncommitted_bytes",
        "written",
    )

    def __init__(self) -> None:
        self.progress: dict[NodeId, Progress] = {}
        self.peers: tuple[tuple[NodeId, Progress], ...] = ()
        """The same in order, for loops."""
        self.parting: dict[NodeId, Parting] = {}
        """Peers that were removed and may not know it yet."""
        self.reads = ReadRounds()
        self.lease = Lease()
        self.handover: Handover | None = None
        self.written: tuple[ReadyNumber, int] | None = None
        """The write in flight, and the tick at which it was first seen to be: a disk
        that stalls must not lead."""
        self.heartbeat_elapsed_ticks = 0
        self.quorum_elapsed_ticks = 0
        """Since a quorum was last looked for."""
        self.term_committed = False
        """An entry of this term is committed, so the commit index is up to date
        (section 6.4: only then may a read use it)."""
        self.uncommitted_bytes = 0
        self._charges: deque[tuple[LogIndex, int]] = deque()

    def replicate_to(
        self, nodes: Iterable[NodeId], fresh: Callable[[], Progress]
    ) -> None:
        """Replicate to exactly ``nodes``; progress that is known stays."""
        progress = self.progress
        self.progress = {
            node: progress[node] if node in progress else fresh()
            for node in sorted(nodes)
        }
        self.peers = tuple(self.progress.items())

    def charge(self, index: LogIndex, size: int) -> None:
        """Count a proposal against the bound on what is not applied."""
        self._charges.append((index, size))
        self.uncommitted_bytes += size

    def refund_to(self, index: LogIndex) -> None:
        """Give back what was charged for entries up to ``index``, exactly (M24)."""
        charges = self._charges
        while charges and charges[0][0] <= index:
            self.uncommitted_bytes -= charges.popleft()[1]


class Core:
    """One node's state. Only this package touches it."""

    __slots__ = (
        "commit_index",
        "events",
        "forwarded_reads",
        "hard_state",
        "last_read_round",
        "leader_id",
        "leadership",
        "log",
        "messages",
        "node_id",
        "now_ms",
        "options",
        "persistence",
        "random",
        "read_states",
        "role",
        "term",
        "tick_count",
        "timer",
        "vote",
        "votes",
    )

    def __init__(
        self,
        *,
        node_id: NodeId,
        log: StableLog,
        hard_state: HardState,
        applied_index: LogIndex,
        options: RaftOptions,
        random: random.Random,
    ) -> None:
        if applied_index > log.last_index:
            raise CorruptionError(
                f"the state store has applied index {applied_index}, but the log ends "
                f"at {log.last_index}: it lost entries that were durable",
                store="raft",
            )
        if applied_index < log.first_index - 1:
            raise CorruptionError(
                f"the state store has applied index {applied_index}, but the log "
                f"begins at {log.first_index}: the state lost what was durable",
                store="state",
            )
        self.node_id = node_id
        self.options = options
        self.random = random
        self.log = RaftLog(log, cached_bytes_max=options.log_cache_bytes_max)
        self.hard_state = hard_state
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader_id: NodeId | None = None
        self.commit_index = applied_index
        self.timer = ElectionTimer(options, random)
        self.votes: dict[NodeId, bool] = {}
        self.leadership: Leadership | None = None
        self.persistence = Persistence(hard_state)
        self.messages: list[Message] = []
        self.read_states: list[ReadState] = []
        self.forwarded_reads = ForwardedReads(random.getrandbits(62))
        self.last_read_round = 0
        self.tick_count = 0
        self.now_ms = 0
        """The driver's clock, which never goes back and counts while it sleeps."""
        self.events: deque[Event] = deque(maxlen=options.events_max)

    # ----------------------------------------------------------------- members

    @property
    def configuration(self) -> Configuration:
        """The last in the log, committed or not (section 6)."""
        return self.log.configuration

    @property
    def is_alone(self) -> bool:
        """Whether no other voter need be asked for anything."""
        return self.configuration.all_voters == (self.node_id,)

    def replicate_to_members(self) -> None:
        """The leader's configuration changed: begin with the new, leave the gone."""
        leadership = self.leadership
        assert leadership is not None
        options, last = self.options, self.log.last_index
        leadership.replicate_to(
            {*self.configuration.everybody, *leadership.parting} - {self.node_id},
            lambda: Progress(
                next_index=LogIndex(last + 1),
                inflight=Inflight(
                    count_max=options.inflight_appends_max,
                    bytes_max=options.inflight_append_bytes_max,
                ),
            ),
        )

    def append_configuration(self, configuration: Configuration) -> EntryId:
        """A leader changes the configuration; it holds from now on."""
        leadership = self.leadership
        assert leadership is not None
        gone = {*self.configuration.everybody} - {*configuration.everybody}
        entry = self.append(EntryKind.CONFIGURATION, configuration.encode())
        deadline = self.tick_count + 2 * self.options.election_timeout_ticks
        for node in sorted(gone - {self.node_id}):
            leadership.parting[node] = Parting(entry.index, deadline)
        self.replicate_to_members()
        self.configuration_changed()
        return entry

    def configuration_changed(self) -> None:
        """Another configuration entry is the last in the log."""
        log = self.log
        self.events.append(
            ConfigurationChanged(self.term, log.configuration_index, log.configuration)
        )

    # ------------------------------------------------------------------- roles

    def become_follower(
        self, term: Term, leader_id: NodeId | None, reason: StepDownReason
    ) -> None:
        """Follow ``leader_id``, or nobody yet, in ``term``.

        Within a term the vote stays: forgetting it would allow a second (M03).
        """
        assert term >= self.term
        before = self.role
        if term > self.term:
            self._enter_term(term, vote=None)
        self._set_role(Role.FOLLOWER)
        if before is not Role.FOLLOWER:
            was_leader = before is Role.LEADER
            self.events.append(SteppedDown(self.term, was_leader, reason))
        self.votes = {}
        self.set_leader(leader_id)
        self._drop_leadership()
        self.timer.restart()

    def become_pre_candidate(self, reason: CampaignReason) -> None:
        """Ask whether an election could be won; nothing is persisted."""
        self._set_role(Role.PRE_CANDIDATE)
        self.events.append(BecamePreCandidate(self.term, reason))
        self.set_leader(None)
        self.votes = {self.node_id: True}
        self.timer.restart()

    def become_candidate(self, reason: CampaignReason | None) -> None:
        """Open a new term with a vote for itself, which counts once it is durable."""
        self._set_role(Role.CANDIDATE)
        self._enter_term(Term(self.term + 1), vote=self.node_id)
        self.events.append(BecameCandidate(self.term, reason))
        self.votes = {}
        self.timer.restart()

    def become_leader(self) -> None:
        """Lead the term, and start it with an entry of its own.

        The no-op is what lets a new leader commit what it inherited (section 5.4.2) and
        learn how far that reaches (dissertation section 6.4).
        """
        # Own vote and term were durable before a request for votes left.
        assert self.persistence.is_durable(self.hard_state)
        self._set_role(Role.LEADER)
        self.votes = {}
        self.leadership = Leadership()
        self.replicate_to_members()
        self.events.append(Elected(self.term, self.log.last_index))
        self.set_leader(self.node_id)
        self.append(EntryKind.NOOP, b"")

    def set_leader(self, leader_id: NodeId | None) -> None:
        """Know another leader, or none. Reads that the last one was asked for fail."""
        if leader_id == self.leader_id:
            return
        self.leader_id = leader_id
        self.events.append(LeaderChanged(self.term, leader_id))
        self.reject_reads(self.forwarded_reads.abandon())

    def set_vote(self, candidate_id: NodeId) -> None:
        """Give this term's vote."""
        assert self.vote is None
        self.vote = candidate_id
        self.hard_state = HardState(term=self.term, vote=candidate_id)

    def _enter_term(self, term: Term, *, vote: NodeId | None) -> None:
        assert term > self.term
        self.term = term
        self.vote = vote
        self.hard_state = HardState(term=term, vote=vote)
        self.persistence.drop_waiting()
        self.set_leader(None)

    def _set_role(self, role: Role) -> None:
        assert role in ALLOWED_TRANSITIONS[self.role], (self.role, role)
        if self.role is Role.CANDIDATE:
            self.persistence.drop_waiting()
        self.role = role

    def _drop_leadership(self) -> None:
        if self.leadership is None:
            return
        abandoned = self.leadership.reads.abandon()
        self.leadership = None
        own = [read.request_id for read in abandoned if read.origin == self.node_id]
        self.reject_reads(own)
        for read in abandoned:
            if read.origin != self.node_id:
                self.refuse_read(read)

    # ------------------------------------------------------------------- pieces

    def append(self, kind: EntryKind, data: bytes) -> EntryId:
        """Add one entry of a leader's to its own log."""
        index = LogIndex(self.log.last_index + 1)
        self.log.append((Entry(self.term, index, kind, data),))
        return EntryId(self.term, index)

    def commit_to(self, index: LogIndex) -> None:
        """Raise the commit index; it never falls (M13)."""
        if index > self.commit_index:
            assert index <= self.log.last_index
            self.commit_index = index
            self.events.append(Committed(self.term, index))

    def reject_reads(self, request_ids: Sequence[int]) -> None:
        """Tell this node's own readers that nobody confirmed them."""
        if request_ids:
            self.events.append(ReadsRejected(self.term, len(request_ids)))
        for request_id in request_ids:
            self.read_states.append(
                ReadState(request_id=request_id, index=LogIndex(0), rejected=True)
            )

    def refuse_read(self, read: PendingRead) -> None:
        """Tell a peer that its read cannot be confirmed here."""
        self.messages.append(
            ReadIndexReply(
                sender=self.node_id,
                to=read.origin,
                term=self.term,
                request_id=read.request_id,
                index=LogIndex(0),
                rejected=True,
            )
        )
