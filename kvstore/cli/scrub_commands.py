"""``kvstore scrub``."""

import asyncio

import click

from kvstore.cli.cluster_status import ClusterReport, ask_cluster
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
    human_count,
    human_duration,
    note,
    plural,
    print_json,
    print_table,
)
from kvstore.pb import cluster_pb2

_TOURS = (
    Column(title="NODE", right=True),
    Column(title="STORE"),
    Column(title="TOURS", right=True),
    Column(title="PROGRESS", right=True),
    Column(title="IN THIS TOUR", right=True),
    Column(title="CHECKED", right=True),
    Column(title="CORRUPT", right=True),
    Column(title="LAST TOUR", right=True),
)
_FINDINGS = (
    Column(title="NODE", right=True),
    Column(title="STORE"),
    Column(title="DATABASE"),
    Column(title="RECORD KEY (HEX)"),
    Column(title="WHAT"),
)


@click.group(short_help="What the checks of stored records found.")
def scrub() -> None:
    """What the scrubber found: each node reads all its records, over and over.

    A disk can lose or change data without an error. Every stored record carries a
    checksum, and the scrubber finds damage before a reader needs the record.
    """


@scrub.command(
    short_help="Show the tours and findings of every node.",
    epilog=examples("kvstore scrub status", "kvstore scrub status --json"),
)
@connection_options
@output_option
@reads_only
def status(*, connection: Connection, output: OutputFormat) -> None:
    """Show each store's tours, and every damaged record found.

    Exits with 1 if any node counted a corrupt record. A node that does not answer is
    named on stderr; of its records nothing is known.
    """
    report = asyncio.run(ask_cluster(connection))
    if output is OutputFormat.JSON:
        print_json(_report_json(report))
    else:
        _print_report(report)
    for node in report.nodes:
        if node.status is None:
            note(f"Node {node.node_id} at {node.address}: {node.problem}.")
    if report.corrupt_records:
        click.get_current_context().exit(ExitCode.NEGATIVE)


def _print_report(report: ClusterReport) -> None:
    tours: list[list[Cell | str]] = []
    findings: list[list[Cell | str]] = []
    for node in report.answering:
        assert node.status is not None
        found = node.status.scrub
        tours += [_tour_row(node.node_id, tour) for tour in found.tours]
        if not found.tours:
            tours.append([str(node.node_id), "off", *["-"] * (len(_TOURS) - 2)])
        findings += [
            [str(node.node_id), item.store, item.database, item.key_hex, item.what]
            for item in found.findings
        ]
    print_table(_TOURS, tours)
    click.echo()
    if findings:
        click.echo(f"{plural(len(findings), 'finding')}, the newest of each node:")
        print_table(_FINDINGS, findings)
    elif not report.corrupt_records:
        click.echo("No corrupt record found.")


def _tour_row(node_id: int, tour: cluster_pb2.ScrubTour) -> list[Cell | str]:
    corrupt = tour.corrupt_records
    last = human_duration(tour.last_tour_seconds) if tour.tours_completed else "-"
    return [
        str(node_id),
        tour.store,
        human_count(tour.tours_completed),
        f"{tour.progress:.0%}",
        human_count(tour.records_checked_in_tour),
        human_count(tour.records_checked),
        Cell(text=human_count(corrupt), style="bold red" if corrupt else ""),
        last,
    ]


def _report_json(report: ClusterReport) -> dict[str, Json]:
    return {
        "corrupt_records": report.corrupt_records,
        "nodes": [
            {
                "node_id": node.node_id,
                "address": node.address,
                "answered": node.status is not None,
                **({"problem": node.problem} if node.status is None else {}),
                **(_scrub_json(node.status.scrub) if node.status is not None else {}),
            }
            for node in report.nodes
        ],
    }


def _scrub_json(scrub: cluster_pb2.ScrubStatus) -> dict[str, Json]:
    return {
        "stores": [
            {
                "store": tour.store,
                "tours_completed": tour.tours_completed,
                "progress": tour.progress,
                "records_checked_in_tour": tour.records_checked_in_tour,
                "records_checked": tour.records_checked,
                "corrupt_records": tour.corrupt_records,
                "last_tour_seconds": tour.last_tour_seconds,
            }
            for tour in scrub.tours
        ],
        "findings": [
            {
                "store": finding.store,
                "database": finding.database,
                "key_hex": finding.key_hex,
                "what": finding.what,
            }
            for finding in scrub.findings
        ],
    }
