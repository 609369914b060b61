"""Nodes that answer operators over gRPC, with the real rules of membership behind them.

Nothing is replicated: one configuration stands for what all members know. Each node is
a server in a thread, on a port of its own, so that a command can be run in this one.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from kvstore.errors import KVStoreError, NotLeader, Unavailable
from kvstore.pb import cluster_pb2
from kvstore.raft.membership import (
    AddLearner,
    Change,
    Configuration,
    MemberInfo,
    MemberRole,
    Promote,
    Remove,
    SetLeases,
)
from kvstore.rpc.errors import ERROR_METADATA_KEY, STATUS_OF, error_to_pb
from kvstore.types import Incarnation, NodeId

CLUSTER_ID = b"c" * 16
STATE_ID = b"s" * 16
EPOCH = 2
TERM = 3

Q = TypeVar("Q", bound=Message)


class FakeCluster:
    """Members 1, 2, … of which the first leads."""

    def __init__(self) -> None:
        self.configuration = Configuration(voters=())
        self.leader_id = NodeId(1)
        self.fails_with: KVStoreError | None = None
        """What the leader answers to every change from now on."""
        self.catches_up = True
        """Whether a learner becomes a voter by the next time anybody looks."""
        self.silent_after_change: set[int] = set()
        """These answer nobody any more once a change is done."""
        self.missing_changes: set[int] = set()
        """These know the founding members only, and no leader."""
        self.addresses: dict[NodeId, str] = {}
        """Of the nodes that run, members or not."""
        self._servers: dict[NodeId, grpc.Server] = {}
        self._founding = self.configuration
        self._silent: set[int] = set()

    @property
    def endpoints(self) -> str:
        """As ``--endpoints`` takes them."""
        return ",".join(self.addresses.values())

    def run_node(self, node_id: int) -> str:
        """Run a node that no configuration knows yet. Returns its address."""
        node = NodeId(node_id)
        server = grpc.server(ThreadPoolExecutor(max_workers=2))
        methods = {
            "Status": _method(lambda _: self._status(node), cluster_pb2.StatusRequest),
            "ChangeMembership": _method(
                lambda request: self._change(node, request),
                cluster_pb2.ChangeMembershipRequest,
            ),
            "TransferLeadership": _method(
                lambda request: self._transfer(node, request),
                cluster_pb2.TransferLeadershipRequest,
            ),
        }
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("kvstore.v1.Cluster", methods)]
        )
        self.addresses[node] = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        self._servers[node] = server
        server.start()
        return self.addresses[node]

    def kill(self, *node_ids: int) -> None:
        """These do not answer any more."""
        for node_id in node_ids:
            self._servers.pop(NodeId(node_id)).stop(None).wait()

    def close(self) -> None:
        self.kill(*list(self._servers))

    def found(self, nodes: int) -> None:
        """Run nodes 1 to ``nodes``, as the founding members."""
        members = {
            NodeId(n): MemberInfo(self.run_node(n), Incarnation(100 + n))
            for n in range(1, nodes + 1)
        }
        self._founding = Configuration(voters=tuple(members), members=members)
        self.configuration = self._founding

    # ----------------------------------------------------------------- answers

    def _status(self, node: NodeId) -> cluster_pb2.StatusResponse:
        if node in self._silent:
            raise Unavailable("told to be silent")
        status = cluster_pb2.StatusResponse(
            cluster_id=CLUSTER_ID,
            state_id=STATE_ID,
            epoch=EPOCH,
            node_id=node,
            role="follower",
        )
        if node not in self.configuration.members:
            return status
        if node in self.missing_changes:
            status.members.extend(_members(self._founding))
            return status
        status.members.extend(_members(self.configuration))
        status.removed.extend(self.configuration.removed)
        status.leases = self.configuration.leases
        status.term = TERM
        status.leader_id = self.leader_id
        status.role = "leader" if node == self.leader_id else "follower"
        if self.catches_up:
            for learner in self.configuration.learners:
                if self.configuration.members[learner].promotable:
                    self._apply([Promote(learner)])
        return status

    def _change(
        self, node: NodeId, request: cluster_pb2.ChangeMembershipRequest
    ) -> cluster_pb2.ChangeMembershipResponse:
        self._check_leads(node)
        match request.WhichOneof("change"):
            case "add":
                self._apply([_addition(request.add)])
            case "promote":
                self._apply([Promote(NodeId(request.promote))])
            case "remove":
                self._apply([Remove(NodeId(request.remove))])
            case "set_leases":
                self._apply([SetLeases(request.set_leases)])
            case _:
                self._apply([_addition(request.replace.added)])
                added = NodeId(request.replace.added.node_id)
                old = NodeId(request.replace.old_node_id)
                self._apply([Promote(added), Remove(old)])
        self._silent |= self.silent_after_change
        return cluster_pb2.ChangeMembershipResponse(
            members=_members(self.configuration), leader_id=self.leader_id
        )

    def _transfer(
        self, node: NodeId, request: cluster_pb2.TransferLeadershipRequest
    ) -> cluster_pb2.TransferLeadershipResponse:
        self._check_leads(node)
        others = [it for it in self.configuration.voters if it != self.leader_id]
        self.leader_id = NodeId(request.to or others[0])
        return cluster_pb2.TransferLeadershipResponse(
            leader_id=self.leader_id, term=TERM + 1
        )

    def _check_leads(self, node: NodeId) -> None:
        if node != self.leader_id:
            address = self.addresses[self.leader_id]
            raise NotLeader("no", leader_id=self.leader_id, leader_address=address)
        if self.fails_with is not None:
            raise self.fails_with

    def _apply(self, changes: list[Change]) -> None:
        self.configuration = self.configuration.enter_joint(changes).leave_joint()


@contextmanager
def fake_cluster(nodes: int = 3) -> Iterator[FakeCluster]:
    """A cluster of ``nodes`` voters that answers inside the block."""
    cluster = FakeCluster()
    try:
        cluster.found(nodes)
        yield cluster
    finally:
        cluster.close()


def _members(known: Configuration) -> list[cluster_pb2.Member]:
    return [
        cluster_pb2.Member(
            node_id=node_id,
            address=info.address,
            incarnation=info.incarnation,
            voter=known.role(node_id) is MemberRole.VOTER,
        )
        for node_id, info in known.members.items()
    ]


def _addition(added: cluster_pb2.AddMember) -> AddLearner:
    info = MemberInfo(added.address, Incarnation(0))
    return AddLearner(
        NodeId(added.node_id), replace(info, promotable=not added.learner_only)
    )


def _method(
    answer: Callable[[Q], Message], request_type: type[Q]
) -> "grpc.RpcMethodHandler[bytes, bytes]":
    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return answer(request_type.FromString(request)).SerializeToString()
        except KVStoreError as error:
            said = error_to_pb(error).SerializeToString()
            context.set_trailing_metadata(((ERROR_METADATA_KEY, said),))
            context.abort(STATUS_OF[type(error)], str(error))

    return grpc.unary_unary_rpc_method_handler(handle)
