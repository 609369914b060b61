"""When the log is cut short, and where: by size, behind a durable state.

A log entry is needed until the state it led to is durable here; beyond that it only
spares a slow peer a snapshot. So a trailing part stays, and what follows a snapshot
that is on its way to a peer: were it cut there, the snapshot would be of no use on
arrival (cockroach#8639).
"""

from collections import deque

from kvstore.types import LogIndex

MARKS = 64
"""The trailing part is measured in so many steps to the log's bound."""


class LogCompaction:
    """Follows a log's growth, and says up to where it may be forgotten."""

    __slots__ = (
        "_base_bytes",
        "_held",
        "_last_hold",
        "_mark_bytes",
        "_marks",
        "_max_bytes",
        "_sync_at_bytes",
        "_syncing",
        "_total_bytes",
        "_trailing_bytes",
    )

    def __init__(self, *, size_bytes: int, max_bytes: int, trailing_bytes: int) -> None:
        """``size_bytes``: of the log as it is found, about."""
        assert trailing_bytes <= max_bytes
        self._max_bytes = max_bytes
        self._mark_bytes = max_bytes // MARKS
        self._trailing_bytes = trailing_bytes
        self._base_bytes = 0
        """Of everything forgotten, in the same count as ``_total_bytes``."""
        self._total_bytes = size_bytes
        # (index, bytes up to there), oldest first: candidates for the new beginning.
        self._marks: deque[tuple[LogIndex, int]] = deque()
        self._syncing = False
        self._sync_at_bytes = max_bytes
        """Not before so many in all: a sync that cut nothing is not worth repeating."""
        self._last_hold = 0
        self._held: dict[int, LogIndex] = {}

    def handed_out(self, index: LogIndex, size: int) -> None:
        """Entries to ``index``, of ``size`` bytes together, go to the state machine."""
        self._total_bytes += size
        if (
            not self._marks
            or self._total_bytes - self._marks[-1][1] >= self._mark_bytes
        ):
            self._marks.append((index, self._total_bytes))

    def hold(self, index: LogIndex) -> int:
        """Keep what follows ``index`` until :meth:`release` is told this number."""
        self._last_hold += 1
        self._held[self._last_hold] = index
        return self._last_hold

    def release(self, hold: int) -> None:
        """What :meth:`hold` kept is not needed any more. Once."""
        del self._held[hold]

    def begin(self) -> bool:
        """Whether the log is too large, so that the state should be made durable now.

        Answered by :meth:`synced`; until then it is asked only once.
        """
        if self._syncing or self._total_bytes <= self._sync_at_bytes:
            return False
        self._syncing = True
        return True

    def synced(self, index: LogIndex) -> LogIndex | None:
        """The state to ``index`` is durable: the last entry to forget, if any."""
        self._syncing = False
        bound = min([index, *self._held.values()])
        target: tuple[LogIndex, int] | None = None
        while self._marks:
            at, size = self._marks[0]
            if at > bound or self._total_bytes - size < self._trailing_bytes:
                break
            target = self._marks.popleft()
        if target is not None:
            self._base_bytes = target[1]
        self._sync_at_bytes = max(
            self._base_bytes + self._max_bytes, self._total_bytes + self._mark_bytes
        )
        return None if target is None else target[0]

    def installed(self) -> None:
        """A snapshot replaced the log: it is empty."""
        self._marks.clear()
        self._base_bytes = self._total_bytes
        self._sync_at_bytes = self._base_bytes + self._max_bytes
