"""Bookkeeping of ReadIndex (dissertation section 6.4): who waits for which round.

A leader may answer a read at its commit index once a quorum says, after the read came,
that it still leads. One round of heartbeats speaks for every read that came before it
was sent; a read that comes while a round is under way waits for the next, because an
answer under way may have been given before the read came.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from kvstore.raft.quorum import Halves, has_quorum
from kvstore.types import LogIndex, NodeId


@dataclass(frozen=True, slots=True)
class PendingRead:
    """A read that wants an index; ``origin`` is the member that asked."""

    origin: NodeId
    request_id: int


@dataclass(frozen=True, slots=True)
class ConfirmedReads:
    """Reads that may be served from any state applied to ``index``."""

    index: LogIndex
    reads: Sequence[PendingRead]
    round: int
    started_ms: int
    """Before the first question of the round left."""
    voters: frozenset[NodeId]
    """Who confirmed it."""


@dataclass(slots=True)
class Lease:
    """How long nobody else can be elected (dissertation section 6.4.1).

    Whoever confirmed a round gives no vote within T of it, by a clock whose rate may
    differ from the leader's by as much as the lease is shorter than T.
    """

    until_ms: int = 0
    void: bool = False
    """For the rest of the term: a voter was told to elect another, however late it
    hears of it (raft-rs#234, openraft#1747; mutant M48)."""

    def extend(self, until_ms: int) -> None:
        self.until_ms = max(self.until_ms, until_ms)

    def holds(self, now_ms: int) -> bool:
        return not self.void and now_ms < self.until_ms


class ReadRounds:
    """A leader's reads. Answers count by round, never by request (etcd-io/raft#397)."""

    __slots__ = (
        "_confirming",
        "_index",
        "_reads",
        "_round",
        "_started_ms",
        "_waiting",
    )

    def __init__(self) -> None:
        self._started_ms = 0
        self._waiting: list[PendingRead] = []
        self._round = 0
        self._index = LogIndex(0)
        self._reads: list[PendingRead] = []
        self._confirming: set[NodeId] = set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._reads)

    @property
    def round(self) -> int:
        """The round under way; 0 is none."""
        return self._round

    @property
    def wants_round(self) -> bool:
        return self._round == 0 and bool(self._waiting)

    def add(self, read: PendingRead) -> None:
        self._waiting.append(read)

    def start(self, number: int, commit_index: LogIndex, *, now_ms: int) -> None:
        """Every read that waits joins round ``number``, which is about to be sent.

        None may wait: the round then confirms the leader's lease alone.
        """
        assert self._round == 0
        assert number > 0
        self._round, self._index = number, commit_index
        self._started_ms = now_ms
        self._reads, self._waiting = self._waiting, []

    def acknowledge(
        self, voter: NodeId, number: int, halves: Halves
    ) -> ConfirmedReads | None:
        """``voter`` follows us as of round ``number``. The reads that this confirms.

        ``halves``: the voters of now, which may have changed since the round began.
        """
        if number != self._round or number == 0:
            return None
        self._confirming.add(voter)
        if not has_quorum(halves, self._confirming):
            return None
        confirmed = ConfirmedReads(
            self._index,
            self._reads,
            number,
            self._started_ms,
            frozenset(self._confirming),
        )
        self._round, self._reads = 0, []
        self._confirming.clear()
        return confirmed

    def abandon(self) -> list[PendingRead]:
        """Leadership is lost: nobody can be answered."""
        abandoned = self._reads + self._waiting
        self._round, self._reads, self._waiting = 0, [], []
        self._confirming.clear()
        return abandoned


class ForwardedReads:
    """A follower's reads that its leader was asked to confirm.

    The numbers on the wire are drawn here and never used again, so that an answer to
    an earlier life of this process cannot pass for an answer to a new read.
    """

    __slots__ = ("_by_number", "_deadlines", "_last_number")

    def __init__(self, first_number: int) -> None:
        self._last_number = first_number
        self._by_number: dict[int, int] = {}
        self._deadlines: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._by_number)

    def add(self, request_id: int, *, deadline_tick: int) -> int:
        """The number to ask the leader under."""
        self._last_number += 1
        number = self._last_number
        self._by_number[number] = request_id
        self._deadlines.append((deadline_tick, number))
        return number

    def take(self, number: int) -> int | None:
        """The request that an answer belongs to; None if it is not awaited."""
        return self._by_number.pop(number, None)

    def expire(self, tick: int) -> list[int]:
        """Requests whose question or answer must have been lost."""
        expired = []
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= tick:
            request_id = self._by_number.pop(deadlines.popleft()[1], None)
            if request_id is not None:
                expired.append(request_id)
        return expired

    def abandon(self) -> list[int]:
        """The leader that was asked is gone."""
        abandoned = list(self._by_number.values())
        self._by_number.clear()
        self._deadlines.clear()
        return abandoned
