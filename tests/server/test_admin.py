"""Changes of members that stop half way say so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from kvstore.errors import LeadershipLost, MembershipRefused, OutcomeUnknown
from kvstore.pb import cluster_pb2, cluster_pb2_grpc
from kvstore.raft.membership import Configuration, MemberInfo, Promote, Remove
from kvstore.server.admin import swap
from kvstore.server.node import Node
from kvstore.types import Incarnation, NodeId
from tests.server.harness import CLUSTER_ID, configs, eventually, run, running

OLD, NEW = NodeId(1), NodeId(9)


class Stranger(cluster_pb2_grpc.ClusterServicer):
    """Says who it is, and takes nothing in: it never catches up."""

    async def Status(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        return cluster_pb2.StatusResponse(
            cluster_id=CLUSTER_ID, state_id=CLUSTER_ID, node_id=NEW, incarnation=99
        )


@asynccontextmanager
async def stranger() -> AsyncIterator[str]:
    server = grpc.aio.server()
    cluster_pb2_grpc.add_ClusterServicer_to_server(Stranger(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def three(folder: Path) -> AsyncIterator[list[Node]]:
    """Members of a cluster that has a leader."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(Node(config))
            for config in configs(folder, 3)
        ]
        await eventually(lambda: leader_of(nodes) is not None)
        yield nodes


def leader_of(nodes: list[Node]) -> Node | None:
    """One that can change members already."""
    return next((it for it in nodes if it.replica.raft.can_change_members), None)


def replacement(
    address: str, *, old: int = OLD, timeout_ms: int
) -> cluster_pb2.ChangeMembershipRequest:
    added = cluster_pb2.AddMember(node_id=NEW, address=address)
    replace = cluster_pb2.ReplaceMember(old_node_id=old, added=added)
    return cluster_pb2.ChangeMembershipRequest(replace=replace, timeout_ms=timeout_ms)


def is_learner(node: Node) -> bool:
    raft = node.replica.raft
    committed = raft.commit_index >= raft.configuration_index
    return committed and NEW in raft.configuration.learners


def test_a_replacement_out_of_time_says_that_the_new_node_was_added(
    tmp_path: Path,
) -> None:
    """At the first attempt, and when it is repeated."""

    async def scenario() -> None:
        async with stranger() as address, running(tmp_path) as node:
            request = replacement(address, timeout_ms=300)
            for _ in range(2):
                with pytest.raises(
                    OutcomeUnknown, match="node 9 was added and is catching up; repeat"
                ):
                    await node.admin.change(request)
                assert is_learner(node)

    run(scenario())


def test_a_replacement_whose_leader_lost_the_lead_can_go_on_at_the_next(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with stranger() as address, three(tmp_path) as nodes:
            leader = leader_of(nodes)
            assert leader is not None
            request = replacement(address, timeout_ms=30_000)
            changing = asyncio.create_task(leader.admin.change(request))
            await eventually(lambda: is_learner(leader))
            await leader.admin.transfer(cluster_pb2.TransferLeadershipRequest())
            with pytest.raises(LeadershipLost, match="node 9 was added"):
                await changing

    run(scenario())


def test_a_replacement_of_a_node_removed_meanwhile_says_that_the_new_was_added(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with stranger() as address, three(tmp_path) as nodes:
            leader = leader_of(nodes)
            assert leader is not None
            old = next(it for it in nodes if it is not leader).replica.raft.node_id
            request = replacement(address, old=old, timeout_ms=30_000)
            changing = asyncio.create_task(leader.admin.change(request))
            await eventually(lambda: is_learner(leader))
            remove = cluster_pb2.ChangeMembershipRequest(remove=old, timeout_ms=10_000)
            await leader.admin.change(remove)
            with pytest.raises(OutcomeUnknown, match="node 9 was added, but"):
                await changing
            with pytest.raises(MembershipRefused, match=f"node {old} is not a member"):
                await leader.admin.change(request)

    run(scenario())


def test_a_swap_never_removes_without_a_replacement() -> None:
    info = MemberInfo("h:1", Incarnation(1))
    two, three_ = NodeId(2), NodeId(3)

    def configuration(*voters: NodeId, learners: tuple[NodeId, ...] = ()) -> Any:
        members = dict.fromkeys((*voters, *learners), info)
        return Configuration(voters=voters, learners=learners, members=members)

    assert swap(configuration(OLD, two, learners=(NEW,)), OLD, NEW) == [
        Promote(NEW),
        Remove(OLD),
    ]
    assert swap(configuration(OLD, two, NEW), OLD, NEW) == [Remove(OLD)]
    assert swap(configuration(two, three_, NEW), OLD, NEW) == []
    with pytest.raises(MembershipRefused, match="node 9 is not a member any more"):
        swap(configuration(OLD, two), OLD, NEW)
    with pytest.raises(MembershipRefused, match="node 1 is not a member"):
        swap(configuration(two, three_, learners=(NEW,)), OLD, NEW)
