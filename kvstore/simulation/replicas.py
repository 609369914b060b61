"""Whole replicas, moved by hand: log, state machine, sessions, clients and all.

What :mod:`cluster` does with consensus alone. Each input is followed by a turn of the
replica's loop, so what it wants sent is on the wire at once; writes, applying and
messages wait for a line that ends them. Whoever asks is answered in words, and by the
oracle's leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, cast

from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.messages import EntryId, InstallSnapshot
from kvstore.replica.effects import Apply
from kvstore.replica.effects import Read as ReadEffect
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.replica.options import ReplicaOptions
from kvstore.simulation import batches, describe
from kvstore.simulation.arguments import Mistake
from kvstore.simulation.cluster import TICK_MS, Cluster, Draws, Host
from kvstore.simulation.member import SimMember
from kvstore.simulation.oracle import Oracle
from kvstore.simulation.rot import RottenLog
from kvstore.simulation.states import WatchedState
from kvstore.simulation.watch import Watch
from kvstore.simulation.wishes import EVERYTHING
from kvstore.types import Incarnation, LogIndex, NodeId, Ticket

if TYPE_CHECKING:
    import random

    from kvstore.raft.node import RaftNode
    from kvstore.replica.replica import Replica
    from kvstore.storage.memory_log import MemoryLog

PATIENCE_TICKS = 1_000
"""How long a request waits for a leader, unless its line says otherwise."""


class ReplicaHost(Host):
    """One whole member."""

    def __init__(self, node_id: NodeId, disk: MemoryLog, around: Replicas) -> None:
        super().__init__(node_id, disk)
        assert isinstance(disk, RottenLog)
        self.member = SimMember(
            node_id,
            incarnation=Incarnation(node_id),
            log=disk,
            options=around.options,
            around=around,
        )
        self.survives = 0
        """So many commits of the state are lost at the next start."""

    @property
    def is_writing(self) -> bool:
        return self.member.writing is not None

    @property
    def has_work(self) -> bool:
        return bool(self.member.working)

    @property
    def replica(self) -> Replica:
        """Of a member that is up."""
        replica = self.member.replica
        assert replica is not None
        return replica


class ReplicaDraws(Draws):
    """As of a node of consensus; but names differ from life to life."""

    def __init__(self, node_id: NodeId, life: int) -> None:
        super().__init__(node_id)
        self._life = life

    def getrandbits(self, count: int) -> int:
        return super().getrandbits(count) + (self._life << (count // 4))


class Replicas(Cluster):
    """Satisfies ``member.Surroundings``. Raises as :class:`Cluster`."""

    def __init__(
        self, disks: Mapping[NodeId, MemoryLog], options: ReplicaOptions
    ) -> None:
        self.options = options
        self.oracle = Oracle()
        self.watch = Watch(self._grew)
        self._tickets = 0
        self._names: dict[Ticket, str] = {}
        self._exported: dict[EntryId, WatchedState] = {}
        super().__init__(disks, options.raft)
        self._describer = describe.Describer(batches.describe)

    def _host(self, node_id: NodeId, disk: MemoryLog) -> Host:
        host = ReplicaHost(node_id, disk, self)
        self.watch.added(host.member)
        return host

    def _of(self, host: Host) -> ReplicaHost:
        assert isinstance(host, ReplicaHost)
        return host

    def _at(self, member: SimMember) -> ReplicaHost:
        return self._of(self.hosts[member.node_id])

    # --------------------------------------------------------------------- life

    def join(self, node_id: NodeId, disk: MemoryLog) -> None:
        """One more node, which belongs to nobody yet."""
        host = self._host(node_id, disk)
        self.hosts[node_id] = host
        self.start(host)

    def start(self, host: Host) -> None:
        member = self._of(host).member
        draws = ReplicaDraws(member.node_id, member.life)
        draws.next = host.draws.next
        host.draws = draws
        member.clock_ms = host.clock_ms
        member.start(cast("random.Random", draws), survives=self._of(host).survives)
        self._of(host).survives = 0
        assert member.replica is not None
        host.raft = member.replica.raft
        self.watch.started(member)
        member.poll()

    def crash(self, host: Host, *, write_is_lost: bool, state_is_lost: bool) -> None:
        member = self._of(host).member
        member.crash(write_is_lost=write_is_lost)
        self._of(host).survives = int(state_is_lost)
        host.raft, host.paused = None, False
        self.watch.ended(member)

    # ------------------------------------------------------------------- inputs

    def input(self, host: Host, act: Callable[[RaftNode], object]) -> None:
        self.act(host, lambda replica: act(replica.raft))

    def act(self, host: Host, act: Callable[[Replica], object]) -> None:
        """An input to a whole replica, and the turn of its loop that follows."""
        member = self._of(host).member
        try:
            act(self._of(host).replica)
        finally:
            member.poll()

    def disconnect(self, host: Host, peer: NodeId) -> None:
        self.act(host, lambda replica: replica.peer_disconnected(peer))

    def end_snapshot(self, host: Host, peer: NodeId, reached: LogIndex) -> None:
        self._of(host).member.release(peer)
        self.act(host, lambda replica: replica.snapshot_ended(peer, reached))

    def tick(self, host: Host) -> None:
        self.pass_time(host, TICK_MS)
        self.act(host, lambda replica: replica.tick())

    def pass_time(self, host: Host, duration_ms: int) -> None:
        host.clock_ms += duration_ms
        self._of(host).member.clock_ms = host.clock_ms
        self._of(host).replica.set_clock(host.clock_ms)

    def receive(self, host: Host, message: PeerMessage) -> None:
        if isinstance(message, InstallSnapshot):
            member, last = self._of(host).member, message.snapshot.last
            if not member.takes_snapshot(message):
                self._tell(host, "takes no snapshot now")
                return
            member.stage(message, self._exported[last].clone())
        self.watch.receives(self._of(host).member, message)
        self.act(host, lambda replica: replica.receive((message,)))

    def write(self, host: Host, batch: bytes, *, patience_ticks: int) -> None:
        """A client writes. Its requests are numbered from 1."""
        ticket = self._ticket("w")
        count = batches.count_of(batch)
        self.oracle.write_asked(ticket, batch, count=count)
        self._tell(host, f"is asked {self._names[ticket]}: {batches.describe(batch)}")

        def submit(replica: Replica) -> None:
            try:
                replica.submit(
                    ticket, batch, count=count, patience_ticks=patience_ticks
                )
            except KVStoreError as error:
                self.failed(self._of(host).member, ticket, error)

        self.act(host, submit)

    def read_all(
        self, host: Host, options: kv_pb2.ReadOptions, *, patience_ticks: int
    ) -> None:
        """A client reads everything."""
        ticket = self._ticket("r")
        self.oracle.read_asked(ticket, (EVERYTHING,), options)
        self._tell(host, f"is asked {self._names[ticket]}")

        def read(replica: Replica) -> None:
            try:
                replica.read(ticket, options, patience_ticks=patience_ticks)
            except KVStoreError as error:
                self.failed(self._of(host).member, ticket, error)

        self.act(host, read)

    def read(self, host: Host, *, lease: bool) -> None:
        level = kv_pb2.LEASE if lease else kv_pb2.LINEARIZABLE
        options = kv_pb2.ReadOptions(consistency=level)
        self.read_all(host, options, patience_ticks=PATIENCE_TICKS)

    def _ticket(self, kind: str) -> Ticket:
        self._tickets += 1
        ticket = Ticket(self._tickets)
        self._names[ticket] = f"{kind}{ticket}"
        return ticket

    def lose_commit(self, host: Host) -> None:
        """The last commit of a member that is down is gone, if it was not synced."""
        self._of(host).survives = 1

    def commit(self, host: Host) -> None:
        """A member commits its state: a crash may leave that."""
        self._of(host).member.commit(synced=False)

    def compact(self, host: Host, index: LogIndex) -> None:
        del host, index
        raise Mistake("a replica compacts its log by itself: see log_bytes_max=")

    def send_snapshot(self, host: Host, to: NodeId) -> None:
        member = self._of(host).member
        message = member.export(to)
        self.watch.exported(member)
        self._exported[message.snapshot.last] = member.state.clone()
        self._send(host, (message,))

    # --------------------------------------------------------------------- work

    def ready(self, host: Host) -> None:
        del host
        raise Mistake("a replica takes what is ready by itself, after each input")

    def fsync(self, host: Host) -> None:
        self._tell_fully(host, "has it on disk")
        self._of(host).member.write_done()

    def apply(self, host: Host) -> None:
        """All that was handed to the state machine."""
        member = self._of(host).member
        for _ in range(len(member.working)):
            if member.working:
                member.work_done()

    def work(self, host: Host) -> None:
        """The next piece alone."""
        self._of(host).member.work_done()

    def _work(self, host: Host, *, fsyncs: bool, applies: bool) -> bool:
        if fsyncs and host.is_writing:
            self.fsync(host)
        elif applies and host.has_work:
            self.apply(host)
        else:
            return False
        return True

    # ------------------------------------------------------- what members tell us

    def polled(self, member: SimMember) -> None:
        assert member.replica is not None
        for event in member.replica.raft.drain_events():
            self._tell(self._at(member), describe.event(event))
        self.watch.polled(member)

    def _grew(self, member: SimMember, index: LogIndex) -> None:
        for entry in member.entries(self.oracle.committed_index, index):
            self.oracle.committed(entry)

    def sent(self, member: SimMember, messages: tuple[PeerMessage, ...]) -> None:
        self._send(self._at(member), messages)

    def _send(self, host: Host, messages: Iterable[PeerMessage]) -> None:
        for message in messages:
            if not isinstance(message, ForwardWrites | ForwardReply):
                self.watch.sent(self._of(host).member, message)
            text = self._describer.message(message)
            if message.to not in self.hosts or self.wire.is_cut(message):
                self.lines.append(f"{text}: lost")
                continue
            self._tell_fully(host, f"sends {text}")
            self.wire.messages.append(message)

    def writes(self, member: SimMember) -> None:
        assert member.writing is not None
        what = describe.write(member.writing, batches.describe)
        self._tell(self._at(member), f"writes {what}")

    def works(self, member: SimMember) -> None:
        pass  # it does it when asked to

    def hands_out(self, member: SimMember, work: Apply) -> None:
        self.watch.hands_out(member, work.entries)
        what = describe.entries(work.entries, batches.describe)
        self._tell_fully(self._at(member), f"may apply {what}")

    def applied(self, member: SimMember) -> None:
        self.watch.applied(member)
        index = member.applied_index
        self._tell(self._at(member), f"applied {index}")

    def installed(self, member: SimMember, last: EntryId) -> None:
        self.watch.installed(member, last)
        what = f"installs snapshot {describe.entry_id(last)}"
        self._tell(self._at(member), what)

    def responded(self, member: SimMember, ticket: Ticket, results: bytes) -> None:
        self.oracle.write_answered(ticket, results)
        found = kv_pb2.ResultBatch.FromString(results).results
        what = ", ".join([batches.describe_result(result) for result in found])
        self._tell(self._at(member), f"answers {self._names[ticket]}: {what}")

    def failed(self, member: SimMember, ticket: Ticket, error: KVStoreError) -> None:
        name = self._names.get(ticket, "")
        if name.startswith("w"):
            self.oracle.write_failed(ticket, error)
        elif name:
            self.oracle.read_failed(ticket, error)
        kind = type(error).__name__
        self._tell(self._at(member), f"fails {name or 'a change'}: {kind}")

    def done(self, member: SimMember, ticket: Ticket) -> None:
        del ticket
        self._tell(self._at(member), "is done with a change")

    def serves(self, member: SimMember, work: ReadEffect) -> None:
        revision = member.state.progress.revision
        for ticket in work.tickets:
            (result,) = member.read((EVERYTHING,))
            pairs = [
                f"{pair.key.decode()}:{pair.value.decode()}"
                for pair in result.range.kvs
            ]
            what = f"answers {self._names[ticket]} at revision {revision}"
            self._tell(self._at(member), f"{what}: {' '.join(pairs) or 'nothing'}")
            self.oracle.read_answered(
                ticket, (result,), revision=revision, consistency=work.consistency
            )

    def wants_snapshot(self, member: SimMember, peer: NodeId) -> None:
        self._tell(self._at(member), f"is to send {peer} a snapshot")

    def stops_snapshot(self, member: SimMember, peer: NodeId) -> None:
        member.release(peer)
        self._tell(self._at(member), f"is to send {peer} no snapshot any more")

    def left(self, member: SimMember) -> None:
        self._tell(self._at(member), "was removed, and ends")

    # ------------------------------------------------------------------ the whole

    def check(self) -> None:
        for host in self.hosts.values():
            if host.raft is not None:
                self.watch.polled(self._of(host).member)

    @property
    def committed_index(self) -> LogIndex:
        return self.watch.committed_index
