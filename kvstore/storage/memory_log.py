"""A Raft log in memory, with the contract of the durable one.

For tests and simulation: what ``append`` returned from is durable, and :meth:`clone`
takes the medium as it is, which is what a crash leaves behind.
"""

from collections.abc import Iterable, Sequence
from typing import Self

from kvstore.raft.log import assert_appendable
from kvstore.raft.membership import NOBODY, Configuration
from kvstore.raft.messages import Entry, EntryId, EntryKind, HardState, Snapshot
from kvstore.types import LogIndex, Term

ORIGIN = EntryId(Term(0), LogIndex(0))
"""What precedes a log that nothing was cut off."""


class MemoryLog:
    """Satisfies ``replica.interfaces.LogStorage``."""

    __slots__ = ("_base", "_base_configuration", "_entries", "_hard_state")

    def __init__(
        self,
        hard_state: HardState | None = None,
        entries: Iterable[Entry] = (),
        *,
        configuration: Configuration = NOBODY,
        base: EntryId = ORIGIN,
    ) -> None:
        """A log that already holds something; by default, nothing.

        ``configuration`` and ``base`` are of what precedes its first entry.
        """
        self._hard_state = hard_state or HardState(term=Term(0), vote=None)
        self._entries = list(entries)
        self._base = base
        self._base_configuration = configuration.encode()

    def clone(self) -> Self:
        """An independent log that holds what is durable in this one now."""
        return type(self)(
            self._hard_state,
            self._entries,
            configuration=Configuration.decode(self._base_configuration),
            base=self._base,
        )

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    @property
    def first_index(self) -> LogIndex:
        return LogIndex(self._base.index + 1)

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self._base.index + len(self._entries))

    @property
    def base_configuration(self) -> bytes:
        return self._base_configuration

    @property
    def size_bytes(self) -> int:
        return sum([len(entry.data) for entry in self._entries])

    def configurations(self) -> Sequence[tuple[LogIndex, bytes]]:
        return [
            (entry.index, entry.data)
            for entry in self._entries
            if entry.kind is EntryKind.CONFIGURATION
        ]

    def term(self, index: LogIndex) -> Term:
        if index == self._base.index:
            return self._base.term
        if not self.first_index <= index <= self.last_index:
            raise LookupError(f"entry {index} is not held")
        return self._entries[index - self.first_index].term

    def chain(self, index: LogIndex) -> bytes:
        """Nothing is chained in memory."""
        self.term(index)
        return b""

    def entries(
        self, start: LogIndex, end: LogIndex, bytes_max: int
    ) -> tuple[Entry, ...]:
        first = self.first_index
        if not first <= start <= end <= self.last_index + 1:
            raise LookupError(f"entries {start} to {end} are not all held")
        taken: list[Entry] = []
        total_bytes = 0
        for entry in self._entries[start - first : end - first]:
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
            self._entries[entries[0].index - self.first_index :] = entries

    def compact(self, index: LogIndex) -> None:
        """Forget entries up to ``index``."""
        term = self.term(index)
        for at, data in self.configurations():
            if at <= index:
                self._base_configuration = data
        del self._entries[: index - self._base.index]
        self._base = EntryId(term, index)

    def install(
        self,
        hard_state: HardState | None,
        snapshot: Snapshot,
        *,
        chain: bytes = b"",
        snapshot_id: bytes = b"",
    ) -> None:
        """Begin anew behind a snapshot."""
        del chain, snapshot_id  # of what is on a disk
        self._hard_state = hard_state or self._hard_state
        self._entries = []
        self._base = snapshot.last
        self._base_configuration = snapshot.configuration
