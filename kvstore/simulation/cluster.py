"""Nodes, disks, states and a wire, all of it in memory and moved by hand."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from kvstore.raft.invariants import ClusterChecker, InvariantViolation, Member
from kvstore.raft.messages import (
    Entry,
    EntryId,
    InstallSnapshot,
    Message,
)
from kvstore.raft.node import RaftNode
from kvstore.raft.options import RaftOptions
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.simulation import describe
from kvstore.simulation.wire import Wire
from kvstore.storage.memory_log import ORIGIN
from kvstore.types import LogIndex, NodeId

if TYPE_CHECKING:
    import random

    from kvstore.raft.ready import Ready
    from kvstore.storage.memory_log import MemoryLog

TICK_MS = 10
"""By how much a tick moves the clock of its node, in milliseconds."""
STEPS_MAX = 10_000
"""Messages that :meth:`Cluster.stabilize` delivers before it gives up."""


class Draws:
    """Chance, as a script wants it: what is not asked for is the node's own number.

    So of nodes that lose patience together the one with the lowest number is first,
    and a script need not know how often the core draws.
    """

    def __init__(self, node_id: NodeId) -> None:
        self.node_id = node_id
        self.next: deque[int] = deque()
        """The next draws; the last of a list that ran out is the node's number."""

    def randrange(self, stop: int) -> int:
        """From [0, stop)."""
        drawn = self.next.popleft() if self.next else self.node_id - 1
        return min(drawn, stop - 1)

    def randint(self, low: int, high: int) -> int:
        """From [low, high]."""
        return low + self.randrange(high - low + 1)

    def getrandbits(self, count: int) -> int:
        """Only to name things."""
        return self.node_id << (count // 2)


@dataclass(frozen=True, slots=True)
class State:
    """What a state machine holds: here, only what it is the outcome of."""

    last: EntryId = ORIGIN
    """The last entry applied."""
    digest: int = 0

    def apply(self, entry: Entry) -> State:
        """The state after one more entry."""
        what = b"%d %d %d %b" % (entry.term, entry.index, entry.kind, entry.data)
        return State(EntryId(entry.term, entry.index), zlib.crc32(what, self.digest))


class Host:
    """One member: a disk, a state and, while it is up, a node."""

    def __init__(self, node_id: NodeId, disk: MemoryLog) -> None:
        self.node_id = node_id
        self.disk = disk
        self.draws = Draws(node_id)
        self.raft: RaftNode | None = None
        self.paused = False
        self.clock_ms = 0
        self.writing: Ready | None = None
        """The write in flight: lost in a crash unless it is done."""
        self.applying: deque[tuple[Entry, ...]] = deque()
        """Handed out, in order, and not applied yet."""
        self.state = State()
        self.synced_state = State()
        """What a crash leaves of it for certain."""

    @property
    def is_writing(self) -> bool:
        """Whether a write is in flight."""
        return self.writing is not None

    @property
    def has_work(self) -> bool:
        """Whether the state machine was handed anything."""
        return bool(self.applying)


class Cluster:
    """Moves when told to, tells what it did in :attr:`lines`, and is always watched.

    Raises, from any method that moves it:
        InvariantViolation: the protocol is broken.
        KVStoreError: what the core answers to an input that it refuses.
    """

    def __init__(self, disks: Mapping[NodeId, MemoryLog], options: RaftOptions) -> None:
        self._options = options
        self.hosts = {it: self._host(it, disk) for it, disk in disks.items()}
        self.wire = Wire()
        self.lines: list[str] = []
        """What happened and was not taken yet."""
        self.is_terse = False
        """Leave out what the delivery of messages and the end of writes will show."""
        self._describer = describe.Describer()
        self._checker = ClusterChecker()
        self._members = {
            node_id: Member(node=None, durable=disk) for node_id, disk in disks.items()
        }
        self._digests: dict[LogIndex, int] = {}
        self._snapshots: dict[EntryId, State] = {}
        self._reads = 0
        for host in self.hosts.values():
            self.start(host)

    def _host(self, node_id: NodeId, disk: MemoryLog) -> Host:
        return Host(node_id, disk)

    def take_lines(self) -> list[str]:
        """What happened since the last call."""
        lines, self.lines = self.lines, []
        self.is_terse = False
        return lines

    # -------------------------------------------------------------------- nodes

    def start(self, host: Host) -> None:
        """Start a node from what is durable."""
        assert host.raft is None
        draws = cast("random.Random", host.draws)
        host.raft = RaftNode(
            node_id=host.node_id,
            log=host.disk,
            hard_state=host.disk.hard_state,
            applied_index=host.state.last.index,
            options=self._options,
            random=draws,
        )
        host.raft.set_clock(host.clock_ms)
        self._members[host.node_id] = Member(node=host.raft, durable=host.disk)
        self._checker.restarted(host.node_id, host.state.last.index)
        self._noticed(host)

    def crash(self, host: Host, *, write_is_lost: bool, state_is_lost: bool) -> None:
        """End a node, whose write in flight may or may not have reached the disk."""
        if host.writing is not None and not write_is_lost:
            self._write(host, host.writing)
        if state_is_lost:
            host.state = host.synced_state
        host.raft, host.writing = None, None
        host.paused = False
        host.applying.clear()
        self._members[host.node_id] = Member(node=None, durable=host.disk)
        self._checker.check(self._members)

    def input(self, host: Host, act: Callable[[RaftNode], object]) -> None:
        """Let something happen to a node, and tell what came of it."""
        assert host.raft is not None
        try:
            act(host.raft)
        finally:
            self._noticed(host)

    def disconnect(self, host: Host, peer: NodeId) -> None:
        """A node sees its connection to ``peer`` close."""
        self.input(host, lambda raft: raft.peer_disconnected(peer))

    def end_snapshot(self, host: Host, peer: NodeId, reached: LogIndex) -> None:
        """A leader hears that a transfer is over."""
        self.input(host, lambda raft: raft.snapshot_ended(peer, reached))

    def tick(self, host: Host) -> None:
        """Time passes at one node."""
        self.pass_time(host, TICK_MS)
        self.input(host, RaftNode.tick)

    def pass_time(self, host: Host, duration_ms: int) -> None:
        """A node's clock moves, but its ticks do not: as when it stood still."""
        assert host.raft is not None
        host.clock_ms += duration_ms
        host.raft.set_clock(host.clock_ms)

    def read(self, host: Host, *, lease: bool) -> None:
        """A read begins at a node. Reads are numbered from 1."""
        self._reads += 1
        number = self._reads
        self._checker.read_asked(host.node_id, number)
        self._tell(host, f"begins read r{number}")
        self.input(host, lambda raft: raft.read_index(number, lease=lease))

    def compact(self, host: Host, index: LogIndex) -> None:
        """Make the state durable, and forget the log up to ``index``."""
        host.synced_state = host.state
        self.input(host, lambda raft: raft.compacted(index))
        host.disk.compact(index)
        self._noticed(host)

    def send_snapshot(self, host: Host, to: NodeId) -> None:
        """All of a state sets out for another node, as the shells do it."""
        assert host.raft is not None
        snapshot = host.raft.snapshot_at(host.state.last.index)
        self._snapshots[snapshot.last] = host.state
        message = InstallSnapshot(
            sender=host.node_id, to=to, term=host.raft.term, snapshot=snapshot
        )
        self._send(host, (message,))

    # --------------------------------------------------------------------- work

    def ready(self, host: Host) -> None:
        """Take one Ready: send, begin its write, queue what it commits."""
        raft = host.raft
        assert raft is not None
        ready = raft.ready()
        self._send(host, ready.messages)
        if ready.must_persist:
            assert host.writing is None, "two writes in flight"
            host.writing = ready
            self._tell(host, f"writes {describe.write(ready)}")
        for message in ready.messages_after_persist:
            self._tell_fully(host, f"owes {self._describer.message(message)}")
        if ready.committed_entries:
            self._checker.handed_out(host.node_id, ready.committed_entries)
            host.applying.append(ready.committed_entries)
            what = describe.entries(ready.committed_entries)
            self._tell_fully(host, f"may apply {what}")
        for state in ready.read_states:
            self._checker.read_answered(host.node_id, state)
            self._tell(host, describe.read_state(state, f"r{state.request_id}"))
        self._noticed(host)

    def fsync(self, host: Host) -> None:
        """The write in flight is done, and what waited for it leaves."""
        ready, host.writing = host.writing, None
        assert ready is not None
        self._write(host, ready)
        self._tell_fully(host, "has it on disk")
        self.input(host, lambda raft: raft.persisted(ready.number))
        self._send(host, ready.messages_after_persist)

    def _write(self, host: Host, ready: Ready) -> None:
        if (snapshot := ready.snapshot) is None:
            host.disk.append(ready.hard_state, ready.entries)
            return
        host.disk.install(ready.hard_state, snapshot)
        host.state = host.synced_state = self._snapshots[snapshot.last]
        host.applying.clear()
        self._checker.installed(host.node_id, snapshot.last)
        self._tell(host, f"installs snapshot {describe.entry_id(snapshot.last)}")

    def apply(self, host: Host) -> None:
        """The state machine applies all that it was handed."""
        applied = [entry for batch in host.applying for entry in batch]
        host.applying.clear()
        for entry in applied:
            host.state = host.state.apply(entry)
        self._check_state(host)
        self._tell(host, f"applies {describe.entries(applied)}")
        self.input(host, lambda raft: raft.applied(host.state.last.index))

    def _check_state(self, host: Host) -> None:
        index, digest = host.state.last.index, host.state.digest
        if self._digests.setdefault(index, digest) != digest:
            raise InvariantViolation(
                f"two states at one index differ (I12): node {host.node_id}, {index}"
            )

    # ------------------------------------------------------------------ network

    def deliver(self, messages: Iterable[PeerMessage]) -> None:
        """Messages reach their receivers, in this order, whatever the rules say."""
        for message in messages:
            self.wire.remove((message,))
            host = self.hosts[message.to]
            text = self._describer.message(message)
            if host.raft is None or host.paused:
                self.lines.append(f"{text}: {message.to} is down or paused, lost")
                continue
            self.lines.append(text)
            self.receive(host, message)

    def receive(self, host: Host, message: PeerMessage) -> None:
        """A node that is up gets a message."""
        assert not isinstance(message, ForwardWrites | ForwardReply)
        self.input(host, partial(RaftNode.step, message=message))

    def drop(self, messages: Iterable[PeerMessage]) -> None:
        """Messages are lost."""
        messages = list(messages)
        self.wire.remove(messages)
        for message in messages:
            self.lines.append(f"{self._describer.message(message)}: lost")

    def tell_messages(self, messages: Iterable[PeerMessage], fate: str) -> None:
        """Say which messages something is true of."""
        for message in messages:
            self.lines.append(f"{self._describer.message(message)}: {fate}")

    def stabilize(
        self,
        among: Iterable[NodeId],
        *,
        no_fsync: Iterable[NodeId] = (),
        no_apply: Iterable[NodeId] = (),
    ) -> bool:
        """Work and deliver, only ``among`` these, until nothing more happens.

        Whether it came to an end; not if :data:`STEPS_MAX` messages were not enough.
        """
        chosen = set(among)
        paused = {host.node_id for host in self.hosts.values() if host.paused}
        awake = chosen - paused
        working = [it for it in self.hosts.values() if it.raft and it.node_id in awake]
        slow_disks, slow_states = set(no_fsync), set(no_apply)
        delivered = 0
        while True:
            for host in working:
                while self._work(
                    host,
                    fsyncs=host.node_id not in slow_disks,
                    applies=host.node_id not in slow_states,
                ):
                    pass
            moving = [
                message
                for message in self.wire.messages
                # What one sent before it was paused is under way all the same.
                if message.sender in chosen | paused
                and message.to in awake
                and not self.wire.is_held(message)
            ]
            if not moving:
                return True
            self.deliver(moving)
            delivered += len(moving)
            if delivered > STEPS_MAX:
                return False

    def _work(self, host: Host, *, fsyncs: bool, applies: bool) -> bool:
        """One piece of what a node owes, if it owes any."""
        assert host.raft is not None
        if host.raft.has_ready():
            self.ready(host)
        elif fsyncs and host.writing is not None:
            self.fsync(host)
        elif applies and host.applying:
            self.apply(host)
        else:
            return False
        return True

    # ----------------------------------------------------------------- plumbing

    def _send(self, host: Host, messages: Iterable[Message]) -> None:
        for message in messages:
            self._checker.message_sent(message, host.disk)
            if message.to not in self.hosts or self.wire.is_cut(message):
                self.lines.append(f"{self._describer.message(message)}: lost")
                continue
            self._tell_fully(host, f"sends {self._describer.message(message)}")
            self.wire.messages.append(message)

    def _noticed(self, host: Host) -> None:
        assert host.raft is not None
        for event in host.raft.drain_events():
            self._tell(host, describe.event(event))
        self._checker.check_member(host.node_id, self._members)

    def _tell(self, host: Host, what: str) -> None:
        self.lines.append(f"{host.node_id} {what}")

    def _tell_fully(self, host: Host, what: str) -> None:
        if not self.is_terse:
            self._tell(host, what)

    def check(self) -> None:
        """Check every invariant of every node now."""
        self._checker.check(self._members)

    @property
    def committed_index(self) -> LogIndex:
        """The highest index that any node ever committed."""
        return self._checker.committed_index
