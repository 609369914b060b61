"""Snapshots in memory, and a member that receives them over real streams."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc

from kvstore.errors import DamagedSnapshot, KVStoreError
from kvstore.raft.membership import Configuration, MemberInfo
from kvstore.raft.messages import EntryId
from kvstore.replica.interfaces import Identity
from kvstore.rpc.admission import Gate, Hello
from kvstore.rpc.options import SERVER_OPTIONS
from kvstore.rpc.snapshot_codec import SnapshotCodec, SnapshotHeader
from kvstore.rpc.snapshot_service import SnapshotService, StagedSnapshot
from kvstore.rpc.snapshots import Pace, SnapshotOptions, send_snapshot
from kvstore.storage.checksum import crc32c
from kvstore.types import ClusterId, Epoch, LogIndex, NodeId, Revision, Term

PATIENCE_S = 60.0
CLUSTER = ClusterId(b"c" * 16)
HEADER = SnapshotHeader(
    snapshot_id=b"export 1",
    last=EntryId(Term(3), LogIndex(1_000)),
    chain=b"chain",
    configuration=Configuration(
        voters=(NodeId(1),), members={NodeId(1): MemberInfo("h:1")}
    ).encode(),
    revision=Revision(900),
    epoch=Epoch(1),
    state_id=CLUSTER,
    size_bytes=1,
    term=Term(5),
    format_version=1,
)
HELLO = Hello(
    cluster=CLUSTER.hex(), sender=NodeId(1), to=NodeId(2), address="127.0.0.1:1"
)
SMALL = SnapshotOptions(chunk_bytes=1_000, window_bytes_max=4_000)
"""Many chunks of little."""


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def header_of(data: bytes, name: bytes = b"export 1", term: int = 5) -> SnapshotHeader:
    return replace(HEADER, snapshot_id=name, size_bytes=len(data), term=Term(term))


class Staged:
    """A snapshot as far as it has arrived."""

    def __init__(self, store: "Store", snapshot_id: bytes) -> None:
        self._store = store
        self.snapshot_id = snapshot_id
        self.data = bytearray()
        self.finished = 0

    @property
    def offset(self) -> int:
        return len(self.data)

    def write(self, data: bytes, offset: int) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert offset == self.offset
        with self._store.in_use():
            self._store.before_write(self.offset)
            self.data += data

    def finish(self) -> None:
        with self._store.in_use():
            self._store.before_finish()
            self.finished += 1

    def discard(self) -> None:
        self.data.clear()


class Store:
    """What a receiver keeps between two streams: a ``SnapshotReceiver``."""

    def __init__(self) -> None:
        self.staged: Staged | None = None
        self.received_: list[tuple[NodeId, SnapshotHeader, bytes]] = []
        self.offsets: list[int] = []
        """Where each stream began."""
        self.before_write: Callable[[int], None] = lambda _: None
        self.before_finish: Callable[[], None] = lambda: None
        self.refusal: KVStoreError | None = None
        self._used = threading.Lock()

    def in_use(self) -> threading.Lock:
        """Two threads never have a file in hand at one time."""
        assert not self._used.locked()
        return self._used

    def check(self, sender: NodeId, header: SnapshotHeader) -> None:
        del sender, header
        if self.refusal is not None:
            raise self.refusal

    def stage(self, header: SnapshotHeader) -> StagedSnapshot:
        if self.staged is None or self.staged.snapshot_id != header.snapshot_id:
            self.staged = Staged(self, header.snapshot_id)
        self.offsets.append(self.staged.offset)
        return self.staged

    def received(
        self, sender: NodeId, header: SnapshotHeader, staged: StagedSnapshot
    ) -> None:
        assert isinstance(staged, Staged)
        self.received_.append((sender, header, bytes(staged.data)))


class Target:
    """Member 2, which receives."""

    def __init__(self, port: int, service: SnapshotService, store: Store) -> None:
        self.address = f"127.0.0.1:{port}"
        self.service = service
        self.store = store
        self.sent_bytes = 0

    async def send(
        self,
        data: bytes,
        header: SnapshotHeader | None = None,
        *,
        address: str | None = None,
        options: SnapshotOptions = SMALL,
        pace: Pace | None = None,
    ) -> None:
        """As a leader would, once."""

        def on_sent(count: int) -> None:
            self.sent_bytes += count

        await send_snapshot(
            header or header_of(data),
            reader(data),
            address=address or self.address,
            hello=HELLO,
            codec=SnapshotCodec(crc=crc32c),
            pace=pace or Pace(0),
            on_sent=on_sent,
            options=options,
        )


def reader(data: bytes) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        assert threading.current_thread() is not threading.main_thread()
        return data[offset : offset + size]

    return read


@asynccontextmanager
async def receiving(options: SnapshotOptions = SMALL) -> AsyncIterator[Target]:
    store = Store()
    gate = Gate(
        Identity(cluster_id=CLUSTER, node_id=NodeId(2)),
        admit=lambda _: None,
        on_refused=lambda _: None,
    )
    service = SnapshotService(
        gate=gate, codec=SnapshotCodec(crc=crc32c), receiver=store, options=options
    )
    server = grpc.aio.server(options=list(SERVER_OPTIONS))
    server.add_generic_rpc_handlers((service.handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Target(port, service, store)
    finally:
        await service.close()
        await server.stop(None)


def damaged() -> None:
    raise DamagedSnapshot("a page fails its checksum")


class Hold:
    """Called in a thread, it stops that where it is until it is released."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gate = threading.Event()
        self._entered = asyncio.Event()

    def __call__(self, _: int = 0) -> None:
        self._loop.call_soon_threadsafe(self._entered.set)
        assert self._gate.wait(PATIENCE_S)

    async def entered(self) -> None:
        await self._entered.wait()

    def release(self) -> None:
        self._gate.set()
