"""``kvstore status``."""

import asyncio
import time

import click

from kvstore.cli.cluster_status import ClusterReport, NodeReport, ask_cluster
from kvstore.cli.errors import ExitCode
from kvstore.cli.options import (
    Connection,
    connection_options,
    examples,
    output_option,
    reads_only,
)
from kvstore.cli.output import (
    Cell,
    Column,
    Json,
    OutputFormat,
    coloured,
    human_bytes,
    human_duration,
    plural,
    print_json,
    print_json_line,
    render_table,
    stdout_is_terminal,
)
from kvstore.errors import Unavailable
from kvstore.pb import cluster_pb2

_COLUMNS = (
    Column(title="NODE", right=True),
    Column(title="ADDRESS"),
    Column(title="ROLE"),
    Column(title="TERM", right=True),
    Column(title="COMMIT", right=True),
    Column(title="APPLIED", right=True),
    Column(title="LAG", right=True),
    Column(title="REVISION", right=True),
    Column(title="RAFT", right=True),
    Column(title="STATE", right=True),
    Column(title="SCRUB"),
    Column(title="UPTIME", right=True),
)
_ROLE_STYLES = {
    "leader": "bold green",
    "candidate": "yellow",
    "pre-candidate": "yellow",
    "learner": "cyan",
    "joining": "yellow",
    "removed": "yellow",
}
_LAG_WORTH_SEEING = 1_000
_REDRAW = "\x1b[H"
_LINE_REST = "\x1b[K"
_SCREEN_REST = "\x1b[J"
_CLEAR = "\x1b[2J"


@click.command(
    short_help="Show whether the cluster is healthy, node by node.",
    epilog=examples(
        "kvstore status",
        "kvstore status --watch 1",
        "kvstore status --json | jq .leader_id",
        "until kvstore status > /dev/null; do sleep 1; done",
    ),
)
@connection_options
@output_option
@click.option(
    "--watch",
    "watch_s",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Show it again every so often until Ctrl-C (with --json: one line each time).",
)
@reads_only
def status(
    *, connection: Connection, output: OutputFormat, watch_s: float | None
) -> None:
    """Show every node of the cluster, and in one line whether it can serve.

    Asks the endpoints who the members are, then each member. LAG counts the entries
    that the leader committed and the node has not applied, or says that the leader
    sends the node a snapshot; RAFT and STATE are the sizes of the node's two stores.
    Exits with 1 if no majority follows one leader, with 3 if no endpoint answers.
    """
    if watch_s is not None:
        _watch(connection, output, watch_s)
        return
    report = asyncio.run(ask_cluster(connection))
    if output is OutputFormat.JSON:
        print_json(report_json(report))
    else:
        click.echo(_render(report), nl=False)
    if not report.healthy:
        click.get_current_context().exit(ExitCode.NEGATIVE)


def report_json(report: ClusterReport) -> dict[str, Json]:
    """Return what ``--json`` prints."""
    leader = report.leader
    leading = leader.status if leader is not None else None
    found = report.configuration or cluster_pb2.StatusResponse()
    return {
        "healthy": report.healthy,
        "summary": report.in_words(),
        "cluster_id": report.cluster_id.hex(),
        "leader_id": leader.node_id if leader is not None else None,
        "quorum": report.quorum,
        "epoch": found.epoch or None,
        "leases": found.leases,
        "joint": leading.joint if leading is not None else found.joint,
        "transferee": (leading.transferee or None) if leading is not None else None,
        "removed": list(found.removed),
        "nodes": [_node_json(report, node) for node in report.nodes],
    }


def _watch(connection: Connection, output: OutputFormat, interval_s: float) -> None:
    redraw = output is OutputFormat.TABLE and stdout_is_terminal()
    if redraw:
        click.echo(_CLEAR, nl=False, color=True)
    try:
        while True:
            _show_again(connection, output, redraw=redraw)
            time.sleep(interval_s)
    except KeyboardInterrupt:
        # How a watch is meant to end.
        click.echo(err=True)


def _show_again(connection: Connection, output: OutputFormat, *, redraw: bool) -> None:
    try:
        report = asyncio.run(ask_cluster(connection))
    except Unavailable as error:
        # The cluster may come back; that is what one watches for.
        if output is OutputFormat.JSON:
            print_json_line({"healthy": False, "summary": str(error)})
            return
        text = f"Unavailable: {error}\n"
    else:
        if output is OutputFormat.JSON:
            print_json_line(report_json(report))
            return
        text = _render(report)
    if redraw:
        lines = "".join(f"{line}{_LINE_REST}\n" for line in text.splitlines())
        # color=True: without it, NO_COLOR would take the cursor's commands out too.
        click.echo(f"{_REDRAW}{lines}{_SCREEN_REST}", nl=False, color=True)
    else:
        click.echo(text)


def _render(report: ClusterReport) -> str:
    if not report.healthy:
        colour = "red"
    elif len(report.answering) < len(report.nodes) or report.corrupt_records:
        colour = "yellow"
    else:
        colour = "green"
    words = coloured(report.in_words(), colour)
    head = f"{words}\n{_cluster_line(report)}\n\n"
    return head + render_table(_COLUMNS, [_row(report, node) for node in report.nodes])


def _cluster_line(report: ClusterReport) -> str:
    facts = [f"Cluster {report.cluster_id.hex()}"]
    found = report.configuration
    if found is not None:
        if found.epoch > 1:
            facts.append(f"epoch {found.epoch}")
        if found.leases:
            facts.append("leader leases on")
        if found.removed:
            facts.append(f"removed: {', '.join(map(str, found.removed))}")
    return "; ".join(facts)


def _row(report: ClusterReport, node: NodeReport) -> list[Cell | str]:
    said = node.status
    if said is None:
        problem = Cell(text=node.problem, style="bold red")
        blanks = ["-"] * (len(_COLUMNS) - 3)
        return [str(node.node_id), node.address, problem, *blanks]
    role = report.role(node)
    return [
        str(node.node_id),
        node.address,
        Cell(text=role, style=_ROLE_STYLES.get(role, "")),
        str(said.term),
        str(said.commit_index),
        str(said.applied_index),
        _lag_cell(report, node),
        str(said.revision),
        human_bytes(said.raft_store_bytes),
        human_bytes(said.state_store_bytes),
        _scrub_cell(said.scrub),
        human_duration(said.uptime_seconds),
    ]


def _lag_cell(report: ClusterReport, node: NodeReport) -> Cell:
    if report.receives_snapshot(node):
        return Cell(text="snapshot", style="yellow")
    lag = report.lag(node)
    if lag is None:
        return Cell(text="-")
    return Cell(text=str(lag), style="yellow" if lag >= _LAG_WORTH_SEEING else "")


def _scrub_cell(scrub: cluster_pb2.ScrubStatus) -> Cell:
    if not scrub.tours:
        return Cell(text="off", style="yellow")
    corrupt = sum(tour.corrupt_records for tour in scrub.tours)
    if corrupt:
        return Cell(text=f"{corrupt} corrupt", style="bold red")
    completed = min(tour.tours_completed for tour in scrub.tours)
    if completed:
        return Cell(text=f"ok, {plural(completed, 'tour')}")
    progress = min(
        1.0 if tour.tours_completed else tour.progress for tour in scrub.tours
    )
    return Cell(text=f"first tour {progress:.0%}")


def _node_json(report: ClusterReport, node: NodeReport) -> dict[str, Json]:
    fields: dict[str, Json] = {
        "node_id": node.node_id,
        "address": node.address,
        "answered": node.status is not None,
    }
    said = node.status
    if said is None:
        return {**fields, "problem": node.problem}
    return {
        **fields,
        "role": said.role,
        "standing": report.standing(node),
        "term": said.term,
        "leader_id": said.leader_id or None,
        "commit_index": said.commit_index,
        "applied_index": said.applied_index,
        "first_log_index": said.first_log_index,
        "last_log_index": said.last_log_index,
        "last_log_term": said.last_log_term,
        "lag": report.lag(node),
        "revision": said.revision,
        "compact_revision": said.compact_revision,
        "raft_store_bytes": said.raft_store_bytes,
        "state_store_bytes": said.state_store_bytes,
        "uptime_seconds": said.uptime_seconds,
        "version": said.version,
        "format_version": said.format_version,
        "leader_changes": said.leader_changes,
        "cpu_seconds": said.cpu_seconds,
        "memory_bytes": said.memory_bytes,
        "anonymous_memory_bytes": said.anonymous_memory_bytes,
        "snapshot_bytes_sent": said.snapshot_bytes_sent,
        "sessions": said.sessions,
        "peers": [
            {
                "node_id": peer.node_id,
                "match_index": peer.match_index,
                "state": peer.state,
                "recently_active": peer.recently_active,
            }
            for peer in said.peers
        ],
        "scrub": [
            {
                "store": tour.store,
                "tours_completed": tour.tours_completed,
                "progress": tour.progress,
                "corrupt_records": tour.corrupt_records,
            }
            for tour in said.scrub.tours
        ],
    }
