"""Ask nodes about themselves: process state from /proc, the rest from their Status."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import grpc

from kvcluster.process import ProcessIdentity
from kvcluster.topology import NodeSpec
from kvstore.client.leadership import followed_leader
from kvstore.pb import cluster_pb2

STATUS_METHOD = "/kvstore.v1.Cluster/Status"
STATUS_TIMEOUT_S = 1.0


class ProcessState(StrEnum):
    """What the operating system says of a member's process."""

    RUNNING = "running"
    PAUSED = "paused"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node at one moment. ``serving`` is False if it did not answer in time;
    then the fields from ``role`` on say nothing.
    """

    node_id: int
    address: str
    process: ProcessState
    pid: int | None
    serving: bool = False
    role: str = ""
    term: int = 0
    leader_id: int = 0
    commit_index: int = 0
    applied_index: int = 0
    revision: int = 0
    leader_changes: int = 0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    uptime_seconds: float = 0.0
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """All nodes, asked at the same time."""

    nodes: tuple[NodeStatus, ...]

    @property
    def leader(self) -> NodeStatus | None:
        """The leader that a majority of all members follows in its term, else None."""
        return followed_leader(self.nodes, members=len(self.nodes))

    @property
    def term(self) -> int:
        return max(node.term for node in self.nodes)

    def node(self, node_id: int) -> NodeStatus:
        return next(node for node in self.nodes if node.node_id == node_id)


def query(
    nodes: Sequence[tuple[NodeSpec, ProcessIdentity | None]],
    *,
    timeout_s: float = STATUS_TIMEOUT_S,
) -> ClusterStatus:
    """Ask every running node at once. Takes ``timeout_s`` seconds at most.

    Never raises for a node that does not answer: its status says so.
    """
    channels: list[grpc.Channel] = []
    try:
        pending = []
        for node, identity in nodes:
            stat = identity.stat() if identity is not None else None
            state = ProcessState.DOWN
            if stat is not None:
                paused = stat.state == "T"
                state = ProcessState.PAUSED if paused else ProcessState.RUNNING
            future = None
            if state is ProcessState.RUNNING:
                channel = _channel(node.address)
                channels.append(channel)
                future = channel.unary_unary(
                    STATUS_METHOD,
                    cluster_pb2.StatusRequest.SerializeToString,
                    cluster_pb2.StatusResponse.FromString,
                ).future(cluster_pb2.StatusRequest(), timeout=timeout_s)
            silent = NodeStatus(
                node_id=node.node_id,
                address=node.address,
                process=state,
                pid=identity.pid if identity is not None and stat is not None else None,
            )
            pending.append((silent, future))
        return ClusterStatus(
            nodes=tuple(_answer(silent, future) for silent, future in pending)
        )
    finally:
        for channel in channels:
            channel.close()


def _channel(address: str) -> grpc.Channel:
    # A pool of its own: subchannels are shared in the process otherwise, and one that
    # failed before keeps its backoff, so that a restarted node would look dead.
    return grpc.insecure_channel(
        address,
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ],
    )


def _answer(
    silent: NodeStatus,
    future: "grpc.CallFuture[cluster_pb2.StatusResponse] | None",
) -> NodeStatus:
    if future is None:
        return silent
    try:
        answer = future.result()
    except grpc.RpcError:
        return silent
    return NodeStatus(
        node_id=silent.node_id,
        address=silent.address,
        process=silent.process,
        pid=silent.pid,
        serving=True,
        role=answer.role,
        term=answer.term,
        leader_id=answer.leader_id,
        commit_index=answer.commit_index,
        applied_index=answer.applied_index,
        revision=answer.revision,
        leader_changes=answer.leader_changes,
        cpu_seconds=answer.cpu_seconds,
        memory_bytes=answer.memory_bytes,
        uptime_seconds=answer.uptime_seconds,
        version=answer.version,
    )
