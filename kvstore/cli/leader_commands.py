"""``kvstore leader``: who leads, and handing over."""

import asyncio

import click

from kvstore.cli.changing import unknown_outcomes
from kvstore.cli.cluster_status import ask_cluster
from kvstore.cli.errors import ExitCode
from kvstore.cli.options import (
    Connection,
    connection_options,
    examples,
    output_option,
    reads_only,
)
from kvstore.cli.output import OutputFormat, note, print_json
from kvstore.client import admin
from kvstore.pb import cluster_pb2
from kvstore.types import NODE_ID_MAX


@click.group(short_help="Show the leader, or have it hand over.")
def leader() -> None:
    """Show the leader, or have it hand over to another voter."""


@leader.command(
    short_help="Show who leads.",
    epilog=examples("kvstore leader show", "kvstore leader show --json | jq .address"),
)
@connection_options
@output_option
@reads_only
def show(*, connection: Connection, output: OutputFormat) -> None:
    """Show the leader that a majority follows. Exit code 1 if there is none."""
    report = asyncio.run(ask_cluster(connection))
    found = report.leader
    if found is None or found.status is None:
        if output is OutputFormat.JSON:
            print_json({"leader_id": None, "summary": report.in_words()})
        else:
            note(report.in_words())
        click.get_current_context().exit(ExitCode.NEGATIVE)
    term = found.status.term
    if output is OutputFormat.JSON:
        print_json({"leader_id": found.node_id, "address": found.address, "term": term})
    else:
        click.echo(f"Node {found.node_id} at {found.address} leads in term {term}.")


@leader.command(
    short_help="Have the leader hand over.",
    epilog=examples("kvstore leader transfer", "kvstore leader transfer --to 2"),
)
@click.option(
    "--to",
    "to",
    type=click.IntRange(1, NODE_ID_MAX),
    metavar="NODE",
    help="A voter.  [default: the one that is closest to the leader]",
)
@connection_options
@output_option
def transfer(*, to: int | None, connection: Connection, output: OutputFormat) -> None:
    """Have the leader hand over, as before its machine is restarted.

    Takes a few round trips, in which writes wait. `kvstore serve` does the same by
    itself when it is stopped in good order.
    """
    request = cluster_pb2.TransferLeadershipRequest(to=to or 0)
    with unknown_outcomes("See with `kvstore leader show` who leads"):
        answer = asyncio.run(
            admin.transfer_leadership(
                connection.endpoints, request, connection.timeout_s
            )
        )
    if output is OutputFormat.JSON:
        print_json({"leader_id": answer.leader_id or None, "term": answer.term})
    elif answer.leader_id:
        click.echo(f"Node {answer.leader_id} leads in term {answer.term}.")
    else:
        click.echo(f"Handed over; the leader of term {answer.term} is not known yet.")
