"""Durable puts per second, ours alone or beside etcd's in alternating rounds.

Both stores run with their own defaults, as clusters of the same size, on the same
filesystem, on this machine. One client in this process holds one connection to the
leader and keeps a fixed number of puts in flight; the loop that drives it is the same.
While one store is loaded the other's processes are frozen (SIGSTOP), so that neither
pays for the other's heartbeats; after that it runs a warm-up that is not counted. Each
round measures every store at one depth before the next round begins, so that a machine
that slows down does so for both. Figures are medians over the rounds.
"""

import asyncio
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kvcluster.bench.load import Load, Plan, Round
from kvcluster.bench.statistics import median
from kvcluster.bench.targets import EtcdTarget, KvstoreTarget, Target, find_etcd
from kvcluster.scratch import Scratch, scratch_directory
from kvcluster.signals import uninterrupted
from kvstore.cli.output import Json
from kvstore.event_loop import new_event_loop

ROUND_S = 5.0
ROUNDS_DEFAULT = 3
WARM_UP_S = 2.0
HEADLINE_DEPTH = 64
COMPARED_DEPTHS = (64, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure. ``rounds`` of ``round_s`` seconds for each store and depth."""

    rounds: int = ROUNDS_DEFAULT
    round_s: float = ROUND_S
    in_flight: tuple[int, ...] = (HEADLINE_DEPTH,)
    value_bytes: int = 256
    nodes: int = 3
    compare_etcd: bool = False
    scratch_parent: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One store at one depth."""

    rounds: tuple[Round, ...]

    @property
    def ops_per_second(self) -> float:
        return median([each.ops_per_second for each in self.rounds])

    @property
    def p50_ms(self) -> float:
        return median([each.p50_ms for each in self.rounds])

    @property
    def p99_ms(self) -> float:
        return median([each.p99_ms for each in self.rounds])

    @property
    def errors(self) -> int:
        return sum(each.errors for each in self.rounds)

    @property
    def operations(self) -> int:
        return sum(each.operations for each in self.rounds)

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.rounds)

    @property
    def server_cpu_seconds(self) -> float:
        """Of all nodes together."""
        return sum(each.server_cpu_seconds for each in self.rounds)

    @property
    def client_cpu_seconds(self) -> float:
        return sum(each.client_cpu_seconds for each in self.rounds)

    @property
    def other_cpu_seconds(self) -> float:
        """Of everything else on the machine: much of it spoils a measurement."""
        return sum(each.other_cpu_seconds for each in self.rounds)

    @property
    def server_us_per_put(self) -> float:
        return self.server_cpu_seconds / max(1, self.operations) * 1e6

    @property
    def client_us_per_put(self) -> float:
        return self.client_cpu_seconds / max(1, self.operations) * 1e6

    def as_json(self) -> dict[str, Json]:
        return {
            "ops_per_second": round(self.ops_per_second, 1),
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "operations": self.operations,
            "errors": self.errors,
            "server_cpu_seconds": round(self.server_cpu_seconds, 2),
            "client_cpu_seconds": round(self.client_cpu_seconds, 2),
            "other_cpu_seconds": round(self.other_cpu_seconds, 2),
            "server_us_per_put": round(self.server_us_per_put, 1),
            "client_us_per_put": round(self.client_us_per_put, 1),
            "rounds": [_round_json(each) for each in self.rounds],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was measured, and how."""

    options: Options
    scratch: Scratch
    loop: str
    versions: dict[str, str]
    leader_changes: Mapping[str, int]
    """By store, while it was loaded: the most that any one node saw."""
    depths: dict[int, dict[str, Summary]]
    """By puts in flight, then by store."""

    @property
    def headline_depth(self) -> int:
        """64 if it was measured, else the first depth."""
        if HEADLINE_DEPTH in self.depths:
            return HEADLINE_DEPTH
        return next(iter(self.depths))

    def ratio(self, depth: int) -> float | None:
        """Our puts per second by etcd's; None without etcd."""
        summaries = self.depths[depth]
        if "etcd" not in summaries or not summaries["etcd"].operations:
            return None
        return summaries["kvstore"].ops_per_second / summaries["etcd"].ops_per_second

    def as_json(self) -> dict[str, Json]:
        """The document of ``bench put --json``."""
        depth = self.headline_depth
        depths: dict[str, Json] = {}
        for each, summaries in self.depths.items():
            fields: dict[str, Json] = {
                name: summary.as_json() for name, summary in summaries.items()
            }
            depths[str(each)] = {**fields, "ratio": _rounded(self.ratio(each))}
        headline = self.depths[depth]["kvstore"]
        return {
            "benchmark": "put",
            **{name: s.as_json() for name, s in self.depths[depth].items()},
            "ratio": _rounded(self.ratio(depth)),
            "leader_changes": self.leader_changes["kvstore"],
            "in_flight": depth,
            "ops_per_second": round(headline.ops_per_second, 1),
            "p50_ms": round(headline.p50_ms, 3),
            "p99_ms": round(headline.p99_ms, 3),
            "errors": headline.errors,
            "depths": depths,
            "leader_changes_by_store": dict(self.leader_changes),
            "versions": self.versions,
            "nodes": self.options.nodes,
            "value_bytes": self.options.value_bytes,
            "rounds": self.options.rounds,
            "round_seconds": self.options.round_s,
            "filesystem": self.scratch.filesystem,
            "device": self.scratch.device,
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "loop": self.loop,
            "method": method(self.options),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Where progress goes. Every call is between measurements, or cheap."""

    on_phase: Callable[[str], None] = lambda _text: None
    on_load: Callable[[str, int], None] = lambda _name, _depth: None
    on_round: Callable[[str, int, Round], None] = lambda _name, _depth, _round: None


def run(options: Options, reporter: Reporter) -> Report:
    """Measure. Leaves neither a process nor a directory behind.

    Raises ClusterError if a cluster cannot be started, or etcd is not installed.
    """
    if options.compare_etcd:
        # Before anything takes time.
        find_etcd()
    with (
        scratch_directory("kvstore-bench-", parent=options.scratch_parent) as scratch,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
        ExitStack() as cleanup,
    ):
        reporter.on_phase(f"starting {options.nodes} nodes of each store")
        targets: list[Target] = [
            KvstoreTarget(scratch.directory / "kvstore", nodes=options.nodes)
        ]
        if options.compare_etcd:
            targets.append(EtcdTarget(scratch.directory / "etcd", nodes=options.nodes))
        versions = {}
        for target in targets:
            cleanup.callback(_stop, target)
            target.start()
            versions[target.name] = target.version()
        loop_name = type(runner.get_loop()).__module__.partition(".")[0]
        bench = _Bench(options, reporter, runner)
        if len(targets) == 1:
            for depth in options.in_flight:
                bench.load(targets[0], depth, options.rounds)
        else:
            bench.alternate(targets)
    return Report(
        options=options,
        scratch=scratch,
        loop=loop_name,
        versions=versions,
        leader_changes=bench.leader_changes,
        depths={
            depth: {
                target.name: Summary(rounds=tuple(bench.rounds[depth, target.name]))
                for target in targets
            }
            for depth in options.in_flight
        },
    )


class _Bench:
    """Loads targets, and keeps what was measured."""

    def __init__(
        self, options: Options, reporter: Reporter, runner: asyncio.Runner
    ) -> None:
        self._options = options
        self._reporter = reporter
        self._runner = runner
        self.rounds: defaultdict[tuple[int, str], list[Round]] = defaultdict(list)
        self.leader_changes: Counter[str] = Counter()

    def alternate(self, targets: Sequence[Target]) -> None:
        for target in targets:
            target.pause()
        for _ in range(self._options.rounds):
            for target in targets:
                self._reporter.on_phase(f"waking {target.name}")
                target.resume()
                for depth in self._options.in_flight:
                    self.load(target, depth, 1)
                target.pause()

    def load(self, target: Target, depth: int, rounds: int) -> None:
        self._reporter.on_load(target.name, depth)
        plan = Plan(
            in_flight=depth,
            value_bytes=self._options.value_bytes,
            rounds=rounds,
            round_s=self._options.round_s,
            warm_up_s=WARM_UP_S,
        )

        async def run() -> list[Round]:
            async with target.client() as put:
                return await Load(
                    put,
                    plan,
                    failures=target.failures,
                    server_cpu_seconds=target.server_cpu_seconds,
                    on_round=partial(self._reporter.on_round, target.name, depth),
                ).run()

        before = target.leader_epochs()
        self.rounds[depth, target.name] += self._runner.run(run())
        after = target.leader_epochs()
        self.leader_changes[target.name] += max(
            new - old for old, new in zip(before, after, strict=True)
        )


def _stop(target: Target) -> None:
    with uninterrupted():
        # A frozen process ends only after it was resumed; stop does that.
        target.stop()


def method(options: Options) -> str:
    """How it was measured, in a sentence or two."""
    text = (
        f"{options.nodes} processes with default settings; one client in one process "
        "connected to the leader's endpoint; every put a new key; medians of rounds"
    )
    if options.compare_etcd:
        text += (
            "; rounds alternate between the stores, and the one not loaded is frozen "
            "(SIGSTOP)"
        )
    return text


def _round_json(each: Round) -> dict[str, Json]:
    return {
        "seconds": round(each.seconds, 3),
        "ops_per_second": round(each.ops_per_second, 1),
        "p50_ms": round(each.p50_ms, 3),
        "p99_ms": round(each.p99_ms, 3),
        "longest_ms": round(each.longest_ms, 3),
        "operations": each.operations,
        "errors": each.errors,
        "error_kinds": list(each.error_kinds),
        "server_cpu_seconds": round(each.server_cpu_seconds, 2),
        "client_cpu_seconds": round(each.client_cpu_seconds, 3),
        "other_cpu_seconds": round(each.other_cpu_seconds, 2),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
