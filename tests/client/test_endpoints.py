"""What a client says of endpoints that do not answer, and asks of one that does."""

import asyncio
import contextlib
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore.client.asynchronous import AsyncClient
from kvstore.client.cluster import ClusterTransport
from kvstore.client.stream import Patience

MESSAGE_CHARACTERS_MAX = 200


@contextlib.contextmanager
def silent_address() -> Iterator[str]:
    """Takes connections, and says nothing: a process that was stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def foreign_address(answer: bytes) -> Iterator[str]:
    """Answers each connection, in another protocol, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def refused_address() -> str:
    """Nobody listens there: the port was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


async def complaint(client: AsyncClient, timeout_s: float) -> str:
    with pytest.raises(kvstore.Unavailable) as refusal:
        await client.put("k", "v", timeout_s=timeout_s)
    assert refusal.value.definite
    return str(refusal.value)


def test_every_endpoint_that_refuses_is_named_with_the_reason() -> None:
    """Goal: one line tells an operator where to look."""

    async def scenario() -> None:
        one, two = refused_address(), refused_address()
        async with AsyncClient([one, two]) as client:
            said = await complaint(client, 0.5)
            assert said == (
                f"not done in time, and not applied: cannot connect to "
                f"{one} (connection refused), {two} (connection refused)"
            )

    asyncio.run(scenario())


def test_different_endpoints_fail_for_different_reasons() -> None:
    async def scenario() -> None:
        patience = Patience(connect_s=0.1)
        with silent_address() as silent, foreign_address(b"SSH-2.0\r\n") as foreign:
            refused = refused_address()
            endpoints = [refused, silent, foreign, "no-such-host.invalid:1"]
            transport = ClusterTransport(endpoints, patience=patience)
            async with AsyncClient(transport=transport) as client:
                said = await complaint(client, 2.0)
        assert f"{refused} (connection refused)" in said
        assert f"{silent} (no answer in 0.1 s)" in said
        assert "no-such-host.invalid:1 (no such host)" in said or (
            "no-such-host.invalid:1 (no answer in 0.1 s)" in said
        )
        assert f"{foreign} (" in said
        assert len(said) < 2 * MESSAGE_CHARACTERS_MAX, said

    asyncio.run(scenario())


def test_an_endpoint_not_tried_yet_is_not_accused() -> None:
    """The deadline comes while the first endpoint is still being waited for."""

    async def scenario() -> None:
        with silent_address() as silent:
            async with AsyncClient([silent, refused_address()]) as client:
                said = await complaint(client, 0.05)
                assert said.endswith(f"cannot connect to {silent} (no answer yet)")

    asyncio.run(scenario())


def test_a_client_recovers_when_a_node_comes_back(fake_nodes: Any) -> None:
    """Goal: an operation that waits is done as soon as somebody can do it."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await node.stop()
            put = asyncio.create_task(client.put("k", "v", timeout_s=30))
            await complaint(client, 0.3)
            await node.start()
            async with asyncio.timeout(5):
                await put
            assert node.applied == [b"k"]

    asyncio.run(scenario())


def test_results_say_which_node_answered(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.header.node_id, node.header.term = 3, 8
            written = await client.put("k", "v")
            read = await client.range("k")
            assert (written.header.node_id, written.header.term) == (3, 8)
            assert read.header == written.header

    asyncio.run(scenario())


def test_a_status_is_of_the_endpoint_asked(tmp_path: Path) -> None:
    """Method: a real node, because the answer is its own."""
    data_dir = tmp_path / "data"
    kvstore.found(
        data_dir,
        node_id=4,
        cluster_id=kvstore.new_cluster_id(),
        members={4: "127.0.0.1:7401"},
    )

    async def scenario() -> None:
        config = kvstore.Config(data_dir=data_dir, listen="127.0.0.1:0")
        async with kvstore.Node(config) as node, AsyncClient(node.address) as client:
            written = await client.put("k", "v")
            for status in (await client.status(), await client.status(node.address)):
                assert (status.node_id, status.leader_id, status.role) == (
                    4,
                    4,
                    "leader",
                )
                assert status.revision == written.revision
                assert status.cluster_id == written.header.cluster_id

    asyncio.run(scenario())


@pytest.mark.parametrize("patience_s", [math.inf, 1e12])
def test_a_status_may_take_any_time(tmp_path: Path, patience_s: float) -> None:
    kvstore.open(tmp_path / "data").close()

    async def scenario() -> None:
        config = kvstore.Config(data_dir=tmp_path / "data", listen="127.0.0.1:0")
        async with kvstore.Node(config) as node, AsyncClient(node.address) as client:
            assert (await client.status(timeout_s=patience_s)).node_id == 1

    asyncio.run(scenario())


def test_no_other_endpoint_answers_for_one_that_is_down(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            refused = refused_address()
            with pytest.raises(kvstore.Unavailable, match="connection refused") as it:
                await client.status(refused)
            assert refused in str(it.value)
            assert len(str(it.value)) < MESSAGE_CHARACTERS_MAX
            with (
                silent_address() as silent,
                pytest.raises(kvstore.Unavailable, match=r"no answer in 0.1 s"),
            ):
                await client.status(silent, timeout_s=0.1)

    asyncio.run(scenario())


def test_endpoints_and_a_transport_contradict_each_other() -> None:
    transport = ClusterTransport("127.0.0.1:1")
    with pytest.raises(kvstore.ConfigError):
        AsyncClient("127.0.0.1:1", transport=transport)
