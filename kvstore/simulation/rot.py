"""A log on a medium that loses what it was given."""

from __future__ import annotations

from typing import Self

from kvstore.errors import CorruptionError
from kvstore.raft.messages import Entry
from kvstore.storage.memory_log import MemoryLog
from kvstore.types import LogIndex


class RottenLog(MemoryLog):
    """A log in memory of which some entries cannot be read.

    Their terms still can: on disk they are in headers of their own.
    """

    __slots__ = ("_rotten",)

    _rotten: set[int]

    def rot(self, index: int) -> None:
        """From now on the entry's checksum does not fit."""
        if not hasattr(self, "_rotten"):
            self._rotten = set()
        self._rotten.add(index)

    def entries(
        self, start: LogIndex, end: LogIndex, bytes_max: int
    ) -> tuple[Entry, ...]:
        entries = super().entries(start, end, bytes_max)
        for entry in entries if hasattr(self, "_rotten") else ():
            if entry.index in self._rotten:
                raise CorruptionError(
                    f"entry {entry.index} does not fit its checksum", store="raft"
                )
        return entries

    def clone(self) -> Self:
        raise NotImplementedError  # nobody copies a damaged log
