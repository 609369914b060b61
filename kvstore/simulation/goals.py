"""Rare states that a batch of seeds must really reach: else its silence says little.

A run without violations proves nothing about what never happened in it. So each state
that a bug could hide in is a goal (Antithesis calls them "sometimes assertions"), with
the share of seeds that it is reached in at least. The shares are far below what is
measured, a third at most: what fails is a state that is hardly reached any more, after
a change to the simulator or to what it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore.simulation.run import Outcome

DEMANDED_FROM_SEEDS = 200
"""Fewer say too little about what is rare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One rare state."""

    name: str
    per_thousand: int
    """Of so many seeds, in how many it must be reached: 1 to 1,000."""
    times: Callable[[Outcome], int]
    """How often one run was there."""

    def least(self, seeds: int) -> int:
        """In how many of ``seeds`` it must be reached; 0 of fewer than 200."""
        if seeds < DEMANDED_FROM_SEEDS:
            return 0
        return max(1, self.per_thousand * seeds // 1_000)


def _goal(name: str, per_thousand: int, key: str = "") -> Goal:
    """Counted by the run itself, as ``key`` or under its name."""
    counted = key or name
    return Goal(
        name=name,
        per_thousand=per_thousand,
        times=lambda outcome: outcome.reached[counted],
    )


GOALS: tuple[Goal, ...] = (
    _goal("a snapshot was installed", 100),
    _goal("a repeated command was answered", 300),
)
