"""One node in memory: the test plays its peers, and says when its disk is done."""

import random
from collections.abc import Sequence

from kvstore.raft.events import Event
from kvstore.raft.membership import Change, Configuration
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    Message,
    RequestVote,
    RequestVoteReply,
    Snapshot,
    TimeoutNow,
)
from kvstore.raft.node import RaftNode, Role
from kvstore.raft.options import RaftOptions
from kvstore.raft.ready import ReadState, Ready
from kvstore.types import LogIndex, NodeId, Term
from tests.raft.disk import Disk
from tests.raft.pieces import OPTIONS, TICK_MS, entries_of, entry_id, founded


class Bench:
    """One node; the test plays its peers. Writes are durable at once unless held."""

    def __init__(
        self,
        *,
        voters: Sequence[int] = (1, 2, 3),
        learners: Sequence[int] = (),
        leases: bool = False,
        configuration: Configuration | None = None,
        base: tuple[int, int] = (0, 0),
        terms: Sequence[int] = (),
        term: int = 0,
        vote: int | None = None,
        applied: int = 0,
        options: RaftOptions = OPTIONS,
        seed: int = 1,
    ) -> None:
        """``base``: term and index of what precedes the log; it is applied."""
        if configuration is None:
            configuration = founded(voters, learners=learners, leases=leases)
        self.disk = Disk(
            terms, term=term, vote=vote, configuration=configuration, base=base
        )
        self.raft = RaftNode(
            node_id=NodeId(1),
            log=self.disk,
            hard_state=self.disk.hard_state,
            applied_index=LogIndex(max(applied, base[1])),
            options=options,
            random=random.Random(seed),
        )
        self.now_ms = 0
        self.peers = tuple(NodeId(voter) for voter in voters if voter != 1)
        self.slow_disk = False
        self.writing: Ready | None = None
        self.applied: list[Entry] = []
        self.reads: list[ReadState] = []
        self.sent: list[Message] = []
        self.events: list[Event] = []

    def role(self) -> Role:
        return self.raft.role

    def work(self) -> list[Message]:
        """Do what is owed; what was sent since the last call."""
        while self.raft.has_ready():
            ready = self.raft.ready()
            self.sent += ready.messages
            if ready.must_persist:
                assert self.writing is None
                self.writing = ready
                if not self.slow_disk:
                    self.fsync()
            else:
                assert not ready.messages_after_persist
            if ready.committed_entries:
                self.applied += ready.committed_entries
                self.raft.applied(ready.committed_entries[-1].index)
            self.reads += ready.read_states
        self.events += self.raft.drain_events()
        sent, self.sent = self.sent, []
        return sent

    def fsync(self) -> None:
        """The write in flight is durable; its votes and acknowledgements leave."""
        ready, self.writing = self.writing, None
        assert ready is not None
        if ready.snapshot is not None:
            self.disk.install(ready.snapshot)
        self.disk.append(ready.hard_state, ready.entries)
        self.raft.persisted(ready.number)
        self.sent += ready.messages_after_persist

    def step(self, message: Message) -> list[Message]:
        self.raft.step(message)
        return self.work()

    def tick(self, count: int = 1) -> list[Message]:
        sent: list[Message] = []
        for _ in range(count):
            self.pass_time(TICK_MS)
            self.raft.tick()
            sent += self.work()
        return sent

    def pass_time(self, duration_ms: int) -> None:
        """The clock goes on, and no tick comes: the process stood still."""
        self.now_ms += duration_ms
        self.raft.set_clock(self.now_ms)

    def change(self, *changes: Change) -> list[Message]:
        """A leader begins to change the members."""
        self.raft.propose_changes(changes)
        return self.work()

    def compact(self, index: int) -> None:
        """Forget entries up to ``index``."""
        self.raft.compacted(LogIndex(index))
        self.disk.compact(index)

    # The messages that a test most often plays.

    def append(
        self,
        terms: Sequence[int] = (),
        *,
        previous: tuple[int, int] = (0, 0),
        commit: int = 0,
        term: int | None = None,
        sender: int = 2,
    ) -> list[Message]:
        """``terms`` of entries behind ``previous`` (term, index)."""
        return self.step(
            AppendEntries(
                sender=NodeId(sender),
                to=NodeId(1),
                term=self.raft.term if term is None else Term(term),
                previous=entry_id(*previous),
                entries=entries_of(terms, first=previous[1] + 1),
                commit_index=LogIndex(commit),
            )
        )

    def acknowledge(
        self, index: int, *, sender: int = 2, term: int | None = None
    ) -> list[Message]:
        return self.step(
            AppendEntriesReply(
                sender=NodeId(sender),
                to=NodeId(1),
                term=self.raft.term if term is None else Term(term),
                index=LogIndex(index),
                rejected=False,
                hint=None,
            )
        )

    def reject(
        self, index: int, hint: tuple[int, int], *, sender: int = 2
    ) -> list[Message]:
        return self.step(
            AppendEntriesReply(
                sender=NodeId(sender),
                to=NodeId(1),
                term=self.raft.term,
                index=LogIndex(index),
                rejected=True,
                hint=entry_id(*hint),
            )
        )

    def heartbeat(
        self,
        *,
        term: int | None = None,
        commit: int = 0,
        read_round: int = 0,
        sender: int = 2,
    ) -> list[Message]:
        return self.step(
            Heartbeat(
                sender=NodeId(sender),
                to=NodeId(1),
                term=self.raft.term if term is None else Term(term),
                commit_index=LogIndex(commit),
                round=read_round,
            )
        )

    def answer_heartbeat(
        self, *, sender: int = 2, read_round: int = 0, term: int | None = None
    ) -> list[Message]:
        return self.step(
            HeartbeatReply(
                sender=NodeId(sender),
                to=NodeId(1),
                term=self.raft.term if term is None else Term(term),
                round=read_round,
            )
        )

    def ask_vote(
        self,
        *,
        term: int,
        last: tuple[int, int] = (0, 0),
        sender: int = 2,
        pre: bool = False,
    ) -> list[Message]:
        return self.step(
            RequestVote(
                sender=NodeId(sender),
                to=NodeId(1),
                term=Term(term),
                last_log=entry_id(*last),
                pre_vote=pre,
            )
        )

    def answer_vote(
        self,
        *,
        sender: int,
        granted: bool = True,
        pre: bool = False,
        term: int | None = None,
    ) -> list[Message]:
        if term is None:
            term = self.raft.term + (1 if pre and granted else 0)
        return self.step(
            RequestVoteReply(
                sender=NodeId(sender),
                to=NodeId(1),
                term=Term(term),
                granted=granted,
                pre_vote=pre,
            )
        )

    def become_candidate(self) -> list[Message]:
        """Win the pre-vote. The requests for votes."""
        self.raft.campaign()
        self.work()
        sent: list[Message] = []
        for peer in self.peers[: len(self.peers) // 2 + 1]:
            sent += self.answer_vote(sender=peer, pre=True)
            if sent:
                break
        return sent

    def become_leader(self, *, commit: bool = True) -> list[Message]:
        """Win an election, and commit its no-op; what is sent at last."""
        sent = self.become_candidate()
        for peer in self.peers:
            if self.raft.is_leader:
                break
            sent = self.answer_vote(sender=peer)
        assert self.raft.is_leader
        if commit:
            for peer in self.peers:
                self.acknowledge(self.raft.last_index, sender=peer)
            assert self.raft.commit_index == self.raft.last_index
        return sent

    def become_follower(self, term: int, leader: int = 2) -> None:
        self.heartbeat(term=term, sender=leader)
        assert self.raft.leader_id == leader

    def install(
        self,
        last: tuple[int, int],
        configuration: Configuration | None = None,
        *,
        term: int | None = None,
        sender: int = 2,
    ) -> list[Message]:
        """A leader's snapshot, whose data is here."""
        return self.step(
            InstallSnapshot(
                sender=NodeId(sender),
                to=NodeId(1),
                term=self.raft.term if term is None else Term(term),
                snapshot=Snapshot(
                    last=entry_id(*last),
                    configuration=(configuration or founded([1, 2, 3])).encode(),
                ),
            )
        )

    def time_out_now(self, *, last: int, sender: int = 2) -> list[Message]:
        """The leader hands over."""
        return self.step(
            TimeoutNow(
                sender=NodeId(sender),
                to=NodeId(1),
                term=self.raft.term,
                last_index=LogIndex(last),
            )
        )
