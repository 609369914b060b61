"""What of a node is durable, in memory: a log and a hard state that outlive it."""

from collections.abc import Iterable, Sequence

from kvstore.raft.log import assert_appendable
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import Entry, EntryKind, HardState, Snapshot
from kvstore.types import LogIndex, NodeId, Term
from tests.raft.pieces import entries_of, entry_id, founded


class Disk:
    """What survives: a durable log and hard state."""

    def __init__(
        self,
        terms: Sequence[int] = (),
        *,
        term: int = 0,
        vote: int | None = None,
        founders: Iterable[int] = (1, 2, 3),
        configuration: Configuration | None = None,
        base: tuple[int, int] = (0, 0),
    ) -> None:
        """``base``: term and index of what precedes the log."""
        if configuration is None:
            configuration = founded(founders)
        self.base = entry_id(*base)
        self.base_configuration = configuration.encode()
        self.log: list[Entry] = list(entries_of(terms, first=base[1] + 1))
        self.hard_state = HardState(
            term=Term(max([term, *terms])),
            vote=None if vote is None else NodeId(vote),
        )
        self.entries_reads = 0
        self.term_reads = 0

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(self.base.index + 1)

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self.base.index + len(self.log))

    def configurations(self) -> list[tuple[LogIndex, bytes]]:
        return [
            (entry.index, entry.data)
            for entry in self.log
            if entry.kind is EntryKind.CONFIGURATION
        ]

    def term(self, index: LogIndex) -> Term:
        self.term_reads += 1
        return self._term_at(index)

    def _term_at(self, index: LogIndex) -> Term:
        if index == self.base.index:
            return self.base.term
        if index < self.base.index:
            raise LookupError(index)
        return self.log[index - self.first_index].term

    def entries(
        self, start: LogIndex, end: LogIndex, bytes_max: int
    ) -> tuple[Entry, ...]:
        self.entries_reads += 1
        first = self.first_index
        assert first <= start <= end <= self.last_index + 1
        taken: list[Entry] = []
        size = 0
        for entry in self.log[start - first : end - first]:
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
            del self.log[entries[0].index - self.first_index :]
            self.log += entries

    def compact(self, index: int) -> None:
        """Forget entries up to ``index``."""
        before = [data for at, data in self.configurations() if at <= index]
        if before:
            self.base_configuration = before[-1]
        last = entry_id(self._term_at(LogIndex(index)), index)
        del self.log[: index - self.base.index]
        self.base = last

    def install(self, snapshot: Snapshot) -> None:
        """The log begins anew behind a snapshot."""
        self.log.clear()
        self.base = snapshot.last
        self.base_configuration = snapshot.configuration

    def terms(self) -> list[int]:
        return [int(entry.term) for entry in self.log]
