"""Replicas in memory: every delivery, fsync, apply and crash is the test's choice.

A ``Shell`` stands for what ``kvstore.server`` does for one replica: effects are carried
out in order, but only when the test says so. ``Cluster`` is several of them and the
links between them, each an ordered stream as members have. Both check what a shell may
rely on: one log write at a time, one answer a ticket. Members, what they send and what
they apply are watched by ``kvstore.raft.invariants``, as in tests of consensus alone.
"""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.invariants import ClusterChecker, Member
from kvstore.raft.membership import NOBODY, Change, Configuration
from kvstore.raft.messages import Entry, EntryId, InstallSnapshot
from kvstore.replica.effects import (
    Apply,
    CompactLog,
    Done,
    Effect,
    Fail,
    Leave,
    Persist,
    Read,
    ReportSessions,
    Respond,
    Send,
    SendSnapshot,
    StopSnapshot,
    SyncState,
)
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.replica.options import ReplicaOptions
from kvstore.replica.replica import Replica
from kvstore.state_machine import machine
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.machine import encode_groups
from kvstore.storage.memory_log import MemoryLog
from kvstore.storage.memory_state import MemoryState
from kvstore.types import NodeId, Ticket
from tests.raft.pieces import OPTIONS as RAFT
from tests.raft.pieces import founded

T = TypeVar("T")

OPTIONS = ReplicaOptions(
    raft=RAFT,
    orphan_ticks=5,
    forwarded_patience_ticks=40,
    leaderless_patience_ticks=1_000,
    read_retry_ticks=5,
)
PATIENCE_TICKS = 10_000


def put(key: str, value: str = "v") -> kv_pb2.Command:
    return kv_pb2.Command(put=kv_pb2.Put(key=key.encode(), value=value.encode()))


def batch(*commands: kv_pb2.Command) -> bytes:
    return kv_pb2.CommandBatch(commands=commands).SerializeToString()


def commands_of(entry: Entry) -> list[kv_pb2.Command]:
    return list(kv_pb2.CommandBatch.FromString(entry.data).commands)


def keys_of(entry: Entry) -> list[str]:
    return [command.put.key.decode() for command in commands_of(entry)]


@dataclass(slots=True)
class Answer:
    """How a request ended."""

    results: list[kv_pb2.Result] | None = None
    error: KVStoreError | None = None
    revision: int = 0
    """Of the store, when the answer was made."""
    pairs: dict[str, str] = field(default_factory=dict)
    """Of a read: everything in the store."""


class Shell:
    """One member: a disk, a state, and while it is up a replica."""

    def __init__(self, node_id: NodeId, configuration: Configuration) -> None:
        self.node_id = node_id
        self.log = MemoryLog(configuration=configuration)
        self.durable_state = MemoryState()
        """What a crash leaves."""
        self.state = MemoryState()
        self.replica: Replica | None = None
        self.writing: Persist | None = None
        self.slow_disk = False
        """Log writes wait for :meth:`Cluster.fsync`."""
        self.slow_apply = False
        """Apply and read wait for :meth:`Cluster.apply`."""
        self.working: deque[Apply | Read | SyncState | ReportSessions] = deque()
        """Handed to the state machine, in order."""
        self.effects: list[Effect] = []
        """All of this life, in order."""
        self.has_left = False
        self.holds: dict[NodeId, int] = {}
        """Of the log, by the peer that is sent a snapshot."""

    def of_kind(self, kind: type[T]) -> list[T]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def sent(self, kind: type[T]) -> list[T]:
        return [
            message
            for effect in self.of_kind(Send)
            for message in effect.messages
            if isinstance(message, kind)
        ]


class Cluster:
    """Several replicas, their links and their clients."""

    def __init__(
        self,
        size: int = 3,
        *,
        options: ReplicaOptions = OPTIONS,
        seed: int = 1,
    ) -> None:
        self.random = random.Random(seed)
        self.options = options
        self.ids = tuple(NodeId(number) for number in range(1, size + 1))
        founders = founded(self.ids)
        self.shells = {node_id: Shell(node_id, founders) for node_id in self.ids}
        self.links: dict[tuple[NodeId, NodeId], deque[PeerMessage]] = defaultdict(deque)
        self.cuts: set[tuple[NodeId, NodeId]] = set()
        """Links on which messages wait."""
        self.answers: dict[int, Answer] = {}
        self.asked: dict[int, NodeId] = {}
        """Which node has each open ticket."""
        self._last_ticket = 0
        self.now_ms = 0
        self.exported: dict[EntryId, MemoryState] = {}
        """The states that snapshots stand for."""
        self.checker = ClusterChecker()
        for node_id in self.ids:
            self.start(node_id)

    # ------------------------------------------------------------------ members

    def replica(self, node_id: int) -> Replica:
        replica = self.shells[NodeId(node_id)].replica
        assert replica is not None, f"{node_id} is down"
        return replica

    def running(self) -> list[NodeId]:
        return [i for i in self.ids if self.shells[i].replica is not None]

    def start(self, node_id: int) -> None:
        shell = self.shells[NodeId(node_id)]
        assert shell.replica is None
        shell.state = shell.durable_state.clone()
        shell.effects = []
        shell.holds = {}
        shell.replica = Replica(
            node_id=shell.node_id,
            log=shell.log,
            applied_index=shell.state.progress.index,
            revision=shell.state.progress.revision,
            compact_revision=shell.state.progress.compact_revision,
            compaction_pending=shell.state.progress.compaction_pending,
            options=self.options,
            random=random.Random(self.random.getrandbits(64)),
        )
        self.checker.restarted(shell.node_id, shell.state.progress.index)
        self._check(shell.node_id)
        self.poll(node_id)

    def crash(
        self, node_id: int, *, notice: bool = False, written: bool = False
    ) -> None:
        """Lose what is not durable. ``written``: the write in flight reached the disk.

        With ``notice`` the peers see its connections close. What it had sent may still
        arrive; what was sent to it is lost.
        """
        shell = self.shells[NodeId(node_id)]
        if written and shell.writing is not None:
            self._write(shell, shell.writing)
        shell.replica, shell.writing = None, None
        shell.working.clear()
        for ticket in [t for t, n in self.asked.items() if n == node_id]:
            del self.asked[ticket]  # nobody is left to answer
        for (_, to), messages in self.links.items():
            if to == node_id:
                messages.clear()
        if notice:
            for peer in self.running():
                self.disconnect(peer, node_id)

    def commit_state(self, node_id: int) -> None:
        """What is applied so far survives a crash."""
        shell = self.shells[NodeId(node_id)]
        shell.durable_state = shell.state.clone()

    def close(self, node_id: int) -> None:
        shell = self.shells[NodeId(node_id)]
        self._carry_out(shell, self.replica(node_id).close())

    # ------------------------------------------------------------------- inputs

    def poll(self, node_id: int) -> list[Effect]:
        """One turn of the node's loop."""
        shell = self.shells[NodeId(node_id)]
        effects = self.replica(node_id).poll()
        self._carry_out(shell, effects)
        return effects

    def join(self, node_id: int) -> None:
        """Start a node that belongs to nobody yet, and waits to be added."""
        shell = Shell(NodeId(node_id), NOBODY)
        self.shells[shell.node_id] = shell
        self.ids = (*self.ids, shell.node_id)
        self.start(node_id)

    def change(self, node_id: int, *changes: Change) -> int:
        """Ask a node to change the members; the ticket of the answer."""
        ticket = self._last_ticket + 1
        self.replica(node_id).change_members(
            Ticket(ticket), changes, patience_ticks=PATIENCE_TICKS
        )
        self._accepted(ticket, node_id)
        self.poll(node_id)
        return ticket

    def transfer(self, node_id: int, to: int | None) -> int:
        """Ask a leader to hand over; the ticket of the answer."""
        ticket = self._last_ticket + 1
        target = None if to is None else NodeId(to)
        self.replica(node_id).transfer(
            Ticket(ticket), target, patience_ticks=PATIENCE_TICKS
        )
        self._accepted(ticket, node_id)
        self.poll(node_id)
        return ticket

    def pass_time(self, ms: int) -> None:
        """By every clock."""
        self.now_ms += ms
        for node_id in self.running():
            self.replica(node_id).set_clock(self.now_ms)

    def tick(self, node_id: int, count: int = 1) -> None:
        for _ in range(count):
            self.replica(node_id).tick()
            self.poll(node_id)

    def tick_all(self, count: int = 1) -> None:
        """Ticks everywhere, and after each all that follows from it."""
        for _ in range(count):
            for node_id in self.running():
                self.tick(node_id)
            self.settle()

    def submit(
        self,
        node_id: int,
        *commands: kv_pb2.Command,
        patience_ticks: int = PATIENCE_TICKS,
        poll: bool = True,
    ) -> int:
        """A client's write; the ticket under which ``answers`` will have its end."""
        ticket = self._last_ticket + 1
        self.replica(node_id).submit(
            Ticket(ticket),
            batch(*commands),
            count=len(commands),
            patience_ticks=patience_ticks,
        )
        self._accepted(ticket, node_id)
        if poll:
            self.poll(node_id)
        return ticket

    def read(
        self,
        node_id: int,
        options: kv_pb2.ReadOptions | None = None,
        *,
        patience_ticks: int = PATIENCE_TICKS,
        poll: bool = True,
    ) -> int:
        ticket = self._last_ticket + 1
        self.replica(node_id).read(
            Ticket(ticket),
            options or kv_pb2.ReadOptions(),
            patience_ticks=patience_ticks,
        )
        self._accepted(ticket, node_id)
        if poll:
            self.poll(node_id)
        return ticket

    def disconnect(self, node_id: int, peer: int) -> None:
        """``node_id`` sees its connections with ``peer`` close; what waited is lost."""
        self.links[NodeId(node_id), NodeId(peer)].clear()
        self.links[NodeId(peer), NodeId(node_id)].clear()
        self.replica(node_id).peer_disconnected(NodeId(peer))
        self.poll(node_id)

    def elect(self, node_id: int) -> None:
        """Make a node win, past stickiness: those it reaches think the leader gone."""
        for voter in self.running():
            leader = self.replica(voter).raft.leader_id
            if leader is not None and leader != voter:
                self.replica(voter).raft.peer_disconnected(leader)
        self.replica(node_id).raft.campaign()
        self.poll(node_id)
        self.settle()
        assert self.replica(node_id).raft.is_leader

    def depose(self, node_id: int) -> None:
        """A leader that hears nobody steps down, in its term. What it sends is lost."""
        for _ in range(3 * self.options.raft.election_timeout_ticks):
            if not self.replica(node_id).raft.is_leader:
                return
            self.tick(node_id)
            self.lose(sender=node_id)
        raise AssertionError(f"{node_id} still leads")

    # --------------------------------------------------------------- disk, state

    def fsync(self, node_id: int) -> None:
        """The write in flight, if any, is done."""
        shell = self.shells[NodeId(node_id)]
        work, shell.writing = shell.writing, None
        if work is None:
            return
        self._write(shell, work)
        replica = self.replica(node_id)
        if work.snapshot is not None:
            self.checker.installed(shell.node_id, work.snapshot.last)
            progress = shell.state.progress
            replica.installed(
                work.snapshot.last,
                revision=progress.revision,
                compact_revision=progress.compact_revision,
                compaction_pending=progress.compaction_pending,
            )
        replica.persisted(work.number)
        self.poll(node_id)

    def _write(self, shell: Shell, work: Persist) -> None:
        """The log write is on the medium, and with it the state of a snapshot."""
        if work.snapshot is not None:
            shell.working.clear()
            shell.log.install(work.hard_state, work.snapshot)
            shell.state = self.exported[work.snapshot.last].clone()
            shell.durable_state = shell.state.clone()
        shell.log.append(work.hard_state, work.entries)

    def apply(self, node_id: int, count: int = 1_000_000) -> None:
        """The state machine does at most ``count`` pieces of its work."""
        shell = self.shells[NodeId(node_id)]
        while shell.working and count:
            count -= 1
            work = shell.working.popleft()
            if isinstance(work, Read):
                self._serve(shell, work)
                continue
            if isinstance(work, SyncState):
                self.commit_state(node_id)
                self.replica(node_id).state_synced(shell.state.progress.index)
                self.poll(node_id)
                continue
            if isinstance(work, ReportSessions):
                activity = shell.state.sessions.activity()
                self.replica(node_id).sessions_reported(activity)
                self.poll(node_id)
                continue
            results: list[tuple[EntryId, list[bytes]]] = []
            for entry, groups in zip(work.entries, work.groups, strict=True):
                done = machine.apply(shell.state, entry, want_results=bool(groups))
                if groups:
                    entry_id = EntryId(entry.term, entry.index)
                    results.append((entry_id, encode_groups(done, groups)))
            last = work.entries[-1]
            self.replica(node_id).applied(
                EntryId(last.term, last.index),
                results=results,
                revision=shell.state.progress.revision,
                compact_revision=shell.state.progress.compact_revision,
                compaction_pending=shell.state.progress.compaction_pending,
            )
            self.poll(node_id)

    # ------------------------------------------------------------------ network

    def cut(self, group: Iterable[int]) -> None:
        """No message passes between ``group`` and the others until :meth:`heal`."""
        inside = {NodeId(i) for i in group}
        for i in inside:
            for j in set(self.ids) - inside:
                self.cuts |= {(i, j), (j, i)}

    def heal(self) -> None:
        self.cuts.clear()

    def lose(
        self,
        kind: type[T] | None = None,
        *,
        sender: int | None = None,
        to: int | None = None,
    ) -> list[PeerMessage]:
        """Take messages off the links; those that fit are lost, and returned."""
        lost: list[PeerMessage] = []
        for (a, b), messages in self.links.items():
            if sender not in (None, a) or to not in (None, b):
                continue
            kept: deque[PeerMessage] = deque()
            for message in messages:
                fits = kind is None or isinstance(message, kind)
                (lost if fits else kept).append(message)
            messages.clear()
            messages.extend(kept)
        return lost

    def deliver(self, messages: Sequence[PeerMessage]) -> None:
        """Hand over messages, whatever the links look like."""
        for message in messages:
            if (replica := self.shells[message.to].replica) is not None:
                replica.receive([message])
                self.poll(message.to)

    def deliver_from(self, sender: NodeId, to: NodeId, count: int = 1_000_000) -> None:
        """The next messages of one link, in one turn of the receiver's loop."""
        link = self.links[sender, to]
        taken = [link.popleft() for _ in range(min(count, len(link)))]
        replica = self.shells[to].replica
        if taken and replica is not None:
            replica.receive(taken)
            self.poll(to)

    def settle(self, limit: int = 10_000) -> None:
        """Deliver all that is not cut, and what follows, until the links are silent."""
        while busy := [
            link for link, m in self.links.items() if m and link not in self.cuts
        ]:
            for link in busy:
                self.deliver_from(*link)
            limit -= 1
            assert limit, "the cluster talks without end"

    # ----------------------------------------------------------------- plumbing

    def _accepted(self, ticket: int, node_id: int) -> None:
        self._last_ticket = ticket
        self.asked[ticket] = NodeId(node_id)

    def _carry_out(self, shell: Shell, effects: list[Effect]) -> None:
        shell.effects += effects
        if shell.replica is not None:
            self._check(shell.node_id)  # first: what is handed out must be committed
        for effect in effects:
            match effect:
                case Send(messages):
                    for message in messages:
                        assert message.sender == shell.node_id
                        if not isinstance(message, ForwardWrites | ForwardReply):
                            self.checker.message_sent(message, shell.log)
                        self.links[shell.node_id, message.to].append(message)
                case Persist():
                    assert shell.writing is None, "two log writes in flight"
                    shell.writing = effect
                case Apply(entries):
                    self.checker.handed_out(shell.node_id, entries)
                    shell.working.append(effect)
                case Read():
                    shell.working.append(effect)
                case Respond(ticket, results, revision):
                    batch_ = kv_pb2.ResultBatch.FromString(results)
                    self._answer(
                        shell,
                        ticket,
                        Answer(results=list(batch_.results), revision=revision),
                    )
                case Fail(ticket, error):
                    self._answer(shell, ticket, Answer(error=error))
                case _:
                    self._carry_out_rare(shell, effect)
        if shell.replica is None:
            return
        if shell.writing is not None and not shell.slow_disk:
            self.fsync(shell.node_id)
        if shell.working and not shell.slow_apply:
            self.apply(shell.node_id)

    def _carry_out_rare(self, shell: Shell, effect: Effect) -> None:
        match effect:
            case Done(ticket):
                self._answer(shell, ticket, Answer(results=[]))
            case SendSnapshot(peer):
                self._send_snapshot(shell, peer)
            case SyncState() | ReportSessions():
                shell.working.append(effect)
            case CompactLog(index):
                shell.log.compact(index)
            case Leave():
                shell.has_left = True
            case StopSnapshot(peer):
                self._release(shell, peer)
            case _:
                raise AssertionError(effect)

    def _send_snapshot(self, shell: Shell, peer: NodeId) -> None:
        """The state as it is now, whole at once; the message may be lost as any."""
        assert shell.replica is not None
        raft = shell.replica.raft
        snapshot = raft.snapshot_at(shell.state.progress.index)
        self.exported[snapshot.last] = shell.state.clone()
        self._release(shell, peer)
        shell.holds[peer] = shell.replica.hold_log(snapshot.last.index)
        message = InstallSnapshot(
            sender=shell.node_id, to=peer, term=raft.term, snapshot=snapshot
        )
        self.links[shell.node_id, peer].append(message)

    @staticmethod
    def _release(shell: Shell, peer: NodeId) -> None:
        if (hold := shell.holds.pop(peer, None)) is not None:
            assert shell.replica is not None
            shell.replica.release_log(hold)

    def _check(self, node_id: NodeId) -> None:
        members = {
            shell.node_id: Member(
                node=None if shell.replica is None else shell.replica.raft,
                durable=shell.log,
            )
            for shell in self.shells.values()
        }
        self.checker.check_member(node_id, members)

    def _serve(self, shell: Shell, work: Read) -> None:
        state = shell.state
        assert state.progress.index >= work.index, "read before it was applied (M47)"
        pairs: dict[str, str] = {}
        for key, head in state.heads(b"", None):
            if head.create_revision:
                version = state.version(head.at)
                assert version is not None
                pairs[key.decode()] = version.value.decode()
        for ticket in work.tickets:
            revision = state.progress.revision
            self._answer(shell, ticket, Answer(revision=revision, pairs=pairs))

    def _answer(self, shell: Shell, ticket: Ticket, answer: Answer) -> None:
        assert self.asked.pop(int(ticket)) == shell.node_id, "answered by another node"
        assert int(ticket) not in self.answers, f"ticket {ticket} answered twice"
        self.answers[int(ticket)] = answer

    # --------------------------------------------------------------------- facts

    def leader(self) -> NodeId:
        """Who leads the highest term."""
        leaders = [i for i in self.running() if self.replica(i).raft.is_leader]
        assert leaders, "nobody leads"
        return max(leaders, key=lambda i: self.replica(i).raft.term)

    def error(self, ticket: int) -> KVStoreError:
        error = self.answers[ticket].error
        assert error is not None
        return error

    def results(self, ticket: int) -> list[kv_pb2.Result]:
        results = self.answers[ticket].results
        assert results is not None, self.answers[ticket].error
        return results

    def hashes(self) -> list[bytes]:
        return [state_hash(self.shells[i].state) for i in self.running()]


def until(condition: Callable[[], bool], step: Callable[[], None]) -> None:
    """Repeat a step until something holds; fails after a thousand."""
    for _ in range(1_000):
        if condition():
            return
        step()
    raise AssertionError("a thousand steps in vain")


def led_by(node_id: int, size: int = 3, **options: object) -> Cluster:
    """A cluster that has just elected a node and knows it."""
    cluster = Cluster(size, **options)  # type: ignore[arg-type]
    cluster.elect(node_id)
    cluster.tick_all()
    return cluster
