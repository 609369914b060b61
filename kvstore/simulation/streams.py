"""Chance from one seed, in streams that do not disturb each other.

A stream for each kind of thing that can happen: to take one fault out of a run leaves
what the others draw as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    MakeRandom = Callable[[str], random.Random]
    """``random.Random``: this package draws nothing that it was not handed."""


class Streams:
    """All chance of one run."""

    __slots__ = (
        "_make",
        "clock",
        "disk",
        "network",
        "seed",
        "swarm",
        "workload",
    )

    def __init__(self, seed: int, make: MakeRandom) -> None:
        self.seed = seed
        self._make = make
        self.swarm = self.make("swarm")
        """Which faults there are, and how bad."""
        self.network = self.make("network")
        self.disk = self.make("disk")
        self.clock = self.make("clock")
        self.workload = self.make("workload")

    def make(self, name: str) -> random.Random:
        """A stream of its own, the same whenever it is asked for."""
        return self._make(f"{self.seed}/{name}")
