"""Virtual time: what happens next, and when."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Agenda:
    """One heap of things to come. Those of one moment happen in the order given."""

    __slots__ = ("_count", "_heap", "now_us")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Action]] = []
        self._count = 0
        self.now_us = 0
        """Microseconds since the run began."""

    def after(self, delay_us: int, action: Action) -> None:
        """Have something happen ``delay_us`` from now; 0 or more."""
        assert delay_us >= 0
        self._count += 1
        heapq.heappush(self._heap, (self.now_us + delay_us, self._count, action))

    def next(self) -> Action | None:
        """Go to the next thing on the agenda; None if there is none."""
        if not self._heap:
            return None
        self.now_us, _, action = heapq.heappop(self._heap)
        return action
