"""Writes on their way through a replica: proposed by a leader, passed on by a follower.

Each ends with an answer: its results, an error that says that it was not applied, or
one that says that nobody knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kvstore.errors import (
    Busy,
    InvalidRequest,
    KVStoreError,
    LeadershipLost,
    NotLeader,
    OutcomeUnknown,
)
from kvstore.raft.messages import EntryId
from kvstore.raft.node import RaftNode
from kvstore.replica.chores import COMPACTION_STEP
from kvstore.replica.effects import Effect, Fail, Respond, Send
from kvstore.replica.messages import (
    NO_REQUEST,
    ForwardReply,
    ForwardWrites,
    check_forwarded,
)
from kvstore.replica.options import ReplicaOptions
from kvstore.replica.proposals import (
    Batch,
    Forwarded,
    ForwardedWrites,
    ProposedWrites,
    WaitingWrites,
    not_answered,
    not_taken,
    overwritten,
)
from kvstore.types import LogIndex, NodeId, Revision, Term

if TYPE_CHECKING:
    import random


class Writes:
    """All writes of one replica that have no outcome yet."""

    def __init__(
        self,
        raft: RaftNode,
        options: ReplicaOptions,
        effects: list[Effect],
        *,
        random: random.Random,
    ) -> None:
        """What is to be done is appended to ``effects``."""
        self._raft = raft
        self._options = options
        self._effects = effects
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
        self._orphan_deadline: int | None = None
        self.own_commands: deque[bytes] = deque()
        """Encoded batches that the leader proposes of its own accord."""
        self.compaction_pending = False
        """Compacted records wait for entries to delete them."""
        self.handed_out = LogIndex(0)
        """Everything up to here went to the state machine."""
        self.refuses_forwarded = False
        """The node is about to stop."""

    @property
    def is_empty(self) -> bool:
        """Whether no write waits for its outcome here."""
        return not (self._waiting or self._forwarded or len(self._proposed))

    def add(self, batch: Batch) -> None:
        """Take a batch. Raises ``Busy`` (definite) past a bound."""
        self._waiting.add(batch)

    def heard(self, leader: NodeId) -> None:
        """A member leads, whatever was thought of it."""
        self._doubted.discard(leader)

    def disconnected(self, peer: NodeId) -> None:
        """What was passed to ``peer`` may have reached it, or not."""
        self._doubted.add(peer)
        gone = self._forwarded.take(lambda forwarded: forwarded.leader == peer)
        self._fail_all(gone, _lost(f"the connection to leader {peer} broke"))

    def groups(self, entries: list[EntryId]) -> tuple[tuple[int, ...], ...]:
        """Entries are committed: how many commands of each are whose."""
        if not len(self._proposed):
            return ((),) * len(entries)
        self._fail_all(self._proposed.take_overwritten(entries), overwritten())
        return tuple([self._proposed.groups(entry) for entry in entries])

    def applied(
        self, entry: EntryId, replies: Sequence[bytes], revision: Revision
    ) -> None:
        """Answer those whose commands are in an entry."""
        batches = self._proposed.resolve(entry)
        # Nobody may be left: the request was given up as of unknown outcome.
        assert not batches or len(batches) == len(replies)
        for batch, reply in zip(batches, replies, strict=False):
            self._answer(batch, reply, revision)

    def covered(self, index: LogIndex) -> None:
        """A snapshot covers entries to ``index``: ours may be in it, or not."""
        taken = self._proposed.take_to(index)
        self._fail_all(taken, _lost("a snapshot arrived"))

    # ------------------------------------------------------------------ writes

    def flush(self) -> None:
        """Propose what waits, or pass it on."""
        raft = self._raft
        if raft.is_leader:
            if raft.is_persisting or not raft.ready_for_writes:
                return  # what is taken from a queue is to be proposed
            if self.own_commands:
                self._propose([], self.own_commands.popleft())
            elif self._waiting:
                self._propose(self._waiting.take(self._options.entry_bytes_max))
            elif self.compaction_pending and raft.last_index == self.handed_out:
                # Every applied entry deletes a share; an idle log needs one of its own.
                self.compaction_pending = False
                self._propose([], COMPACTION_STEP)
        elif self._waiting and (leader := raft.leader_id) is not None:
            if leader in self._doubted:
                # Its connection broke, or it said that it does not lead, and it has not
                # led since. A write passed to a dead leader would have an unknown
                # outcome; one that waits for the next leader, which is near, has none.
                return
            while self._waiting and self._forwarded.has_room:
                (batch,) = self._waiting.take(1)
                self._forward(batch, leader)

    def _propose(self, batches: list[Batch], own: bytes = b"") -> None:
        data = b"".join([batch.writes for batch in batches]) or own
        try:
            entry = self._raft.propose(data)
        except (Busy, NotLeader):
            # They keep their place in the bounded queue until the log moves again.
            self._waiting.put_back(batches)
            return
        if batches:
            # What stood at this index here may yet be committed by another leader.
            replaced = self._proposed.add(entry, batches)
            self._fail_all(replaced, _lost("the leader changed"))

    def _forward(self, batch: Batch, leader: NodeId) -> None:
        if isinstance(batch.origin, Forwarded):
            # Never twice: its own node knows better whom to ask now.
            error = NotLeader("this node no longer leads", leader_id=leader)
            self._fail(batch, error)
            return
        message = ForwardWrites(
            sender=self._raft.node_id,
            to=leader,
            request_id=self._forwarded.add(batch, leader, self._raft.term),
            writes=batch.writes,
            count=batch.count,
        )
        self._effects.append(Send((message,)))

    def receive(self, message: ForwardWrites, tick: int) -> None:
        """A member passed on writes of its clients."""
        origin = Forwarded(message.sender, message.request_id)
        deadline = tick + self._options.forwarded_patience_ticks
        batch = Batch(origin, message.writes, message.count, deadline)
        if self.refuses_forwarded or not self._raft.is_leader:
            leader = self._raft.leader_id or NodeId(0)
            error = NotLeader("this node does not lead", leader_id=leader)
            self._fail(batch, error)
            return
        try:
            check_forwarded(message)
            self._waiting.add(batch)
        except (InvalidRequest, Busy) as error:
            self._fail(batch, error)

    def receive_reply(self, message: ForwardReply) -> None:
        """How writes that were passed on ended."""
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
            sender=self._raft.node_id,
            to=origin.node,
            request_id=origin.request_id,
            results=results,
            error=error,
            revision=revision,
        )
        self._effects.append(Send((message,)))

    # -------------------------------------------------------- change and time

    def leader_changed(self, tick: int) -> None:
        """Another term, or another leader: some outcomes may never be known here."""
        self.own_commands.clear()
        if self._orphan_deadline is None and (self._forwarded or len(self._proposed)):
            self._orphan_deadline = tick + self._options.orphan_ticks

    def expire(self, tick: int) -> None:
        """Give up what waits past its time."""
        self._fail_all(self._waiting.expire(tick), not_taken())
        # A message can be lost while the leader stays, and its connection too.
        late = self._forwarded.take(lambda f: f.batch.deadline_tick <= tick)
        self._fail_all(late, not_answered())
        if self._orphan_deadline is not None and tick >= self._orphan_deadline:
            self._orphan_deadline = None
            self._give_up_orphans()

    def _give_up_orphans(self) -> None:
        """Writes of earlier terms that nothing has decided: say that nobody knows."""
        term = self._raft.term
        before = term if self._raft.is_leader else type(term)(term + 1)
        gone = self._proposed.orphans(before)
        gone += self._forwarded.take(lambda forwarded: forwarded.term < term)
        self._fail_all(gone, _lost("the leader changed"))

    def refuse_waiting(self, error: KVStoreError) -> None:
        """None of what waits for a leader will be tried from here."""
        while self._waiting:
            self._fail_all(self._waiting.take(self._options.entry_bytes_max), error)

    def warn_peers(self) -> None:
        """Tell all peers, unasked, that this node leads no more."""
        error = NotLeader("this node is stopping")
        for peer in self._raft.configuration.everybody:
            if peer != self._raft.node_id:
                self._reply(Forwarded(peer, NO_REQUEST), b"", error, Revision(0))

    def close(self) -> None:
        """The node stops: fail what is in flight as of unknown outcome."""
        in_flight = self._proposed.orphans(Term(self._raft.term + 1))
        in_flight += self._forwarded.take(lambda _: True)
        self._fail_all(in_flight, _lost("the node stopped"))


def _lost(why: str) -> OutcomeUnknown:
    return LeadershipLost(f"{why} with the write in flight; it may have been applied")
