"""What of a node is durable, in memory: a log and a hard state that outlive it."""

from collections.abc import Sequence

from kvstore.raft.log import assert_appendable
from kvstore.raft.messages import Entry, HardState
from kvstore.types import LogIndex, NodeId, Term
from tests.raft.pieces import entries_of


class Disk:
    """What survives: a durable log and hard state."""

    def __init__(
        self, terms: Sequence[int] = (), *, term: int = 0, vote: int | None = None
    ) -> None:
        self.log: list[Entry] = list(entries_of(terms))
        self.hard_state = HardState(
            term=Term(max([term, *terms])),
            vote=None if vote is None else NodeId(vote),
        )
        self.entries_reads = 0
        self.term_reads = 0

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(1)

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(len(self.log))

    def term(self, index: LogIndex) -> Term:
        self.term_reads += 1
        return self._term_at(index)

    def _term_at(self, index: LogIndex) -> Term:
        if index == 0:
            return Term(0)
        if index < 0:
            raise LookupError(index)
        return self.log[index - 1].term

    def entries(
        self, start: LogIndex, end: LogIndex, bytes_max: int
    ) -> tuple[Entry, ...]:
        self.entries_reads += 1
        assert 1 <= start <= end <= len(self.log) + 1
        taken: list[Entry] = []
        size = 0
        for entry in self.log[start - 1 : end - 1]:
            size += len(entry.data)
            if taken and size > bytes_max:
                break
            taken.append(entry)
        return tuple(taken)

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        after = hard_state or self.hard_state
        assert_appendable(
            self.hard_state,
            after,
            entries,
            first_index=self.first_index,
            last_index=self.last_index,
            term=self._term_at,
        )
        self.hard_state = after
        if entries:
            del self.log[entries[0].index - 1 :]
            self.log += entries

    def terms(self) -> list[int]:
        return [int(entry.term) for entry in self.log]
