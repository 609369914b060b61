"""What the network does to messages: when each arrives, if at all, and how often."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kvstore.simulation.swarm import Fault, Swarm
from kvstore.types import NodeId

if TYPE_CHECKING:
    import random

    from kvstore.raft.messages import Message

LEAST_US = 50
"""No message is faster."""
SLOW_FACTOR = 100
SLOW_US_MAX = 50_000
"""Half an election timeout: of a message that others wait behind."""
REMEMBERED = 256
"""Messages that may come a second time, long after."""

Link = tuple[NodeId, NodeId]


class Network:
    """Links between all members, each way its own."""

    __slots__ = (
        "_broken",
        "_cuts",
        "_delay_rate",
        "_last",
        "_old",
        "_parted",
        "_random",
        "_swarm",
        "is_calm",
    )

    def __init__(self, swarm: Swarm, random: random.Random) -> None:
        self._swarm = swarm
        self._random = random
        self._delay_rate = 1 / swarm.delay_us
        self._cuts: dict[Link, int] = {}
        self._parted: frozenset[Link] = frozenset()
        self._broken: dict[Link, int] = {}
        self._last: dict[Link, int] = {}
        self._old: deque[Message] = deque(maxlen=REMEMBERED)
        self.is_calm = False
        """The faults are over."""

    # --------------------------------------------------------------------- cuts

    def cut(self, links: list[Link]) -> None:
        """Lose everything on these until they are mended, each as often as cut."""
        for link in links:
            self._cuts[link] = self._cuts.get(link, 0) + 1

    def mend(self, links: list[Link]) -> None:
        """Take back one cut of each."""
        for link in links:
            if link in self._cuts:
                self._cuts[link] -= 1
                if not self._cuts[link]:
                    del self._cuts[link]

    def settle(self, parted: list[Link]) -> None:
        """The faults are over: nothing is lost any more, but what is parted for ever.

        Cuts of before may be mended still, which changes nothing.
        """
        self.is_calm = True
        self._parted = frozenset(parted)

    def is_cut(self, link: Link) -> bool:
        """Whether all on it is lost now."""
        return link in (self._parted if self.is_calm else self._cuts)

    def break_links(self, a: NodeId, b: NodeId) -> None:
        """What is under way between two is lost: their connections broke."""
        for link in ((a, b), (b, a)):
            self._broken[link] = self._broken.get(link, 0) + 1

    def generation(self, link: Link) -> int:
        """Of the connection: what was sent over an earlier one does not arrive."""
        return self._broken.get(link, 0)

    # ----------------------------------------------------------------- messages

    def delays_us(self, link: Link, now_us: int, *, ordered: bool) -> tuple[int, ...]:
        """How long until a message arrives: never, once, or more often.

        ``ordered``: as a stream does it, which does not double either.
        """
        swarm, chance = self._swarm, self._random.random
        if self.is_cut(link):
            return ()
        if not self.is_calm and swarm.loss and chance() < swarm.loss:
            return ()
        first = self._delay_us()
        if ordered or Fault.REORDERING not in swarm.faults:
            first = max(first, self._last.get(link, 0) - now_us)
            self._last[link] = now_us + first
        may_double = not (ordered or self.is_calm)
        if may_double and swarm.duplication and chance() < swarm.duplication:
            return first, self._delay_us() * 3
        return (first,)

    def _delay_us(self) -> int:
        delay_us = LEAST_US + int(self._random.expovariate(self._delay_rate))
        slow = self._swarm.slow_message
        if slow and not self.is_calm and self._random.random() < slow:
            delay_us *= SLOW_FACTOR
            if Fault.REORDERING not in self._swarm.faults:
                # All that follows on the link waits as long: no leader would last.
                delay_us = min(delay_us, SLOW_US_MAX)
        return delay_us

    def remember(self, message: Message) -> None:
        """A message may come again."""
        self._old.append(message)

    def recall(self) -> Message | None:
        """One that was sent long ago, or None if there is none."""
        return self._random.choice(self._old) if self._old else None
