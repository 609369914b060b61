"""The log as the core sees it: a stable part it can only read, and an unstable tail."""

from collections.abc import Callable, Sequence
from typing import Protocol

from kvstore.raft.membership import Configuration
from kvstore.raft.messages import Entry, EntryId, EntryKind, HardState, Snapshot
from kvstore.types import LogIndex, Term


class StableLog(Protocol):
    """The part of the log that is durable. Declared here because the core consumes it.

    Every reading method raises ``CorruptionError`` rather than return a damaged entry.
    """

    @property
    def first_index(self) -> LogIndex:
        """Index of the oldest entry held; ``last_index + 1`` if none is."""
        ...

    @property
    def last_index(self) -> LogIndex:
        """Index of the newest durable entry; 0 for an empty log."""
        ...

    @property
    def base_configuration(self) -> bytes:
        """Encoded configuration as of ``first_index - 1``."""
        ...

    def configurations(self) -> Sequence[tuple[LogIndex, bytes]]:
        """Every entry of kind ``CONFIGURATION`` held, in order: its index and data.

        Few: members change rarely.
        """
        ...

    def term(self, index: LogIndex) -> Term:
        """Term of the entry at ``index``, or at ``first_index - 1``; 0 for index 0.

        Raises:
            LookupError: the entry is not held.
        """
        ...

    def entries(
        self, start: LogIndex, end: LogIndex, bytes_max: int
    ) -> tuple[Entry, ...]:
        """Entries in ``[start, end)``, cut before ``bytes_max`` of data is passed.

        At least one entry is returned if the range is not empty, however large it is.
        """
        ...


def assert_appendable(
    before: HardState,
    after: HardState,
    entries: Sequence[Entry],
    *,
    first_index: int,
    last_index: int,
    term: Callable[[LogIndex], Term],
) -> None:
    """Check what is about to replace all from its first entry's index on.

    Hard state ``before`` and a log of ``first_index`` to ``last_index`` are durable;
    ``after`` and ``entries`` are to be. Whoever makes them durable asks: what breaks
    these rules is a defect of the core, and must not reach a disk. O(entries).
    """
    assert after.term >= before.term, "a term never goes back"
    if after.term == before.term and before.vote is not None:
        assert after.vote == before.vote, "one vote a term"
    if not entries:
        return
    first = entries[0].index
    assert first_index <= first <= last_index + 1, "a log has no gaps"
    index, previous_term = first, term(LogIndex(first - 1))
    for entry in entries:
        assert entry.index == index, "entries are consecutive"
        assert entry.term >= previous_term, "terms in a log never go back"
        index, previous_term = LogIndex(index + 1), entry.term
    assert previous_term <= after.term, "no entry comes from a term not yet reached"


ENTRY_OVERHEAD_BYTES = 128
"""What an entry costs in memory beside its data, about: keeps the cache bounded even
if entries are empty."""


class RaftLog:
    """The log as one node knows it: the stable log, and newer entries in memory.

    ::

        index   first ... base | base+1 ... stable | stable+1 ... handed | ... last
        where   storage        | memory, durable   | being written       | to be written

    What precedes ``first`` was compacted: a snapshot stands for it. Memory always holds
    everything that is not known to be durable, and a bounded run of newest durable
    entries before it. ``stable_index <= handed_out_index`` because a
    write that was handed out stays in doubt until :meth:`persisted`; replacing entries
    lowers both, so a write in flight never vouches for what replaced it (the ABA of
    etcd's ``append_aba_race``; mutant M21).
    """

    __slots__ = (
        "_base_index",
        "_base_term",
        "_cached_bytes",
        "_cached_bytes_max",
        "_configurations",
        "_entries",
        "_floor",
        "_storage",
        "handed_out_index",
        "stable_index",
    )

    def __init__(self, storage: StableLog, *, cached_bytes_max: int) -> None:
        last = storage.last_index
        self._storage = storage
        floor = LogIndex(storage.first_index - 1)
        self._floor = EntryId(storage.term(floor), floor)
        self._configurations = [
            (floor, Configuration.decode(storage.base_configuration))
        ]
        for index, data in storage.configurations():
            self._configurations.append((index, Configuration.decode(data)))
        self._base_index = last
        self._base_term = storage.term(last)
        self._entries: list[Entry] = []
        self._cached_bytes = 0
        self._cached_bytes_max = cached_bytes_max
        self.stable_index = last
        """Every entry to here is durable."""
        self.handed_out_index = last
        """Every entry to here is durable or being written."""

    @property
    def first_index(self) -> LogIndex:
        """Of the oldest entry held; ``last_index + 1`` if none is."""
        return LogIndex(self._floor.index + 1)

    @property
    def floor(self) -> EntryId:
        """The last entry that the log does not hold any more."""
        return self._floor

    @property
    def configuration(self) -> Configuration:
        """Of the last configuration entry in the log, else of what precedes it.

        It holds from the moment of its append, committed or not (section 6).
        """
        return self._configurations[-1][1]

    @property
    def configuration_index(self) -> LogIndex:
        """Of the entry that :attr:`configuration` comes from."""
        return self._configurations[-1][0]

    def configuration_at(self, index: LogIndex) -> Configuration:
        """The configuration as of an entry from the floor on."""
        assert index >= self._floor.index
        held = [pair for pair in self._configurations if pair[0] <= index]
        return held[-1][1]

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self._base_index + len(self._entries))

    @property
    def last_id(self) -> EntryId:
        if self._entries:
            entry = self._entries[-1]
            return EntryId(entry.term, entry.index)
        return EntryId(self._base_term, self._base_index)

    @property
    def cached_bytes(self) -> int:
        """Memory that entries take, durable or not."""
        return self._cached_bytes

    def term(self, index: LogIndex) -> Term:
        """Term of an entry, or of the floor. O(1) in memory, else one storage read.

        Raises:
            LookupError: the log does not hold it.
            CorruptionError: the stored entry is damaged.
        """
        position = index - self._base_index - 1
        if position >= 0:
            return self._entries[position].term
        if position == -1:
            return self._base_term
        if index <= self._floor.index:
            if index == self._floor.index:
                return self._floor.term
            raise LookupError(f"entry {index} is compacted")
        return self._storage.term(index)

    def matches(self, entry: EntryId) -> bool:
        """Whether the log holds exactly this entry (section 5.3's consistency check).

        By the log matching property it then agrees with the other log up to here. An
        entry below the floor is committed, as a leader's is: the logs agree on it.
        """
        if entry.index < self._floor.index:
            return True
        return entry.index <= self.last_index and self.term(entry.index) == entry.term

    def latest_within(self, bound: EntryId) -> EntryId:
        """The newest entry at or before ``bound.index`` of at most ``bound.term``.

        Two logs cannot agree on anything newer, which lets both sides of a conflict
        skip whole terms (end of section 5.3). Terms never fall along a log, so this is
        a binary search: O(log n) terms read.
        """
        low = int(self._floor.index)
        high = int(min(bound.index, self.last_index))
        while low < high:
            middle = (low + high + 1) // 2
            if self.term(LogIndex(middle)) <= bound.term:
                low = middle
            else:
                high = middle - 1
        index = LogIndex(low)
        return EntryId(self.term(index), index)

    def entries(
        self, start: LogIndex, end: LogIndex, bytes_max: int
    ) -> tuple[Entry, ...]:
        """Entries from ``start`` on, before ``end`` and about ``bytes_max`` of data.

        At least one if the range is not empty; it may also stop where memory begins.
        O(entries returned).

        Raises:
            LookupError, CorruptionError: as the storage below memory does.
        """
        first = self._base_index + 1
        if start <= self._floor.index:
            raise LookupError(f"entry {start} is compacted")
        if start < first:
            return self._storage.entries(start, LogIndex(min(end, first)), bytes_max)
        cached = self._entries
        low, high = start - first, end - first
        total = 0
        for position in range(low, high):
            total += len(cached[position].data)
            if total > bytes_max and position > low:
                high = position
                break
        return tuple(cached[low:high])

    def append(self, entries: Sequence[Entry]) -> None:
        """Add new entries after the last one."""
        assert entries[0].index == self.last_index + 1
        assert entries[-1].index == self.last_index + len(entries)
        self._entries.extend(entries)
        for entry in entries:
            self._cached_bytes += len(entry.data) + ENTRY_OVERHEAD_BYTES
            if entry.kind is EntryKind.CONFIGURATION:
                configuration = Configuration.decode(entry.data)
                self._configurations.append((entry.index, configuration))

    def first_conflict(self, entries: Sequence[Entry]) -> int:
        """Position of the first of ``entries`` that the log does not hold.

        ``len(entries)`` if it holds them all: then nothing is replaced, however much
        the log holds behind them (section 5.3; mutant M14).
        """
        last, floor = self.last_index, self._floor.index
        for position, entry in enumerate(entries):
            if entry.index <= floor:
                continue  # committed, so it is the same
            if entry.index > last or self.term(entry.index) != entry.term:
                return position
        return len(entries)

    def truncate_after(self, index: LogIndex) -> None:
        """Forget every entry behind ``index``; storage follows when one is written."""
        assert index >= self._floor.index
        configurations = self._configurations
        while configurations[-1][0] > index:
            configurations.pop()
        keep = index - self._base_index
        if keep >= 0:
            dropped = self._entries[keep:]
            del self._entries[keep:]
            self._cached_bytes -= sum(
                len(entry.data) + ENTRY_OVERHEAD_BYTES for entry in dropped
            )
        else:
            self._base_term = self.term(index)
            self._base_index = index
            self._entries.clear()
            self._cached_bytes = 0
        self.stable_index = min(self.stable_index, index)
        self.handed_out_index = min(self.handed_out_index, index)

    def compact_to(self, index: LogIndex) -> None:
        """Forget durable entries up to ``index``; storage follows in its own time.

        From here on they are not asked of storage, which may be deleting them.
        """
        assert self._floor.index <= index <= self.stable_index
        term = self.term(index)
        kept = [pair for pair in self._configurations if pair[0] > index]
        base = self._configurations[len(self._configurations) - len(kept) - 1]
        self._configurations = [base, *kept]
        self._floor = EntryId(term, index)
        if (count := index - self._base_index) > 0:
            for entry in self._entries[:count]:
                self._cached_bytes -= len(entry.data) + ENTRY_OVERHEAD_BYTES
            del self._entries[:count]
            self._base_index, self._base_term = index, term

    def reset(self, snapshot: Snapshot) -> None:
        """Begin anew behind a snapshot: nothing of the log before it stays (M30)."""
        last = snapshot.last
        assert last.index > self._floor.index
        self._floor = last
        self._configurations = [
            (last.index, Configuration.decode(snapshot.configuration))
        ]
        self._base_index, self._base_term = last.index, last.term
        self._entries.clear()
        self._cached_bytes = 0
        self.stable_index = self.handed_out_index = last.index

    @property
    def has_unwritten(self) -> bool:
        """Whether entries wait to be handed out for writing."""
        return self.handed_out_index < self.last_index

    def hand_out(self) -> tuple[Entry, ...]:
        """Every entry that must be written; in doubt until :meth:`persisted`."""
        entries = tuple(self._entries[self.handed_out_index - self._base_index :])
        self.handed_out_index = self.last_index
        return entries

    def persisted(self) -> None:
        """What is handed out, and was not replaced since, is durable."""
        self.stable_index = self.handed_out_index
        if self._cached_bytes > self._cached_bytes_max:
            self._evict()

    def _evict(self) -> None:
        # An eighth more than needed, so that the list is shifted rarely.
        target = self._cached_bytes_max * 7 // 8
        evictable = self.stable_index - self._base_index
        count = 0
        while count < evictable and self._cached_bytes > target:
            entry = self._entries[count]
            self._cached_bytes -= len(entry.data) + ENTRY_OVERHEAD_BYTES
            count += 1
        if count:
            last = self._entries[count - 1]
            self._base_index, self._base_term = last.index, last.term
            del self._entries[:count]
