"""The whole server without its shell: inputs in, effects out.

Inputs only note what happened. :meth:`Replica.poll` then decides, once for everything
that came in one turn: that is where batches form. A leader proposes only while no log
write of its own is in flight, so whatever arrives during one fsync is the next entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kvstore.errors import (
    Busy,
    InvalidRequest,
    KVStoreError,
    LeadershipLost,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from kvstore.pb import kv_pb2
from kvstore.raft.messages import AppendEntries, Entry, EntryId, Heartbeat, Message
from kvstore.raft.node import RaftNode
from kvstore.raft.ready import Ready
from kvstore.replica.effects import (
    Apply,
    Effect,
    Fail,
    Persist,
    Read,
    Respond,
    Send,
)
from kvstore.replica.interfaces import LogStorage
from kvstore.replica.messages import (
    NO_REQUEST,
    ForwardReply,
    ForwardWrites,
    PeerMessage,
    check_forwarded,
)
from kvstore.replica.options import ReplicaOptions
from kvstore.replica.proposals import (
    Batch,
    Forwarded,
    ForwardedWrites,
    ProposedWrites,
    ReadRound,
    WaitingRead,
    WaitingReads,
    WaitingWrites,
    leaderless,
    not_answered,
    not_confirmed,
    not_taken,
    overwritten,
)
from kvstore.types import LogIndex, NodeId, ReadyNumber, Revision, Ticket

if TYPE_CHECKING:
    import random

COMPACTION_STEP = kv_pb2.CommandBatch(
    commands=[kv_pb2.Command(compaction_step=kv_pb2.CompactionStep())]
).SerializeToString()


class Replica:
    """One member. Not thread-safe: one caller at a time."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        log: LogStorage,
        applied_index: LogIndex,
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
        self._node_id = node_id
        self._tick = 0
        self._led_tick = 0
        self._handed_out = applied_index
        self._last_read_id = 0
        self._waiting = WaitingWrites(
            count_max=options.waiting_writes_max,
            bytes_max=options.waiting_write_bytes_max,
        )
        self._proposed = ProposedWrites()
        self._forwarded = ForwardedWrites(
            first_number=random.getrandbits(62),
            count_max=options.waiting_writes_max,
            bytes_max=options.waiting_write_bytes_max,
        )
        self._doubted: set[NodeId] = set()
        self._reads = WaitingReads()
        self._after_persist: dict[ReadyNumber, tuple[Message, ...]] = {}
        self._compaction_pending = compaction_pending
        self._draining = False
        self._orphan_deadline: int | None = None
        self._term_and_leader = (self.raft.term, self.raft.leader_id)
        self._effects: list[Effect] = []

    # ------------------------------------------------------------------ inputs

    def tick(self) -> None:
        """One unit of time passed."""
        self._tick += 1
        self.raft.tick()
        self._expire()

    def receive(self, messages: Iterable[PeerMessage]) -> None:
        doubted = self._doubted
        for message in messages:
            if doubted and isinstance(message, Heartbeat | AppendEntries):
                doubted.discard(message.sender)
            match message:
                case ForwardWrites():
                    self._receive_forward(message)
                case ForwardReply():
                    self._receive_forward_reply(message)
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
        self._waiting.add(Batch(ticket, writes, count, deadline))

    def read(self, ticket: Ticket, *, patience_ticks: int) -> None:
        """Ask for a linearizable read; one Read or Fail will name the ticket.

        The caller bounds how many wait: a read is its to serve too, and counts until it
        is answered, of which nothing is said here.
        """
        self._reads.fresh.append(WaitingRead(ticket, self._tick + patience_ticks))

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
        compaction_pending: bool,
    ) -> None:
        """Entries to ``last`` are applied; ``results`` has those with groups."""
        for entry, replies in results:
            batches = self._proposed.resolve(entry)
            # Nobody may be left: the request was given up as of unknown outcome.
            assert not batches or len(batches) == len(replies)
            for batch, reply in zip(batches, replies, strict=False):
                self._answer(batch, reply, revision)
        self._compaction_pending = compaction_pending
        self.raft.applied(last.index)

    def peer_disconnected(self, peer: NodeId) -> None:
        """The connection to or from a peer closed."""
        self.raft.peer_disconnected(peer)
        self._doubted.add(peer)
        gone = self._forwarded.take(lambda forwarded: forwarded.leader == peer)
        self._fail_all(gone, self._lost(f"the connection to leader {peer} broke"))

    def poll(self) -> list[Effect]:
        """Decide on everything noted so far. Cheap when nothing was."""
        self._check_leadership()
        self._flush_reads()
        self._flush_writes()
        while self.raft.has_ready():
            self._process(self.raft.ready())
            self._flush_writes()
        self._check_leadership()
        self._release_reads()
        effects, self._effects = self._effects, []
        return effects

    # ------------------------------------------------------------- core's work

    def _process(self, ready: Ready) -> None:
        effects = self._effects
        if ready.messages:
            effects.append(Send(ready.messages))
        if ready.must_persist:
            self._after_persist[ready.number] = ready.messages_after_persist
            effects.append(Persist(ready.number, ready.hard_state, ready.entries))
        else:
            assert not ready.messages_after_persist, "they wait for a write"
        if ready.committed_entries:
            self._apply(ready.committed_entries)
        for state in ready.read_states:
            if state.rejected:
                self._reads.round_failed(state.request_id)
            elif (group := self._reads.rounds.pop(state.request_id, None)) is not None:
                self._reads.confirmed.append((state.index, group))

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        proposed = self._proposed
        groups: tuple[tuple[int, ...], ...] = ((),) * len(entries)
        if len(proposed):
            ids = [EntryId(entry.term, entry.index) for entry in entries]
            self._fail_all(proposed.take_overwritten(ids), overwritten())
            groups = tuple([proposed.groups(entry) for entry in ids])
        self._effects.append(Apply(entries, groups))
        self._handed_out = entries[-1].index

    # ------------------------------------------------------------------ writes

    def _flush_writes(self) -> None:
        raft = self.raft
        if raft.is_leader:
            if raft.is_persisting:
                return
            if self._waiting:
                self._propose(self._waiting.take(self._options.entry_bytes_max))
            elif self._compaction_pending and raft.last_index == self._handed_out:
                # Every applied entry deletes a share; an idle log needs one of its own.
                self._compaction_pending = False
                self._propose([])
        elif self._waiting and (leader := raft.leader_id) is not None:
            if leader in self._doubted:
                # Its connection broke, or it said that it does not lead, and it has not
                # led since. A write passed to a dead leader would have an unknown
                # outcome; one that waits for the next leader, which is near, has none.
                return
            while self._waiting and self._forwarded.has_room:
                (batch,) = self._waiting.take(1)
                self._forward(batch, leader)

    def _propose(self, batches: list[Batch]) -> None:
        data = b"".join([batch.writes for batch in batches]) or COMPACTION_STEP
        try:
            entry = self.raft.propose(data)
        except (Busy, NotLeader):
            # They keep their place in the bounded queue until the log moves again.
            self._waiting.put_back(batches)
            return
        if batches:
            # What stood at this index here may yet be committed by another leader.
            replaced = self._proposed.add(entry, batches)
            self._fail_all(replaced, self._lost("the leader changed"))

    def _forward(self, batch: Batch, leader: NodeId) -> None:
        if isinstance(batch.origin, Forwarded):
            # Never twice: its own node knows better whom to ask now.
            error = NotLeader("this node no longer leads", leader_id=leader)
            self._fail(batch, error)
            return
        message = ForwardWrites(
            sender=self._node_id,
            to=leader,
            request_id=self._forwarded.add(batch, leader, self.raft.term),
            writes=batch.writes,
            count=batch.count,
        )
        self._effects.append(Send((message,)))

    def _receive_forward(self, message: ForwardWrites) -> None:
        origin = Forwarded(message.sender, message.request_id)
        deadline = self._tick + self._options.forwarded_patience_ticks
        batch = Batch(origin, message.writes, message.count, deadline)
        if self._draining or not self.raft.is_leader:
            leader = self.raft.leader_id or NodeId(0)
            error = NotLeader("this node does not lead", leader_id=leader)
            self._fail(batch, error)
            return
        try:
            check_forwarded(message)
            self._waiting.add(batch)
        except (InvalidRequest, Busy) as error:
            self._fail(batch, error)

    def _receive_forward_reply(self, message: ForwardReply) -> None:
        error = message.error
        if isinstance(error, NotLeader):
            # Also if nothing was asked: a leader that stops says so unasked.
            self._doubted.add(message.sender)
        batch = self._forwarded.answered(message.request_id, message.sender)
        if batch is None:
            return
        if error is None:
            self._answer(batch, message.results, message.revision)
        elif isinstance(error, NotLeader):
            # Definitely not applied: it waits here for the next leader.
            self._waiting.put_back([batch])
        else:
            self._fail(batch, error)

    # ------------------------------------------------------------------- reads

    def _flush_reads(self) -> None:
        reads = self._reads
        if not reads.fresh or self.raft.leader_id is None:
            return
        self._last_read_id += 1
        reads.rounds[self._last_read_id] = ReadRound(reads.fresh, self._tick)
        reads.fresh = []
        self.raft.read_index(self._last_read_id)

    def _release_reads(self) -> None:
        for index, group in self._reads.take_ready(self._handed_out):
            tickets = tuple([read.ticket for read in group.reads])
            if tickets:
                self._effects.append(Read(tickets, index))

    # -------------------------------------------------------- change and time

    def _check_leadership(self) -> None:
        now = (self.raft.term, self.raft.leader_id)
        if now == self._term_and_leader:
            return
        self._term_and_leader = now
        if self._orphan_deadline is None and (self._forwarded or len(self._proposed)):
            self._orphan_deadline = self._tick + self._options.orphan_ticks

    def _expire(self) -> None:
        tick = self._tick
        self._fail_all(self._waiting.expire(tick), not_taken())
        # A message can be lost while the leader stays, and its connection too.
        late = self._forwarded.take(lambda f: f.batch.deadline_tick <= tick)
        self._fail_all(late, not_answered())
        for read in self._reads.expire(tick):
            self._effects.append(Fail(read.ticket, not_confirmed()))
        retry_before = tick - self._options.read_retry_ticks
        for request_id in self._reads.overdue(retry_before):
            self._reads.round_failed(request_id)
        self._reads.ask_again()
        if self._orphan_deadline is not None and tick >= self._orphan_deadline:
            self._orphan_deadline = None
            self._give_up_orphans()
        if self.raft.leader_id is not None:
            self._led_tick = tick
        elif tick - self._led_tick >= self._options.leaderless_patience_ticks:
            self._refuse_leaderless()

    def _refuse_leaderless(self) -> None:
        """What waits for a leader may find one elsewhere: this node may be cut off."""
        error = leaderless()
        while self._waiting:
            self._fail_all(self._waiting.take(self._options.entry_bytes_max), error)
        for read in self._reads.take_unconfirmed():
            self._effects.append(Fail(read.ticket, error))

    def _give_up_orphans(self) -> None:
        """Writes of earlier terms that nothing has decided: say that nobody knows."""
        term = self.raft.term
        before = term if self.raft.is_leader else type(term)(term + 1)
        gone = self._proposed.orphans(before)
        gone += self._forwarded.take(lambda forwarded: forwarded.term < term)
        self._fail_all(gone, self._lost("the leader changed"))

    @staticmethod
    def _lost(why: str) -> OutcomeUnknown:
        return LeadershipLost(
            f"{why} with the write in flight; it may have been applied"
        )

    # ----------------------------------------------------------------- answers

    def _answer(self, batch: Batch, results: bytes, revision: Revision) -> None:
        origin = batch.origin
        if isinstance(origin, Forwarded):
            self._reply(origin, results, None, revision)
        else:
            self._effects.append(Respond(origin, results, revision))

    def _fail(self, batch: Batch, error: KVStoreError) -> None:
        origin = batch.origin
        if isinstance(origin, Forwarded):
            self._reply(origin, b"", error, Revision(0))
        else:
            self._effects.append(Fail(origin, error))

    def _fail_all(self, batches: Iterable[Batch], error: KVStoreError) -> None:
        for batch in batches:
            self._fail(batch, error)

    def _reply(
        self,
        origin: Forwarded,
        results: bytes,
        error: KVStoreError | None,
        revision: Revision,
    ) -> None:
        message = ForwardReply(
            sender=self._node_id,
            to=origin.node,
            request_id=origin.request_id,
            results=results,
            error=error,
            revision=revision,
        )
        self._effects.append(Send((message,)))

    def drain(self) -> None:
        """The node is about to stop: finish what is in a log, take nothing from peers.

        They keep their writes for the next leader, and nobody is told "unknown".
        """
        self._draining = True

    def resign(self) -> None:
        """Once drained: lead no more, and tell the peers, so that they stay away.

        One that had nothing to pass on meanwhile was refused nothing yet, and would
        trust this node until its connection breaks: too late for what it sends by then.
        """
        if not self.raft.is_leader:
            return
        self.raft.resign()
        error = NotLeader("this node is stopping")
        for peer in self.raft.configuration.everybody:
            if peer != self._node_id:
                self._reply(Forwarded(peer, NO_REQUEST), b"", error, Revision(0))

    @property
    def is_drained(self) -> bool:
        """Whether no write waits for its outcome here."""
        return not (self._waiting or self._forwarded or len(self._proposed))

    def close(self) -> list[Effect]:
        """The node stops: fail what waits, definitely or not as the case may be."""
        stopping = Unavailable("this node is stopping; the request was not applied")
        while self._waiting:
            self._fail_all(self._waiting.take(1), stopping)
        for read in self._reads.expire(1 << 62):
            self._effects.append(Fail(read.ticket, stopping))
        everything = type(self.raft.term)(self.raft.term + 1)
        in_flight = self._proposed.orphans(everything)
        in_flight += self._forwarded.take(lambda _: True)
        self._fail_all(in_flight, self._lost("the node stopped"))
        effects, self._effects = self._effects, []
        return effects
