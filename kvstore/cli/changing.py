"""How commands ask for a change of the cluster, and show its members."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kvstore.cli.cluster_status import standing_of
from kvstore.cli.errors import CommandFailed, ExitCode
from kvstore.cli.options import Connection
from kvstore.cli.output import Json
from kvstore.client import admin
from kvstore.errors import OutcomeUnknown
from kvstore.pb import cluster_pb2


def change(
    connection: Connection, request: cluster_pb2.ChangeMembershipRequest
) -> cluster_pb2.ChangeMembershipResponse:
    """Have the leader change the members, and wait until it is done.

    Raises:
        CommandFailed: nobody knows whether it was done, or will be.
        KVStoreError: nothing was changed; it says why.
    """
    advice = "A change that was begun goes on by itself"
    if request.WhichOneof("change") == "replace":
        advice = "Repeat the command: a replacement goes on where it stopped"
    with unknown_outcomes(f"{advice}. See with `kvstore member list` what was done"):
        return asyncio.run(
            admin.change_members(connection.endpoints, request, connection.timeout_s)
        )


@contextmanager
def unknown_outcomes(advice: str) -> Iterator[None]:
    """Give an unknown outcome inside a hint about the cluster instead of keys."""
    try:
        yield
    except OutcomeUnknown as error:
        raise CommandFailed(
            str(error),
            code=ExitCode.OUTCOME_UNKNOWN,
            hint=f"{advice}. --timeout allows more time.",
        ) from error


def members_json(members: Iterable[cluster_pb2.Member]) -> list[Json]:
    """Members as JSON output shows them."""
    return [
        {
            "node_id": member.node_id,
            "address": member.address,
            "standing": standing_of(member),
            # As text: JSON readers round numbers beyond 2**53.
            "incarnation": f"{member.incarnation:016x}" if member.incarnation else None,
        }
        for member in members
    ]
