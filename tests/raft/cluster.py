"""Several nodes in memory: every delivery, fsync and crash is the test's choice.

After every step of a node the invariants of ``kvstore.raft.invariants`` are checked, so
every test of a cluster is also a test of all of them.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from kvstore.raft.events import Event
from kvstore.raft.invariants import ClusterChecker, Member
from kvstore.raft.membership import NOBODY, AddLearner, Change, Configuration
from kvstore.raft.messages import Entry, EntryId, InstallSnapshot, Message
from kvstore.raft.node import RaftNode
from kvstore.raft.observed import DurableView
from kvstore.raft.options import RaftOptions
from kvstore.raft.ready import ReadState, Ready
from kvstore.types import LogIndex, NodeId
from tests.raft.disk import Disk
from tests.raft.pieces import OPTIONS, TICK_MS, founded, info, log_terms


class Checker(Protocol):
    """Who watches a cluster; it raises at the step that breaks a rule."""

    def check(self, members: Mapping[NodeId, Member]) -> None: ...
    def check_member(
        self, node_id: NodeId, members: Mapping[NodeId, Member]
    ) -> None: ...
    def message_sent(self, message: Message, durable: DurableView) -> None: ...
    def handed_out(self, node_id: NodeId, entries: Iterable[Entry]) -> None: ...
    def installed(self, node_id: NodeId, last: EntryId) -> None: ...
    def restarted(self, node_id: NodeId, applied_index: LogIndex) -> None: ...
    def read_asked(self, node_id: NodeId, request_id: int) -> None: ...
    def read_answered(self, node_id: NodeId, state: ReadState) -> None: ...


class Server:
    """One member: a disk, and while it is up a node."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.raft: RaftNode | None = None
        self.writing: Ready | None = None
        self.slow_disk = False
        self.slow_apply = False
        self.state: list[Entry] = []
        """What the state machine holds; volatile, as it may lag on disk."""
        self.durable_state = 0
        """How much of it a crash leaves."""
        self.shipping: set[NodeId] = set()
        """Peers that a snapshot of this leader's is on its way to."""
        self.installed = 0
        """Snapshots that it took."""
        self.tick_ms = TICK_MS
        """Between two ticks, at least, by the clock of all."""
        self.ticked_ms = 0
        self.reads: dict[int, ReadState] = {}
        self.events: list[Event] = []


class Cluster:
    """Several nodes and a network that keeps order unless told otherwise."""

    def __init__(
        self,
        size: int = 3,
        *,
        options: RaftOptions = OPTIONS,
        seed: int = 1,
        logs: Sequence[Sequence[int]] = (),
        terms: Sequence[int] = (),
        learners: Sequence[int] = (),
        leases: bool = False,
        checker: Checker | None = None,
    ) -> None:
        """``learners``: of the ids from 1 to ``size``, those that do not vote."""
        self.random = random.Random(seed)
        self.options = options
        self.ids = tuple(NodeId(node_id) for node_id in range(1, size + 1))
        voters = [node_id for node_id in self.ids if node_id not in learners]
        founding = founded(voters, learners=learners, leases=leases)
        self.servers = {
            node_id: Server(Disk(log, term=term, configuration=founding))
            for node_id, log, term in zip(
                self.ids, logs or [()] * size, terms or [0] * size, strict=True
            )
        }
        self.members: dict[NodeId, Member] = {}
        self.checker: Checker = checker or ClusterChecker()
        self.now_ms = 0
        self.states: dict[EntryId, list[Entry]] = {}
        """What each snapshot holds."""
        self.wire: list[Message] = []
        self.cuts: set[tuple[NodeId, NodeId]] = set()
        for node_id, server in self.servers.items():
            self.members[node_id] = Member(node=None, durable=server.disk)
        for node_id in self.ids:
            self.restart(node_id)

    # -------------------------------------------------------------------- nodes

    def raft(self, node_id: int) -> RaftNode:
        raft = self.servers[NodeId(node_id)].raft
        assert raft is not None, f"{node_id} is down"
        return raft

    def running(self) -> list[NodeId]:
        return [i for i in self.ids if self.servers[i].raft is not None]

    def leader(self) -> RaftNode:
        """The leader of the highest term."""
        leaders = [self.raft(i) for i in self.running() if self.raft(i).is_leader]
        assert leaders, "nobody leads"
        return max(leaders, key=lambda raft: raft.term)

    def join(self, node_id: int) -> None:
        """A node starts that knows nobody, and waits for a leader to find it."""
        joining = NodeId(node_id)
        assert joining not in self.servers
        server = Server(Disk(configuration=NOBODY))
        self.servers[joining] = server
        self.ids = (*self.ids, joining)
        self.members[joining] = Member(node=None, durable=server.disk)
        self.restart(joining)

    def restart(self, node_id: int) -> None:
        server = self.servers[NodeId(node_id)]
        assert server.raft is None
        del server.state[server.durable_state :]
        server.raft = RaftNode(
            node_id=NodeId(node_id),
            log=server.disk,
            hard_state=server.disk.hard_state,
            applied_index=LogIndex(server.durable_state),
            options=self.options,
            random=random.Random(self.random.getrandbits(64)),
        )
        self.members[NodeId(node_id)] = Member(node=server.raft, durable=server.disk)
        self.checker.restarted(NodeId(node_id), LogIndex(server.durable_state))
        self._check(NodeId(node_id))

    def crash(self, node_id: int, *, notice: bool = False) -> None:
        """Lose all that is not durable. With ``notice``, peers see it disconnect."""
        server = self.servers[NodeId(node_id)]
        server.raft, server.writing = None, None
        server.shipping.clear()
        self.members[NodeId(node_id)] = Member(node=None, durable=server.disk)
        self.checker.check(self.members)
        if notice:
            for peer in self.running():
                self.raft(peer).peer_disconnected(NodeId(node_id))
                self._work(peer)

    def tick(self, node_id: int, count: int = 1) -> None:
        server = self.servers[NodeId(node_id)]
        for _ in range(count):
            self.now_ms = max(self.now_ms, server.ticked_ms + server.tick_ms)
            server.ticked_ms = self.now_ms
            self._now(node_id).tick()
            self._work(NodeId(node_id))

    def tick_all(self, count: int = 1) -> None:
        """Ticks everywhere, and after each all that follows from it."""
        for _ in range(count):
            for node_id in self.running():
                self.tick(node_id)
            self.stabilize()

    def propose(self, node_id: int, data: bytes = b"x") -> EntryId:
        entry = self.raft(node_id).propose(data)
        self._work(NodeId(node_id))
        return entry

    def read(self, node_id: int, request_id: int, *, lease: bool = False) -> None:
        self.checker.read_asked(NodeId(node_id), request_id)
        self._now(node_id).read_index(request_id, lease=lease)
        self._work(NodeId(node_id))

    def change(self, node_id: int, *changes: Change) -> EntryId:
        """A leader begins to change the members."""
        entry = self.raft(node_id).propose_changes(changes)
        self._work(NodeId(node_id))
        return entry

    def add(self, node_id: int, *, promotable: bool = True) -> None:
        """A new member joins as a learner, and is promoted if it may be."""
        self.join(node_id)
        member = AddLearner(NodeId(node_id), info(node_id, promotable=promotable))
        self.change(self.leader().node_id, member)
        self.stabilize()
        self.tick_all(2)

    def transfer(self, node_id: int, to: int | None = None) -> NodeId | None:
        """A leader begins to hand over. To whom."""
        chosen = self.raft(node_id).transfer(None if to is None else NodeId(to))
        self._work(NodeId(node_id))
        return chosen

    def disconnect(self, node_id: int, peer: int) -> None:
        """``node_id`` sees its connection to ``peer`` close."""
        self.raft(node_id).peer_disconnected(NodeId(peer))
        self._work(NodeId(node_id))

    def campaign(self, node_id: int) -> None:
        self.raft(node_id).campaign()
        self._work(NodeId(node_id))

    def elect(self, node_id: int) -> None:
        """Make a node win, past stickiness: those it reaches think the leader gone."""
        for voter in self.running():
            if (leader := self.raft(voter).leader_id) is not None and leader != voter:
                self.disconnect(voter, leader)
        self.campaign(node_id)
        self.stabilize()
        assert self.raft(node_id).is_leader

    def depose(self, node_id: int) -> None:
        """A leader hears nobody for so long that it steps down, in its term."""
        for _ in range(2 * self.options.election_timeout_ticks + 1):
            if not self.raft(node_id).is_leader:
                return
            self.tick(node_id)
            self.take(sender=node_id)
        raise AssertionError(f"{node_id} still leads")

    # --------------------------------------------------------------------- disk

    def fsync(self, node_id: int) -> None:
        """The write in flight, if any, is done."""
        server = self.servers[NodeId(node_id)]
        ready, server.writing = server.writing, None
        if ready is None:
            return
        self._finish_write(NodeId(node_id), ready)
        self._work(NodeId(node_id))

    def write_then_crash(self, node_id: int) -> None:
        """The write in flight reaches the disk; its node never learns."""
        server = self.servers[NodeId(node_id)]
        assert server.writing is not None
        self._write(NodeId(node_id), server.writing)
        self.crash(node_id)

    def apply(self, node_id: int) -> None:
        """The state machine catches up, and its state becomes durable."""
        server = self.servers[NodeId(node_id)]
        raft = self.raft(node_id)
        if server.state and server.state[-1].index > raft.applied_index:
            raft.applied(server.state[-1].index)
        server.durable_state = len(server.state)
        self._work(NodeId(node_id))

    def compact(self, node_id: int, index: int | None = None) -> None:
        """Forget entries up to ``index``, by default all whose state is durable."""
        server = self.servers[NodeId(node_id)]
        index = server.durable_state if index is None else index
        assert index <= server.durable_state
        self.raft(node_id).compacted(LogIndex(index))
        server.disk.compact(index)
        self._work(NodeId(node_id))

    def _finish_write(self, node_id: NodeId, ready: Ready) -> None:
        self._write(node_id, ready)
        server = self.servers[node_id]
        assert server.raft is not None
        server.raft.persisted(ready.number)
        self._send(server, ready.messages_after_persist)

    def _write(self, node_id: NodeId, ready: Ready) -> None:
        server = self.servers[node_id]
        if ready.snapshot is not None:
            last = ready.snapshot.last
            server.disk.install(ready.snapshot)
            server.state = self.states[last][:]
            server.durable_state = len(server.state)
            server.installed += 1
            self.checker.installed(node_id, last)
        server.disk.append(ready.hard_state, ready.entries)

    # ------------------------------------------------------------------ network

    def cut(self, a: Iterable[int], b: Iterable[int] | None = None) -> None:
        """No message passes between ``a`` and ``b`` (by default everybody else)."""
        group = [NodeId(i) for i in a]
        others = [i for i in self.ids if i not in group] if b is None else list(b)
        for i in group:
            for j in others:
                self.cuts |= {(i, NodeId(j)), (NodeId(j), i)}

    def heal(self) -> None:
        self.cuts.clear()

    def take(
        self,
        kind: type | None = None,
        *,
        sender: int | None = None,
        to: int | None = None,
        where: Callable[[Message], bool] = lambda _: True,
    ) -> list[Message]:
        """Remove what is on the wire and fits: to lose, keep or repeat it."""
        taken = [
            message
            for message in self.wire
            if (kind is None or isinstance(message, kind))
            and sender in (None, message.sender)
            and to in (None, message.to)
            and where(message)
        ]
        self.wire = [m for m in self.wire if not any(m is t for t in taken)]
        return taken

    def deliver(self, messages: Iterable[Message]) -> None:
        """Hand messages to their receivers, whatever the network looks like."""
        for message in messages:
            if self.servers[message.to].raft is None:
                self.lose(message)
                continue
            self._now(message.to).step(message)
            self._work(message.to)
            if isinstance(message, InstallSnapshot):
                self._ship_ended(message, reached=message.snapshot.last.index)

    def carry(self, message: Message) -> None:
        """Deliver a message if the network lets it pass."""
        if (message.sender, message.to) in self.cuts:
            self.lose(message)
        else:
            self.deliver([message])

    def lose(self, message: Message) -> None:
        """A message that left the wire arrives nowhere; of a snapshot's transfer its
        sender learns that."""
        if isinstance(message, InstallSnapshot):
            self._ship_ended(message, reached=LogIndex(0))

    def _ship(self, server: Server, raft: RaftNode) -> None:
        """Send who needs one a snapshot, one at a time."""
        server.shipping &= set(raft.snapshot_peers)
        for peer in raft.snapshot_peers:
            if peer in server.shipping or peer not in self.servers:
                continue
            server.shipping.add(peer)
            snapshot = raft.snapshot_at(raft.applied_index)
            self.states[snapshot.last] = server.state[: raft.applied_index]
            message = InstallSnapshot(
                sender=raft.node_id, to=peer, term=raft.term, snapshot=snapshot
            )
            self._send(server, [message])

    def _ship_ended(self, message: InstallSnapshot, *, reached: LogIndex) -> None:
        server = self.servers[message.sender]
        server.shipping.discard(message.to)
        if server.raft is not None and server.raft.term == message.term:
            server.raft.snapshot_ended(message.to, reached)
            self._work(message.sender)

    def stabilize(self, limit: int = 10_000) -> None:
        """Deliver all, and what follows from it, until the wire is silent."""
        while self.wire:
            self.carry(self.wire.pop(0))
            limit -= 1
            assert limit, "the cluster talks without end"

    # ----------------------------------------------------------------- plumbing

    def _now(self, node_id: int) -> RaftNode:
        """A node that has just looked at the clock."""
        raft = self.raft(node_id)
        raft.set_clock(self.now_ms)
        return raft

    def _work(self, node_id: NodeId) -> None:
        server = self.servers[node_id]
        raft = server.raft
        assert raft is not None
        self._check(node_id)
        while raft.has_ready():
            ready = raft.ready()
            self._send(server, ready.messages)
            if ready.must_persist:
                assert server.writing is None, "two writes in flight"
                server.writing = ready
            else:
                assert not ready.messages_after_persist
            if ready.committed_entries:
                self.checker.handed_out(node_id, ready.committed_entries)
                server.state += ready.committed_entries
                if not server.slow_apply:
                    raft.applied(ready.committed_entries[-1].index)
                    server.durable_state = len(server.state)
            for state in ready.read_states:
                self.checker.read_answered(node_id, state)
                server.reads[state.request_id] = state
            if server.writing is not None and not server.slow_disk:
                write, server.writing = server.writing, None
                self._finish_write(node_id, write)
            self._ship(server, raft)
            self._check(node_id)
        server.events += raft.drain_events()

    def _send(self, server: Server, messages: Iterable[Message]) -> None:
        for message in messages:
            self.checker.message_sent(message, server.disk)
            self.wire.append(message)

    def _check(self, node_id: NodeId) -> None:
        self.checker.check_member(node_id, self.members)

    # --------------------------------------------------------------------- facts

    def logs(self) -> list[list[int]]:
        """The terms of every log, in memory."""
        return [log_terms(self.raft(node_id)) for node_id in self.running()]

    def configurations(self) -> list[Configuration]:
        """By every node's log."""
        return [self.raft(node_id).configuration for node_id in self.running()]

    def commits(self) -> list[int]:
        return [int(self.raft(node_id).commit_index) for node_id in self.running()]
