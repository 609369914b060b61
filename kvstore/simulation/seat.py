"""A member's place in the world: its clock, whether it is up, what befell its disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvstore.raft.membership import Configuration
from kvstore.replica.replica import Replica

if TYPE_CHECKING:
    from kvstore.simulation.member import SimMember


class Seat:
    """Of one data directory, whatever process runs on it."""

    __slots__ = (
        "_base_local_us",
        "_base_us",
        "disk_fails",
        "disk_is_full",
        "founding",
        "inbox",
        "is_dead",
        "is_paused",
        "is_removed",
        "is_spoiled",
        "is_wiped",
        "is_working",
        "member",
        "missed_ticks",
        "rate",
        "stalled_until_us",
    )

    def __init__(self, member: SimMember, founding: Configuration) -> None:
        self.member = member
        self.founding = founding
        """What its directory was set up with."""
        self.inbox: deque[Callable[[], None]] = deque()
        """What reached it while it was paused."""
        self.is_paused = False
        self.is_working = False
        """Its state machine is at it."""
        self.missed_ticks = 0
        self.is_removed = False
        """The cluster took it out, and it ended."""
        self.is_spoiled = False
        """Its disk lost or damaged what it had promised: it must be replaced."""
        self.is_wiped = False
        """Its directory is another than the cluster knows."""
        self.is_dead = False
        """It cannot start any more."""
        self.disk_fails = False
        """The next write fails."""
        self.disk_is_full = False
        self.stalled_until_us = 0
        """No write ends before."""
        self.rate = 1.0
        self._base_us = 0
        self._base_local_us = 0

    @property
    def is_up(self) -> bool:
        return self.member.replica is not None

    @property
    def replica(self) -> Replica:
        """Of a member that is up."""
        replica = self.member.replica
        assert replica is not None
        return replica

    def is_meant_by(self, peer: SimMember) -> bool:
        """Whether a peer speaks to this data directory: not to one that was lost."""
        known = peer.configuration.members.get(self.member.node_id)
        return known is None or known.incarnation == self.member.incarnation

    def ended(self) -> None:
        """The process is gone, and what waited for it."""
        self.inbox.clear()
        self.is_paused = self.is_working = False
        self.missed_ticks = 0

    # -------------------------------------------------------------------- clock

    def clock_ms(self, now_us: int) -> int:
        """What its clock shows; it never goes back."""
        passed = int((now_us - self._base_us) * self.rate)
        clock_ms = (self._base_local_us + passed) // 1_000
        self.member.clock_ms = max(self.member.clock_ms, clock_ms)
        return self.member.clock_ms

    def set_rate(self, rate: float, now_us: int) -> None:
        """From now on its clock runs at another rate."""
        self._base_local_us += int((now_us - self._base_us) * self.rate)
        self._base_us = now_us
        self.rate = rate

    def jump(self, duration_us: int) -> None:
        """Its clock jumps forward, as when the machine slept."""
        self._base_local_us += duration_us

    def moment_us(self, clock_ms: int) -> int:
        """When its clock showed this: not later, if it jumped since."""
        return self._base_us + int((clock_ms * 1_000 - self._base_local_us) / self.rate)
