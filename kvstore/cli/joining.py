"""``kvstore init --join``: a directory for a node that is to be added to a cluster."""

import asyncio
from pathlib import Path

import click

from kvstore.cli.errors import CommandFailed, ExitCode
from kvstore.cli.node_commands import making, serve_command
from kvstore.cli.output import OutputFormat, note, print_json
from kvstore.client.cluster import status_of
from kvstore.errors import Unavailable
from kvstore.pb import cluster_pb2

ASK_TIMEOUT_S = 5.0


def prepare(
    directory: Path, node_id: int, address: str, endpoint: str, output: OutputFormat
) -> None:
    """Make the directory; say what comes next.

    Raises:
        CommandFailed: the id is, or was, a member's. Nothing was changed.
        Unavailable: nobody answers at ``endpoint``. Nothing was changed.
    """
    from kvstore.founding import join

    status = asyncio.run(_ask(endpoint))
    _check_free(status, node_id, address)
    members = {member.node_id: member.address for member in status.members}
    with making(directory):
        join(
            directory,
            node_id=node_id,
            cluster_id=status.cluster_id,
            members={**members, node_id: address},
            epoch=status.epoch,
            state_id=status.state_id or None,
        )
    serve = serve_command(directory, address)
    add = f"kvstore member add {node_id} {address} --endpoints {endpoint}"
    if output is OutputFormat.JSON:
        print_json(
            {
                "directory": str(directory),
                "node_id": node_id,
                "cluster_id": status.cluster_id.hex(),
                "next": [serve, add],
            }
        )
        return
    click.echo(
        f"Prepared node {node_id} for joining cluster {status.cluster_id.hex()} in "
        f"{directory}."
    )
    note(f"\nStart it, and then add it:\n  {serve}\n  {add}")


async def _ask(endpoint: str) -> cluster_pb2.StatusResponse:
    try:
        return await status_of(endpoint, ASK_TIMEOUT_S)
    except Unavailable as error:
        raise Unavailable(f"no member answers at {endpoint}: {error}") from error


def _check_free(status: cluster_pb2.StatusResponse, node_id: int, address: str) -> None:
    taken = {member.node_id: member.address for member in status.members}
    why = ""
    if not taken:
        why = f"node {status.node_id} was not added to a cluster yet itself"
    elif node_id in taken:
        why = f"node {node_id} is a member already, at {taken[node_id]}"
    elif node_id in status.removed:
        why = f"node {node_id} was a member once"
    elif address in taken.values():
        why = f"a member serves at {address} already"
    if why:
        raise CommandFailed(
            why,
            code=ExitCode.REFUSED,
            hint="Every new member takes an id that was never used, and an address of "
            "its own. If a member lost its disk, replace it: `kvstore member replace`.",
        )
