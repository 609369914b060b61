"""What a node says over gRPC, one call at a time."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kvstore.errors import (
    Compacted,
    DeadlineExceeded,
    InvalidRequest,
    KVStoreError,
    RequestTooLarge,
    Unavailable,
)
from kvstore.pb import cluster_pb2, kv_pb2
from kvstore.rpc.errors import error_from_rpc
from kvstore.server.node import Node
from tests.server.harness import (
    CLUSTER_ID,
    Rpc,
    configs,
    dialled,
    eventually,
    run,
    running,
)

HEALTH = health_pb2.HealthCheckResponse


async def refusal(call: Any) -> KVStoreError:
    """The error that a call ended with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


def test_the_five_operations_work_one_at_a_time(tmp_path: Path) -> None:
    async def scenario(rpc: Rpc) -> None:
        put = await rpc.kv.Put(kv_pb2.Put(key=b"a", value=b"1"))
        assert (put.result.revision, put.header.revision) == (1, 1)
        assert put.header.cluster_id == CLUSTER_ID
        assert put.header.node_id == 1
        assert put.header.term > 0
        replaced = await rpc.kv.Put(kv_pb2.Put(key=b"a", value=b"2", prev_kv=True))
        assert replaced.result.prev_kv.value == b"1"
        found = await rpc.kv.Range(kv_pb2.Range(key=b"a"))
        assert [pair.value for pair in found.result.kvs] == [b"2"]
        txn = kv_pb2.Txn(
            compare=[kv_pb2.Compare(key=b"a", mod_revision=2)],
            success=[kv_pb2.Operation(put=kv_pb2.Put(key=b"b", value=b"3"))],
        )
        assert (await rpc.kv.Txn(txn)).result.succeeded
        deleted = await rpc.kv.DeleteRange(kv_pb2.DeleteRange(key=b"a"))
        assert deleted.result.deleted == 1
        compacted = await rpc.kv.Compact(kv_pb2.Compact(revision=3))
        assert compacted.result.revision == 4

    run(with_node(tmp_path, scenario))


async def with_node(tmp_path: Path, scenario: Any, **settings: Any) -> None:
    async with running(tmp_path, **settings) as node, dialled(node) as rpc:
        await scenario(rpc)


def test_a_refused_call_carries_the_typed_error(tmp_path: Path) -> None:
    async def scenario(rpc: Rpc) -> None:
        error = await refusal(rpc.kv.Put(kv_pb2.Put(key=b"", value=b"1")))
        assert type(error) is InvalidRequest
        error = await refusal(rpc.kv.Put(kv_pb2.Put(key=b"a", value=bytes(2 << 20))))
        assert isinstance(error, RequestTooLarge)
        assert (error.limit, error.maximum) == ("value_bytes_max", 1 << 20)
        await rpc.kv.Put(kv_pb2.Put(key=b"a"))
        await rpc.kv.Put(kv_pb2.Put(key=b"a"))
        await rpc.kv.Compact(kv_pb2.Compact(revision=2))
        # Refused when it is read, and when it is applied.
        error = await refusal(rpc.kv.Range(kv_pb2.Range(key=b"a", revision=1)))
        assert isinstance(error, Compacted)
        assert error.compact_revision == 2
        error = await refusal(rpc.kv.Compact(kv_pb2.Compact(revision=2)))
        assert isinstance(error, Compacted)

    run(with_node(tmp_path, scenario))


def test_a_calls_own_deadline_bounds_its_wait_for_a_leader(tmp_path: Path) -> None:
    """A cluster of two with one up has no leader, and the node's own patience, for a
    leader and for a request, is a minute."""

    async def scenario() -> None:
        config, _ = configs(
            tmp_path, 2, election_timeout_ms=60_000, request_timeout_ms=60_000
        )
        async with Node(config) as node, dialled(node) as rpc:
            for call in (
                rpc.kv.Put(kv_pb2.Put(key=b"a"), timeout=0.2),
                rpc.kv.Range(kv_pb2.Range(key=b"a"), timeout=0.2),
            ):
                # The client's clock and the node's may end it at the same moment.
                assert isinstance(await refusal(call), Unavailable | DeadlineExceeded)
                # Either way the node owes nothing any more.
                await eventually(lambda: not node.requests)
            assert node.requests._last_ticket == 2

    run(scenario())


def test_reflection_lists_every_service(tmp_path: Path) -> None:
    """Generic tools can call a node without our proto files."""

    async def scenario(rpc: Rpc) -> None:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(rpc.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([request])):
            names = {service.name for service in answer.list_services_response.service}
            break
        assert {
            "kvstore.v1.KV",
            "kvstore.v1.Cluster",
            "kvstore.v1.Peer",
            "grpc.health.v1.Health",
        } <= names

    run(with_node(tmp_path, scenario))


def test_health_serves_while_a_leader_is_known_and_only_then(tmp_path: Path) -> None:
    """Two members: neither serves alone, both do together."""

    async def health(rpc: Rpc, service: str = "") -> int:
        stub: Any = health_pb2_grpc.HealthStub(rpc.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)

    async def until(rpc: Rpc, status: int) -> None:
        async with asyncio.timeout(10):
            while await health(rpc) != status:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.005)

    async def scenario() -> None:
        one, two = configs(tmp_path, 2)
        async with Node(one) as node, dialled(node) as rpc:
            assert await health(rpc) == HEALTH.NOT_SERVING
            async with Node(two):
                await until(rpc, HEALTH.SERVING)
                assert await health(rpc, "kvstore.v1.KV") == HEALTH.SERVING
            await until(rpc, HEALTH.NOT_SERVING)

    run(scenario())


def test_status_says_what_the_node_is(tmp_path: Path) -> None:
    async def scenario(rpc: Rpc) -> None:
        await rpc.kv.Put(kv_pb2.Put(key=b"a"))
        said = await rpc.cluster.Status(cluster_pb2.StatusRequest())
        assert (said.node_id, said.role, said.leader_id) == (1, "leader", 1)
        assert said.applied_index == said.commit_index == said.last_log_index == 2
        assert (said.revision, said.compact_revision) == (1, 0)
        assert said.leader_changes == 1
        assert said.raft_store_bytes > 0
        assert said.memory_bytes > 0
        assert [member.node_id for member in said.members] == [1]

    run(with_node(tmp_path, scenario))
