"""A node's gRPC server, and its streams to and from its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from kvstore.config import MIB, Config, check_bindable
from kvstore.errors import ConfigError, NotLeader
from kvstore.pb import cluster_pb2, cluster_pb2_grpc, kv_pb2, kv_pb2_grpc, peer_pb2
from kvstore.raft.membership import Configuration
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.replica.proposals import FORWARDED_BATCHES_MAX
from kvstore.rpc.admission import FINAL, Hello, Refusal, RefusalKind, refusal_by
from kvstore.rpc.codec import PeerCodec
from kvstore.rpc.options import SERVER_OPTIONS
from kvstore.rpc.peer_link import PeerOptions
from kvstore.rpc.peers import PeerTransport
from kvstore.server.services import ClusterService, KVService
from kvstore.server.snapshots import Snapshots
from kvstore.storage.record import entry_crc
from kvstore.types import Incarnation, LogIndex, NodeId, Revision

if TYPE_CHECKING:
    from kvstore.server.node import Node

STOP_GRACE_S = 0.5
"""Answers under way may still leave when the node stops."""

FORWARD_OVERHEAD_BYTES_MAX = 64
"""What a frame puts around the writes of one forwarded batch."""

SERVICES = (
    kv_pb2.DESCRIPTOR.services_by_name["KV"].full_name,
    cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name,
    peer_pb2.DESCRIPTOR.services_by_name["Peer"].full_name,
)


class Network:
    """From ``start`` to ``close``."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._health = HealthServicer()
        self._configuration = node.replica.raft.configuration
        # What the log begins with is committed, whatever it says since.
        self._settled = node.replica.raft.log.configuration_at(
            node.replica.raft.commit_index
        )
        self._identified: dict[NodeId, Incarnation] = {}
        self._peers = PeerTransport(
            node.stores.identity,
            self._configuration.members,
            address=self._own_address(),
            codec=PeerCodec(entry_crc=entry_crc),
            admit=self._admit,
            on_messages=node.receive,
            on_disconnect=node.peer_disconnected,
            on_identified=self._on_identified,
            on_refused=self._on_refused,
            on_failure=node.fail_stop.task_failed,
            routes={NodeId(n): to for n, to in node.config.peer_addresses.items()},
            options=peer_options(node.config),
        )
        self.snapshots = Snapshots(node, self._peers)
        node.metrics.watch_dropped(lambda: self._peers.dropped_messages)
        self._stopping: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    async def start(self) -> None:
        """Bind, serve, dial the peers.

        Raises:
            ConfigError: the address cannot be bound, or must not be without --insecure.
        """
        node = self._node
        # Until a leader is known. The servicer's own first word is that all is well.
        await self._set_health(False)
        kv_pb2_grpc.add_KVServicer_to_server(KVService(node), self._server)
        cluster_pb2_grpc.add_ClusterServicer_to_server(
            ClusterService(node), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers(
            (self._peers.handler, self.snapshots.service.handler)
        )
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        wanted = self._wanted_address()
        try:
            port = self._server.add_insecure_port(wanted)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot bind {wanted}: is another process using it? "
                "Choose another with --listen"
            ) from error
        await self._server.start()
        self.address = f"{wanted.rpartition(':')[0]}:{port}"
        await self._peers.__aenter__()

    def _own_address(self) -> str:
        """As the cluster knows it, or, before that knows it, as the directory does."""
        node = self._node
        known = self._configuration.members.get(node.node_id)
        if known is not None:
            return known.address
        told = {member.node_id: member.address for member in node.stores.members}
        address = told.get(node.node_id) or node.config.listen
        if address is None:
            raise ConfigError(
                "nothing says where this node serves: give its address with --listen"
            )
        return address

    def _wanted_address(self) -> str:
        config = self._node.config
        wanted = config.listen or self._own_address()
        check_bindable("listen", wanted, insecure=config.insecure)
        return wanted

    # ------------------------------------------------------------------- peers

    @property
    def identified(self) -> Mapping[NodeId, Incarnation]:
        """Which data directory each peer last spoke from, since this node started.

        A leader records what its configuration does not say yet.
        """
        return self._identified

    def members_changed(self, configuration: Configuration, index: LogIndex) -> None:
        """The node's configuration is another one, that of the entry at ``index``.

        Its new members are dialled from now on. Call it again when it is committed:
        only then may it send anybody away, who may be needed to commit it. A leader
        that removes itself waits for its peers' answers, and a configuration that is
        not committed may be taken back.
        """
        self._configuration = configuration
        if index <= self._node.replica.raft.commit_index:
            self._settled = configuration
        members = {**self._settled.members, **configuration.members}
        self._peers.update(members)
        kept = members.keys() | self._peers.guests
        for gone in self._identified.keys() - kept:
            del self._identified[gone]

    def _admit(self, hello: Hello) -> Refusal | None:
        return refusal_by(self._settled, self._configuration, hello)

    def _on_identified(self, peer: NodeId, incarnation: Incarnation) -> None:
        self._identified[peer] = incarnation
        self._node.poll_soon()

    def _on_refused(self, refusal: Refusal) -> None:
        if refusal.kind is RefusalKind.REMOVED:
            self._node.leave()
        elif refusal.kind in FINAL:
            self._node.fail_stop.task_failed(refusal.error())

    def send(self, messages: Iterable[PeerMessage]) -> list[ForwardWrites]:
        """Returns the writes that cannot leave, and certainly have not."""
        return self._peers.send(messages)

    def tell_health(self, *, serving: bool) -> None:
        """What the standard health service says: whether a leader is known."""
        task = asyncio.create_task(self._set_health(serving))
        self._tasks.add(task)
        task.add_done_callback(self._health_told)

    def _health_told(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._node.fail_stop.task_failed(error)

    async def _set_health(self, serving: bool) -> None:
        """In the order of the calls: the servicer's locks are fair."""
        answer = health_pb2.HealthCheckResponse
        now = answer.SERVING if serving else answer.NOT_SERVING
        for service in ("", *SERVICES):
            await self._health.set(service, now)

    def stop_now(self) -> None:
        """The node has failed: answer nobody any more."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self.close())

    async def close(self) -> None:
        """End all streams. Twice is fine, and before ``start`` too."""
        await self.snapshots.close()
        await self._peers.close()
        await self._server.stop(STOP_GRACE_S)


def peer_options(config: Config) -> PeerOptions:
    """Queues with room for all that a replica lets out at one time.

    What it holds back it can still place elsewhere; what a queue loses it cannot.
    """
    writes_bytes_max = config.waiting_write_bytes_max + config.request_bytes_max
    around_them = FORWARDED_BATCHES_MAX * FORWARD_OVERHEAD_BYTES_MAX
    options = PeerOptions(
        queue_bytes_max=max(
            64 * MIB, writes_bytes_max + around_them, config.inflight_append_bytes_max
        )
    )
    assert options.queue_messages_max > FORWARDED_BATCHES_MAX
    return options


def no_connection(not_sent: Sequence[ForwardWrites]) -> list[PeerMessage]:
    """What stands for the leader's answers to writes that could not leave.

    The last comes first: a replica puts what is refused in front of all that waits, one
    by one, so they keep their order.
    """
    return [
        ForwardReply(
            sender=writes.to,
            to=writes.sender,
            request_id=writes.request_id,
            results=b"",
            error=NotLeader("no connection to the leader"),
            revision=Revision(0),
        )
        for writes in reversed(not_sent)
    ]
