"""RaftNode: the face of the core. Pure: it decides, whoever drives it acts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvstore.errors import Busy, NotLeader
from kvstore.raft import changes, election, handover, reading, replication
from kvstore.raft.core import Core, Leadership, Role
from kvstore.raft.events import CampaignReason, Event, StepDownReason
from kvstore.raft.facts import NodeFacts
from kvstore.raft.log import StableLog
from kvstore.raft.membership import Change, MemberInfo
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    RequestVoteReply,
    Snapshot,
    TimeoutNow,
)
from kvstore.raft.options import RaftOptions
from kvstore.raft.ready import Ready
from kvstore.types import LogIndex, NodeId, ReadyNumber

if TYPE_CHECKING:
    import random

__all__ = ["RaftNode", "Role"]


class RaftNode(NodeFacts):
    """One member of a cluster, as far as consensus goes.

    Inputs (:meth:`tick`, :meth:`step`, :meth:`propose`, ...) change state and return at
    once. Whenever :meth:`has_ready`, :meth:`ready` hands out work; see :class:`Ready`
    for the contract. The same inputs in the same order give the same outputs.

    Its configuration is what its log says.

    Raises:
        CorruptionError: the log does not reach to ``applied_index``, or begins behind.
    """

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
        core = Core(
            node_id=node_id,
            log=log,
            hard_state=hard_state,
            applied_index=applied_index,
            options=options,
            random=random,
        )
        super().__init__(core)
        self._last_ready_number = 0
        self._applied_index = applied_index
        self._applying_index = applied_index
        self._applying: deque[tuple[LogIndex, int]] = deque()
        self._applying_bytes = 0

    @property
    def applied_index(self) -> LogIndex:
        """The last index reported by :meth:`applied`."""
        return self._applied_index

    @property
    def applying_bytes(self) -> int:
        """Committed data handed out and not yet reported applied."""
        return self._applying_bytes

    # ------------------------------------------------------------------- inputs

    def set_clock(self, now_ms: int) -> None:
        """Before other inputs: the time, by a clock that never goes back.

        Only leases use it. It must count while the process or machine stands still
        (CLOCK_BOOTTIME does), unlike ticks.
        """
        assert now_ms >= self._core.now_ms
        self._core.now_ms = now_ms

    def tick(self) -> None:
        """One unit of time passed."""
        core = self._core
        core.tick_count += 1
        leadership = core.leadership
        if leadership is not None:
            replication.pass_tick(core, leadership)
        else:
            election.pass_tick(core)
            reading.expire(core)

    def campaign(self) -> None:
        """Start an election now, whatever the timer says. Nothing at a leader."""
        election.campaign(self._core, CampaignReason.REQUESTED)

    def resign(self) -> None:
        """Stop leading, in this term: the node is about to end. Nothing at a follower.

        Safe at any moment, as for a leader that lost its quorum.
        """
        core = self._core
        if core.leadership is not None:
            core.become_follower(core.term, None, StepDownReason.RESIGNED)

    def propose(self, data: bytes) -> EntryId:
        """Append one entry of commands to the leader's log.

        It may yet be replaced by another leader's: only ``committed_entries`` decides.

        Raises:
            NotLeader: definitely not applied; it names the leader, if one is known.
            Busy: too much is uncommitted; definitely not applied.
        """
        core = self._core
        leadership = core.leadership
        if leadership is None:
            raise self._not_leader()
        if leadership.handover is not None:
            raise Busy("the leader is handing over", queue="handover", maximum=0)
        maximum = core.options.uncommitted_bytes_max
        outstanding = leadership.uncommitted_bytes
        if outstanding and outstanding + len(data) > maximum:
            raise Busy(
                "too much is proposed and not committed yet",
                queue="uncommitted_bytes",
                maximum=maximum,
            )
        entry = core.append(EntryKind.COMMANDS, data)
        leadership.charge(entry.index, len(data))
        return entry

    def _not_leader(self) -> NotLeader:
        leader = self._core.leader_id or NodeId(0)
        return NotLeader("this node does not lead", leader_id=leader)

    def propose_changes(self, listed: Iterable[Change]) -> EntryId:
        """Begin to change the members, through a joint configuration.

        Nothing is decided until ``configuration`` is committed and not joint.

        Raises:
            NotLeader, ChangePending: not now; nothing was changed.
            MembershipRefused: it makes no sense, or would stop the cluster.
        """
        leadership = self._core.leadership
        if leadership is None:
            raise self._not_leader()
        return changes.propose(self._core, leadership, listed)

    def propose_info(self, node_id: NodeId, info: MemberInfo) -> EntryId:
        """Record what became known of a member. Raises as :meth:`propose_changes`."""
        leadership = self._core.leadership
        if leadership is None:
            raise self._not_leader()
        return changes.propose_info(self._core, leadership, node_id, info)

    def transfer(self, to: NodeId | None = None) -> NodeId | None:
        """Hand the lead over; ``to`` None: to whoever is closest. Returns to whom.

        None if nobody could take it. Proposals are refused until it is done, or given
        up after an election timeout; the role tells which.

        Raises:
            NotLeader: this node does not lead.
            MembershipRefused: ``to`` is not a voter.
        """
        leadership = self._core.leadership
        if leadership is None:
            raise self._not_leader()
        return handover.transfer(self._core, leadership, to)

    def snapshot_ended(self, peer: NodeId, reached: LogIndex) -> None:
        """A snapshot's transfer to ``peer`` is over.

        ``reached``: its last index if all of it arrived, else 0.
        """
        core = self._core
        if core.leadership is not None:
            replication.snapshot_ended(core, core.leadership, peer, reached)

    def snapshot_at(self, index: LogIndex) -> Snapshot:
        """What a snapshot of the state applied to ``index`` stands for.

        Raises:
            LookupError: the log does not reach back, or on, to ``index``.
        """
        log = self._core.log
        if not log.floor.index <= index <= log.last_index:
            raise LookupError(f"the log holds nothing of entry {index}")
        return Snapshot(
            last=EntryId(log.term(index), index),
            configuration=log.configuration_at(index).encode(),
        )

    def compacted(self, index: LogIndex) -> None:
        """Forget entries up to ``index``, of which the state is durable.

        Call it before storage deletes them: from now on they are not asked for.
        """
        assert index <= self._applied_index
        self._core.log.compact_to(index)

    def read_index(self, request_id: int, *, lease: bool = False) -> None:
        """Ask from which index on a linearizable read that starts now may be served.

        A ``ReadState`` with ``request_id`` answers, perhaps rejected. A follower asks
        its leader. All reads that come before the next :meth:`ready` share a round.
        ``lease``: a leader with a lease need not ask anybody.
        """
        reading.read_index(self._core, request_id, lease=lease)

    def peer_disconnected(self, peer: NodeId) -> None:
        """The connection to or from a peer closed: perhaps it died."""
        core = self._core
        if core.leadership is not None:
            replication.peer_disconnected(core, core.leadership, peer)
        elif peer == core.leader_id:
            election.leader_disconnected(core)

    def step(self, message: Message) -> None:
        """A message came.

        Raises:
            CorruptionError: this node's log lacks entries that it acknowledged, or a
                stored entry that is needed is damaged.
        """
        core = self._core
        if message.sender == core.node_id or message.to != core.node_id:
            return
        if message.term != core.term and not self._settle_term(message):
            return
        match message:
            case AppendEntries():
                replication.handle_append(core, message)
            case AppendEntriesReply():
                replication.handle_append_reply(core, message)
            case Heartbeat():
                replication.handle_heartbeat(core, message)
            case HeartbeatReply():
                replication.handle_heartbeat_reply(core, message)
            case RequestVote():
                election.handle_vote_request(core, message)
            case RequestVoteReply():
                election.handle_vote_reply(core, message)
            case ReadIndexRequest():
                reading.handle_read_request(core, message)
            case ReadIndexReply():
                reading.handle_read_reply(core, message)
            case TimeoutNow():
                election.handle_timeout_now(core, message)
            case InstallSnapshot():
                replication.handle_snapshot(core, message)

    def _settle_term(self, message: Message) -> bool:
        """A message of another term: enter the term or refuse. Whether to go on.

        Section 5.1: who sees a higher term enters it; what is of a lower one is void.
        """
        core = self._core
        if isinstance(message, RequestVote):
            return True  # whether a campaign's term is entered is part of the vote
        if message.term > core.term:
            if isinstance(message, RequestVoteReply) and message.granted:
                # Of a pre-vote: the term is the one asked for, nobody is in it yet.
                return message.pre_vote
            leader = None
            if isinstance(message, AppendEntries | Heartbeat | InstallSnapshot):
                leader = message.sender
            core.become_follower(message.term, leader, StepDownReason.HIGHER_TERM)
            return True
        match message:
            case AppendEntries() | InstallSnapshot():
                replication.handle_stale_append(core, message.sender)
            case Heartbeat():
                replication.handle_stale_heartbeat(core, message)
            case ReadIndexRequest():
                reading.refuse_stale(core, message)
            case _:
                pass
        return False

    # ---------------------------------------------------------------------- work

    def has_ready(self) -> bool:
        """Whether :meth:`ready` would hand out anything. O(peers)."""
        core = self._core
        if core.messages or core.read_states:
            return True
        persistence, log = core.persistence, core.log
        if persistence.has_write(log, core.hard_state):
            return True
        if persistence.has_released(log, core.hard_state) or self._can_apply():
            return True
        leadership = core.leadership
        return leadership is not None and (
            reading.can_start_round(leadership)
            or handover.wants_telling(core, leadership)
            or replication.wants_append(core, leadership)
        )

    def ready(self) -> Ready:
        """Hand out everything that is owed now.

        Raises:
            CorruptionError: a stored entry that a slow peer or the state machine needs
                is damaged. Nothing is lost by it: a later call hands out the rest.
        """
        core = self._core
        log, persistence = core.log, core.persistence
        if core.leadership is not None:
            self._lead(core.leadership)
        # All reads of storage come first: they can fail, what follows cannot.
        committed = self._committed_entries()
        core.messages += persistence.release(log, core.hard_state)
        self._last_ready_number += 1
        number = ReadyNumber(self._last_ready_number)
        hard_state: HardState | None = None
        snapshot: Snapshot | None = None
        entries: tuple[Entry, ...] = ()
        after_persist: tuple[Message, ...] = ()
        if persistence.has_write(log, core.hard_state):
            snapshot = persistence.snapshot
            if snapshot is not None:
                self._applying_index = snapshot.last.index
            hard_state = persistence.begin(number, core.hard_state)
            entries = log.hand_out()
            after_persist = persistence.take_waiting()
        messages, core.messages = tuple(core.messages), []
        read_states, core.read_states = tuple(core.read_states), []
        return Ready(
            number=number,
            hard_state=hard_state,
            snapshot=snapshot,
            entries=entries,
            messages=messages,
            messages_after_persist=after_persist,
            committed_entries=committed,
            read_states=read_states,
        )

    def _lead(self, leadership: Leadership) -> None:
        core = self._core
        if reading.start_round(core, leadership):
            replication.broadcast_heartbeat(core, leadership)
        replication.send_appends(core, leadership)
        handover.tell(core, leadership)

    def persisted(self, number: ReadyNumber) -> None:
        """The write of ``Ready`` ``number`` is on the medium."""
        core = self._core
        installed = core.persistence.finished(number)
        core.log.persisted()
        if installed is not None:
            self.applied(installed.last.index)
        if core.leadership is not None:
            replication.advance_commit(core, core.leadership)
        else:
            election.own_vote_durable(core)

    def applied(self, index: LogIndex) -> None:
        """The state machine has applied everything up to ``index``."""
        assert self._applied_index <= index <= self._applying_index
        self._applied_index = index
        applying = self._applying
        while applying and applying[0][0] <= index:
            self._applying_bytes -= applying.popleft()[1]
        leadership = self._core.leadership
        if leadership is not None:
            leadership.refund_to(index)

    def _can_apply(self) -> bool:
        core = self._core
        if core.persistence.is_installing:
            return False  # what follows the snapshot waits for its state
        durable = min(core.commit_index, core.log.stable_index)
        return self._applying_index < durable and (
            not self._applying_bytes
            or self._applying_bytes < core.options.apply_bytes_max
        )

    def _committed_entries(self) -> tuple[Entry, ...]:
        """The next entries to apply: committed, and durable here too."""
        if not self._can_apply():
            return ()
        core = self._core
        entries = core.log.entries(
            LogIndex(self._applying_index + 1),
            LogIndex(min(core.commit_index, core.log.stable_index) + 1),
            core.options.apply_bytes_max - self._applying_bytes,
        )
        size = sum([len(entry.data) for entry in entries])
        self._applying_index = entries[-1].index
        self._applying.append((self._applying_index, size))
        self._applying_bytes += size
        return entries

    def drain_events(self) -> list[Event]:
        """What happened since the last call, at most ``events_max`` of it."""
        events = self._core.events
        drained = list(events)
        events.clear()
        return drained
