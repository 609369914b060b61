"""Two or more members' transports in one loop, each with a real gRPC server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from kvstore.raft.membership import Configuration, MemberInfo
from kvstore.raft.messages import Heartbeat
from kvstore.replica.interfaces import Identity
from kvstore.replica.messages import PeerMessage
from kvstore.rpc.admission import Hello, Refusal, refusal_by
from kvstore.rpc.codec import PeerCodec
from kvstore.rpc.options import SERVER_OPTIONS
from kvstore.rpc.peer_link import PeerOptions
from kvstore.rpc.peers import PeerTransport
from kvstore.storage.record import entry_crc
from kvstore.types import ClusterId, Incarnation, LogIndex, NodeId, Term

PATIENCE_S = 10.0
CLUSTER = ClusterId(b"c" * 16)


async def eventually(condition: Callable[[], bool]) -> None:
    """For a condition that nothing announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


def configuration_of(peers: dict[int, int], **more: Any) -> Configuration:
    members = {
        NodeId(n): MemberInfo(f"127.0.0.1:{port}") for n, port in sorted(peers.items())
    }
    return Configuration(voters=tuple(members), members=members, **more)


class Member:
    """One end: what it received, and which disconnections it was told of."""

    def __init__(
        self, node_id: int, cluster: ClusterId = CLUSTER, *, incarnation: int = 0
    ) -> None:
        self.node_id = NodeId(node_id)
        self.identity = Identity(
            cluster_id=cluster,
            node_id=self.node_id,
            incarnation=Incarnation(incarnation),
        )
        self.configuration = Configuration(voters=())
        self.received: list[PeerMessage] = []
        self.frames: list[int] = []
        self.disconnected: list[NodeId] = []
        self.identified: dict[NodeId, Incarnation] = {}
        self.refusals: list[Refusal] = []
        self.failures: list[BaseException] = []
        self.server: grpc.aio.Server | None = None
        self.transport: PeerTransport
        self.port = 0
        self._changed = asyncio.Event()

    def build(self, peers: dict[int, int], **options: Any) -> None:
        """``peers``: the port at which each other member serves."""
        self.configuration = configuration_of(peers)
        self.transport = PeerTransport(
            self.identity,
            self.configuration.members,
            address=f"127.0.0.1:{self.port or 1}",
            codec=PeerCodec(entry_crc=entry_crc),
            admit=self._admit,
            on_messages=self._on_messages,
            on_disconnect=self._on_disconnect,
            on_identified=self.identified.__setitem__,
            on_refused=self._on_refused,
            on_failure=self._on_failure,
            options=PeerOptions(**options),
        )

    def change(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.transport.update(configuration.members)

    def _admit(self, hello: Hello) -> Refusal | None:
        return refusal_by(self.configuration, self.configuration, hello)

    async def serve(self, port: int = 0) -> None:
        self.server = grpc.aio.server(options=list(SERVER_OPTIONS))
        self.server.add_generic_rpc_handlers((self.transport.handler,))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()

    async def stop(self) -> None:
        await self.transport.close()
        if self.server is not None:
            await self.server.stop(None)
            self.server = None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_connected(self, node_id: int) -> None:
        await eventually(lambda: self.transport.is_connected(NodeId(node_id)))

    def beat(self, to: int, number: int = 1) -> Heartbeat:
        return Heartbeat(
            sender=self.node_id,
            to=NodeId(to),
            term=Term(1),
            commit_index=LogIndex(0),
            round=number,
        )

    def _on_messages(self, messages: list[PeerMessage]) -> None:
        self.received.extend(messages)
        self.frames.append(len(messages))
        self._changed.set()

    def _on_disconnect(self, node_id: NodeId) -> None:
        self.disconnected.append(node_id)
        self._changed.set()

    def _on_refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)
        self._changed.set()

    def _on_failure(self, error: BaseException) -> None:
        self.failures.append(error)
        self._changed.set()


@asynccontextmanager
async def pair_of_members(**options: Any) -> AsyncIterator[tuple[Member, Member]]:
    """Members 1 and 2, connected both ways."""
    one, two = Member(1), Member(2)
    two.build({1: 1})  # a placeholder: only its server is used to find a port
    await two.serve()
    port = two.port
    await two.stop()
    one.build({2: port}, **options)
    await one.serve()
    two.build({1: one.port}, **options)
    await two.serve(port)
    async with one.transport, two.transport:
        try:
            await one.until_connected(2)
            await two.until_connected(1)
            yield one, two
        finally:
            await one.stop()
            await two.stop()


@pytest.fixture
def member() -> type[Member]:
    return Member


@pytest.fixture
def pair() -> Any:
    return pair_of_members
