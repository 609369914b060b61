"""What of a node is durable: a log and a hard state, in memory."""

from collections.abc import Iterable, Sequence

from kvstore.raft.log import assert_appendable
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import Entry, EntryId, EntryKind, HardState, Snapshot
from kvstore.types import LogIndex, Term


class Disk:
    """Satisfies ``raft.log.StableLog``.

    What is written is durable: a cluster decides when, or whether, a write gets here.
    """

    __slots__ = ("_base", "_base_configuration", "_entries", "_hard_state")

    def __init__(
        self,
        configuration: Configuration,
        *,
        hard_state: HardState,
        entries: Iterable[Entry] = (),
    ) -> None:
        """``configuration``: of what precedes the log, which begins at index 1."""
        self._base = EntryId(Term(0), LogIndex(0))
        self._base_configuration = configuration.encode()
        self._hard_state = hard_state
        self._entries = list(entries)

    @property
    def hard_state(self) -> HardState:
        """Term and vote as last written."""
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

    def configurations(self) -> list[tuple[LogIndex, bytes]]:
        return [
            (entry.index, entry.data)
            for entry in self._entries
            if entry.kind is EntryKind.CONFIGURATION
        ]

    def term(self, index: LogIndex) -> Term:
        if index == self._base.index:
            return self._base.term
        if not self._base.index < index <= self.last_index:
            raise LookupError(f"entry {index} is not held")
        return self._entries[index - self.first_index].term

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
        """One write: all of it or, if it never gets here, nothing."""
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
        last = EntryId(self.term(index), index)
        for at, data in self.configurations():
            if at <= index:
                self._base_configuration = data
        del self._entries[: index - self._base.index]
        self._base = last

    def install(self, hard_state: HardState | None, snapshot: Snapshot) -> None:
        """Begin anew behind a snapshot, in one write with the hard state."""
        self._hard_state = hard_state or self._hard_state
        self._entries.clear()
        self._base = snapshot.last
        self._base_configuration = snapshot.configuration
