"""What a large store costs: a restart, a new member, memory.

Three nodes are loaded with many keys. Then, each time under the same load of writes: a
follower is restarted, and has to serve a linearizable read again; an empty node joins,
and has to catch up by snapshot; the same bytes are copied over loopback by gRPC alone,
from process to process and from disk to disk, for comparison. Meanwhile the memory of
every node that no file backs is watched.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import kvstore
from kvcluster.bench.copying import copy_over_grpc
from kvcluster.bench.memory import MemoryWatch
from kvcluster.bench.statistics import percentile
from kvcluster.errors import NotReady
from kvcluster.local import PROGRAM, LocalCluster
from kvcluster.process import spawn, stop_all
from kvcluster.scratch import Scratch, scratch_directory
from kvcluster.topology import LOOPBACK, free_ports
from kvstore.cli.output import Json
from kvstore.errors import KVStoreError
from kvstore.event_loop import new_event_loop
from kvstore.founding import join

MIB = 1 << 20
NODES = 3
RESTART_S_MAX = 2.0
CATCH_UP_MB_PER_SECOND_MIN = 50.0
CATCH_UP_RATIO_MIN = 0.5
ANONYMOUS_BYTES_MAX = 300 * 10**6
LOAD_IN_FLIGHT = 1_024
WRITERS = 32
"""Write without a pause while restarts and joins are measured."""
PHASE_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.01
VALUES = 64
"""Different values, so that nothing passes for fast by being all alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run the benchmark."""

    keys: int = 1_000_000
    value_bytes: int = 256
    restarts: int = 3
    scratch_parent: Path | None = None

    @property
    def logical_bytes(self) -> int:
        """Keys and values."""
        return self.keys * (len(key_of(0)) + self.value_bytes)


@dataclass(slots=True, kw_only=True)
class Report:
    """What was measured."""

    options: Options
    scratch: Scratch
    load_s: float = 0.0
    kill_restarts_s: list[float] = field(default_factory=list)
    """After SIGKILL: from the start of the process to its first linearizable read."""
    term_restarts_s: list[float] = field(default_factory=list)
    """After SIGTERM, the same."""
    catch_up_s: float = 0.0
    """From the request to add the member to its having applied what was committed
    then."""
    snapshot_bytes: int = 0
    """That the leader sent."""
    copy_s: float = 0.0
    """As many bytes as the logical ones, by gRPC alone."""
    writes_during: int = 0
    write_p99_ms: float = 0.0
    write_errors: int = 0
    anonymous_bytes: dict[int, int] = field(default_factory=dict)
    """The peak, by node."""

    @property
    def catch_up_mb_per_s(self) -> float:
        return self.options.logical_bytes / self.catch_up_s / 1e6

    @property
    def copy_mb_per_s(self) -> float:
        return self.options.logical_bytes / self.copy_s / 1e6

    @property
    def failures(self) -> list[str]:
        """Bounds that were missed; none, if all is well."""
        missed = []
        slowest = max(self.kill_restarts_s + self.term_restarts_s)
        if slowest > RESTART_S_MAX:
            missed.append(f"a restart took {slowest:.2f} s, over {RESTART_S_MAX}")
        rate, copy = self.catch_up_mb_per_s, self.copy_mb_per_s
        if rate < CATCH_UP_MB_PER_SECOND_MIN and rate < CATCH_UP_RATIO_MIN * copy:
            missed.append(
                f"catching up ran at {rate:.1f} MB/s: under "
                f"{CATCH_UP_MB_PER_SECOND_MIN}, and under half of a copy's {copy:.1f}"
            )
        highest = max(self.anonymous_bytes.values())
        if highest > ANONYMOUS_BYTES_MAX:
            missed.append(f"a node took {highest / 1e6:.0f} MB of memory")
        if self.write_errors:
            missed.append(f"{self.write_errors} writes failed")
        return missed

    def as_json(self) -> Json:
        """For ``--json``."""
        return {
            "benchmark": "scale",
            "keys": self.options.keys,
            "value_bytes": self.options.value_bytes,
            "logical_bytes": self.options.logical_bytes,
            "load_seconds": round(self.load_s, 2),
            "restart_after_kill_seconds": [round(s, 3) for s in self.kill_restarts_s],
            "restart_after_term_seconds": [round(s, 3) for s in self.term_restarts_s],
            "catch_up_seconds": round(self.catch_up_s, 3),
            "catch_up_mb_per_second": round(self.catch_up_mb_per_s, 1),
            "snapshot_bytes_sent": self.snapshot_bytes,
            "plain_copy_mb_per_second": round(self.copy_mb_per_s, 1),
            "writes_meanwhile": self.writes_during,
            "write_p99_ms": round(self.write_p99_ms, 1),
            "write_errors": self.write_errors,
            "anonymous_memory_mb_peak": {
                str(node): round(size / 1e6, 1)
                for node, size in sorted(self.anonymous_bytes.items())
            },
            "missed": self.failures,
            "filesystem": self.scratch.filesystem,
        }


Phase = Callable[[str], None]


def run(options: Options, on_phase: Phase) -> Report:
    """Run the benchmark; its cluster is gone afterwards."""
    with scratch_directory("kvstore-bench-", parent=options.scratch_parent) as scratch:
        report = Report(options=options, scratch=scratch)
        directory = scratch.directory
        with LocalCluster.create(directory / "cluster", nodes=NODES) as cluster:
            on_phase("starting three nodes")
            cluster.start()
            cluster.wait_caught_up()
            watch = MemoryWatch(cluster)
            with watch, asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(_measure(cluster, options, report, watch, on_phase))
            report.anonymous_bytes = watch.peaks
        return report


def key_of(number: int) -> bytes:
    """Of the keys that are loaded."""
    return b"key/%012d" % number


async def _measure(
    cluster: LocalCluster,
    options: Options,
    report: Report,
    watch: MemoryWatch,
    on_phase: Phase,
) -> None:
    values = [os.urandom(options.value_bytes) for _ in range(VALUES)]
    report.load_s = await _load(cluster, options, values, on_phase)
    async with _writing(cluster, report, values):
        for _ in range(options.restarts):
            on_phase("restarting a follower after SIGKILL")
            report.kill_restarts_s.append(await _restart(cluster, grace_s=0))
            on_phase("restarting a follower after SIGTERM")
            report.term_restarts_s.append(await _restart(cluster, grace_s=10))
        on_phase("adding an empty member")
        await _join(cluster, report, watch)
        on_phase("copying as many bytes by gRPC alone")
        report.copy_s = await asyncio.to_thread(
            copy_over_grpc, options.logical_bytes, report.scratch.directory
        )


async def _load(
    cluster: LocalCluster, options: Options, values: list[bytes], on_phase: Phase
) -> float:
    numbers = iter(range(options.keys))
    started = time.monotonic()
    done = 0

    async def work(client: kvstore.AsyncClient) -> None:
        nonlocal done
        for number in numbers:
            await client.put(key_of(number), values[number % VALUES], timeout_s=60)
            done += 1
            if done % (options.keys // 20 or 1) == 0:
                rate = done / (time.monotonic() - started)
                on_phase(f"loading: {done:,} of {options.keys:,} keys, {rate:,.0f}/s")

    leader = cluster.wait_for_leader()
    async with kvstore.AsyncClient([leader.address]) as client:
        await asyncio.gather(*(work(client) for _ in range(LOAD_IN_FLIGHT)))
    return time.monotonic() - started


@asynccontextmanager
async def _writing(
    cluster: LocalCluster, report: Report, values: list[bytes]
) -> AsyncIterator[None]:
    """Writes without a pause, from one client that knows every endpoint."""
    latencies: list[float] = []
    running = True

    async def write(client: kvstore.AsyncClient, writer: int) -> None:
        count = 0
        while running:
            count += 1
            began = time.perf_counter()
            try:
                await client.put(b"load/%d" % writer, values[count % VALUES])
            except KVStoreError:
                report.write_errors += 1
                await asyncio.sleep(POLL_INTERVAL_S)
            else:
                latencies.append(time.perf_counter() - began)

    async with kvstore.AsyncClient(cluster.endpoints) as client:
        writers = [asyncio.create_task(write(client, n)) for n in range(WRITERS)]
        try:
            yield
        finally:
            running = False
            await asyncio.gather(*writers)
    report.writes_during = len(latencies)
    report.write_p99_ms = percentile(sorted(latencies), 0.99) * 1e3


async def _restart(cluster: LocalCluster, *, grace_s: float) -> float:
    """Seconds from the start of the process to its first linearizable read."""
    node_id = await asyncio.to_thread(cluster.resolve, "follower")
    if grace_s:
        process = cluster.process(node_id)
        process.signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait_gone, grace_s)
    else:
        await asyncio.to_thread(cluster.kill, node_id)
    started = time.monotonic()
    await asyncio.to_thread(cluster.start)
    async with kvstore.AsyncClient([cluster.address(node_id)]) as client:
        while True:
            try:
                assert await client.get(key_of(0), timeout_s=0.5) is not None
            except KVStoreError:
                if time.monotonic() - started > PHASE_TIMEOUT_S:
                    raise
                await asyncio.sleep(POLL_INTERVAL_S)
            else:
                break
    took = time.monotonic() - started
    await asyncio.to_thread(cluster.wait_serving, node_id)
    return took


async def _join(cluster: LocalCluster, report: Report, watch: MemoryWatch) -> None:
    """An empty node joins, and leaves again."""
    node_id = max(cluster.node_ids) + 1
    address = f"{LOOPBACK}:{free_ports(1)[0]}"
    directory = report.scratch.directory / f"joining-{node_id}"
    async with kvstore.AsyncClient(cluster.endpoints) as client:
        leader = await asyncio.to_thread(cluster.wait_for_leader)
        before = await client.status(leader.address)
        members = dict(zip(cluster.node_ids, cluster.endpoints, strict=True))
        join(
            directory / "data",
            node_id=node_id,
            cluster_id=before.cluster_id,
            members={**members, node_id: address},
        )
        command = [*PROGRAM, "serve", "--dir", str(directory / "data")]
        process = spawn(command, log=directory / "log")
        watch.also[node_id] = process.pid
        try:
            await _answers(client, address)
            await _catch_up(client, node_id, address, leader.address, report)
            after = await client.status(leader.address)
            sent = after.snapshot_bytes_sent - before.snapshot_bytes_sent
            report.snapshot_bytes = sent
            await client.remove_member(node_id)
        finally:
            await asyncio.to_thread(stop_all, [process], grace_s=10)


async def _answers(client: kvstore.AsyncClient, address: str) -> None:
    started = time.monotonic()
    while True:
        try:
            await client.status(address, timeout_s=0.5)
        except KVStoreError:
            if time.monotonic() - started > PHASE_TIMEOUT_S:
                raise
            await asyncio.sleep(POLL_INTERVAL_S)
        else:
            return


async def _catch_up(
    client: kvstore.AsyncClient,
    node_id: int,
    address: str,
    leader: str,
    report: Report,
) -> None:
    started = time.monotonic()
    await client.add_member(node_id, address)
    committed = (await client.status(leader)).commit_index
    while (await client.status(address)).applied_index < committed:
        if time.monotonic() - started > PHASE_TIMEOUT_S:
            raise NotReady(f"node {node_id} has not caught up in time")
        await asyncio.sleep(POLL_INTERVAL_S)
    report.catch_up_s = time.monotonic() - started
