"""Reads on their way through a replica: each is served at the level it asked for.

A linearizable read waits for a round that its leader, or the leader's lease, confirms,
and then for the state to reach what was confirmed. The weaker levels wait for less:

``BOUNDED``
    for nothing, if the node's last confirmed round *began* recently enough. What counts
    is this node's own clock, from before it asked: an age measured from the last
    message *received* would stay young behind a deposed leader (rqlite#1672).
``SESSION``
    for the revision that the client has seen, wherever it saw it.
``STALE``
    for nothing.

All serve committed state only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from kvstore.errors import Behind, KVStoreError, Unavailable
from kvstore.pb import kv_pb2
from kvstore.raft.node import RaftNode
from kvstore.raft.ready import ReadState
from kvstore.replica.effects import Read
from kvstore.types import LogIndex, Revision, Ticket

LINEARIZABLE = kv_pb2.LINEARIZABLE
LEASE = kv_pb2.LEASE
FOLLOWER = kv_pb2.FOLLOWER
BOUNDED = kv_pb2.BOUNDED
SESSION = kv_pb2.SESSION
STALE = kv_pb2.STALE


@dataclass(slots=True)
class WaitingRead:
    """One request to read."""

    ticket: Ticket
    deadline_tick: int
    lease: bool = False
    revision_min: Revision = Revision(0)  # noqa: RUF009 - a NewType


@dataclass(slots=True)
class ReadRound:
    """Reads that one ``read_index`` call is to confirm."""

    reads: list[WaitingRead]
    asked_tick: int
    asked_ms: int
    """By the node's clock, before it asked."""
    lease: bool = False
    """Confirmed by the leader's lease alone."""


@dataclass(slots=True)
class Reads:
    """Reads: to be asked for, being confirmed, or waiting for the state."""

    raft: RaftNode
    revision: Revision
    """Of the state as it was last reported."""
    fresh: list[WaitingRead] = field(default_factory=list)
    """Not asked for yet."""
    refused: list[WaitingRead] = field(default_factory=list)
    """Asked for in vain. They wait for the next tick: to ask whom one believes to lead,
    and who does not, again at once would go on as fast as the network can."""
    rounds: dict[int, ReadRound] = field(default_factory=dict)
    confirmed: list[tuple[LogIndex, ReadRound]] = field(default_factory=list)
    behind: list[WaitingRead] = field(default_factory=list)
    """Waiting for a revision."""
    now_ms: int = 0
    _fresh_ms: int | None = None
    """The state holds everything that was acknowledged before this moment."""
    _probe_due: bool = False
    _last_id: int = 0

    def add(
        self, ticket: Ticket, options: kv_pb2.ReadOptions, deadline_tick: int
    ) -> Read | None:
        """Take a read; returned is how to serve it, if that is known already."""
        read = WaitingRead(ticket, deadline_tick)
        match options.consistency:
            case kv_pb2.STALE:
                return self._serve(ticket, STALE)
            case kv_pb2.SESSION:
                if self.revision >= options.revision_min:
                    return self._serve(ticket, SESSION)
                read.revision_min = Revision(options.revision_min)
                self.behind.append(read)
                return None
            case kv_pb2.BOUNDED if self._is_fresh(options.staleness_ms_max):
                return self._serve(ticket, BOUNDED)
            case kv_pb2.LEASE:
                read.lease = True
            case _:
                pass
        self.fresh.append(read)
        return None

    def _serve(self, ticket: Ticket, consistency: kv_pb2.Consistency) -> Read:
        return Read((ticket,), LogIndex(0), consistency, self._fresh_ms)

    def _is_fresh(self, staleness_ms_max: int) -> bool:
        if self._fresh_ms is None:
            return False
        age_ms = self.now_ms - self._fresh_ms
        # Asked again in good time, so that the next read need not wait either.
        self._probe_due = self._probe_due or 2 * age_ms > staleness_ms_max
        return age_ms <= staleness_ms_max

    def flush(self, tick: int) -> None:
        """Have what is fresh confirmed, if there is a leader to ask."""
        if not (self.fresh or self._probe_due) or self.raft.leader_id is None:
            return
        leased = [read for read in self.fresh if read.lease]
        others = [read for read in self.fresh if not read.lease]
        probing = self._probe_due and not self.rounds
        self._probe_due = False
        self.fresh = []
        if others or probing:
            self._ask(others, tick, lease=False)
        if leased:
            self._ask(leased, tick, lease=True)

    def _ask(self, reads: list[WaitingRead], tick: int, *, lease: bool) -> None:
        self._last_id += 1
        self.rounds[self._last_id] = ReadRound(reads, tick, self.now_ms)
        self.raft.read_index(self._last_id, lease=lease)

    def answered(self, state: ReadState) -> None:
        """The core knows whether a round is confirmed."""
        if state.rejected:
            self.round_failed(state.request_id)
        elif (group := self.rounds.pop(state.request_id, None)) is not None:
            group.lease = state.lease
            self.confirmed.append((state.index, group))

    def release(self, handed_out: LogIndex) -> Iterator[Read]:
        """What the state, once it is applied to ``handed_out``, may serve."""
        if self.confirmed:
            yield from self._release_confirmed(handed_out)

    def _release_confirmed(self, handed_out: LogIndex) -> Iterator[Read]:
        still: list[tuple[LogIndex, ReadRound]] = []
        for index, group in self.confirmed:
            if index > handed_out:
                still.append((index, group))
                continue
            self._fresh_ms = max(self._fresh_ms or 0, group.asked_ms)
            if tickets := tuple([read.ticket for read in group.reads]):
                yield Read(tickets, index, self._level(group), group.asked_ms)
        self.confirmed = still

    def _level(self, group: ReadRound) -> kv_pb2.Consistency:
        if group.lease:
            return LEASE
        return LINEARIZABLE if self.raft.is_leader else FOLLOWER

    def applied(self, revision: Revision) -> list[Read]:
        """The state is at ``revision`` now; what may be served since."""
        self.revision = revision
        if not self.behind:
            return []
        ready = [read for read in self.behind if read.revision_min <= revision]
        if ready:
            self.behind = [it for it in self.behind if it.revision_min > revision]
        return [self._serve(read.ticket, SESSION) for read in ready]

    def round_failed(self, request_id: int) -> None:
        """Its reads wait for another."""
        if (failed := self.rounds.pop(request_id, None)) is not None:
            self.refused += failed.reads

    def ask_again(self, tick: int, patience_ticks: int) -> None:
        """A tick passed: reads that were asked for in vain may be asked for anew."""
        overdue = [
            request_id
            for request_id, group in sorted(self.rounds.items())
            if group.asked_tick <= tick - patience_ticks
        ]
        for request_id in overdue:
            self.round_failed(request_id)
        if self.refused:
            self.fresh[:0] = self.refused
            self.refused = []

    def take_unconfirmed(self) -> list[WaitingRead]:
        """Take out every read that still needs a leader."""
        asked = [read for _, g in sorted(self.rounds.items()) for read in g.reads]
        taken = self.fresh + self.refused + asked
        self.fresh, self.refused = [], []
        self.rounds.clear()
        return taken

    def expire(self, tick: int) -> list[tuple[Ticket, KVStoreError]]:
        """Take out what has waited past its deadline, and why each is given up."""
        expired: list[tuple[Ticket, KVStoreError]] = []
        groups = [self.fresh, self.refused, *(r.reads for r in self.rounds.values())]
        groups += [r.reads for _, r in self.confirmed]
        for reads in groups:
            expired += [(it.ticket, not_confirmed()) for it in _take_late(reads, tick)]
        for read in _take_late(self.behind, tick):
            expired.append((read.ticket, self._not_reached(read.revision_min)))
        return expired

    def _not_reached(self, wanted: Revision) -> Behind:
        return Behind(
            f"this node is at revision {self.revision} and did not reach {wanted}, "
            "which the client has seen, in time; try another node",
            revision=self.revision,
        )


def _take_late(reads: list[WaitingRead], tick: int) -> list[WaitingRead]:
    late = [read for read in reads if read.deadline_tick <= tick]
    if late:
        reads[:] = [read for read in reads if read.deadline_tick > tick]
    return late


def not_confirmed() -> Unavailable:
    """The error of a read that nobody confirmed in time."""
    return Unavailable("no leader confirmed the read in time; try again")
