"""Leases, by clocks that run at different rates or are set by somebody."""

import random
import time
from pathlib import Path

from kvstore.config import Config
from kvstore.pb import kv_pb2
from kvstore.server.node import Node
from kvstore.server.settings import replica_options
from kvstore.simulation.mutants.noticing import require
from kvstore.simulation.mutants.scenarios.bench import Bench
from kvstore.types import NodeId


def lease_allows_for_slow_clocks() -> None:
    """The clock of a leader, which is cut off, runs at four fifths of the others'.
    These elect another as early as can be, by the settings of a server.
    """
    options = replica_options(Config(data_dir=Path()))
    bench = Bench(options, leases=True, make_random=_patience)
    leader, next_leader = bench.seats[NodeId(3)], bench.seats[NodeId(2)]
    while not leader.up.raft.has_lease:
        bench.tick(1, 2, 3)
    bench.cut = {3}
    while not next_leader.up.raft.is_leader:
        bench.tick(1, 2)
        bench.fall_behind(3, 2)
    bench.write(2, "a")
    bench.judge(2)
    bench.read(3, kv_pb2.ReadOptions(consistency=kv_pb2.LEASE))


def _patience(name: str) -> random.Random:
    """3 leads first, 2 is the next to lose patience, and 1 is never."""
    return {"3/1": _Drawn(0), "2/1": _Drawn(1)}.get(name, _Drawn(1 << 30))


class _Drawn(random.Random):
    """Always draws the same, or the highest that it may."""

    def __init__(self, drawn: int) -> None:
        super().__init__(drawn)
        self._drawn = drawn

    def randrange(  # type: ignore[override]  # the core draws only so
        self, stop: int
    ) -> int:
        return min(self._drawn, stop - 1)


def clock_is_nobodys_to_set() -> None:
    """Somebody sets the clock of a machine back by an hour."""
    wall_clock = time.time_ns
    before = Node.now_ms()
    time.time_ns = lambda: wall_clock() - 3_600_000_000_000
    try:
        require(
            Node.now_ms() >= before,
            "a clock that leases are counted by goes back (LIN)",
        )
    finally:
        time.time_ns = wall_clock
