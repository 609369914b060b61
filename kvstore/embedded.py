"""A node inside the process: the same operations, without a connection.

A store must not be used across ``os.fork``: a child has none of its threads, and LMDB
forbids it. Worse, a child that goes on running holds the lock of the data directory
even after its parent closed the store. Start such processes before opening, or with
``subprocess`` or the multiprocessing method ``spawn``.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TypeVar

from kvstore.client.asynchronous import TIMEOUT_S, AsyncClient
from kvstore.client.blocking import Client
from kvstore.client.pipeline import SESSIONS
from kvstore.client.transport import Done
from kvstore.config import Config
from kvstore.errors import (
    Closed,
    ConfigError,
    OutcomeUnknown,
    Unavailable,
)
from kvstore.founding import found_alone
from kvstore.pb import cluster_pb2, kv_pb2
from kvstore.rpc.errors import clone
from kvstore.server.node import Node
from kvstore.server.operate import begin_operation
from kvstore.server.status import node_status

_E = TypeVar("_E", bound=BaseException)

_NOT_ENTERED = "the node was not entered yet"


class NodeTransport:
    """A :class:`~kvstore.client.transport.Transport` to a running node in this process.

    It does not own the node. When the node stops, by itself or not, everything in
    flight is answered, and everything later refused at once.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._watching: asyncio.Future[None] | None = None
        self._over: Closed | None = None
        self._in_flight: dict[int, Done] = {}
        self._last_id = 0

    @property
    def recovers(self) -> bool:
        return False

    @property
    def ready(self) -> bool:
        return self._watching is not None

    @property
    def requests_open(self) -> int:
        return len(self._in_flight)

    @property
    def cluster_id(self) -> bytes:
        return b""  # it is always the same node

    @property
    def endpoints(self) -> Sequence[str]:
        networked = self._node.config.network and self._node.started
        return [self._node.address] if networked else []

    @property
    def trouble(self) -> str:
        return _NOT_ENTERED if not self._node.started else "the node was not asked yet"

    async def connect(self) -> None:
        if not self._node.started:
            raise Unavailable(_NOT_ENTERED)
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._node.wait_closed())
            self._watching.add_done_callback(self._node_stopped)

    def send(self, request: kv_pb2.OperateRequest, done: Done) -> None:
        if self._over is not None:
            done(None, self._over)
            return
        self._last_id += 1
        request_id = request.id = self._last_id
        self._in_flight[request_id] = done

        def answer(response: kv_pb2.OperateResponse) -> None:
            if self._in_flight.pop(request_id, None) is not None:
                done(response, None)

        try:
            begin_operation(self._node, request, answer)
        except BaseException as error:
            # Our bug: its caller does not wait for the deadline, and the loop is told.
            if self._in_flight.pop(request_id, None) is not None:
                done(None, _caused(OutcomeUnknown("the request broke the node"), error))
            raise

    def _node_stopped(self, watching: asyncio.Future[None]) -> None:
        if watching.cancelled():
            return
        failure = watching.exception()
        if failure is None:
            self._end("the node was closed", None)
        else:
            said = f"{type(failure).__name__}: {failure}"
            self._end(f"the node failed and stopped ({said})", failure)

    def _end(self, why: str, cause: BaseException | None) -> None:
        self._over = _caused(Closed(f"{why}; nothing was applied"), cause)
        in_flight, self._in_flight = self._in_flight, {}
        for done in in_flight.values():
            unknown = OutcomeUnknown(f"{why} with the request in flight")
            done(None, _caused(unknown, cause))

    async def status(
        self, endpoint: str | None, timeout_s: float
    ) -> cluster_pb2.StatusResponse:
        del timeout_s  # it answers at once
        if endpoint is not None:
            raise ConfigError(f"no connection to {endpoint}: this node is in-process")
        if self._over is not None:
            # Each caller gets its own: a raised error carries its traceback.
            raise _caused(clone(self._over), self._over.__cause__)
        if not self._node.started:
            raise Unavailable(_NOT_ENTERED)
        return node_status(self._node)

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._over is None:
            self._end("it was closed", None)


def _caused(error: _E, cause: BaseException | None) -> _E:
    error.__cause__ = cause
    return error


def client_of(
    node: Node, *, timeout_s: float = TIMEOUT_S, sessions: bool = SESSIONS
) -> AsyncClient:
    """Operations on a node of this process, without a connection.

    ::

        async with kvstore.Node(config) as node, kvstore.client_of(node) as store:
            await store.put("key", "value")

    They are those of the whole cluster: a follower passes them on. It asks no other
    member: when this one is cut off, operations fail with ``Unavailable`` in the end.
    Until it is entered they wait; when it stops, they fail at once with ``Closed``.
    Closing the client leaves the node alone.
    """
    transport = NodeTransport(node)
    return AsyncClient(transport=transport, timeout_s=timeout_s, sessions=sessions)


@asynccontextmanager
async def open_async(
    data_dir: str | PathLike[str] | Config, *, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[AsyncClient]:
    """A durable store in a directory, for asyncio: founded there if there is none.

    ::

        async with kvstore.open_async("data") as store:
            await store.put("key", "value")

    A ``Config`` instead of the directory sets limits and the like; what it says of a
    network has to be left alone. What was acknowledged is on disk, whether or not the
    store is closed. Opening blocks no event loop. Not to be used across ``os.fork``.

    Raises:
        DirectoryLocked: it is open already, here or in another process.
        ForeignDirectory: it belongs to one member of several. It was not started.
        DataDirectoryError, CorruptionError: the message says what to do.
        ConfigError: a setting makes no sense here.
    """
    config = _config(data_dir)
    await asyncio.to_thread(found_alone, config.data_dir)
    async with (
        Node(config) as node,
        # Alone there is no other leader to lose a write to, and if this node fails, no
        # other to ask: a session would only cost its entries.
        client_of(node, timeout_s=timeout_s, sessions=False) as client,
    ):
        yield client


def open(  # noqa: A001 - as of a file
    data_dir: str | PathLike[str] | Config, *, timeout_s: float = TIMEOUT_S
) -> Client:
    """A durable store in a directory, blocking: founded there if there is none.

    ::

        with kvstore.open("data") as store:
            store.put("key", "value")

    Any thread may use it. Otherwise as :func:`open_async`, which see.
    """
    config = _config(data_dir)
    return Client.holding(lambda: open_async(config, timeout_s=timeout_s))


def _config(data_dir: str | PathLike[str] | Config) -> Config:
    if not isinstance(data_dir, Config):
        return Config(data_dir=Path(data_dir), network=False)
    if data_dir.listen is not None or data_dir.peer_addresses:
        raise ConfigError(
            "an embedded store has no network: leave listen and peer_addresses out, "
            "or run a kvstore.Node"
        )
    return replace(data_dir, network=False)
