"""``kvstore bench``: measure clusters of real processes on this machine."""

import secrets
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import TypeVar

import click

from kvcluster.bench import failover as failover_bench
from kvcluster.bench import put as put_bench
from kvcluster.bench import render
from kvcluster.bench import scale as scale_bench
from kvcluster.signals import interruptible
from kvcluster.topology import NODES_MAX
from kvstore.cli.cluster_commands import cluster_errors
from kvstore.cli.errors import ExitCode
from kvstore.cli.options import examples, output_option
from kvstore.cli.output import OutputFormat, print_json

_FAILOVER_NODES_MIN = 3
"""Fewer do not survive the loss of one."""

Result = TypeVar("Result")


@click.group()
def bench() -> None:
    """Measure clusters of real processes on this machine.

    Each benchmark starts its own cluster with default settings in a temporary directory
    on a real disk, and leaves neither a process nor a file behind.
    """


def _common_options(
    *, nodes_min: int
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Add ``--nodes``, ``--scratch`` and the handling of interrupts and errors."""
    nodes = click.option(
        "--nodes",
        type=click.IntRange(nodes_min, NODES_MAX),
        default=3,
        show_default=True,
        help="Members of the cluster.",
    )
    scratch = click.option(
        "--scratch",
        type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
        help="Where to put the temporary directory; must be on a disk.  "
        "[default: the first of TMPDIR, /var/tmp and here that is]",
    )

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        def call(**values: object) -> Result:
            with interruptible(), cluster_errors():
                return function(**values)

        update_wrapper(call, function)
        return nodes(scratch(call))

    return decorate


def _parse_depths(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        depths = tuple(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list like 64,256") from error
    if not all(1 <= depth <= 65_536 for depth in depths):
        raise click.BadParameter("from 1 to 65536 puts can be in flight")
    return depths


@bench.command(
    epilog=examples(
        "kvstore bench put",
        "kvstore bench put --compare etcd",
        "kvstore bench put --seconds 60 --json",
    )
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1.0),
    help="Load for this long at each depth, in rounds of about 5 s.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help="Load for so many rounds of 5 s instead.  [default: 3]",
)
@click.option(
    "--compare",
    type=click.Choice(["etcd"]),
    help="Also measure etcd (pip install 'kvstore[bench]'), in alternating rounds.",
)
@click.option(
    "--in-flight",
    callback=_parse_depths,
    metavar="N,...",
    help="Puts outstanding at any time.  [default: 64; with --compare 64,256]",
)
@click.option(
    "--value-bytes",
    type=click.IntRange(0, 1 << 20),
    default=256,
    show_default=True,
    help="Size of each value.",
)
@_common_options(nodes_min=1)
@output_option
def put(
    *,
    seconds: float | None,
    rounds: int | None,
    compare: str | None,
    in_flight: tuple[int, ...] | None,
    value_bytes: int,
    nodes: int,
    scratch: Path | None,
    output: OutputFormat,
) -> None:
    """Measure durable puts through one client.

    Every put is a new key, acknowledged once a majority has it on disk. The client
    keeps one connection, to the leader, and --in-flight puts outstanding.
    """
    if seconds is not None and rounds is not None:
        raise click.UsageError("give --seconds or --rounds, not both")
    round_s = put_bench.ROUND_S
    if seconds is not None:
        least = put_bench.ROUNDS_DEFAULT if compare else 1
        rounds = max(least, round(seconds / round_s))
        round_s = seconds / rounds
    options = put_bench.Options(
        rounds=rounds or put_bench.ROUNDS_DEFAULT,
        round_s=round_s,
        in_flight=in_flight
        or (put_bench.COMPARED_DEPTHS if compare else (put_bench.HEADLINE_DEPTH,)),
        value_bytes=value_bytes,
        nodes=nodes,
        compare_etcd=compare is not None,
        scratch_parent=scratch,
    )
    quiet = output is OutputFormat.JSON
    with render.put_progress(options, quiet=quiet) as reporter:
        report = put_bench.run(options, reporter)
    if output is OutputFormat.JSON:
        print_json(report.as_json())
    else:
        render.print_put(report)


@bench.command(
    epilog=examples(
        "kvstore bench failover",
        "kvstore bench failover --rounds 20 --fault partition --json",
    )
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Faults.",
)
@click.option(
    "--fault",
    type=click.Choice([str(fault) for fault in failover_bench.Fault]),
    default="kill",
    show_default=True,
    help="What happens to the leader: SIGKILL, SIGSTOP, or no link to its peers.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Of the moments of the faults; drawn and printed if left out.",
)
@_common_options(nodes_min=_FAILOVER_NODES_MIN)
@output_option
def failover(
    *,
    rounds: int,
    fault: str,
    seed: int | None,
    nodes: int,
    scratch: Path | None,
    output: OutputFormat,
) -> None:
    """Measure how long writes stand still when the leader is lost.

    From the fault to the first acknowledgement of a put that was issued after it, by
    one client that writes without a pause and knows every endpoint.
    """
    options = failover_bench.Options(
        fault=failover_bench.Fault(fault),
        rounds=rounds,
        nodes=nodes,
        seed=secrets.randbelow(1 << 32) if seed is None else seed,
        scratch_parent=scratch,
    )
    quiet = output is OutputFormat.JSON
    on_round = render.failover_progress(options, quiet=quiet)
    report = failover_bench.run(options, on_round)
    if output is OutputFormat.JSON:
        print_json(report.as_json())
    else:
        render.print_failover(report)


@bench.command(
    epilog=examples("kvstore bench scale", "kvstore bench scale --keys 100000 --json")
)
@click.option(
    "--keys",
    type=click.IntRange(1_000, 100_000_000),
    default=1_000_000,
    show_default=True,
    help="Keys to load.",
)
@click.option(
    "--value-bytes",
    type=click.IntRange(1, 1 << 20),
    default=256,
    show_default=True,
    help="Size of each value.",
)
@click.option(
    "--restarts",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Restarts after SIGKILL, and as many after SIGTERM.",
)
@click.option(
    "--scratch",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where to put the temporary directory; must be on a disk.  "
    "[default: the first of TMPDIR, /var/tmp and here that is]",
)
@output_option
def scale(
    *,
    keys: int,
    value_bytes: int,
    restarts: int,
    scratch: Path | None,
    output: OutputFormat,
) -> None:
    """Measure a large store: restarts, a new member, memory.

    Three nodes are loaded with --keys keys. Under 32 writers, followers are restarted
    and an empty member joins; then as many bytes are copied by gRPC alone. Exit code 1
    if a bound is missed: 2 s to serve again, 50 MB/s (or half of the plain copy) to
    catch up, 300 MB of memory that no file backs.
    """
    options = scale_bench.Options(
        keys=keys, value_bytes=value_bytes, restarts=restarts, scratch_parent=scratch
    )
    quiet = output is OutputFormat.JSON
    with interruptible(), cluster_errors():
        report = scale_bench.run(options, render.phases(quiet=quiet))
    if output is OutputFormat.JSON:
        print_json(report.as_json())
    else:
        render.print_scale(report)
    if report.failures:
        click.get_current_context().exit(ExitCode.NEGATIVE)
