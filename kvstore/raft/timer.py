"""When a node loses patience with its leader: randomised, and hurried by evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.raft.options import RaftOptions

if TYPE_CHECKING:
    import random


class ElectionTimer:
    """Ticks of silence, and how many of them start a campaign.

    Normally a draw from [T, 2T) (dissertation section 9.3), new for every campaign:
    candidates that split a vote must not stay in step. After evidence that the leader
    is gone the draws come from [1, E], then [1, 2E], [1, 4E]... until that reaches T:
    the first may come too early for a peer that has not seen the evidence yet, and
    two nodes that saw it at once must drift apart.
    """

    __slots__ = (
        "_draw_ticks_max",
        "_evidence_ticks_max",
        "_random",
        "_timeout_ticks",
        "campaign_at_ticks",
        "elapsed_ticks",
    )

    def __init__(self, options: RaftOptions, random: random.Random) -> None:
        self._timeout_ticks = options.election_timeout_ticks
        self._evidence_ticks_max = options.evidence_election_ticks_max
        self._random = random
        self._draw_ticks_max: int | None = None
        self.elapsed_ticks = 0
        """Since the leader was heard, a vote given, or a campaign started."""
        self.campaign_at_ticks = 0
        self.restart()

    @property
    def hurried(self) -> bool:
        """There is evidence that the leader is gone."""
        return self._draw_ticks_max is not None

    def restart(self) -> None:
        """Count from zero to a new draw."""
        self.elapsed_ticks = 0
        self.campaign_at_ticks = self._draw()

    def leader_heard(self) -> None:
        """Count from zero; evidence against the leader is void."""
        self.elapsed_ticks = 0
        if self._draw_ticks_max is not None:
            self._draw_ticks_max = None
            self.campaign_at_ticks = self._draw()

    def hurry(self) -> None:
        """The leader seems to be gone: campaign soon."""
        self._draw_ticks_max = self._evidence_ticks_max
        soon = self.elapsed_ticks + self._draw()
        self.campaign_at_ticks = min(self.campaign_at_ticks, soon)

    def tick(self) -> bool:
        """A tick passed. Whether to campaign."""
        self.elapsed_ticks += 1
        return self.elapsed_ticks >= self.campaign_at_ticks

    def _draw(self) -> int:
        bound = self._draw_ticks_max
        if bound is not None and bound < self._timeout_ticks:
            self._draw_ticks_max = bound * 2
            return self._random.randint(1, bound)
        return self._timeout_ticks + self._random.randrange(self._timeout_ticks)
