"""The log as the core sees it: a stable part it can only read, and an unstable tail."""

from typing import Protocol

from kvstore.raft.messages import Entry
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

    def term(self, index: LogIndex) -> Term:
        """Term of the entry at ``index``; 0 for index 0.

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
