"""``kvstore member``: who belongs to the cluster."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click

from kvstore.cli.changing import change, members_json
from kvstore.cli.cluster_status import ClusterReport, ask_cluster, standing_of
from kvstore.cli.errors import ExitCode
from kvstore.cli.options import (
    Connection,
    connection_options,
    connection_options_waiting,
    examples,
    output_option,
    parse_address,
    reads_only,
)
from kvstore.cli.output import (
    Cell,
    Column,
    OutputFormat,
    note,
    plural,
    print_json,
    print_table,
)
from kvstore.client import admin
from kvstore.errors import Unavailable
from kvstore.pb import cluster_pb2
from kvstore.types import NODE_ID_MAX

CHANGE_TIMEOUT_S = 30.0
"""Default patience: a change needs a leader, and a member to be reached."""
REPLACE_TIMEOUT_S = 600.0
"""The same of a replacement, which waits until all data is copied."""
POLL_INTERVAL_S = 0.2

_COLUMNS = (
    Column(title="NODE", right=True),
    Column(title="ADDRESS"),
    Column(title="STANDING"),
    Column(title="LEADER"),
)
_NODE_ID = click.IntRange(1, NODE_ID_MAX)


@click.group(short_help="Show and change the members of the cluster.")
def member() -> None:
    """Show and change the members, while the cluster goes on serving.

    A member is added as a learner, which receives everything and counts for nothing,
    and becomes a voter once it has caught up. A removed member's id is never used
    again. Make a new member's directory with `kvstore init --join`.
    """


@member.command(
    "list",
    short_help="Show the members.",
    epilog=examples("kvstore member list", "kvstore member list --json"),
)
@connection_options
@output_option
@reads_only
def list_(*, connection: Connection, output: OutputFormat) -> None:
    """Show the members as the leader knows them.

    `leaving` is a voter that a change under way removes. If no leader is known, what
    another node knows is shown, which may be old.
    """
    found = asyncio.run(admin.members(connection.endpoints, connection.timeout_s))
    if output is OutputFormat.JSON:
        print_json(
            {
                "cluster_id": found.cluster_id.hex(),
                "epoch": found.epoch,
                "leader_id": found.leader_id or None,
                "joint": found.joint,
                "leases": found.leases,
                "members": members_json(found.members),
                "removed": list(found.removed),
            }
        )
        return
    _print_members(found.members, found.leader_id)
    if found.joint:
        note("A change of the members is under way.")
    if found.leases:
        note("Leader leases are on.")
    if found.removed:
        note(f"Removed, never to be used again: {_joined(found.removed)}.")
    if found.leader_id != found.node_id:
        note(f"Node {found.node_id} says so, which does not lead: it may be old.")


@member.command(
    short_help="Take a node in.",
    epilog=examples(
        "kvstore init --join 10.0.0.1:7400 --node-id 4 --address 10.0.0.4:7400 \\",
        "    --dir data  # on the new machine; then `kvstore serve` there, and",
        "kvstore member add 4 10.0.0.4:7400",
        "kvstore member add 4 10.0.0.4:7400 --wait --timeout 600",
        "kvstore member add 5 10.0.0.5:7400 --learner",
    ),
)
@click.argument("node_id", type=_NODE_ID, metavar="NODE")
@click.argument("address", metavar="HOST:PORT")
@click.option(
    "--learner",
    is_flag=True,
    help="Leave it a learner until `kvstore member promote`.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Return once it is a voter; exit code 1 if it is not within --timeout.",
)
@connection_options_waiting(CHANGE_TIMEOUT_S)
@output_option
def add(
    *,
    node_id: int,
    address: str,
    learner: bool,
    wait: bool,
    connection: Connection,
    output: OutputFormat,
) -> None:
    """Take in a node that was made by `kvstore init --join` and runs at HOST:PORT.

    The leader calls it there first: a wrong address is refused. It becomes a voter by
    itself once it has caught up.
    """
    if learner and wait:
        raise click.UsageError("a --learner becomes no voter: leave --wait out")
    began = time.monotonic()
    added = cluster_pb2.AddMember(
        node_id=node_id, address=parse_address(address), learner_only=learner
    )
    answer = change(connection, cluster_pb2.ChangeMembershipRequest(add=added))
    if wait:
        left_s = connection.timeout_s - (time.monotonic() - began)
        answer = asyncio.run(_wait_for_voter(connection, node_id, answer, left_s))
    standing = _standing_in(answer.members, node_id)
    if standing == "voter":
        words = f"Node {node_id} is a voter."
    elif not standing:
        words = f"Node {node_id} was added, and has been removed again since."
    elif learner:
        words = f"Node {node_id} is a learner, until you promote it."
    else:
        words = f"Node {node_id} is a learner, and a voter once it has caught up."
    _print_change(output, did="add", node_id=node_id, answer=answer, words=words)
    if wait and standing != "voter":
        if standing:
            note("It goes on catching up: `kvstore status` shows how far it is.")
        click.get_current_context().exit(ExitCode.NEGATIVE)


@member.command(
    short_help="Make a learner a voter.", epilog=examples("kvstore member promote 5")
)
@click.argument("node_id", type=_NODE_ID, metavar="NODE")
@connection_options_waiting(CHANGE_TIMEOUT_S)
@output_option
def promote(*, node_id: int, connection: Connection, output: OutputFormat) -> None:
    """Make a learner a voter. Waits while it has to catch up."""
    request = cluster_pb2.ChangeMembershipRequest(promote=node_id)
    answer = change(connection, request)
    words = f"Node {node_id} is a voter."
    _print_change(output, did="promote", node_id=node_id, answer=answer, words=words)


@member.command(
    short_help="Take a member out, for good.",
    epilog=examples("kvstore member remove 3", "kvstore member remove 3 --yes --json"),
)
@click.argument("node_id", type=_NODE_ID, metavar="NODE")
@click.option("--yes", is_flag=True, help="Do not ask, whatever is at risk.")
@connection_options_waiting(CHANGE_TIMEOUT_S)
@output_option
def remove(
    *, node_id: int, yes: bool, connection: Connection, output: OutputFormat
) -> None:
    """Take a member out. It stops; its directory and its id are of no more use.

    Asks first if the cluster would stop serving without it, or be left with one voter.
    To put another in its place use `kvstore member replace`, which never has fewer
    voters in between.
    """
    risk = risk_of_removing(asyncio.run(ask_cluster(connection)), node_id)
    if risk.grave and not yes:
        note(f"Warning: {risk.words}")
        click.confirm(f"Remove node {node_id} all the same?", abort=True, err=True)
    elif risk.words:
        note(f"Note: {risk.words}")
    request = cluster_pb2.ChangeMembershipRequest(remove=node_id)
    answer = change(connection, request)
    words = f"Node {node_id} is no member any more. Its data directory can be deleted."
    _print_change(output, did="remove", node_id=node_id, answer=answer, words=words)


@member.command(
    short_help="Put a new node in another's place.",
    epilog=examples(
        "kvstore member replace 3 4 10.0.0.4:7400",
        "kvstore member replace 3 4 10.0.0.4:7400 --timeout 3600",
    ),
)
@click.argument("old_id", type=_NODE_ID, metavar="OLD")
@click.argument("new_id", type=_NODE_ID, metavar="NEW")
@click.argument("address", metavar="HOST:PORT")
@connection_options_waiting(REPLACE_TIMEOUT_S)
@output_option
def replace(
    *,
    old_id: int,
    new_id: int,
    address: str,
    connection: Connection,
    output: OutputFormat,
) -> None:
    """Add NEW at HOST:PORT, wait until it has caught up, then swap OLD for it.

    OLD may be dead. NEW was made by `kvstore init --join` and runs. Interrupted, or out
    of time, the command can be repeated, and goes on where it stopped.
    """
    added = cluster_pb2.AddMember(node_id=new_id, address=parse_address(address))
    swap = cluster_pb2.ReplaceMember(old_node_id=old_id, added=added)
    answer = change(connection, cluster_pb2.ChangeMembershipRequest(replace=swap))
    words = f"Node {new_id} is a voter, and node {old_id} is no member any more."
    _print_change(output, did="replace", node_id=new_id, answer=answer, words=words)


@member.command(
    short_help="Switch leader leases on or off.",
    epilog=examples("kvstore member leases on", "kvstore member leases off"),
)
@click.argument("state", type=click.Choice(["on", "off"]))
@connection_options_waiting(CHANGE_TIMEOUT_S)
@output_option
def leases(*, state: str, connection: Connection, output: OutputFormat) -> None:
    """Allow leaders to answer reads by their lease, without asking the others.

    Such reads (`--consistency lease`) are linearizable only while the clocks of all
    members run at about the same speed. Off is the default.
    """
    request = cluster_pb2.ChangeMembershipRequest(set_leases=state == "on")
    change(connection, request)
    if output is OutputFormat.JSON:
        print_json({"did": "leases", "leases": state == "on"})
    else:
        click.echo(f"Leader leases are {state}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """What a cluster loses with a member."""

    words: str = ""
    """Nothing to say of it if empty."""
    grave: bool = False
    """Ask before it is taken."""


def risk_of_removing(report: ClusterReport, node_id: int) -> Risk:
    """Judge the cluster that would be left, by who answers now."""
    left = report.voters - {node_id}
    answering = {it.node_id for it in report.answering} & left
    needed = len(left) // 2 + 1
    if node_id not in report.voters or not left:
        # A learner is no loss, and the last voter is not let go.
        return Risk()
    if len(answering) < needed:
        return Risk(
            words=f"only {len(answering)} of the {plural(len(left), 'voter')} left "
            f"answer, and {needed} are needed: the cluster would stop serving, and "
            "this change would not end, until more of them are back.",
            grave=True,
        )
    if len(left) == 1:
        (alone,) = left
        return Risk(
            words=f"node {alone} would be the only voter: whatever happens to its disk "
            "happens to all data, and the cluster stops whenever it does.",
            grave=True,
        )
    if len(answering) == needed:
        return Risk(
            words=f"of the {len(left)} voters left, {len(answering)} answer and all of "
            "these are needed: losing one more stops the cluster."
        )
    return Risk()


async def _wait_for_voter(
    connection: Connection,
    node_id: int,
    answer: cluster_pb2.ChangeMembershipResponse,
    timeout_s: float,
) -> cluster_pb2.ChangeMembershipResponse:
    """The members once ``node_id`` is a voter, or as last known when the time is up.

    ``answer`` is what the change itself said. It was done: that nobody answers any more
    must not read as if it were not.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(POLL_INTERVAL_S, deadline - time.monotonic())
        try:
            found = await admin.members(connection.endpoints, left_s)
        except Unavailable:
            pass
        else:
            # A node that has not received the change yet says less than is known.
            if standing := _standing_in(found.members, node_id):
                answer = cluster_pb2.ChangeMembershipResponse(
                    members=found.members, leader_id=found.leader_id
                )
                if standing == "voter":
                    return answer
        if time.monotonic() >= deadline:
            return answer
        await asyncio.sleep(POLL_INTERVAL_S)


def _standing_in(members: Iterable[cluster_pb2.Member], node_id: int) -> str:
    """Empty if it is none of them."""
    return next((standing_of(it) for it in members if it.node_id == node_id), "")


def _print_change(
    output: OutputFormat,
    *,
    did: str,
    node_id: int,
    answer: cluster_pb2.ChangeMembershipResponse,
    words: str,
) -> None:
    if output is OutputFormat.JSON:
        print_json(
            {
                "did": did,
                "node_id": node_id,
                "leader_id": answer.leader_id or None,
                "members": members_json(answer.members),
            }
        )
        return
    click.echo(words)
    click.echo()
    _print_members(answer.members, answer.leader_id)


def _print_members(members: Sequence[cluster_pb2.Member], leader_id: int) -> None:
    rows: list[list[Cell | str]] = []
    for it in members:
        leads = it.node_id == leader_id
        standing = standing_of(it)
        rows.append(
            [
                str(it.node_id),
                it.address,
                Cell(text=standing, style="" if standing == "voter" else "yellow"),
                Cell(text="leader" if leads else "", style="bold green"),
            ]
        )
    print_table(_COLUMNS, rows)


def _joined(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
