"""A cut link is silent, and healing makes both sides dial again."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine

import pytest

from kvcluster.proxy import FaultProxy, Link, ProxyThread

SOON_S = 5.0
# How long a test watches that nothing arrives over loopback.
SILENCE_S = 0.1

ONE_TWO = Link(source=1, target=2)


@contextlib.asynccontextmanager
async def echo_server() -> AsyncIterator[str]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def dial(
    address: str,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def is_silent(reader: asyncio.StreamReader) -> bool:
    """Nothing arrives, neither bytes nor an end."""
    try:
        await asyncio.wait_for(reader.read(1), SILENCE_S)
    except TimeoutError:
        return True
    return False


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), SOON_S) == b""
    except ConnectionResetError:
        return True


def run(scenario: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30.0))


def test_a_whole_link_forwards_both_ways_in_order() -> None:
    """More than any buffer holds, so that back-pressure is part of it."""

    async def scenario() -> None:
        async with echo_server() as echo, FaultProxy({1: echo, 2: echo}) as proxy:
            reader, writer = await dial(proxy.address(ONE_TWO))
            sent = bytes(range(256)) * 16_384
            writer.write(sent)
            received = await asyncio.wait_for(reader.readexactly(len(sent)), SOON_S)
            assert received == sent
            writer.close()

    run(scenario())


def test_a_partition_is_silent_and_healing_closes_what_was_cut() -> None:
    async def scenario() -> None:
        async with echo_server() as echo, FaultProxy({1: echo, 2: echo}) as proxy:
            reader, writer = await dial(proxy.address(ONE_TWO))
            writer.write(b"a")
            assert await asyncio.wait_for(reader.readexactly(1), SOON_S) == b"a"

            proxy.isolate([1])
            writer.write(b"b")
            assert await is_silent(reader)

            proxy.heal()
            assert await is_closed(reader)
            writer.close()

            reader, writer = await dial(proxy.address(ONE_TWO))
            writer.write(b"c")
            assert await asyncio.wait_for(reader.readexactly(1), SOON_S) == b"c"
            writer.close()

    run(scenario())


def test_a_cut_link_accepts_and_says_nothing() -> None:
    """A refused connection would tell the peer that somebody is there to refuse."""

    async def scenario() -> None:
        async with echo_server() as echo, FaultProxy({1: echo, 2: echo}) as proxy:
            proxy.isolate([2])
            reader, writer = await dial(proxy.address(ONE_TWO))
            writer.write(b"a")
            assert await is_silent(reader)
            proxy.heal()
            assert await is_closed(reader)
            writer.close()

    run(scenario())


def test_an_end_behind_a_cut_link_stays_hidden() -> None:
    """As when a member is killed during the partition."""

    async def scenario() -> None:
        async with echo_server() as echo, FaultProxy({1: echo, 2: echo}) as proxy:
            reader, writer = await dial(proxy.address(ONE_TWO))
            writer.write(b"a")
            assert await asyncio.wait_for(reader.readexactly(1), SOON_S) == b"a"
            proxy.isolate([1])
            for connection in proxy._connections[ONE_TWO]:
                connection._sides[1].abort()
            assert await is_silent(reader)
            writer.close()

    run(scenario())


def test_a_link_to_a_member_that_is_down_closes() -> None:
    async def scenario() -> None:
        async with FaultProxy({1: "127.0.0.1:1", 2: "127.0.0.1:1"}) as proxy:
            reader, writer = await dial(proxy.address(ONE_TWO))
            assert await is_closed(reader)
            writer.close()

    run(scenario())


def test_isolating_one_of_three_leaves_the_others_linked() -> None:
    async def scenario() -> None:
        async with FaultProxy(dict.fromkeys((1, 2, 3), "127.0.0.1:1")) as proxy:
            assert sorted(proxy.peers_of(1)) == [2, 3]
            proxy.isolate([3])
            assert sorted((x.source, x.target) for x in proxy.cut_links) == [
                (1, 3),
                (2, 3),
                (3, 1),
                (3, 2),
            ]
            proxy.heal()
            assert not proxy.cut_links

    run(scenario())


def test_the_thread_serves_callers_without_a_loop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        proxy = ProxyThread({1: f"127.0.0.1:{port}", 2: f"127.0.0.1:{port}"})
        proxy.start()
        try:
            host, _, near_port = proxy.peers_of(1)[2].rpartition(":")
            with socket.create_connection((host, int(near_port)), SOON_S) as near:
                server.settimeout(SOON_S)
                far, _ = server.accept()
                with far:
                    far.settimeout(SOON_S)
                    near.sendall(b"a")
                    assert far.recv(1) == b"a"
                    proxy.isolate([1])
                    near.sendall(b"b")
                    far.settimeout(SILENCE_S)
                    with pytest.raises(TimeoutError):
                        far.recv(1)
                    proxy.heal()
                    far.settimeout(SOON_S)
                    with contextlib.suppress(ConnectionResetError):
                        assert far.recv(1) == b""
        finally:
            proxy.stop()
