"""The whole server without its shell: inputs in, effects out.

Inputs only note what happened. :meth:`Replica.poll` then decides, once for everything
that came in one turn: that is where batches form. A leader proposes only while no log
write of its own is in flight, so whatever arrives during one fsync is the next entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from kvstore.errors import (
    Unavailable,
)
from kvstore.pb import kv_pb2
from kvstore.raft.membership import Change
from kvstore.raft.messages import AppendEntries, Entry, EntryId, Heartbeat, Message
from kvstore.raft.node import RaftNode
from kvstore.raft.ready import Ready
from kvstore.replica.chores import Chores
from kvstore.replica.compaction import LogCompaction
from kvstore.replica.effects import (
    Apply,
    CompactLog,
    Done,
    Effect,
    Fail,
    Leave,
    Persist,
    ReportSessions,
    Send,
    SendSnapshot,
    StopSnapshot,
    SyncState,
)
from kvstore.replica.interfaces import LogStorage
from kvstore.replica.membership import Membership
from kvstore.replica.messages import (
    ForwardReply,
    ForwardWrites,
    PeerMessage,
)
from kvstore.replica.options import ReplicaOptions
from kvstore.replica.proposals import (
    Batch,
    leaderless,
)
from kvstore.replica.reads import Reads
from kvstore.replica.writes import Writes
from kvstore.types import (
    Incarnation,
    LogIndex,
    NodeId,
    ReadyNumber,
    Revision,
    Ticket,
)

if TYPE_CHECKING:
    import random


class Replica:
    """One member. Not thread-safe: one caller at a time."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        log: LogStorage,
        applied_index: LogIndex,
        revision: Revision,
        compact_revision: Revision,
        compaction_pending: bool,
        options: ReplicaOptions,
        random: random.Random,
    ) -> None:
        self._options = options
        self.raft = RaftNode(
            node_id=node_id,
            log=log,
            hard_state=log.hard_state,
            applied_index=applied_index,
            options=options.raft,
            random=random,
        )
        self._tick = 0
        self._led_tick = 0
        self._effects: list[Effect] = []
        self._writes = Writes(self.raft, options, self._effects, random=random)
        self._writes.handed_out = applied_index
        self._writes.compaction_pending = compaction_pending
        self._reads = Reads(self.raft, revision)
        self._membership = Membership(self.raft)
        self._log_compaction = LogCompaction(
            size_bytes=log.size_bytes,
            max_bytes=options.log_bytes_max,
            trailing_bytes=options.log_trailing_bytes,
        )
        self._sending: set[NodeId] = set()
        self._chores: Chores | None = None
        self._compact_revision = compact_revision
        self._left = False
        self._after_persist: dict[ReadyNumber, tuple[Message, ...]] = {}
        self._term_and_leader = (self.raft.term, self.raft.leader_id)

    # ------------------------------------------------------------------ inputs

    def set_clock(self, now_ms: int) -> None:
        """Before other inputs: the time, by a clock as ``RaftNode.set_clock`` wants."""
        self.raft.set_clock(now_ms)
        self._reads.now_ms = now_ms

    def tick(self) -> None:
        """One unit of time passed."""
        self._tick += 1
        self.raft.tick()
        self._expire()
        self._do_chores()

    def receive(self, messages: Iterable[PeerMessage]) -> None:
        for message in messages:
            if isinstance(message, Heartbeat | AppendEntries):
                self._writes.heard(message.sender)
            match message:
                case ForwardWrites():
                    self._writes.receive(message, self._tick)
                case ForwardReply():
                    self._writes.receive_reply(message)
                case _:
                    self.raft.step(message)

    def submit(
        self, ticket: Ticket, writes: bytes, *, count: int, patience_ticks: int
    ) -> None:
        """Take a checked batch of ``count`` commands; Respond or Fail will name it.

        ``patience_ticks`` bounds the wait for a leader. Once the batch has entered a
        log its outcome is awaited for as long as this node can tell.

        Raises:
            Busy: a bound was reached; definitely not applied.
        """
        deadline = self._tick + patience_ticks
        self._writes.add(Batch(ticket, writes, count, deadline))

    def read(
        self, ticket: Ticket, options: kv_pb2.ReadOptions, *, patience_ticks: int
    ) -> None:
        """Ask to read at a level; one Read or Fail will name the ticket.

        The caller bounds how many wait: a read is its to serve too, and counts until it
        is answered, of which nothing is said here.
        """
        deadline = self._tick + patience_ticks
        if (effect := self._reads.add(ticket, options, deadline)) is not None:
            self._effects.append(effect)

    def change_members(
        self, ticket: Ticket, changes: Iterable[Change], *, patience_ticks: int
    ) -> None:
        """Begin to change the members; Done or Fail will name the ticket.

        Raises:
            NotLeader, ChangePending, MembershipRefused: nothing was changed.
        """
        deadline = self._tick + patience_ticks
        self._membership.change(ticket, changes, deadline)

    def transfer(
        self, ticket: Ticket, to: NodeId | None, *, patience_ticks: int
    ) -> None:
        """Hand the lead over, to the closest if ``to`` is None; as change_members.

        Raises:
            NotLeader, ChangePending, MembershipRefused, Unavailable: nothing was begun.
        """
        self._membership.transfer(ticket, to, self._tick + patience_ticks)

    def identified(self, node_id: NodeId, incarnation: Incarnation) -> None:
        """A member said by which data directory it goes."""
        self._membership.identified(node_id, incarnation)

    def hold_log(self, index: LogIndex) -> int:
        """A snapshot of the state at ``index``, or beyond, is made, or on its way.

        The log is not cut behind it until :meth:`release_log` is told the number.
        """
        return self._log_compaction.hold(index)

    def release_log(self, hold: int) -> None:
        """The snapshot is not needed any more."""
        self._log_compaction.release(hold)

    def snapshot_ended(self, peer: NodeId, reached: LogIndex) -> None:
        """The transfer is over; ``reached``: its last index if all arrived, else 0."""
        self._sending.discard(peer)
        self.raft.snapshot_ended(peer, reached)

    def state_synced(self, index: LogIndex) -> None:
        """The state is durable up to ``index``."""
        target = self._log_compaction.synced(index)
        if target is not None and target > self.raft.log.floor.index:
            self.raft.compacted(target)
            self._effects.append(CompactLog(target))

    def sessions_reported(self, activity: Mapping[int, LogIndex]) -> None:
        """When each client session was active last."""
        if self._chores is not None:
            command = self._chores.observe_sessions(self._tick, activity)
            if command is not None:
                self._writes.own_commands.append(command)

    def installed(
        self,
        last: EntryId,
        *,
        revision: Revision,
        compact_revision: Revision,
        compaction_pending: bool,
    ) -> None:
        """A snapshot's state took the place of this node's; ``persisted`` follows."""
        self._writes.handed_out = last.index
        self._writes.covered(last.index)
        self._log_compaction.installed()
        self._state_moved(revision, compact_revision, compaction_pending)

    def persisted(self, number: ReadyNumber) -> None:
        """The log write is on the medium."""
        self.raft.persisted(number)
        if messages := self._after_persist.pop(number, ()):
            self._effects.append(Send(messages))

    def applied(
        self,
        last: EntryId,
        *,
        results: Sequence[tuple[EntryId, Sequence[bytes]]],
        revision: Revision,
        compact_revision: Revision,
        compaction_pending: bool,
    ) -> None:
        """Entries to ``last`` are applied; ``results`` has those with groups."""
        for entry, replies in results:
            self._writes.applied(entry, replies, revision)
        self._state_moved(revision, compact_revision, compaction_pending)
        self.raft.applied(last.index)

    def _state_moved(
        self, revision: Revision, compact_revision: Revision, pending: bool
    ) -> None:
        self._compact_revision = compact_revision
        self._writes.compaction_pending = pending
        self._effects += self._reads.applied(revision)

    def peer_disconnected(self, peer: NodeId) -> None:
        """The connection to or from a peer closed."""
        self.raft.peer_disconnected(peer)
        self._writes.disconnected(peer)

    def poll(self) -> list[Effect]:
        """Decide on everything noted so far. Cheap when nothing was."""
        self._check_leadership()
        self._reads.flush(self._tick)
        self._writes.flush()
        while self.raft.has_ready():
            self._process(self.raft.ready())
            self._writes.flush()
        self._check_leadership()
        self._effects += self._reads.release(self._writes.handed_out)
        self._tend_peers()
        return self._take_effects()

    def _take_effects(self) -> list[Effect]:
        effects = self._effects[:]
        self._effects.clear()
        return effects

    # ------------------------------------------------------------- core's work

    def _process(self, ready: Ready) -> None:
        effects = self._effects
        if ready.messages:
            effects.append(Send(ready.messages))
        if ready.must_persist:
            self._after_persist[ready.number] = ready.messages_after_persist
            effects.append(
                Persist(ready.number, ready.hard_state, ready.entries, ready.snapshot)
            )
        else:
            assert not ready.messages_after_persist, "they wait for a write"
        if ready.committed_entries:
            self._apply(ready.committed_entries)
        for state in ready.read_states:
            self._reads.answered(state)

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        ids = [EntryId(entry.term, entry.index) for entry in entries]
        groups = self._writes.groups(ids)
        self._effects.append(Apply(entries, groups))
        self._writes.handed_out = entries[-1].index
        size = sum([len(entry.data) for entry in entries])
        self._log_compaction.handed_out(entries[-1].index, size)

    def _tend_peers(self) -> None:
        """Follow the core: who needs a snapshot, what is settled, whether to go."""
        effects = self._effects
        needed = set(self.raft.snapshot_peers)
        if needed != self._sending:
            effects += [StopSnapshot(p) for p in sorted(self._sending - needed)]
            effects += [SendSnapshot(p) for p in sorted(needed - self._sending)]
            self._sending = needed
        for ticket, error in self._membership.settled(self._tick):
            effects.append(Done(ticket) if error is None else Fail(ticket, error))
        if self._log_compaction.begin():
            effects.append(SyncState())
        if not self._left and self.raft.is_removed:
            self._left = True
            effects.append(Leave())

    # -------------------------------------------------------- change and time

    def _check_leadership(self) -> None:
        now = (self.raft.term, self.raft.leader_id)
        if now == self._term_and_leader:
            return
        self._term_and_leader = now
        self._writes.leader_changed(self._tick)
        self._chores = None
        if self.raft.is_leader:
            self._chores = Chores(
                self.raft.term,
                history=self._options.history,
                session_timeout_ticks=self._options.session_timeout_ticks,
            )

    def _expire(self) -> None:
        tick = self._tick
        self._writes.expire(tick)
        for ticket, error in self._reads.expire(tick):
            self._effects.append(Fail(ticket, error))
        self._reads.ask_again(tick, self._options.read_retry_ticks)
        if self.raft.leader_id is not None:
            self._led_tick = tick
        elif tick - self._led_tick >= self._options.leaderless_patience_ticks:
            self._refuse_leaderless()

    def _do_chores(self) -> None:
        """At a leader, now and then: what nobody asks for and somebody must do."""
        if self._chores is None or self._tick % self._options.chore_interval_ticks:
            return
        self._effects.append(ReportSessions())
        self._membership.record_identities()
        command = self._chores.observe_history(
            self._reads.now_ms,
            revision=self._reads.revision,
            compact_revision=self._compact_revision,
        )
        if command is not None:
            self._writes.own_commands.append(command)

    def _refuse_leaderless(self) -> None:
        """What waits for a leader may find one elsewhere: this node may be cut off."""
        error = leaderless()
        self._writes.refuse_waiting(error)
        for read in self._reads.take_unconfirmed():
            self._effects.append(Fail(read.ticket, error))

    def drain(self) -> None:
        """The node is about to stop: finish what is in a log, take nothing from peers.

        They keep their writes for the next leader, and nobody is told "unknown".
        """
        self._writes.refuses_forwarded = True

    def resign(self) -> None:
        """Once drained: lead no more, and tell the peers, so that they stay away.

        One that had nothing to pass on meanwhile was refused nothing yet, and would
        trust this node until its connection breaks: too late for what it sends by then.
        """
        if not self.raft.is_leader:
            return
        self.raft.resign()
        self._writes.warn_peers()

    @property
    def is_drained(self) -> bool:
        """Whether no write waits for its outcome here."""
        return self._writes.is_empty

    def close(self) -> list[Effect]:
        """The node stops: fail what waits, definitely or not as the case may be."""
        stopping = Unavailable("this node is stopping; the request was not applied")
        self._writes.refuse_waiting(stopping)
        for ticket, _ in self._reads.expire(1 << 62):
            self._effects.append(Fail(ticket, stopping))
        for ticket, error in self._membership.close():
            self._effects.append(Fail(ticket, error))
        self._writes.close()
        return self._take_effects()
