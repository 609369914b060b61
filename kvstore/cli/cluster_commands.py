"""``kvstore cluster``: a cluster of local processes, to try and to break."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from pathlib import Path
from typing import TypeVar

import click

from kvcluster import errors
from kvcluster.local import LocalCluster, Settings
from kvcluster.status import ClusterStatus, NodeStatus, ProcessState
from kvcluster.topology import NODES_MAX
from kvstore.cli.errors import CommandFailed, ExitCode
from kvstore.cli.options import examples, output_option
from kvstore.cli.output import (
    Cell,
    Column,
    Json,
    OutputFormat,
    human_bytes,
    human_duration,
    note,
    plural,
    print_json,
    print_table,
)

DIRECTORY_VARIABLE = "KVSTORE_CLUSTER_DIR"
DIRECTORY_DEFAULT = "kvstore-cluster"

_NODE_HELP = "NODE is a number, `leader` or `follower`."
_STATE_STYLES = {
    ProcessState.RUNNING: "green",
    ProcessState.PAUSED: "yellow",
    ProcessState.DOWN: "red",
}
_COLUMNS = (
    Column(title="NODE", right=True),
    Column(title="ADDRESS"),
    Column(title="PROCESS"),
    Column(title="ROLE"),
    Column(title="TERM", right=True),
    Column(title="COMMITTED", right=True),
    Column(title="APPLIED", right=True),
    Column(title="REVISION", right=True),
    Column(title="MEMORY", right=True),
    Column(title="UP", right=True),
)

Result = TypeVar("Result")


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Turn the errors of kvcluster into exit codes (also a decorator).

    Raises:
        CommandFailed: for a ClusterError, or a file or process that the system refuses.
    """
    try:
        yield
    except errors.ClusterError as error:
        raise CommandFailed(
            str(error), code=_exit_code(error), hint=error.advice
        ) from error
    except OSError as error:
        raise CommandFailed(str(error), code=ExitCode.DIRECTORY_OR_CONFIG) from error


def _exit_code(error: errors.ClusterError) -> ExitCode:
    match error:
        case errors.NotACluster() | errors.ClusterExists():
            return ExitCode.DIRECTORY_OR_CONFIG
        case errors.NotReady() | errors.ClusterBusy():
            return ExitCode.UNAVAILABLE
        case _:
            return ExitCode.NEGATIVE


def directory_option(function: Callable[..., Result]) -> Callable[..., Result]:
    """Add ``--dir``; the function gets ``directory=``, and its errors exit codes."""

    def call(**values: object) -> Result:
        with cluster_errors():
            return function(**values)

    update_wrapper(call, function)
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=DIRECTORY_DEFAULT,
        envvar=DIRECTORY_VARIABLE,
        show_envvar=True,
        show_default=True,
        help="The cluster's directory.",
    )(call)


@click.group(
    epilog=examples(
        "kvstore cluster up",
        "kvstore cluster kill leader",
        "kvstore cluster status",
        "kvstore cluster up  # starts what is down",
        "kvstore cluster destroy --yes",
    )
)
def cluster() -> None:
    """Run a cluster of local processes, to try and to break.

    The nodes are ordinary `kvstore serve` processes on loopback. They keep running
    after the command; `down` stops them and keeps their data, `destroy` deletes it.
    """


@cluster.command(
    epilog=examples(
        "kvstore cluster up",
        "kvstore cluster up --nodes 5 --dir five",
        "kvstore cluster up --election-timeout-ms 1000",
    )
)
@directory_option
@click.option(
    "--nodes",
    type=click.IntRange(1, NODES_MAX),
    help="Members of a new cluster.  [default: 3]",
)
@click.option(
    "--election-timeout-ms",
    type=click.IntRange(min=1),
    help="Of a new cluster; otherwise the server's default.",
)
@click.option(
    "--heartbeat-interval-ms",
    type=click.IntRange(min=1),
    help="Of a new cluster; otherwise the server's default.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up if no leader serves, or a node does not follow, by then.",
)
@output_option
def up(
    *,
    directory: Path,
    nodes: int | None,
    election_timeout_ms: int | None,
    heartbeat_interval_ms: int | None,
    timeout_s: float,
    output: OutputFormat,
) -> None:
    """Found a cluster, or start the nodes of one that are down.

    Returns once a leader serves and the others follow it. Founding happens once: a
    second `up` starts what is down, with the data that is there.
    """
    try:
        local = LocalCluster.load(directory)
    except errors.NotACluster:
        local = LocalCluster.create(
            directory,
            nodes=nodes or 3,
            settings=Settings(
                election_timeout_ms=election_timeout_ms,
                heartbeat_interval_ms=heartbeat_interval_ms,
            ),
        )
        note(f"Founded {plural(len(local.node_ids), 'node')} in {local.directory}")
    else:
        if nodes is not None and nodes != len(local.node_ids):
            raise click.UsageError(
                f"the cluster in {directory} has {len(local.node_ids)} nodes, "
                f"not {nodes}; leave --nodes out, or choose another --dir"
            )
        if election_timeout_ms is not None or heartbeat_interval_ms is not None:
            raise click.UsageError(
                "timeouts are chosen when a cluster is founded, and "
                f"{directory} holds one already"
            )
    started = local.start()
    local.wait_for_leader(timeout_s)
    status = local.wait_caught_up(timeout_s)
    for node in status.nodes:
        if not node.serving:
            note(f"Node {node.node_id} does not serve: it is {node.process}.")
    if output is OutputFormat.JSON:
        print_json({**_status_json(local, status), "started": list(started)})
        return
    _print_status(status)
    note(f"export KVSTORE_ENDPOINTS={','.join(local.endpoints)}")


@cluster.command(
    epilog=examples("kvstore cluster down", "kvstore cluster down --grace 1")
)
@directory_option
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Kill what has not ended by then.",
)
@output_option
def down(*, directory: Path, grace_s: float, output: OutputFormat) -> None:
    """Stop every node; the data stays."""
    local = LocalCluster.load(directory)
    running = len(local.processes())
    local.stop(grace_s=grace_s)
    if output is OutputFormat.JSON:
        print_json({"directory": str(local.directory), "stopped": running})
    else:
        click.echo(f"Stopped {plural(running, 'node')}; the data stays in {directory}")


@cluster.command(
    epilog=examples("kvstore cluster status", "kvstore cluster status --json")
)
@directory_option
@output_option
@click.pass_context
def status(context: click.Context, *, directory: Path, output: OutputFormat) -> None:
    """Show every node. Exit code 1 if no leader serves."""
    local = LocalCluster.load(directory)
    found = local.status()
    if output is OutputFormat.JSON:
        print_json(_status_json(local, found))
    else:
        _print_status(found)
        if found.leader is None:
            note("No leader serves. `kvstore cluster up` starts nodes that are down.")
    if found.leader is None:
        context.exit(ExitCode.NEGATIVE)


def _node_command(
    name: str,
    verb: Callable[[LocalCluster, str], int],
    *,
    done: str,
    help_text: str,
    nodes: tuple[str, ...],
) -> None:
    """Add a command that does one thing to one node. ``nodes`` are its examples."""

    @cluster.command(
        name,
        help=f"{help_text}\n\n{_NODE_HELP}",
        epilog=examples(*(f"kvstore cluster {name} {each}" for each in nodes)),
    )
    @click.argument("node")
    @directory_option
    @output_option
    def command(*, node: str, directory: Path, output: OutputFormat) -> None:
        node_id = verb(LocalCluster.load(directory), node)
        if output is OutputFormat.JSON:
            print_json({"node_id": node_id, "did": name})
        else:
            click.echo(f"{done} node {node_id}")


def _restart(local: LocalCluster, node: str) -> int:
    return local.wait_serving(local.restart(node)).node_id


_node_command(
    "kill",
    LocalCluster.kill,
    done="Killed",
    help_text="Kill a node at once (SIGKILL), as a crash would.",
    nodes=("leader", "follower", "2 --dir demo"),
)
_node_command(
    "pause",
    LocalCluster.pause,
    done="Paused",
    help_text="Freeze a node (SIGSTOP): it keeps its connections and says nothing.",
    nodes=("leader", "2 --dir demo"),
)
_node_command(
    "resume",
    LocalCluster.resume,
    done="Resumed",
    help_text="Let a paused node run on (SIGCONT).",
    nodes=("2", "2 --dir demo"),
)
_node_command(
    "restart",
    _restart,
    done="Restarted",
    help_text="Stop a node if it runs, start it, and wait until it answers.",
    nodes=("2", "follower --dir demo"),
)


@cluster.command(
    epilog=examples(
        "kvstore cluster logs leader",
        "kvstore cluster logs 2 --lines 10",
        "kvstore cluster logs 2 --all",
    )
)
@click.argument("node")
@directory_option
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="How many of the last lines.",
)
@click.option("--all", "everything", is_flag=True, help="The whole log.")
def logs(*, node: str, directory: Path, lines: int, everything: bool) -> None:
    """Print what a node has logged, also of one that is down.

    NODE is a number, `leader` or `follower`.
    """
    local = LocalCluster.load(directory)
    node_id = local.resolve(node)
    click.echo(local.logs(node_id, lines=None if everything else lines), nl=False)


@cluster.command(
    epilog=examples(
        "kvstore cluster destroy", "kvstore cluster destroy --yes --dir demo"
    )
)
@directory_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
def destroy(*, directory: Path, yes: bool, output: OutputFormat) -> None:
    """Kill every node and delete the directory with all data."""
    local = LocalCluster.load(directory)
    if not yes:
        click.confirm(
            f"Delete {local.directory} and everything stored in it?",
            abort=True,
            err=True,
        )
    running = len(local.processes())
    local.destroy()
    if output is OutputFormat.JSON:
        print_json({"directory": str(local.directory), "stopped": running})
    else:
        click.echo(f"Destroyed the cluster in {directory}")


def _status_json(local: LocalCluster, status: ClusterStatus) -> dict[str, Json]:
    leader = status.leader
    return {
        "directory": str(local.directory),
        "endpoints": list(local.endpoints),
        "leader_id": None if leader is None else leader.node_id,
        "nodes": [_node_json(node) for node in status.nodes],
    }


def _node_json(node: NodeStatus) -> dict[str, Json]:
    fields: dict[str, Json] = {
        "node_id": node.node_id,
        "address": node.address,
        "process": str(node.process),
        "pid": node.pid,
        "serving": node.serving,
    }
    if node.serving:
        fields |= {
            "role": node.role,
            "term": node.term,
            "leader_id": node.leader_id,
            "commit_index": node.commit_index,
            "applied_index": node.applied_index,
            "revision": node.revision,
            "leader_changes": node.leader_changes,
            "cpu_seconds": node.cpu_seconds,
            "memory_bytes": node.memory_bytes,
            "uptime_seconds": node.uptime_seconds,
            "version": node.version,
        }
    return fields


def _print_status(status: ClusterStatus) -> None:
    print_table(_COLUMNS, [_row(node) for node in status.nodes])


def _row(node: NodeStatus) -> list[Cell | str]:
    state = Cell(text=str(node.process), style=_STATE_STYLES[node.process])
    row: list[Cell | str] = [str(node.node_id), node.address, state]
    if not node.serving:
        silent = node.process is ProcessState.RUNNING
        return [*row, "no answer" if silent else "", *[""] * 6]
    return [
        *row,
        Cell(text=node.role, style="bold green" if node.role == "leader" else ""),
        str(node.term),
        str(node.commit_index),
        str(node.applied_index),
        str(node.revision),
        human_bytes(node.memory_bytes),
        human_duration(node.uptime_seconds),
    ]
