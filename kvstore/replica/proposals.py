"""Writes that wait: for the log, for a leader, for a commit.

Requests belong to the replica, never to the task that awaits them: a cancelled caller
changes nothing here.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kvstore.errors import Busy, DeadlineExceeded, ProposalDropped, Unavailable
from kvstore.raft.messages import EntryId
from kvstore.replica.messages import NO_REQUEST
from kvstore.types import LogIndex, NodeId, Term, Ticket

FORWARDED_BATCHES_MAX = 1_024
"""Batches passed to a leader and not answered yet, each one message there and one back.
Below what a link to a peer holds of those, so that none overflows it."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A request that another member passed on."""

    node: NodeId
    request_id: int


Origin = Ticket | Forwarded


@dataclass(slots=True)
class Batch:
    """One request's writes."""

    origin: Origin
    writes: bytes
    count: int
    deadline_tick: int
    """Given up, definitely not applied, if it has not left by then."""


class WaitingWrites:
    """Batches that no log has seen yet, bounded by commands and bytes."""

    def __init__(self, *, count_max: int, bytes_max: int) -> None:
        self._batches: deque[Batch] = deque()
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._count = 0
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, batch: Batch) -> None:
        """Raises ``Busy`` (definite) past a bound."""
        if self._batches:
            if self._count + batch.count > self._count_max:
                raise Busy(
                    f"{self._count} commands wait already, {self._count_max} at most",
                    queue="waiting_writes",
                    maximum=self._count_max,
                )
            if self._bytes + len(batch.writes) > self._bytes_max:
                raise Busy(
                    f"{self._bytes} bytes wait already, {self._bytes_max} at most",
                    queue="waiting_write_bytes",
                    maximum=self._bytes_max,
                )
        self._append(batch)

    def put_back(self, batches: list[Batch]) -> None:
        """Return batches to the head of the queue, past any bound: they were in it."""
        for batch in reversed(batches):
            self._batches.appendleft(batch)
            self._count += batch.count
            self._bytes += len(batch.writes)

    def take(self, bytes_max: int) -> list[Batch]:
        """The oldest batches that fit in ``bytes_max`` together, at least one."""
        taken: list[Batch] = []
        size = 0
        while self._batches:
            size += len(self._batches[0].writes)
            if taken and size > bytes_max:
                break
            taken.append(self._pop())
        return taken

    def expire(self, tick: int) -> list[Batch]:
        """Take out what has waited past its deadline."""
        if not any(batch.deadline_tick <= tick for batch in self._batches):
            return []
        batches = list(self._batches)
        expired = [batch for batch in batches if batch.deadline_tick <= tick]
        self._batches.clear()
        self._count = self._bytes = 0
        for batch in batches:
            if batch.deadline_tick > tick:
                self._append(batch)
        return expired

    def _append(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._count += batch.count
        self._bytes += len(batch.writes)

    def _pop(self) -> Batch:
        batch = self._batches.popleft()
        self._count -= batch.count
        self._bytes -= len(batch.writes)
        return batch


@dataclass(slots=True)
class Proposed:
    """An entry in this node's log whose outcome somebody awaits."""

    term: Term
    batches: list[Batch]


class ProposedWrites:
    """Entries whose outcome is awaited, by index *and* term.

    The term matters: another leader's entry at the same index is not ours, and then
    ours was certainly not applied.
    """

    def __init__(self) -> None:
        self._by_index: dict[LogIndex, Proposed] = {}
        self._committed_term = Term(0)
        """Of the newest entry of which it is known here."""

    def __len__(self) -> int:
        return len(self._by_index)

    def add(self, entry: EntryId, batches: list[Batch]) -> list[Batch]:
        """Await ``batches`` at ``entry``; returns batches that it overwrote."""
        assert entry.term >= self._committed_term
        replaced = self._by_index.pop(entry.index, None)
        self._by_index[entry.index] = Proposed(entry.term, batches)
        return replaced.batches if replaced is not None else []

    def groups(self, entry: EntryId) -> tuple[int, ...]:
        """Commands of each awaiting request in a committed entry.

        What it overwrote was taken out before.
        """
        proposed = self._by_index.get(entry.index)
        if proposed is None:
            return ()
        assert proposed.term == entry.term
        return tuple([batch.count for batch in proposed.batches])

    def take_overwritten(self, committed: list[EntryId]) -> list[Batch]:
        """Take out batches that can never be committed, now that ``committed`` are.

        That is where another leader's entry was committed at their index, or one of a
        later term in front of it: terms never fall along a log (Raft §5.3), so no log
        has both.
        """
        lost: list[Batch] = []
        for entry in committed:
            proposed = self._by_index.get(entry.index)
            if proposed is not None and proposed.term != entry.term:
                lost += self._by_index.pop(entry.index).batches
        last = committed[-1]
        if last.term > self._committed_term:
            # Once a term: nothing is proposed in an earlier one after this.
            self._committed_term = last.term
            for index, proposed in sorted(self._by_index.items()):
                if index > last.index and proposed.term < last.term:
                    lost += self._by_index.pop(index).batches
        return lost

    def resolve(self, applied: EntryId) -> list[Batch]:
        """Take out the batches of an entry that was applied."""
        proposed = self._by_index.pop(applied.index, None)
        assert proposed is None or proposed.term == applied.term
        return proposed.batches if proposed is not None else []

    def take_to(self, index: LogIndex) -> list[Batch]:
        """Take out what a snapshot covers, applied or not: nobody can tell here."""
        covered = [at for at in sorted(self._by_index) if at <= index]
        return [b for at in covered for b in self._by_index.pop(at).batches]

    def orphans(self, before: Term) -> list[Batch]:
        """Take out everything proposed in a term below ``before``."""
        indices = [i for i, p in self._by_index.items() if p.term < before]
        return [b for i in sorted(indices) for b in self._by_index.pop(i).batches]


@dataclass(slots=True)
class ForwardedBatch:
    """A batch that this node passed to the leader it knew."""

    batch: Batch
    leader: NodeId
    term: Term


class ForwardedWrites:
    """Batches passed to a leader and not answered yet, bounded like those that wait,
    and by :data:`FORWARDED_BATCHES_MAX`.

    The numbers they travel under start at random: what a leader answers to an earlier
    life of this process must not pass for the answer to a new write.
    """

    def __init__(self, *, first_number: int, count_max: int, bytes_max: int) -> None:
        assert first_number >= NO_REQUEST  # the first one given away is one more
        self._last_number = first_number
        self._by_number: dict[int, ForwardedBatch] = {}
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._count = 0
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._by_number)

    @property
    def has_room(self) -> bool:
        """Whether another batch may leave; what may not waits in front."""
        return (
            len(self._by_number) < FORWARDED_BATCHES_MAX
            and self._count < self._count_max
            and self._bytes < self._bytes_max
        )

    def add(self, batch: Batch, leader: NodeId, term: Term) -> int:
        """The number that the answer will carry."""
        self._last_number += 1
        self._by_number[self._last_number] = ForwardedBatch(batch, leader, term)
        self._count += batch.count
        self._bytes += len(batch.writes)
        return self._last_number

    def answered(self, number: int, sender: NodeId) -> Batch | None:
        """Take out what ``sender`` answers; None if it was not asked, or no more."""
        forwarded = self._by_number.get(number)
        if forwarded is None or forwarded.leader != sender:
            return None
        return self._pop(number)

    def take(self, gone: Callable[[ForwardedBatch], bool]) -> list[Batch]:
        """Take out batches of which nobody can say any more what becomes of them."""
        numbers = [n for n, f in self._by_number.items() if gone(f)]
        return [self._pop(number) for number in numbers]

    def _pop(self, number: int) -> Batch:
        batch = self._by_number.pop(number).batch
        self._count -= batch.count
        self._bytes -= len(batch.writes)
        return batch


def not_taken() -> Unavailable:
    """The error of a write that never left: it waited for a leader in vain."""
    return Unavailable("no leader took the write in time; it was not applied")


def not_answered() -> DeadlineExceeded:
    """The error of a write that was passed on, and about which nothing came back."""
    return DeadlineExceeded(
        "the leader did not answer in time; the write may have been applied"
    )


def leaderless() -> Unavailable:
    """The error of a request at a node that is cut off, or of a cluster without one."""
    return Unavailable(
        "this node has known no leader for a while; the request was not applied, "
        "try another node"
    )


def overwritten() -> ProposalDropped:
    """The error of a request whose place in the log another leader's entry took."""
    return ProposalDropped(
        "a new leader's log replaced the write before it was committed; "
        "it was not applied, try again"
    )
