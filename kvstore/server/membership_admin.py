"""Who answers at an address, asked before the node there becomes a member."""

from dataclasses import dataclass

import grpc

from kvstore.config import check_address
from kvstore.errors import ConfigError, KVStoreError, MembershipRefused, Unavailable
from kvstore.pb import cluster_pb2
from kvstore.rpc.errors import error_from_rpc
from kvstore.rpc.options import MEMBER_CHANNEL_OPTIONS
from kvstore.types import ClusterId, Epoch, Incarnation, NodeId

IDENTIFY_TIMEOUT_S = 3.0

_STATUS = "/kvstore.v1.Cluster/Status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """What the node at an address says of itself."""

    cluster_id: ClusterId
    node_id: NodeId
    incarnation: Incarnation
    epoch: Epoch
    state_id: ClusterId


async def ask_identity(
    address: str, *, timeout_s: float = IDENTIFY_TIMEOUT_S
) -> Identified:
    """Who serves at ``address``.

    Raises:
        MembershipRefused: it is no address, or what answers there is no kvstore node.
            Definite.
        Unavailable: nobody answers there in time. Definite, try again.
    """
    try:
        check_address("the member's address", address, port_min=1)
    except ConfigError as error:
        raise MembershipRefused(str(error)) from error
    async with grpc.aio.insecure_channel(
        address, options=list(MEMBER_CHANNEL_OPTIONS)
    ) as channel:
        ask = channel.unary_unary(
            _STATUS,
            request_serializer=cluster_pb2.StatusRequest.SerializeToString,
            response_deserializer=cluster_pb2.StatusResponse.FromString,
        )
        try:
            status: cluster_pb2.StatusResponse = await ask(
                cluster_pb2.StatusRequest(), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise _no_answer(address, timeout_s, error) from error
    cluster_id = ClusterId(status.cluster_id)
    return Identified(
        cluster_id=cluster_id,
        node_id=NodeId(status.node_id),
        incarnation=Incarnation(status.incarnation),
        epoch=Epoch(status.epoch),
        state_id=ClusterId(status.state_id) if status.state_id else cluster_id,
    )


async def identify(
    address: str,
    *,
    cluster_id: ClusterId,
    node_id: NodeId,
    state_id: ClusterId | None = None,
    timeout_s: float = IDENTIFY_TIMEOUT_S,
) -> Identified:
    """Make sure that the node at ``address`` is ``node_id`` of our cluster.

    ``state_id``: what the checksums of our state's records cover; the node's cover the
    same, or it could read nothing that we send. None: whatever they cover.

    Raises:
        MembershipRefused: another one answers there; the message says who. Definite.
        Unavailable: nobody does. Definite, try again.
    """
    found = await ask_identity(address, timeout_s=timeout_s)
    if found.cluster_id != cluster_id:
        raise MembershipRefused(
            f"at {address} answers member {found.node_id} of another cluster, "
            f"{found.cluster_id.hex()}; this one is {cluster_id.hex()}: init the new "
            "member's directory with --join and this cluster's id"
        )
    if found.node_id != node_id:
        raise MembershipRefused(
            f"at {address} answers node {found.node_id}, not node {node_id}: correct "
            "the address, or the id"
        )
    if state_id not in (None, found.state_id):
        raise MembershipRefused(
            f"node {node_id} at {address} expects the state of cluster "
            f"{found.state_id.hex()}, and this cluster's is that of {state_id.hex()}: "
            "init its directory anew, with the state id that a member's status shows"
        )
    return found


def _no_answer(
    address: str, timeout_s: float, error: grpc.aio.AioRpcError
) -> KVStoreError:
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"no answer from {address} in {timeout_s:g} s")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return MembershipRefused(f"what answers at {address} is no kvstore node")
    return Unavailable(
        f"nobody answers at {address}: start the new member there first "
        f"({error_from_rpc(error)})"
    )
