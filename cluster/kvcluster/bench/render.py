"""Benchmarks for people: progress while they run, tables and sentences after."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kvcluster.bench import failover, put, scale
from kvcluster.bench.load import Round

# The client under test runs in this very process: drawing must cost it nothing.
REFRESHES_PER_SECOND = 2


@contextmanager
def put_progress(options: put.Options, *, quiet: bool) -> Iterator[put.Reporter]:
    """Progress on stderr: a bar on a terminal, a line per round elsewhere.

    ``quiet`` says nothing unless stderr is a terminal.
    """
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        started = time.monotonic()

        def line(name: str, depth: int, each: Round) -> None:
            if not quiet:
                at = time.monotonic() - started
                print(f"{at:6.1f} s  {_round(name, depth, each)}", file=sys.stderr)

        yield put.Reporter(on_round=line)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,
    ) as progress:
        loads = 2 if options.compare_etcd else 1
        total = loads * len(options.in_flight) * options.rounds
        task = progress.add_task("starting", total=total)

        def on_round(name: str, depth: int, each: Round) -> None:
            progress.console.print(_round(name, depth, each))
            progress.advance(task)

        yield put.Reporter(
            on_phase=lambda text: progress.update(task, description=text),
            on_load=lambda name, depth: progress.update(
                task, description=f"{name}, {depth} in flight"
            ),
            on_round=on_round,
        )


def _round(name: str, depth: int, each: Round) -> str:
    text = (
        f"{name:8} {depth:4} in flight  {each.ops_per_second:8,.0f} puts/s  "
        f"p50 {each.p50_ms:6.2f} ms  p99 {each.p99_ms:6.2f} ms"
    )
    if each.errors:
        text += f"  {each.errors} errors ({', '.join(each.error_kinds)})"
    return text


def print_put(report: put.Report) -> None:
    """The table, and where the time goes."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("STORE")
    for title in (
        *("IN FLIGHT", "PUTS/S", "P50 MS", "P99 MS", "ERRORS"),
        *("SERVER µs/put", "CLIENT µs/put", "CPU BUSY"),
    ):
        table.add_column(title, justify="right")
    for depth, summaries in report.depths.items():
        for name, summary in summaries.items():
            table.add_row(
                name,
                str(depth),
                f"{summary.ops_per_second:,.0f}",
                f"{summary.p50_ms:.2f}",
                f"{summary.p99_ms:.2f}",
                str(summary.errors),
                f"{summary.server_us_per_put:.1f}",
                f"{summary.client_us_per_put:.1f}",
                f"{_busy(summary):.0%}",
            )
    console = _console()
    console.print(table)
    for sentence in _sentences(report):
        console.print(sentence, soft_wrap=True)


def _sentences(report: put.Report) -> Iterator[str]:
    depth = report.headline_depth
    for name, summary in report.depths[depth].items():
        yield (
            f"Where {name}'s time goes at {depth} in flight: of {os.cpu_count()} CPUs, "
            f"{_share(summary, summary.server_cpu_seconds):.0%} in the servers "
            f"({summary.server_us_per_put:.0f} µs a put over "
            f"{report.options.nodes} nodes), "
            f"{_share(summary, summary.client_cpu_seconds):.0%} in the client "
            f"({summary.client_us_per_put:.0f} µs a put), "
            f"{_share(summary, summary.other_cpu_seconds):.0%} in other processes and "
            f"interrupts, {max(0.0, 1 - _busy(summary)):.0%} idle (waiting for disks)."
        )
    for each in report.depths:
        ratio = report.ratio(each)
        if ratio is not None:
            yield f"kvstore / etcd at {each} in flight: {ratio:.2f}"
    changes = ", ".join(f"{name} {n}" for name, n in report.leader_changes.items())
    yield f"Leader changes under load: {changes}."
    versions = ", ".join(f"{name} {v}" for name, v in report.versions.items())
    yield (
        f"{versions}; {report.options.value_bytes}-byte values on "
        f"{report.scratch.filesystem} ({report.scratch.device}); {report.loop}. "
        f"{put.method(report.options)}."
    )


def _share(summary: put.Summary, cpu_seconds: float) -> float:
    return cpu_seconds / (summary.seconds * (os.cpu_count() or 1))


def _busy(summary: put.Summary) -> float:
    ours = summary.server_cpu_seconds + summary.client_cpu_seconds
    return _share(summary, ours + summary.other_cpu_seconds)


def failover_progress(options: failover.Options, *, quiet: bool) -> failover.OnRound:
    """One line a round on stderr; nothing if ``quiet`` and stderr is no terminal."""
    console = Console(stderr=True, highlight=False)
    talk = console.is_terminal or not quiet
    if talk:
        console.print(
            f"{options.rounds} rounds of {options.fault} on the leader of "
            f"{options.nodes} nodes, seed {options.seed}"
        )

    def on_round(number: int, outage_ms: float) -> None:
        if talk:
            console.print(f"{number:3}/{options.rounds}  {outage_ms:8.1f} ms")

    return on_round


def print_failover(report: failover.Report) -> None:
    """The figures, and what they mean."""
    console = _console()
    console.print(
        f"{report.options.fault}: median {report.median_ms:.0f} ms, "
        f"p90 {report.p90_ms:.0f} ms, max {report.max_ms:.0f} ms "
        f"over {len(report.outages_ms)} rounds"
    )
    errors = ", ".join(f"{n} {name}" for name, n in sorted(report.errors.items()))
    console.print(
        f"Measured: {failover.DEFINITION}. Election timeout "
        f"{report.election_timeout_ms} ms, heartbeats every "
        f"{report.heartbeat_interval_ms} ms (defaults), {report.options.nodes} nodes, "
        f"seed {report.options.seed}. The writer had {report.acknowledged:,} puts "
        f"acknowledged and met {errors or 'no errors'}.",
        soft_wrap=True,
    )


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def phases(*, quiet: bool) -> scale.Phase:
    """Say on stderr what is being done, and since when the benchmark runs."""
    started = time.monotonic()

    def say(text: str) -> None:
        if not quiet or sys.stderr.isatty():
            print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr)

    return say


def print_scale(report: scale.Report) -> None:
    """A table, and what was missed."""
    options = report.options
    table = Table(
        title=f"{options.keys:,} keys of {options.value_bytes} bytes, 3 nodes"
    )
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_column("bound", justify="right")
    rate = options.keys / report.load_s
    table.add_row("load", f"{report.load_s:.1f} s, {rate:,.0f}/s", "")
    for how, seconds in (
        ("SIGKILL", report.kill_restarts_s),
        ("SIGTERM", report.term_restarts_s),
    ):
        shown = ", ".join(f"{each:.2f}" for each in seconds)
        bound = f"{scale.RESTART_S_MAX} s"
        table.add_row(f"serving again after {how}", f"{shown} s", bound)
    table.add_row(
        "an empty member catches up",
        f"{report.catch_up_s:.2f} s, {report.catch_up_mb_per_s:.1f} MB/s",
        f"{scale.CATCH_UP_MB_PER_SECOND_MIN:.0f} MB/s, or half of a copy",
    )
    table.add_row("a plain copy by gRPC", f"{report.copy_mb_per_s:.1f} MB/s", "")
    peaks = sorted(report.anonymous_bytes.items())
    table.add_row(
        "peak memory without a file, by node",
        ", ".join(f"{size / 1e6:.0f}" for _, size in peaks) + " MB",
        f"{scale.ANONYMOUS_BYTES_MAX / 1e6:.0f} MB",
    )
    table.add_row(
        "writes meanwhile",
        f"{report.writes_during:,}, p99 {report.write_p99_ms:.0f} ms, "
        f"{report.write_errors} failed",
        "0 failed",
    )
    Console().print(table)
    for missed in report.failures:
        print(f"Missed: {missed}.")
