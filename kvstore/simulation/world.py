"""A cluster of whole replicas in virtual time: everything happens by one agenda.

The world carries out what members ask for: messages arrive, writes end and entries are
applied some time later, or never. What goes wrong is :mod:`faults`' to say, what
clients want :mod:`traffic`'s. After each step the checks of Raft, of the states and of
the clients' answers are made; the first that fails ends the run.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kvstore.errors import CorruptionError, KVStoreError
from kvstore.raft.membership import NOBODY, Configuration, MemberInfo
from kvstore.raft.messages import EntryId
from kvstore.raft.observed import require
from kvstore.replica.admission import Standing, standing
from kvstore.replica.effects import Apply, Read
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.simulation.agenda import Agenda
from kvstore.simulation.journal import Journal, names_of
from kvstore.simulation.member import SimMember
from kvstore.simulation.network import Network
from kvstore.simulation.rot import RottenLog
from kvstore.simulation.seat import Seat
from kvstore.simulation.snapshots import Transfers
from kvstore.simulation.streams import Streams
from kvstore.simulation.swarm import TICK_US, Fault, Swarm
from kvstore.simulation.watch import Watch
from kvstore.types import Incarnation, LogIndex, NodeId, Ticket

if TYPE_CHECKING:
    from kvstore.replica.replica import Replica

WIPED = 1_000_000
"""What a member that lost its directory adds to its incarnation."""


class Clients:
    """Nobody asks for anything. ``traffic.Traffic`` is who does."""

    def committed(self, member: SimMember, index: LogIndex) -> None: ...

    def responded(self, member: SimMember, ticket: Ticket, results: bytes) -> None: ...

    def failed(
        self, member: SimMember, ticket: Ticket, error: KVStoreError
    ) -> None: ...

    def serves(self, member: SimMember, work: Read) -> None: ...

    def crashed(self, node_id: NodeId) -> None: ...


class World:
    """Satisfies ``member.Surroundings``."""

    def __init__(
        self, swarm: Swarm, streams: Streams, journal: Journal | None = None
    ) -> None:
        self.swarm = swarm
        self.streams = streams
        self.journal = journal or Journal()
        self.agenda = Agenda()
        self.network = Network(swarm, streams.network)
        self.watch = Watch(self._grew)
        self.seats: dict[NodeId, Seat] = {}
        self.transfers = Transfers(self)
        self.clients = Clients()
        self.on_write: Callable[[Seat], None] | None = None
        """Called when a log write begins: a moment to crash at."""
        self.events = 0
        """Inputs that a live replica was given; a tick that changed nothing is none."""
        self.reached: Counter[str] = Counter()
        """Rare states, and how often they were seen."""
        self.trace_hash = 0
        self._tickets = 0
        self._options = swarm.replica_options
        self._fsync_rate = 1 / swarm.fsync_us
        self._apply_rate = 1 / swarm.apply_us
        self._commit_rate = 1 / swarm.commit_us
        for number in range(1, swarm.nodes + 1):
            self.add(NodeId(number), self._founders(), Incarnation(number))

    def boot(self) -> None:
        """Start all founding members."""
        for seat in list(self.seats.values()):
            self.start(seat)

    def _founders(self) -> Configuration:
        ids = tuple(NodeId(number) for number in range(1, self.swarm.nodes + 1))
        return Configuration(
            voters=ids,
            members={it: MemberInfo(f"n{it}:1", Incarnation(it)) for it in ids},
            leases=self.swarm.leases,
        )

    # ------------------------------------------------------------------ members

    def add(
        self, node_id: NodeId, configuration: Configuration, incarnation: Incarnation
    ) -> Seat:
        """A new data directory, not started yet."""
        seat = Seat(self._directory(node_id, configuration, incarnation), configuration)
        self.seats[node_id] = seat
        self.watch.added(seat.member)
        return seat

    def _directory(
        self, node_id: NodeId, founding: Configuration, incarnation: Incarnation
    ) -> SimMember:
        return SimMember(
            node_id,
            incarnation=incarnation,
            log=RottenLog(configuration=founding),
            options=self._options,
            around=self,
        )

    def wipe(self, seat: Seat) -> None:
        """A member that is down lost its directory; somebody set it up anew."""
        before = seat.member
        assert before.replica is None
        incarnation = Incarnation(before.incarnation + WIPED)
        self.journal.wiped(self, before.node_id)
        member = self._directory(before.node_id, seat.founding, incarnation)
        member.life = before.life
        seat.member = member
        seat.is_wiped = True
        self.watch.wiped(member.node_id, before.log)

    def next_ticket(self) -> Ticket:
        """Of one more request, of whatever kind."""
        self._tickets += 1
        return Ticket(self._tickets)

    def join(self, node_id: NodeId) -> Seat:
        """A node that belongs to nobody yet, and waits to be added."""
        seat = self.add(node_id, NOBODY, Incarnation(node_id))
        self.journal.joined(self, node_id)
        self.start(seat)
        return seat

    def start(self, seat: Seat) -> None:
        """Start a member from its disk."""
        member = seat.member
        survives = 0
        if Fault.CRASH in self.swarm.faults and self.streams.disk.random() < 0.5:
            survives = 1
        before = len(member.commits)
        random = self.streams.make(f"node/{member.node_id}/{member.life}")
        random = self.journal.chance(member.node_id, member.life, random)
        self.journal.restarted(self, seat, survives=survives)
        try:
            member.start(random, survives=survives)
        except CorruptionError as error:
            self._corrupt(seat, error)
            return
        if before > 1 and survives:
            self.reached["a commit of the state was lost"] += 1
        self.watch.started(member)
        self._schedule_ticks(seat)
        self._schedule_commit(seat)
        self._guarded(seat, member.poll)

    def crash(self, seat: Seat, *, write_is_lost: bool, notice: bool = True) -> None:
        """End a member at once; ``notice``: its peers see its connections close."""
        member = seat.member
        if member.replica is None:
            return
        if member.writing is not None:
            self.reached["crash with a write in flight"] += 1
        self.journal.crashed(self, seat, write_is_lost=write_is_lost)
        self.transfers.sender_ended(member)
        member.crash(write_is_lost=write_is_lost)
        seat.ended()
        self.watch.ended(member)
        self.clients.crashed(member.node_id)
        for other in self.running():
            peer = other.member.node_id
            self.network.break_links(member.node_id, peer)
            if notice:
                self._later(other, 200, partial(self._disconnect, peer, member.node_id))

    def _disconnect(self, node_id: NodeId, peer: NodeId) -> None:
        seat = self.seats[node_id]

        def notice(replica: Replica) -> None:
            self.journal.disconnected(self, seat, peer)
            replica.peer_disconnected(peer)

        self.act(seat, notice)

    def disconnect(self, a: NodeId, b: NodeId) -> None:
        """The connections between two break, and both see it."""
        self.network.break_links(a, b)
        for node_id, peer in ((a, b), (b, a)):
            if self.seats[node_id].is_up:
                self._disconnect(node_id, peer)

    def running(self) -> list[Seat]:
        """Members that are up, paused ones too."""
        return [seat for seat in self.seats.values() if seat.is_up]

    def leader(self) -> Seat | None:
        """Who leads the highest term that anybody leads."""
        leaders = [seat for seat in self.running() if seat.replica.raft.is_leader]
        return max(leaders, key=lambda seat: seat.replica.raft.term, default=None)

    # ------------------------------------------------------------------- steps

    def step(self) -> bool:
        """Let the next thing happen. False if there is none."""
        action = self.agenda.next()
        if action is None:
            return False
        action()
        return True

    def act(self, seat: Seat, act: Callable[[Replica], object]) -> None:
        """An input to a member that is up; while it is paused it waits."""
        if seat.is_paused:
            seat.inbox.append(partial(self.act, seat, act))
            return
        member = seat.member
        if member.replica is None:
            return
        self.events += 1
        member.replica.set_clock(seat.clock_ms(self.agenda.now_us))
        self._guarded(seat, partial(member.act, act))

    def _guarded(self, seat: Seat, act: Callable[[], None]) -> None:
        """A node whose disk fails ends; a healthy one whose disk is bad is a bug."""
        member = seat.member
        try:
            act()
        except CorruptionError as error:
            self._corrupt(seat, error)
        except OSError:
            self.reached["a disk refused a write"] += 1
            self.crash(seat, write_is_lost=True)
        if member.replica is not None:
            self._mix(member)

    def _corrupt(self, seat: Seat, error: CorruptionError) -> None:
        require(
            seat.is_spoiled,
            "a member whose disk is whole finds it damaged (DUR)",
            *(seat.member.node_id, error),
        )
        self.reached["damage was found"] += 1
        self.crash(seat, write_is_lost=True)
        seat.is_dead = True

    def _mix(self, member: SimMember) -> None:
        assert member.replica is not None
        raft = member.replica.raft
        now_us = self.agenda.now_us
        facts = (now_us, member.node_id, raft.term, raft.commit_index, raft.last_index)
        self.trace_hash = hash((self.trace_hash, facts))

    def _later(self, seat: Seat, delay_us: int, act: Callable[[], None]) -> None:
        """Unless the member ends before."""
        member, life = seat.member, seat.member.life

        def due() -> None:
            if member.life == life and member.replica is not None:
                act()

        self.agenda.after(delay_us, due)

    # ------------------------------------------------------------------- time

    def _schedule_ticks(self, seat: Seat) -> None:
        life = seat.member.life

        def tick() -> None:
            if seat.member.life != life or seat.member.replica is None:
                return
            self.agenda.after(int(TICK_US / seat.rate), tick)
            if seat.is_paused:
                seat.missed_ticks += 1
            else:
                self.tick(seat)

        first = int(TICK_US * self.streams.clock.random()) + 1
        self.agenda.after(first, tick)

    def tick(self, seat: Seat, count: int = 1) -> None:
        """Time passes at a member."""
        member = seat.member
        replica = member.replica
        assert replica is not None
        raft = replica.raft
        before = (raft.term, raft.role, raft.last_index)
        replica.set_clock(seat.clock_ms(self.agenda.now_us))
        self.journal.ticked(self, seat, count)

        def turn() -> None:
            for _ in range(count):
                replica.tick()
            effects = replica.poll()
            if effects:
                self.events += 1
            if effects or before != (raft.term, raft.role, raft.last_index):
                self.polled(member)
                member.carry_out(effects)

        self._guarded(seat, turn)

    def pause(self, seat: Seat) -> None:
        """It does nothing, and what reaches it waits."""
        self.journal.paused(self, seat)
        seat.is_paused = True
        self.reached["pause"] += 1

    def resume(self, seat: Seat) -> None:
        """It goes on, and finds what time has passed."""
        if not seat.is_paused:
            return
        self.journal.resumed(self, seat)
        seat.is_paused = False
        inbox, seat.inbox = seat.inbox, deque()
        missed, seat.missed_ticks = seat.missed_ticks, 0
        if seat.is_up and missed:
            self.tick(seat, min(missed, 3))
        for act in inbox:
            if seat.is_up:
                act()

    # -------------------------------------------------------------- disk, state

    def _schedule_commit(self, seat: Seat) -> None:
        def commit() -> None:
            if not seat.is_paused:
                self.journal.committed(self, seat)
                seat.member.commit(synced=False)
            self._schedule_commit(seat)

        delay_us = 1 + int(self.streams.disk.expovariate(self._commit_rate))
        self._later(seat, delay_us, commit)

    def writes(self, member: SimMember) -> None:
        seat = self.seats[member.node_id]
        stalled_us = max(0, seat.stalled_until_us - self.agenda.now_us)
        delay_us = stalled_us + 1
        delay_us += int(self.streams.disk.expovariate(self._fsync_rate))
        self._later(seat, delay_us, partial(self._write_done, seat))
        if self.on_write is not None:
            self.on_write(seat)

    def _write_done(self, seat: Seat) -> None:
        if seat.is_paused:
            seat.inbox.append(partial(self._write_done, seat))
            return
        self.events += 1
        member = seat.member
        assert member.replica is not None
        member.replica.set_clock(seat.clock_ms(self.agenda.now_us))
        self.journal.wrote(self, seat)
        if seat.disk_is_full or seat.disk_fails:
            seat.disk_fails = False
            self._guarded(seat, _refuse)
            return
        self._guarded(seat, member.write_done)

    def works(self, member: SimMember) -> None:
        seat = self.seats[member.node_id]
        if seat.is_working:
            return
        seat.is_working = True
        delay_us = 1 + int(self.streams.disk.expovariate(self._apply_rate))
        self._later(seat, delay_us, partial(self._work_done, seat))

    def _work_done(self, seat: Seat) -> None:
        seat.is_working = False
        if seat.is_paused:
            seat.inbox.append(partial(self._work_done, seat))
            return
        member = seat.member
        if not member.working:
            return  # a snapshot took its place
        self.events += 1
        assert member.replica is not None
        member.replica.set_clock(seat.clock_ms(self.agenda.now_us))
        self.journal.worked(self, seat)
        self._guarded(seat, member.work_done)
        if member.working and not seat.is_working and member.replica is not None:
            self.works(member)

    def polled(self, member: SimMember) -> None:
        assert member.replica is not None
        # Before the checks: what fails them is to be seen in a trace.
        for event in member.replica.raft.drain_events():
            self.journal.happened(self, member, event)
            self.reached.update(names_of(event))
        self.watch.polled(member)

    def _grew(self, member: SimMember, committed: LogIndex) -> None:
        self.clients.committed(member, committed)

    def hands_out(self, member: SimMember, work: Apply) -> None:
        self.watch.hands_out(member, work.entries)

    def applied(self, member: SimMember) -> None:
        self.watch.applied(member)

    def installed(self, member: SimMember, last: EntryId) -> None:
        self.reached["a snapshot was installed"] += 1
        self.watch.installed(member, last)

    # ------------------------------------------------------------------ network

    def sent(self, member: SimMember, messages: tuple[PeerMessage, ...]) -> None:
        now_us, network = self.agenda.now_us, self.network
        for message in messages:
            ordered = isinstance(message, ForwardWrites | ForwardReply)
            if not ordered:
                assert not isinstance(message, ForwardWrites | ForwardReply)
                self.watch.sent(member, message)
                network.remember(message)
            link = (member.node_id, message.to)
            self.journal.sent(self, message)
            delays_us = network.delays_us(link, now_us, ordered=ordered)
            if not delays_us:
                self.journal.lost(self, message, "on its way")
            generation = network.generation(link)
            for delay_us in delays_us:
                self.agenda.after(
                    delay_us, partial(self._arrives, message, link, generation)
                )

    def _arrives(
        self, message: PeerMessage, link: tuple[NodeId, NodeId], generation: int
    ) -> None:
        if generation == self.network.generation(link):
            self.deliver(message)
        else:
            self.journal.lost(self, message, "the connection broke")

    def deliver(self, message: PeerMessage) -> None:
        """A message reaches its receiver, if that is up and lets its sender in."""
        seat = self.seats.get(message.to)
        if seat is None or not seat.is_up:
            self.journal.lost(self, message, "its receiver is down")
        elif not self._admits(seat, message.sender):
            self.journal.lost(self, message, "its sender is not let in")
        else:
            self.journal.delivers(self, message)
            self.act(seat, partial(self._receive, message))

    def _receive(self, message: PeerMessage, replica: Replica) -> None:
        self.journal.received(self, message)
        self.watch.receives(self.seats[message.to].member, message)
        replica.receive((message,))

    def _admits(self, seat: Seat, sender: NodeId) -> bool:
        """Streams are judged as the server judges them, by who speaks and to whom."""
        raft = seat.replica.raft
        peer = self.seats[sender].member
        settled = raft.log.configuration_at(raft.commit_index)
        latest = raft.configuration
        judged = standing(settled, latest, sender, peer.incarnation)
        return judged is Standing.ADMITTED and seat.is_meant_by(peer)

    # ----------------------------------------------------------------- the rest

    def responded(self, member: SimMember, ticket: Ticket, results: bytes) -> None:
        self.clients.responded(member, ticket, results)

    def failed(self, member: SimMember, ticket: Ticket, error: KVStoreError) -> None:
        self.clients.failed(member, ticket, error)

    def done(self, member: SimMember, ticket: Ticket) -> None:
        del member, ticket
        self.reached["a change of members or of the lead is done"] += 1

    def serves(self, member: SimMember, work: Read) -> None:
        self.clients.serves(member, work)

    def wants_snapshot(self, member: SimMember, peer: NodeId) -> None:
        self.transfers.begin(member, peer)

    def stops_snapshot(self, member: SimMember, peer: NodeId) -> None:
        self.transfers.stop(member, peer)

    def left(self, member: SimMember) -> None:
        seat = self.seats[member.node_id]
        seat.is_removed = True
        self.reached["a removed member left"] += 1
        self.agenda.after(0, lambda: self.crash(seat, write_is_lost=True))


def _refuse() -> None:
    raise OSError("the disk refused the write")
