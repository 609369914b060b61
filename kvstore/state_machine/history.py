"""When a leader gives up history by itself, and up to where.

After etcd's ``--auto-compaction-mode``, which is either by revision or periodic. Here
both can be set, and what one of them keeps is kept. Pure: the time is an argument.
"""

from collections import deque
from dataclasses import dataclass

from kvstore.errors import ConfigError
from kvstore.types import Revision

HISTORY_INTERVAL_S = 60.0
"""Default of ``HistoryPolicy.interval_s``. etcd: 5 minutes by revision, an hour or less
by time; here a compaction costs the entries that follow it a bounded share each."""

SAMPLES_MAX = 100
"""Moments remembered: history is kept for up to a hundredth of ``keep_s`` longer than
was asked for, or for an interval if that is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPolicy:
    """How much history stays. With neither set, all of it.

    Raises:
        ConfigError: a number makes no sense. Definite.
    """

    keep_revisions: int | None = None
    """This many revisions before the newest can be read."""
    keep_s: float | None = None
    """What was the newest revision within so many seconds can be read. A new leader
    knows no time before its own, so history may stay for longer after an election."""
    interval_s: float = HISTORY_INTERVAL_S
    """Seconds between two compactions, at least."""

    def __post_init__(self) -> None:
        if self.keep_revisions is not None and self.keep_revisions < 0:
            raise ConfigError("keep_revisions must be at least 0")
        # Written so that "not a number" is refused, too.
        if self.keep_s is not None and not 0 <= self.keep_s < float("inf"):
            raise ConfigError("keep_s must be at least 0, and finite")
        if not 0 < self.interval_s < float("inf"):
            raise ConfigError("interval_s must be more than 0, and finite")

    @property
    def is_on(self) -> bool:
        """Whether anything is ever compacted."""
        return self.keep_revisions is not None or self.keep_s is not None


class History:
    """Follows the store's revision on a leader, and says what can be given up.

    Made anew when a node becomes leader.
    """

    __slots__ = ("_due_s", "_policy", "_sampled_s", "_samples")

    def __init__(self, policy: HistoryPolicy) -> None:
        self._policy = policy
        # (second, the newest revision then), oldest first.
        self._samples: deque[tuple[float, Revision]] = deque()
        self._sampled_s = float("-inf")
        self._due_s = float("-inf")

    def observe(
        self, now_s: float, *, revision: Revision, compact_revision: Revision
    ) -> Revision | None:
        """Note the store's newest revision; returns the one to compact to, if any.

        Call it now and then, more often than ``interval_s``. ``now_s`` is of a clock
        that never goes back. What it returns is above ``compact_revision``, is not
        returned again before ``interval_s`` have passed, and may be lost: the next one
        makes up for it.
        """
        policy = self._policy
        if not policy.is_on:
            return None
        wanted = revision
        if policy.keep_revisions is not None:
            wanted = min(wanted, Revision(revision - policy.keep_revisions))
        if policy.keep_s is not None:
            self._sample(now_s, revision, policy.keep_s)
            wanted = min(wanted, self._newest_before(now_s - policy.keep_s))
        if wanted <= compact_revision or now_s < self._due_s:
            return None
        self._due_s = now_s + policy.interval_s
        return wanted

    def _sample(self, now_s: float, revision: Revision, keep_s: float) -> None:
        if now_s >= self._sampled_s + keep_s / SAMPLES_MAX:
            self._samples.append((now_s, revision))
            self._sampled_s = now_s

    def _newest_before(self, until_s: float) -> Revision:
        """The last revision seen by then; 0 if none was. Older ones are forgotten."""
        samples = self._samples
        while len(samples) > 1 and samples[1][0] <= until_s:
            samples.popleft()
        return samples[0][1] if samples and samples[0][0] <= until_s else _NONE


_NONE = Revision(0)
