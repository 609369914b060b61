"""A Raft log in memory, with the contract of the durable one.

For tests and simulation: what ``append`` returned from is durable, and :meth:`clone`
takes the medium as it is, which is what a crash leaves behind.
"""

from collections.abc import Iterable, Sequence
from typing import Self

from kvstore.raft.log import assert_appendable
from kvstore.raft.messages import Entry, HardState
from kvstore.types import LogIndex, Term


class MemoryLog:
    """Satisfies ``replica.interfaces.LogStorage``."""

    __slots__ = ("_entries", "_hard_state")

    def __init__(
        self,
        hard_state: HardState | None = None,
        entries: Iterable[Entry] = (),
    ) -> None:
        """A log that already holds something; by default, nothing."""
        self._hard_state = hard_state or HardState(term=Term(0), vote=None)
        self._entries = list(entries)

    def clone(self) -> Self:
        """An independent log that holds what is durable in this one now."""
        return type(self)(self._hard_state, self._entries)

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(1)

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(len(self._entries))

    def term(self, index: LogIndex) -> Term:
        if index == 0:
            return Term(0)
        if not 0 < index <= len(self._entries):
            raise LookupError(f"entry {index} is not held")
        return self._entries[index - 1].term

    def entries(
        self, start: LogIndex, end: LogIndex, bytes_max: int
    ) -> tuple[Entry, ...]:
        if not 0 < start <= end <= len(self._entries) + 1:
            raise LookupError(f"entries {start} to {end} are not all held")
        taken: list[Entry] = []
        total_bytes = 0
        for entry in self._entries[start - 1 : end - 1]:
            total_bytes += len(entry.data)
            if taken and total_bytes > bytes_max:
                break
            taken.append(entry)
        return tuple(taken)

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Durable at once."""
        after = hard_state or self._hard_state
        assert_appendable(
            self._hard_state,
            after,
            entries,
            first_index=self.first_index,
            last_index=self.last_index,
            term=self.term,
        )
        self._hard_state = after
        if entries:
            self._entries[entries[0].index - 1 :] = entries
