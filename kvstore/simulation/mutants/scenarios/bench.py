"""Three whole members in memory, moved by hand, and clients that remember all.

Each client writes a key of its own. So what became of a write shows in the version of
its key: 0 if nothing did, 2 if it was carried out twice.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.membership import Configuration, MemberInfo
from kvstore.raft.messages import EntryId
from kvstore.raft.options import RaftOptions
from kvstore.replica.admission import Standing, standing
from kvstore.replica.effects import (
    Apply,
    Effect,
    Fail,
    Persist,
    Read,
    Respond,
    Send,
)
from kvstore.replica.messages import PeerMessage
from kvstore.replica.options import ReplicaOptions
from kvstore.replica.replica import Replica
from kvstore.simulation.mutants.noticing import require
from kvstore.simulation.mutants.scenarios.states import put
from kvstore.state_machine import machine
from kvstore.storage.memory_log import MemoryLog
from kvstore.storage.memory_state import MemoryState
from kvstore.types import Incarnation, LogIndex, NodeId, Revision, Ticket

IDS = tuple(NodeId(number) for number in (1, 2, 3))
OPTIONS = ReplicaOptions(
    raft=RaftOptions(
        election_timeout_ticks=10, heartbeat_interval_ticks=1, apply_bytes_max=1
    ),
    orphan_ticks=5,
    read_retry_ticks=5,
    chore_interval_ticks=1,
)
PATIENCE_TICKS = 1_000
STEPS_MAX = 10_000


@dataclass(slots=True)
class Write:
    """What a client knows of its write."""

    key: bytes
    revision: Revision | None = None
    """It was told that the write was carried out, as this revision."""
    told_ms: int = 0
    """When."""
    error: KVStoreError | None = None
    """It was told this instead."""


@dataclass(slots=True)
class ReadRequest:
    """What a client knows of its read."""

    due: frozenset[bytes]
    """Keys of writes that were acknowledged before it began."""
    is_served: bool = False


@dataclass(slots=True)
class Seat:
    """One member."""

    log: MemoryLog
    incarnation: Incarnation
    state: MemoryState = field(default_factory=MemoryState)
    replica: Replica | None = None
    writing: Persist | None = None
    working: deque[Apply | Read] = field(default_factory=deque)
    lives: int = 0
    late_ms: int = 0
    """Its clock is slow."""

    @property
    def up(self) -> Replica:
        """Its replica; it must be up."""
        assert self.replica is not None
        return self.replica


class Bench:
    """The members, the wire between them, and their clients."""

    def __init__(
        self,
        options: ReplicaOptions = OPTIONS,
        *,
        leases: bool = False,
        make_random: Callable[[str], random.Random] = random.Random,
    ) -> None:
        members = {it: MemberInfo(f"n{it}:1") for it in IDS}
        self._founding = Configuration(voters=IDS, members=members, leases=leases)
        self._options = options
        self._make_random = make_random
        self.seats: dict[NodeId, Seat] = {}
        self.wire: deque[PeerMessage] = deque()
        self.held: list[PeerMessage] = []
        """Taken off the wire, to arrive later."""
        self.holding: tuple[type, ...] = ()
        """What is taken off the wire."""
        self.cut: set[int] = set()
        """What these send is lost, and what is sent to them."""
        self.slow_disks: set[int] = set()
        self.slow_states: set[int] = set()
        self.writes: dict[Ticket, Write] = {}
        self.reads: dict[Ticket, ReadRequest] = {}
        self.now_ms = 0
        for node_id in IDS:
            self.found(node_id, incarnation=node_id)
            self.start(node_id)

    # ------------------------------------------------------------------ members

    def found(self, node_id: int, *, incarnation: int) -> None:
        """Set up a data directory, in place of what a member had."""
        log = MemoryLog(configuration=self._founding)
        self.seats[NodeId(node_id)] = Seat(log, Incarnation(incarnation))

    def introduce(self) -> None:
        """Have the leader, which is 1, record by which directories its members go."""
        for node_id, seat in self.seats.items():
            self.seats[NodeId(1)].up.identified(node_id, seat.incarnation)
        for _ in IDS:
            self.tick(1)

    def start(self, node_id: int) -> None:
        """From what is durable: the log. What it implies is applied again."""
        seat = self.seats[NodeId(node_id)]
        seat.state = MemoryState()
        seat.lives += 1
        seat.replica = Replica(
            node_id=NodeId(node_id),
            log=seat.log,
            applied_index=LogIndex(0),
            revision=Revision(0),
            compact_revision=Revision(0),
            compaction_pending=False,
            options=self._options,
            random=self._make_random(f"{node_id}/{seat.lives}"),
        )
        seat.up.set_clock(self.now_ms - seat.late_ms)

    def crash(self, node_id: int) -> None:
        """It ends, and with it what its clients wait for."""
        seat = self.seats[NodeId(node_id)]
        seat.replica = seat.writing = None
        seat.working.clear()

    def elect(self, node_id: int) -> None:
        """Have it win, by the votes of those it reaches."""
        assert self.campaigns(node_id), "a scenario went wrong"

    def campaigns(self, node_id: int) -> bool:
        """It campaigns among those that have just lost their leader: does it win?"""
        for voter in self._reachable():
            raft = self.seats[voter].up.raft
            if raft.leader_id not in (None, voter):
                self.disconnect(voter, raft.leader_id or 0)
        self.seats[NodeId(node_id)].up.raft.campaign()
        self.settle()
        return self.seats[NodeId(node_id)].up.raft.is_leader

    def disconnect(self, node_id: int, peer: int) -> None:
        """It sees its connections with a peer close."""
        self.seats[NodeId(node_id)].up.peer_disconnected(NodeId(peer))

    def tick(self, *nodes: int) -> None:
        """Ten milliseconds pass at each; then all that follows."""
        self.now_ms += 10
        for node_id in nodes:
            self._set_clock(NodeId(node_id))
            self.seats[NodeId(node_id)].up.tick()
        self.settle()

    def pass_time(self, ms: int) -> None:
        """By every clock, without ticks."""
        self.now_ms += ms
        for node_id in self._running():
            self._set_clock(node_id)

    def fall_behind(self, node_id: int, ms: int) -> None:
        """The clock of one member is slow, by this much more."""
        self.seats[NodeId(node_id)].late_ms += ms
        self._set_clock(NodeId(node_id))

    def _set_clock(self, node_id: NodeId) -> None:
        seat = self.seats[node_id]
        seat.up.set_clock(self.now_ms - seat.late_ms)

    # ------------------------------------------------------------------ clients

    def write(self, node_id: int, key: str) -> Ticket:
        """A client asks a member to write its key."""
        ticket = Ticket(len(self.writes) + 1)
        self.writes[ticket] = Write(key.encode())
        data = kv_pb2.CommandBatch(commands=[put(key)]).SerializeToString()
        self.seats[NodeId(node_id)].up.submit(
            ticket, data, count=1, patience_ticks=PATIENCE_TICKS
        )
        self.settle()
        return ticket

    def read(self, node_id: int, options: kv_pb2.ReadOptions | None = None) -> Ticket:
        """A client asks a member to read everything, by default linearizably."""
        ticket = Ticket(1_000_000 + len(self.reads))
        options = options or kv_pb2.ReadOptions()
        due_ms = self.now_ms - options.staleness_ms_max
        told = (
            it.key
            for it in self.writes.values()
            if it.revision is not None and it.told_ms <= due_ms
        )
        self.reads[ticket] = ReadRequest(frozenset(told))
        self.seats[NodeId(node_id)].up.read(
            ticket, options, patience_ticks=PATIENCE_TICKS
        )
        self.settle()
        return ticket

    def judge(self, node_id: int) -> None:
        """By a state that has applied all: were clients told the truth?"""
        state = self.seats[NodeId(node_id)].state
        for write in self.writes.values():
            head = state.head(write.key)
            require(
                head is None or head.version == 1,
                "a write was carried out twice (LIN)",
                *(write, head),
            )
            if write.revision is not None:
                require(
                    head is not None and head.at.revision == write.revision,
                    "a write was not carried out as its client was told (LIN)",
                    *(write, head),
                )
            if write.error is not None and write.error.definite:
                require(
                    head is None,
                    "a write that is said to have failed was carried out (LIN)",
                    *(write, head),
                )

    # --------------------------------------------------------------------- work

    def settle(self) -> None:
        """Work and deliver until nothing more happens."""
        for _ in range(STEPS_MAX):
            moved = [self._work(node_id) for node_id in self._running()]
            if not any(moved) and not self._deliver():
                return
        raise AssertionError("a scenario that never ends")

    def release(self) -> None:
        """What was held arrives, over whatever is cut."""
        messages, self.held, self.holding = self.held, [], ()
        for message in messages:
            self.seats[message.to].up.receive([message])
        self.settle()

    def _running(self) -> list[NodeId]:
        return [it for it, seat in self.seats.items() if seat.replica is not None]

    def _reachable(self) -> list[NodeId]:
        return [it for it in self._running() if it not in self.cut]

    def _deliver(self) -> bool:
        if not self.wire:
            return False
        message = self.wire.popleft()
        if isinstance(message, self.holding):
            self.held.append(message)
        elif not self.cut & {message.sender, message.to}:
            receiver = self.seats[message.to].replica
            if receiver is not None and self._admits(receiver, message.sender):
                receiver.receive([message])
        return True

    def _admits(self, receiver: Replica, sender: NodeId) -> bool:
        """As streams between members are opened, or refused."""
        raft = receiver.raft
        settled = raft.log.configuration_at(raft.commit_index)
        latest, incarnation = raft.configuration, self.seats[sender].incarnation
        return standing(settled, latest, sender, incarnation) is Standing.ADMITTED

    def _work(self, node_id: NodeId) -> bool:
        """One turn of a member; whether anything came of it."""
        seat = self.seats[node_id]
        effects = seat.up.poll()
        self._carry_out(seat, effects)
        if seat.writing is not None and node_id not in self.slow_disks:
            work, seat.writing = seat.writing, None
            seat.log.append(work.hard_state, work.entries)
            seat.up.persisted(work.number)
            return True
        if seat.working and node_id not in self.slow_states:
            self._use_state(seat, seat.working.popleft())
            return True
        return bool(effects)

    def _carry_out(self, seat: Seat, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(messages):
                    self.wire += messages
                case Persist():
                    seat.writing = effect
                case Apply() | Read():
                    seat.working.append(effect)
                case Respond(ticket, results, _):
                    (result,) = kv_pb2.ResultBatch.FromString(results).results
                    self.writes[ticket].revision = Revision(result.put.revision)
                    self.writes[ticket].told_ms = self.now_ms
                case Fail(ticket, error) if ticket in self.writes:
                    self.writes[ticket].error = error
                case _:
                    pass

    def _use_state(self, seat: Seat, work: Apply | Read) -> None:
        if isinstance(work, Read):
            for ticket in work.tickets:
                self._serve(seat, ticket)
            return
        results = []
        for entry, groups in zip(work.entries, work.groups, strict=True):
            answers = machine.apply(seat.state, entry, want_results=bool(groups))
            if groups:
                done = EntryId(entry.term, entry.index)
                results.append((done, machine.encode_groups(answers, groups)))
        last, progress = work.entries[-1], seat.state.progress
        seat.up.applied(
            EntryId(last.term, last.index),
            results=results,
            revision=progress.revision,
            compact_revision=progress.compact_revision,
            compaction_pending=progress.compaction_pending,
        )

    def _serve(self, seat: Seat, ticket: Ticket) -> None:
        request = self.reads[ticket]
        request.is_served = True
        missed = [key for key in sorted(request.due) if seat.state.head(key) is None]
        require(
            not missed,
            "a read misses what was acknowledged before it began (LIN)",
            *(ticket, missed),
        )
