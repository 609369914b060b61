"""A closed-loop load of puts from one asyncio client, measured in rounds.

``in_flight`` workers each keep one put outstanding. The load is the same code for
every store: only the ``put`` function differs.
"""

import asyncio
import itertools
import os
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kvcluster.bench.statistics import percentile
from kvcluster.process import machine_cpu_seconds

Put = Callable[[bytes, bytes], Awaitable[object]]
"""Writes one key. Acknowledged if it returns anything but None."""

ERROR_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round measured. Latencies are of puts acknowledged in the round."""

    seconds: float
    operations: int
    """Acknowledged puts."""
    p50_ms: float
    p99_ms: float
    longest_ms: float
    errors: int
    error_kinds: tuple[str, ...]
    server_cpu_seconds: float
    client_cpu_seconds: float
    other_cpu_seconds: float
    """Of everything else on the machine, interrupts included."""

    @property
    def ops_per_second(self) -> float:
        return self.operations / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A load: a warm-up that is not counted, then rounds without a pause."""

    in_flight: int
    value_bytes: int
    rounds: int
    round_s: float
    warm_up_s: float


class _Bucket:
    """Collects one round. Mutable and plain: it is touched once for every put."""

    __slots__ = ("errors", "latencies_s")

    def __init__(self) -> None:
        self.latencies_s = array("d")
        self.errors: Counter[str] = Counter()


class Load:
    """One run of a plan against one store. Use once."""

    def __init__(
        self,
        put: Put,
        plan: Plan,
        *,
        failures: tuple[type[Exception], ...],
        server_cpu_seconds: Callable[[], float],
        on_round: Callable[[Round], None] = lambda _round: None,
    ) -> None:
        """``failures`` are the errors of the store: counted, anything else raises.

        ``server_cpu_seconds`` reads the CPU time of all server processes so far.
        ``on_round`` is called between rounds, while the load runs on.
        """
        self._put = put
        self._plan = plan
        self._failures = failures
        self._server_cpu_seconds = server_cpu_seconds
        self._on_round = on_round
        self._bucket = _Bucket()
        self._running = True
        # Every put writes a key of its own, in an order that no store can profit from
        # more than another; the prefix keeps the runs of one bench apart.
        self._prefix = os.urandom(4).hex().encode()
        self._numbers = itertools.count()
        self._value = os.urandom(plan.value_bytes)

    async def run(self) -> list[Round]:
        """Run the load. Errors of the store are counted, and do not end it."""
        workers = [
            asyncio.create_task(self._work()) for _ in range(self._plan.in_flight)
        ]
        rounds = []
        try:
            await _all_well_for(self._plan.warm_up_s, workers)
            for _ in range(self._plan.rounds):
                rounds.append(await self._measure(workers))
                self._on_round(rounds[-1])
        finally:
            self._running = False
            # Workers end after the put they have in flight; nobody is cancelled in it.
            await asyncio.gather(*workers)
        return rounds

    async def _measure(self, workers: list[asyncio.Task[None]]) -> Round:
        bucket = self._bucket = _Bucket()
        server_before = self._server_cpu_seconds()
        client_before = time.process_time()
        machine_before = machine_cpu_seconds()
        start = time.perf_counter()
        await _all_well_for(self._plan.round_s, workers)
        seconds = time.perf_counter() - start
        client_cpu = time.process_time() - client_before
        server_cpu = self._server_cpu_seconds() - server_before
        machine_cpu = machine_cpu_seconds() - machine_before
        # What comes in from here on belongs to the next round.
        self._bucket = _Bucket()
        latencies = sorted(bucket.latencies_s)
        return Round(
            seconds=seconds,
            operations=len(latencies),
            p50_ms=percentile(latencies, 0.50) * 1e3,
            p99_ms=percentile(latencies, 0.99) * 1e3,
            longest_ms=(latencies[-1] if latencies else 0.0) * 1e3,
            errors=bucket.errors.total(),
            error_kinds=tuple(sorted(bucket.errors)),
            server_cpu_seconds=server_cpu,
            client_cpu_seconds=client_cpu,
            # The readings differ by clock ticks, so never quite zero.
            other_cpu_seconds=max(0.0, machine_cpu - client_cpu - server_cpu),
        )

    async def _work(self) -> None:
        put, value, numbers = self._put, self._value, self._numbers
        prefix, clock, failures = self._prefix, time.perf_counter, self._failures
        while self._running:
            key = b"bench/%s/%012d" % (prefix, next(numbers))
            start = clock()
            try:
                acknowledged = await put(key, value)
            except failures as error:
                self._bucket.errors[type(error).__name__] += 1
                # A store that is away must not be asked in a busy loop.
                await asyncio.sleep(ERROR_PAUSE_S)
                continue
            if acknowledged is None:
                self._bucket.errors["NoAnswer"] += 1
            else:
                self._bucket.latencies_s.append(clock() - start)


async def _all_well_for(seconds: float, workers: list[asyncio.Task[None]]) -> None:
    """Let the load run. Raises what a worker raised, at once."""
    if seconds <= 0:
        return
    done, _ = await asyncio.wait(
        workers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION
    )
    for worker in done:
        worker.result()
