"""Snapshots of a node: those it sends to peers, and the one that it receives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.rpc.admission import Hello
from kvstore.rpc.snapshot_codec import SnapshotCodec
from kvstore.rpc.snapshot_service import SnapshotService
from kvstore.server.exporting import Exporter
from kvstore.server.snapshot_receiver import Received, StagingReceiver
from kvstore.server.snapshot_sender import SnapshotSender
from kvstore.storage.checksum import crc32c
from kvstore.storage.staging import StagedState
from kvstore.types import LogIndex, NodeId

if TYPE_CHECKING:
    from kvstore.raft.messages import InstallSnapshot
    from kvstore.rpc.peers import PeerTransport
    from kvstore.rpc.snapshot_codec import SnapshotHeader
    from kvstore.rpc.snapshot_service import StagedSnapshot
    from kvstore.server.node import Node


class Snapshots:
    """Of one node, on its event loop; part of its network."""

    def __init__(self, node: Node, peers: PeerTransport) -> None:
        self._node = node
        self._peers = peers
        codec = SnapshotCodec(crc=crc32c)
        raft = node.replica.raft
        self._sender = SnapshotSender(
            export=Exporter(node).export,
            target=self._target,
            term=lambda: raft.term,
            codec=codec,
            on_ended=self._on_ended,
            on_failure=node.fail_stop.task_failed,
            bytes_per_second_max=node.config.snapshot_bytes_per_second_max,
        )
        receiver = StagingReceiver(
            node.stores.identity,
            core=raft,
            stage=self._stage,
            on_received=self._on_received,
        )
        self.service = SnapshotService(gate=peers.gate, codec=codec, receiver=receiver)

    @property
    def bytes_sent(self) -> int:
        """Of snapshots since the node started, repetitions included."""
        return self._sender.bytes_sent

    def send_to(self, peer: NodeId) -> None:
        """A peer needs the state."""
        self._sender.send_to(peer)

    def stop(self, peer: NodeId) -> None:
        """It needs it no more."""
        self._sender.stop(peer)

    async def close(self) -> None:
        """End all transfers. Twice is fine."""
        await self._sender.close()
        await self.service.close()

    def _target(self, peer: NodeId) -> tuple[str, Hello] | None:
        address = self._peers.address_of(peer)
        return None if address is None else (address, self._peers.hello_to(peer))

    def _on_ended(self, peer: NodeId, reached: LogIndex) -> None:
        with self._node.fail_stop:
            self._node.replica.snapshot_ended(peer, reached)
        self._node.poll_soon()

    def _stage(self, header: SnapshotHeader) -> StagedSnapshot:
        """In a thread."""
        stores = self._node.stores
        return StagedState(
            stores.directory.incoming_path,
            stores.identity,
            snapshot_id=header.snapshot_id,
            last=header.last,
            size_bytes=header.size_bytes,
        )

    def _on_received(self, received: Received, message: InstallSnapshot) -> None:
        self._node.installing.arrived(received)
        self._node.receive([message])
