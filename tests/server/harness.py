"""Real nodes in this process: founded in a folder, served over loopback."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from kvcluster.topology import free_ports
from kvstore.config import Config
from kvstore.founding import found
from kvstore.pb import cluster_pb2_grpc, kv_pb2, kv_pb2_grpc
from kvstore.raft.messages import Entry, HardState
from kvstore.raft.node import RaftNode
from kvstore.rpc.options import CLIENT_CHANNEL_OPTIONS
from kvstore.server.node import Node

PATIENCE_S = 10.0
SCENARIO_S = 60.0
CLUSTER_ID = b"c" * 16


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """In a loop of its own. A scenario that hangs fails where it hangs."""

    async def bounded() -> None:
        async with asyncio.timeout(SCENARIO_S):
            await scenario

    asyncio.run(bounded())


def configs(folder: Path, size: int = 1, **settings: Any) -> list[Config]:
    """Found a cluster on free ports of the loopback, and say how to run it."""
    members = {
        number: f"127.0.0.1:{port}" for number, port in enumerate(free_ports(size), 1)
    }
    made = []
    for number in members:
        path = folder / f"node{number}"
        found(path, node_id=number, cluster_id=CLUSTER_ID, members=members)
        made.append(Config(data_dir=path, **{"scrub": False} | settings))
    return made


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Node]:
    """A cluster of one that leads and is at rest.

    The first entry of its term is applied: a write that is asked for now is proposed
    at once, also when a test has just begun to hold the log back.
    """
    (config,) = configs(folder, **settings)
    async with Node(config) as node:
        raft = node.replica.raft
        await eventually(lambda: raft.is_leader and _is_at_rest(raft))
        yield node


def _is_at_rest(raft: RaftNode) -> bool:
    return not raft.is_persisting and raft.applied_index == raft.last_index


async def eventually(condition: Callable[[], bool]) -> None:
    """For a condition that nothing announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


class Medium:
    """Stands between a node and its log: it holds writes back, or refuses them."""

    def __init__(self, node: Node) -> None:
        self._log = node.stores.log
        self._gate = threading.Event()
        self._gate.set()
        self.error: BaseException | None = None
        node.log_thread._log = self  # type: ignore[assignment]

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        assert self._gate.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self._log.append(hard_state, entries)

    def hold(self) -> None:
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()


class Rpc:
    """The stubs of one node, as a foreign client has them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.kv: Any = kv_pb2_grpc.KVStub(channel)
        self.cluster: Any = cluster_pb2_grpc.ClusterStub(channel)


@asynccontextmanager
async def dialled(node: Node) -> AsyncIterator[Rpc]:
    async with grpc.aio.insecure_channel(
        node.address, options=list(CLIENT_CHANNEL_OPTIONS)
    ) as channel:
        yield Rpc(channel)


def puts(*keys: str, value: bytes = b"v") -> bytes:
    """An encoded batch."""
    commands = [
        kv_pb2.Command(put=kv_pb2.Put(key=key.encode(), value=value)) for key in keys
    ]
    return kv_pb2.CommandBatch(commands=commands).SerializeToString()


def writes(
    *keys: str, request_id: int = 1, value: bytes = b"v"
) -> kv_pb2.OperateRequest:
    return kv_pb2.OperateRequest(id=request_id, writes=puts(*keys, value=value))


def reads(*keys: str, request_id: int = 1) -> kv_pb2.OperateRequest:
    ranges = [kv_pb2.Range(key=key.encode()) for key in keys]
    return kv_pb2.OperateRequest(id=request_id, reads=kv_pb2.RangeBatch(ranges=ranges))


def everything(request_id: int = 1, **fields: Any) -> kv_pb2.OperateRequest:
    request = kv_pb2.Range(key=b"\0", range_end=b"\0", **fields)
    batch = kv_pb2.RangeBatch(ranges=[request])
    return kv_pb2.OperateRequest(id=request_id, reads=batch)


async def value_of(node: Node, key: str) -> bytes | None:
    """Read a key inside the process."""
    response = await node.operate(reads(key))
    assert not response.HasField("error"), response.error
    (result,) = response.results.results
    return result.range.kvs[0].value if result.range.kvs else None


async def put(node: Node, *keys: str, value: bytes = b"v") -> None:
    response = await node.operate(writes(*keys, value=value))
    assert not response.HasField("error"), response.error
