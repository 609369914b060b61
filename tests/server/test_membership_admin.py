"""Who answers at an address, before it becomes a member's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from kvcluster.topology import free_ports
from kvstore.errors import MembershipRefused, Unavailable
from kvstore.pb import cluster_pb2, cluster_pb2_grpc
from kvstore.server.membership_admin import Identified, ask_identity, identify
from kvstore.types import ClusterId, Epoch, Incarnation, NodeId
from tests.server.harness import run

OURS, OTHER = ClusterId(b"c" * 16), ClusterId(b"x" * 16)


class Node(cluster_pb2_grpc.ClusterServicer):
    """What answers, with the status that it is given."""

    def __init__(self, status: cluster_pb2.StatusResponse | None) -> None:
        self._status = status

    async def Status(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        if self._status is None:
            await asyncio.Event().wait()
        return self._status


@asynccontextmanager
async def serving(
    status: cluster_pb2.StatusResponse | None, *, node: bool = True
) -> AsyncIterator[str]:
    server = grpc.aio.server()
    if node:
        cluster_pb2_grpc.add_ClusterServicer_to_server(Node(status), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def status(**changes: Any) -> cluster_pb2.StatusResponse:
    whole = {"cluster_id": OURS, "node_id": 4, "incarnation": 44, "epoch": 2}
    return cluster_pb2.StatusResponse(**{**whole, **changes})


async def identified(said: cluster_pb2.StatusResponse, **more: Any) -> Identified:
    async with serving(said) as address:
        return await identify(
            address, cluster_id=OURS, node_id=NodeId(4), timeout_s=5.0, **more
        )


def test_the_right_node_says_which_directory_it_has() -> None:
    async def scenario() -> None:
        found = await identified(status())
        assert found == Identified(
            cluster_id=OURS,
            node_id=NodeId(4),
            incarnation=Incarnation(44),
            epoch=Epoch(2),
            state_id=OURS,
        )

    run(scenario())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        pytest.param({"cluster_id": OTHER}, OTHER.hex(), id="another_cluster"),
        pytest.param({"node_id": 5}, "answers node 5, not node 4", id="another_node"),
        pytest.param({"state_id": OTHER}, OTHER.hex(), id="another_state"),
    ],
)
def test_another_node_is_refused_by_name(said: dict[str, Any], message: str) -> None:
    async def scenario() -> None:
        with pytest.raises(MembershipRefused, match=message):
            await identified(status(**said), state_id=OURS)

    run(scenario())


def test_a_state_of_another_origin_fits_a_cluster_that_has_it() -> None:
    """As after a restore."""

    async def scenario() -> None:
        found = await identified(status(state_id=OTHER), state_id=OTHER)
        assert found.state_id == OTHER

    run(scenario())


def test_nobody_is_unavailable() -> None:
    (port,) = free_ports(1)

    async def scenario() -> None:
        with pytest.raises(Unavailable, match="nobody answers"):
            await ask_identity(f"127.0.0.1:{port}", timeout_s=5.0)

    run(scenario())


def test_one_that_does_not_answer_in_time_is_unavailable() -> None:
    async def scenario() -> None:
        async with serving(None) as address:
            with pytest.raises(Unavailable, match="no answer from"):
                await ask_identity(address, timeout_s=0.05)

    run(scenario())


def test_what_is_no_node_is_refused() -> None:
    async def scenario() -> None:
        async with serving(None, node=False) as address:
            with pytest.raises(MembershipRefused, match="no kvstore node"):
                await ask_identity(address, timeout_s=5.0)

    run(scenario())


@pytest.mark.parametrize("address", ["nowhere", "host:0", ":7400", "::1:7400"])
def test_what_is_no_address_is_refused(address: str) -> None:
    async def scenario() -> None:
        with pytest.raises(MembershipRefused, match="the member's address"):
            await ask_identity(address)

    run(scenario())
