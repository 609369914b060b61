"""One whole member: a disk, a state and, while it is up, a replica.

It does for its replica what ``kvstore.server`` does, one piece at a time and only when
told to: no write ends and nothing is applied by itself. What leaves the member goes to
its :class:`Surroundings`, which decide what becomes of it, and when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.membership import Configuration
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
from kvstore.replica.options import ReplicaOptions
from kvstore.replica.replica import Replica
from kvstore.simulation.describe import ALL_BYTES
from kvstore.simulation.model import error_result
from kvstore.simulation.states import WatchedState
from kvstore.state_machine import machine
from kvstore.state_machine.machine import encode_groups
from kvstore.state_machine.reads import read_range_at_once
from kvstore.types import Incarnation, LogIndex, NodeId, Ticket

if TYPE_CHECKING:
    import random

    from kvstore.replica.messages import PeerMessage
    from kvstore.storage.memory_log import MemoryLog

Work = Apply | Read | SyncState | ReportSessions
"""What the state machine is handed, in order."""


@dataclass(slots=True)
class Commit:
    """What a crash may leave of a state."""

    state: WatchedState
    is_synced: bool
    """It survives for certain."""


class Surroundings(Protocol):
    """Where a member is: network, clients, whoever watches."""

    def polled(self, member: SimMember) -> None:
        """A turn of the replica's loop is over; what it owes comes next."""

    def sent(self, member: SimMember, messages: tuple[PeerMessage, ...]) -> None: ...

    def writes(self, member: SimMember) -> None:
        """A log write began; :meth:`SimMember.write_done` ends it."""

    def works(self, member: SimMember) -> None:
        """There is one more piece of work for the state machine."""

    def hands_out(self, member: SimMember, work: Apply) -> None:
        """Committed entries go to the state machine."""

    def applied(self, member: SimMember) -> None:
        """One entry was applied."""

    def installed(self, member: SimMember, last: EntryId) -> None:
        """A snapshot took the place of log and state."""

    def responded(self, member: SimMember, ticket: Ticket, results: bytes) -> None: ...

    def failed(
        self, member: SimMember, ticket: Ticket, error: KVStoreError
    ) -> None: ...

    def done(self, member: SimMember, ticket: Ticket) -> None:
        """A change of members or of the lead is over."""

    def serves(self, member: SimMember, work: Read) -> None:
        """Reads are to be served from the member's state as it is."""

    def wants_snapshot(self, member: SimMember, peer: NodeId) -> None: ...

    def stops_snapshot(self, member: SimMember, peer: NodeId) -> None: ...

    def left(self, member: SimMember) -> None:
        """The cluster has removed it: it ends."""


class SimMember:
    """One data directory, and the process that runs on it, if one does."""

    __slots__ = (
        "_around",
        "_told",
        "clock_ms",
        "commits",
        "holds",
        "incarnation",
        "life",
        "log",
        "node_id",
        "options",
        "replica",
        "staged",
        "state",
        "working",
        "writing",
    )

    def __init__(
        self,
        node_id: NodeId,
        *,
        incarnation: Incarnation,
        log: MemoryLog,
        options: ReplicaOptions,
        around: Surroundings,
    ) -> None:
        self._around = around
        self.node_id = node_id
        self.incarnation = incarnation
        self.log = log
        self.options = options
        self.state = WatchedState()
        self.commits = deque([Commit(WatchedState(), is_synced=True)])
        """States that a crash may leave, oldest first."""
        self.replica: Replica | None = None
        self.life = 0
        """How often it was started."""
        self.clock_ms = 0
        self.writing: Persist | None = None
        self.working: deque[Work] = deque()
        self.holds: dict[NodeId, int] = {}
        """Of the log, by the peer that is sent a snapshot."""
        self.staged: dict[EntryId, WatchedState] = {}
        """The state that arrived last, by what it is the outcome of."""
        self._told: InstallSnapshot | None = None
        """What the core may not have done with yet."""

    # --------------------------------------------------------------------- life

    def start(self, random: random.Random, *, survives: int = 0) -> None:
        """Start from what is durable. ``survives``: which of :attr:`commits`, from the
        newest; what is synced survives for certain.

        Raises:
            CorruptionError: log and state do not fit together.
        """
        assert self.replica is None
        while survives and len(self.commits) > 1:
            survives -= 1
            self.commits.pop()
        commit = self.commits[-1]
        self.commits = deque([Commit(commit.state, is_synced=True)])
        self.state = commit.state.clone()
        self.holds = {}
        progress = self.state.progress
        self.replica = Replica(
            node_id=self.node_id,
            log=self.log,
            applied_index=progress.index,
            revision=progress.revision,
            compact_revision=progress.compact_revision,
            compaction_pending=progress.compaction_pending,
            options=self.options,
            random=random,
        )
        self.life += 1
        self.replica.set_clock(self.clock_ms)

    def crash(self, *, write_is_lost: bool) -> None:
        """End at once. The write in flight may have reached the disk, or not."""
        assert self.replica is not None
        if self.writing is not None and not write_is_lost:
            self._write(self.writing)
        self.replica, self.writing = None, None
        self.working.clear()
        self.staged.clear()
        self._told = None

    def poll(self) -> None:
        """One turn of the loop: decide, and have it carried out."""
        replica = self.replica
        assert replica is not None
        effects = replica.poll()
        self._around.polled(self)
        self.carry_out(effects)

    def act(self, act: Callable[[Replica], object]) -> None:
        """Tell the replica something, and have it decide."""
        assert self.replica is not None
        act(self.replica)
        self.poll()

    def carry_out(self, effects: list[Effect]) -> None:
        """What a replica asks for, as the server does it."""
        around = self._around
        for effect in effects:
            match effect:
                case Send(messages):
                    around.sent(self, messages)
                case Persist():
                    assert self.writing is None, "two log writes in flight"
                    self.writing = effect
                    around.writes(self)
                case Apply():
                    around.hands_out(self, effect)
                    self._work(effect)
                case Respond(ticket, results, _):
                    around.responded(self, ticket, results)
                case Fail(ticket, error):
                    around.failed(self, ticket, error)
                case Read() | SyncState() | ReportSessions():
                    self._work(effect)
                case _:
                    self._carry_out_rare(effect)

    def _carry_out_rare(
        self, effect: Done | SendSnapshot | StopSnapshot | CompactLog | Leave
    ) -> None:
        around = self._around
        match effect:
            case Done(ticket):
                around.done(self, ticket)
            case SendSnapshot(peer):
                around.wants_snapshot(self, peer)
            case StopSnapshot(peer):
                around.stops_snapshot(self, peer)
            case CompactLog(index):
                self.log.compact(index)
            case Leave():
                around.left(self)

    def _work(self, work: Work) -> None:
        self.working.append(work)
        self._around.works(self)

    # --------------------------------------------------------------------- disk

    def write_done(self) -> None:
        """The log write in flight is on the medium.

        Raises:
            OSError: the medium refused.
        """
        work, self.writing = self.writing, None
        assert work is not None
        assert self.replica is not None
        self._write(work)
        if work.snapshot is not None:
            progress = self.state.progress
            self._around.installed(self, work.snapshot.last)
            self.replica.installed(
                work.snapshot.last,
                revision=progress.revision,
                compact_revision=progress.compact_revision,
                compaction_pending=progress.compaction_pending,
            )
        self.replica.persisted(work.number)
        self.poll()

    def _write(self, work: Persist) -> None:
        if work.snapshot is not None:
            # Log, intent and staged state are one step under crashes.
            state = self.staged.pop(work.snapshot.last)
            self.log.install(work.hard_state, work.snapshot)
            self.working.clear()
            self.state = state.clone()
            self.commits = deque([Commit(state, is_synced=True)])
            self.log.append(None, work.entries)
            return
        self.log.append(work.hard_state, work.entries)

    # -------------------------------------------------------------------- state

    def work_done(self) -> None:
        """The state machine does the next piece of its work.

        Raises:
            CorruptionError: a record that is needed is damaged.
        """
        replica, state = self.replica, self.state
        assert replica is not None
        work = self.working.popleft()
        match work:
            case Read():
                assert state.progress.index >= work.index, "read too early (M47)"
                self._around.serves(self, work)
                return
            case Apply():
                self._apply(replica, work)
            case SyncState():
                self.commit(synced=True)
                replica.state_synced(state.progress.index)
            case ReportSessions():
                replica.identified(self.node_id, self.incarnation)
                replica.sessions_reported(state.sessions.activity())
        self.poll()

    def _apply(self, replica: Replica, work: Apply) -> None:
        state, around = self.state, self._around
        results: list[tuple[EntryId, list[bytes]]] = []
        for entry, groups in zip(work.entries, work.groups, strict=True):
            answers = machine.apply(state, entry, want_results=bool(groups))
            around.applied(self)
            if groups:
                done = EntryId(entry.term, entry.index)
                results.append((done, encode_groups(answers, groups)))
        last = work.entries[-1]
        progress = state.progress
        replica.applied(
            EntryId(last.term, last.index),
            results=results,
            revision=progress.revision,
            compact_revision=progress.compact_revision,
            compaction_pending=progress.compaction_pending,
        )

    def commit(self, *, synced: bool) -> None:
        """Commit what is applied so far: it will survive, or may."""
        if synced:
            self.commits.clear()
        elif len(self.commits) > 1:
            # The medium has at most the last transaction not yet in its tree's root.
            self.commits.popleft()
            self.commits[0].is_synced = True
        self.commits.append(Commit(self.state.clone(), is_synced=synced))

    def read(self, ranges: Iterable[kv_pb2.Range]) -> tuple[kv_pb2.Result, ...]:
        """Ranges of the state as it is; an error in place of one that cannot be."""
        results: list[kv_pb2.Result] = []
        for wanted in ranges:
            try:
                found = read_range_at_once(self.state, wanted)
            except KVStoreError as error:
                results.append(error_result(error))
            else:
                results.append(kv_pb2.Result(range=found))
        return tuple(results)

    def entries(self, after: LogIndex, last: LogIndex) -> Iterator[Entry]:
        """What the log holds behind ``after``, up to ``last``, written or not."""
        assert self.replica is not None
        log = self.replica.raft.log
        while after < last:
            start, end = LogIndex(after + 1), LogIndex(last + 1)
            for entry in log.entries(start, end, ALL_BYTES):
                yield entry
                after = entry.index

    # ---------------------------------------------------------------- snapshots

    def export(self, peer: NodeId) -> InstallSnapshot:
        """All of the state as it is now, for ``peer``; the log is held behind it."""
        replica = self.replica
        assert replica is not None
        self.release(peer)
        snapshot = replica.raft.snapshot_at(self.state.progress.index)
        self.holds[peer] = replica.hold_log(snapshot.last.index)
        return InstallSnapshot(
            sender=self.node_id, to=peer, term=replica.raft.term, snapshot=snapshot
        )

    def takes_snapshot(self, message: InstallSnapshot) -> bool:
        """Whether one that arrives is of use: one at a time, as the server has it."""
        replica, told = self.replica, self._told
        assert replica is not None
        raft = replica.raft
        if told is not None:
            index = told.snapshot.last.index
            is_late = raft.term > told.term and raft.commit_index < index
            if not (is_late or raft.applied_index >= index):
                return False
        return message.term >= raft.term

    def stage(self, message: InstallSnapshot, state: WatchedState) -> None:
        """All of a snapshot is here; the replica is told next."""
        self._told = message
        self.staged = {message.snapshot.last: state}

    def release(self, peer: NodeId) -> None:
        """No snapshot for ``peer`` needs the log any more."""
        if (hold := self.holds.pop(peer, None)) is not None:
            assert self.replica is not None
            self.replica.release_log(hold)

    @property
    def configuration(self) -> Configuration:
        """The last that its log holds, up or not."""
        if self.replica is not None:
            return self.replica.raft.configuration
        held = self.log.configurations()
        data = held[-1][1] if held else self.log.base_configuration
        return Configuration.decode(data)

    @property
    def applied_index(self) -> LogIndex:
        """What the state is the outcome of."""
        return self.state.progress.index
