"""TCP proxies between members, to cut links without root.

``FaultProxy`` listens once for every directed link, who dials whom, and forwards bytes
both ways. A cut link keeps its connections open and accepts new ones, and nothing
passes: what a partition looks like from inside, where no reset tells a peer that the
other side is gone. Healing closes the connections that were cut, so that both sides
dial again rather than resume a stream with a hole in its timing.

``ProxyThread`` runs one in a thread with a loop of its own, for callers without a loop.
Everything here is loopback, for tests and benchmarks.
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from kvcluster.topology import LOOPBACK

BUFFER_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Link:
    """The connections that ``source`` dials to ``target``, both directions of them."""

    source: int
    target: int


class FaultProxy:
    """Listeners for a set of links. Use as ``async with``; one event loop only."""

    def __init__(self, addresses: Mapping[int, str]) -> None:
        """``addresses``: where each member really serves, host:port by node id."""
        self._targets = {
            Link(source=source, target=target): addresses[target]
            for source in sorted(addresses)
            for target in sorted(addresses)
            if source != target
        }
        self._servers: dict[Link, asyncio.Server] = {}
        self._connections: dict[Link, set[_Connection]] = {
            link: set() for link in self._targets
        }
        self._cut: set[Link] = set()
        self._dials: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for link in self._targets:
            self._servers[link] = await loop.create_server(
                partial(_Side, accepted=partial(self._accept, link)),
                LOOPBACK,
                0,
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers.values():
            server.close()
        for task in self._dials:
            task.cancel()
        if self._dials:
            await asyncio.gather(*self._dials, return_exceptions=True)
        for connections in self._connections.values():
            for connection in list(connections):
                connection.abort()
        # One turn of the loop, in which the aborted transports close their sockets.
        await asyncio.sleep(0)

    def address(self, link: Link) -> str:
        """Where ``link.source`` must dial ``link.target``, host:port."""
        port: int = self._servers[link].sockets[0].getsockname()[1]
        return f"{LOOPBACK}:{port}"

    def peers_of(self, source: int) -> dict[int, str]:
        """Where one member must dial each of the others."""
        return {
            link.target: self.address(link)
            for link in self._targets
            if link.source == source
        }

    def cut(self, links: Collection[Link]) -> None:
        """Stop forwarding on these links, silently."""
        for link in sorted(links):
            self._cut.add(link)
            for connection in self._connections[link]:
                connection.hold()

    def isolate(self, nodes: Collection[int]) -> None:
        """Partition: cut every link between ``nodes`` and the other members."""
        self.cut(
            [
                link
                for link in self._targets
                if (link.source in nodes) != (link.target in nodes)
            ]
        )

    def heal(self) -> None:
        """Forward again on all links. Connections that were cut are closed."""
        for link in sorted(self._cut):
            for connection in list(self._connections[link]):
                connection.abort()
        self._cut.clear()

    @property
    def cut_links(self) -> frozenset[Link]:
        return frozenset(self._cut)

    def _accept(self, link: Link, near: "_Side") -> None:
        connection = _Connection(near, forget=self._connections[link].discard)
        self._connections[link].add(connection)
        if link in self._cut:
            connection.hold()
            return
        task = asyncio.create_task(self._dial(link, connection))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, link: Link, connection: "_Connection") -> None:
        host, _, port = self._targets[link].rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            _, far = await loop.create_connection(
                lambda: _Side(accepted=None), host, int(port)
            )
        except OSError:
            # The member is down: refuse, as its own port would have.
            connection.abort()
            return
        connection.join(far)


class _Connection:
    """The two halves of one proxied connection."""

    __slots__ = ("_forget", "_held", "_sides")

    def __init__(
        self, near: "_Side", *, forget: Callable[["_Connection"], None]
    ) -> None:
        self._sides = [near]
        self._held = False
        self._forget = forget
        near.connection = self
        # Nothing is read before there is somebody to forward it to.
        near.pause()

    def join(self, far: "_Side") -> None:
        near = self._sides[0]
        if near.closed:
            far.abort()
            return
        self._sides.append(far)
        far.connection = self
        near.other, far.other = far, near
        if self._held:
            far.pause()
        elif not far.closed:
            near.resume()
        else:
            self.abort()

    def hold(self) -> None:
        self._held = True
        for side in self._sides:
            side.pause()

    @property
    def held(self) -> bool:
        return self._held

    def abort(self) -> None:
        for side in self._sides:
            side.abort()
        self._forget(self)

    def ended(self) -> None:
        """One side is gone: so is the other. A cut link shows neither."""
        if not self._held:
            self.abort()


class _Side(asyncio.Protocol):
    """One socket. Forwards what it reads to ``other``."""

    __slots__ = ("_accepted", "_transport", "closed", "connection", "other")

    def __init__(self, *, accepted: "Callable[[_Side], None] | None") -> None:
        self._accepted = accepted
        self._transport: asyncio.Transport | None = None
        self.connection: _Connection | None = None
        self.other: _Side | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=BUFFER_BYTES_MAX)
        if self._accepted is not None:
            self._accepted(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)

    def eof_received(self) -> bool:
        # gRPC never half-closes, so the end of one direction is the end of both.
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed = True
        if self.connection is not None:
            self.connection.ended()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause()

    def resume_writing(self) -> None:
        held = self.connection is not None and self.connection.held
        if self.other is not None and not held:
            self.other.resume()

    def write(self, data: bytes) -> None:
        if not self.closed and self._transport is not None:
            self._transport.write(data)

    def pause(self) -> None:
        if not self.closed and self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self.closed and self._transport is not None:
            self._transport.resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class ProxyThread:
    """A ``FaultProxy`` in a thread of its own. Every method may be called from any
    other thread, and returns when what it asked for has happened.
    """

    def __init__(self, addresses: Mapping[int, str]) -> None:
        self._addresses = dict(addresses)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._proxy: FaultProxy | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None

    def start(self) -> None:
        """Raises OSError if a listener cannot be opened."""
        started = threading.Event()
        failure: list[OSError] = []

        async def serve() -> None:
            try:
                async with FaultProxy(self._addresses) as proxy:
                    self._loop = asyncio.get_running_loop()
                    self._proxy = proxy
                    self._stop = asyncio.Event()
                    started.set()
                    await self._stop.wait()
            except OSError as error:
                failure.append(error)
            finally:
                started.set()

        self._thread = threading.Thread(
            target=lambda: asyncio.run(serve()), name="fault-proxy", daemon=True
        )
        self._thread.start()
        started.wait()
        if failure:
            self._thread.join()
            raise failure[0]

    def stop(self) -> None:
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def peers_of(self, source: int) -> dict[int, str]:
        assert self._proxy is not None
        return self._proxy.peers_of(source)

    def isolate(self, nodes: Collection[int]) -> None:
        """Cut ``nodes`` off from the other members, before this returns."""
        proxy = self._proxy
        assert proxy is not None
        self._call(lambda: proxy.isolate(nodes))

    def heal(self) -> None:
        proxy = self._proxy
        assert proxy is not None
        self._call(proxy.heal)

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None

        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()
