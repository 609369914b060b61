"""How long writes stand still when the leader is lost.

One client that knows every endpoint writes small puts, one after another, without end.
In each round the leader suffers a fault at a random moment; then everything is healed
and has caught up before the next round. What counts is the time from the fault to the
first acknowledgement of a put that was *issued after* the fault: a put that was in
flight may have been answered by the leader that is gone. When a put's outcome is
unknown the writer goes on with the next.
"""

import asyncio
import dataclasses
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import kvstore
from kvcluster.bench.statistics import median, percentile
from kvcluster.errors import NotReady
from kvcluster.local import LocalCluster
from kvcluster.scratch import Scratch, scratch_directory
from kvcluster.signals import uninterrupted
from kvstore.cli.output import Json
from kvstore.config import Config
from kvstore.errors import KVStoreError
from kvstore.event_loop import new_event_loop

DEFINITION = (
    "time from the fault to the first acknowledgement of a put issued after it, "
    "by one client writing sequentially"
)
ROUND_TIMEOUT_S = 60.0
QUIET_S = (0.3, 1.3)
"""The fault strikes this long after the cluster was seen whole, at random."""
UNAVAILABLE_PAUSE_S = 0.002


class Fault(StrEnum):
    """What happens to the leader."""

    KILL = "kill"
    """SIGKILL: its connections are reset, and it comes back from its disk."""
    PAUSE = "pause"
    """SIGSTOP: its connections stay open, and it says nothing."""
    PARTITION = "partition"
    """Cut off from its peers; clients still reach it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run the benchmark."""

    fault: Fault = Fault.KILL
    rounds: int = 20
    nodes: int = 3
    seed: int = 0
    scratch_parent: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outages, in the order of the rounds."""

    options: Options
    scratch: Scratch
    outages_ms: tuple[float, ...]
    acknowledged: int
    errors: Counter[str]
    """Of the writer, by class."""
    election_timeout_ms: int
    heartbeat_interval_ms: int

    @property
    def median_ms(self) -> float:
        return median(self.outages_ms)

    @property
    def p90_ms(self) -> float:
        return percentile(sorted(self.outages_ms), 0.9)

    @property
    def max_ms(self) -> float:
        return max(self.outages_ms)

    def as_json(self) -> dict[str, Json]:
        """The document of ``bench failover --json``."""
        return {
            "benchmark": "failover",
            "fault": str(self.options.fault),
            "median_ms": round(self.median_ms, 1),
            "p90_ms": round(self.p90_ms, 1),
            "max_ms": round(self.max_ms, 1),
            "min_ms": round(min(self.outages_ms), 1),
            "rounds": [round(outage, 1) for outage in self.outages_ms],
            "definition": DEFINITION,
            "election_timeout_ms": self.election_timeout_ms,
            "heartbeat_interval_ms": self.heartbeat_interval_ms,
            "nodes": self.options.nodes,
            "seed": self.options.seed,
            "acknowledged": self.acknowledged,
            "errors": dict(self.errors),
            "filesystem": self.scratch.filesystem,
        }


class Writer:
    """Puts, one after another, until cancelled."""

    def __init__(self, client: kvstore.AsyncClient) -> None:
        self._client = client
        self._waiting: tuple[float, asyncio.Future[float]] | None = None
        self.acknowledged = 0
        self.errors: Counter[str] = Counter()

    async def run(self) -> None:
        for number in itertools.count():
            issued = time.perf_counter()
            try:
                await self._client.put(b"bench/%d" % (number % 1000), b"%d" % number)
            except KVStoreError as error:
                self.errors[type(error).__name__] += 1
                if error.definite:
                    # Nobody leads; an unknown outcome took its time already.
                    await asyncio.sleep(UNAVAILABLE_PAUSE_S)
            else:
                self._note_acknowledged(issued)

    def acknowledged_after(self, instant: float) -> asyncio.Future[float]:
        """When the first put issued after ``instant`` is acknowledged, as a time."""
        future = asyncio.get_running_loop().create_future()
        self._waiting = (instant, future)
        return future

    def _note_acknowledged(self, issued: float) -> None:
        self.acknowledged += 1
        if self._waiting is not None and issued >= self._waiting[0]:
            _, future = self._waiting
            self._waiting = None
            if not future.done():
                future.set_result(time.perf_counter())


OnRound = Callable[[int, float], None]
"""Gets the number of the round, from 1, and its outage in milliseconds."""


def run(options: Options, on_round: OnRound) -> Report:
    """Measure. Leaves neither a process nor a directory behind.

    Raises ClusterError, NotReady among them if writes do not come back in a minute.
    """
    with scratch_directory("kvstore-bench-", parent=options.scratch_parent) as scratch:
        cluster = LocalCluster.create(
            scratch.directory / "cluster",
            nodes=options.nodes,
            proxied=options.fault is Fault.PARTITION,
        )
        try:
            cluster.start()
            cluster.wait_for_leader()
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                writer, outages = runner.run(_measure(cluster, options, on_round))
        finally:
            with uninterrupted():
                cluster.stop(grace_s=1.0)
        return Report(
            options=options,
            scratch=scratch,
            outages_ms=tuple(outages),
            acknowledged=writer.acknowledged,
            errors=writer.errors,
            election_timeout_ms=_default("election_timeout_ms"),
            heartbeat_interval_ms=_default("heartbeat_interval_ms"),
        )


async def _measure(
    cluster: LocalCluster, options: Options, on_round: OnRound
) -> tuple[Writer, list[float]]:
    draw = random.Random(options.seed)
    outages: list[float] = []
    async with kvstore.AsyncClient(list(cluster.endpoints)) as client:
        writer = Writer(client)
        writing = asyncio.create_task(writer.run())
        try:
            for number in range(1, options.rounds + 1):
                await asyncio.to_thread(cluster.wait_caught_up)
                await _acknowledged(writer, writing, time.perf_counter())
                await asyncio.sleep(draw.uniform(*QUIET_S))
                leader = await asyncio.to_thread(cluster.wait_for_leader)
                strike = _strike(cluster, options.fault, leader.node_id)
                # In this very thread: nothing is issued between the two readings, so
                # that no put counts that the leader could still have answered.
                fault_at = time.perf_counter()
                strike()
                struck_at = time.perf_counter()
                back_at = await _acknowledged(writer, writing, struck_at)
                outages.append((back_at - fault_at) * 1e3)
                on_round(number, outages[-1])
                await asyncio.to_thread(_heal, cluster, options.fault, leader.node_id)
        finally:
            writing.cancel()
            await asyncio.wait([writing])
    return writer, outages


async def _acknowledged(
    writer: Writer, writing: asyncio.Task[None], instant: float
) -> float:
    """Raises what ended the writer, or NotReady after a minute."""
    acknowledged = writer.acknowledged_after(instant)
    both: list[asyncio.Future[float] | asyncio.Task[None]] = [acknowledged, writing]
    done, _ = await asyncio.wait(
        both,
        timeout=ROUND_TIMEOUT_S,
        return_when=asyncio.FIRST_COMPLETED,
    )
    if writing in done:
        writing.result()
    if acknowledged not in done:
        raise NotReady(
            f"no put was acknowledged for {ROUND_TIMEOUT_S:g} s",
            advice="Look at the nodes' logs: is the disk full?",
        )
    return acknowledged.result()


def _strike(cluster: LocalCluster, fault: Fault, node_id: int) -> Callable[[], None]:
    """What makes the fault happen, in about a millisecond, done when it returns."""
    process = cluster.process(node_id)

    def kill() -> None:
        process.signal(signal.SIGKILL)

    def pause() -> None:
        process.signal(signal.SIGSTOP)
        while process.is_alive() and not process.is_paused():
            pass

    def isolate() -> None:
        cluster.isolate(node_id)

    match fault:
        case Fault.KILL:
            return kill
        case Fault.PAUSE:
            return pause
        case Fault.PARTITION:
            return isolate


def _default(name: str) -> int:
    """What a node runs with that was told nothing."""
    value = next(f.default for f in dataclasses.fields(Config) if f.name == name)
    assert isinstance(value, int)
    return value


def _heal(cluster: LocalCluster, fault: Fault, node_id: int) -> None:
    match fault:
        case Fault.KILL:
            cluster.restart(node_id)
        case Fault.PAUSE:
            cluster.resume(node_id)
        case Fault.PARTITION:
            cluster.heal()
