"""The blocking client: the asyncio one from any thread, and no other."""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.blocking import Client
from kvstore.errors import Closed, InvalidRequest, Unavailable


@contextlib.contextmanager
def node_in_a_thread(fake_nodes: Any) -> Iterator[Any]:
    """A fake node in a loop and a thread of its own."""
    ready = threading.Event()
    made: list[Any] = []

    async def serve() -> None:
        async with fake_nodes(1) as (node,):
            stop = asyncio.Event()
            made.extend((node, stop, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    node, stop, loop = made
    try:
        yield node
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def public(of: type) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_")
    }


def drop_awaiting(annotation: str) -> str:
    return annotation.replace("AsyncIterator", "Iterator")


def test_both_faces_are_the_same_but_for_waiting() -> None:
    """Goal: what one learns of one face holds for the other."""
    awaiting, blocking = public(AsyncClient), public(Client)
    assert set(awaiting) == set(blocking)
    for name, method in awaiting.items():
        ours, theirs = inspect.signature(blocking[name]), inspect.signature(method)
        assert list(ours.parameters.values()) == list(theirs.parameters.values()), name
        assert str(ours.return_annotation) == drop_awaiting(
            str(theirs.return_annotation)
        ), name
        assert inspect.getdoc(blocking[name]) == inspect.getdoc(method), name


def test_threads_share_a_client(fake_nodes: Any) -> None:
    with (
        node_in_a_thread(fake_nodes) as node,
        Client([node.address]) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        results = list(pool.map(lambda n: client.put(f"k{n}", "v"), range(50)))
        assert sorted(r.revision for r in results) == list(range(1, 51))
        found = client.get("k7")
        assert found is not None
        assert found.value == b"v"
        assert client.get("absent") is None


def test_errors_reach_the_calling_thread(fake_nodes: Any) -> None:
    with node_in_a_thread(fake_nodes) as node, Client([node.address]) as client:
        node.result_errors = {b"k": InvalidRequest("no")}
        with pytest.raises(InvalidRequest, match="no"):
            client.put("k", "v")


def test_a_closed_client_refuses() -> None:
    client = Client(["127.0.0.1:1"])
    with pytest.raises(Unavailable):
        client.put("k", "v", timeout_s=0.05)
    client.close()
    client.close()
    with pytest.raises(Closed):
        client.put("k", "v")


def test_no_thread_is_left(fake_nodes: Any) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with Client(["127.0.0.1:1"]):
        pass
    assert {t.name for t in threading.enumerate()} <= before | {"kvstore-loop"}
    assert not any(t.name == "kvstore-loop" for t in threading.enumerate())
