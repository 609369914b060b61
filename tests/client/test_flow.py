"""What a client does when a node takes longer than callers bring work."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore.client.asynchronous import AsyncClient
from kvstore.client.outbox import Pending
from kvstore.client.pipeline import REQUESTS_OPEN_MAX
from kvstore.errors import Unavailable
from kvstore.pb import kv_pb2


@pytest.fixture
def room_for_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvstore.client.pipeline.REQUESTS_OPEN_MAX", 4)


async def one_a_turn(calls: list[Any]) -> list[asyncio.Task[Any]]:
    """Start each call in a turn of the loop of its own, so that none share a request
    unless they have to."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call))
        for _ in range(3):  # the call, its flush, the stream
            await asyncio.sleep(0)
    return tasks


def commands(request: kv_pb2.OperateRequest) -> int:
    batch = kv_pb2.CommandBatch.FromString(request.writes)
    return sum(1 for it in batch.commands if it.HasField("put"))


def test_a_node_takes_what_a_client_may_have_in_flight() -> None:
    """Goal: with default settings a client is never refused for its requests' number,
    and not by a node set to a quarter of them."""
    config = kvstore.Config(data_dir=Path())
    assert config.stream_requests_max >= 4 * REQUESTS_OPEN_MAX


def test_requests_in_flight_are_bounded_and_what_waits_shares_the_next(
    fake_nodes: Any, room_for_four: None
) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await client.put("warm", "up")
            node.script = lambda _: "hold"
            calls = [client.put(f"k{n}", "v") for n in range(100)]
            puts = await one_a_turn(calls)
            await node.until(lambda: len(node.writes) == 1 + 4)
            node.script = lambda _: None
            await node.release()
            await asyncio.gather(*puts)
            keys = [b"warm", *(b"k%d" % n for n in range(100))]
            assert sorted(node.applied) == sorted(keys)
            assert max(commands(request) for request in node.writes) == 96

    asyncio.run(scenario())


def test_what_does_not_fit_in_the_room_there_is_waits_its_turn(
    fake_nodes: Any, room_for_four: None
) -> None:
    """Method: twenty values of which each fills a request, all in one turn."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.script = lambda _: "hold"
            value = bytes(600_000)
            puts = [asyncio.create_task(client.put(f"{n}", value)) for n in range(20)]
            for seen in range(4, 24, 4):
                await node.until(lambda seen=seen: len(node.writes) == seen)
                await node.release()
            await asyncio.gather(*puts)
            assert node.applied == [b"%d" % n for n in range(20)]

    asyncio.run(scenario())


@pytest.mark.parametrize("many", ["writes", "reads"])
def test_neither_reads_nor_writes_wait_for_all_of_the_others(
    fake_nodes: Any, monkeypatch: pytest.MonkeyPatch, many: str
) -> None:
    """Method: a request at a time, twelve of one kind and then one of the other."""
    monkeypatch.setattr("kvstore.client.pipeline.REQUESTS_OPEN_MAX", 1)
    monkeypatch.setattr("kvstore.client.pipeline.REQUEST_COMMANDS_MAX", 1)

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await client.put("warm", "up")
            calls: dict[str, Any] = {
                "writes": lambda: client.put("k", "v"),
                "reads": lambda: client.get("k"),
            }
            few = "reads" if many == "writes" else "writes"
            tasks = [asyncio.create_task(calls[many]()) for _ in range(12)]
            tasks.append(asyncio.create_task(calls[few]()))
            await asyncio.gather(*tasks)
            kinds = [request.WhichOneof("operations") for request in node.requests]
            assert kinds[1:].index(few) <= 2

    asyncio.run(scenario())


def test_a_call_that_had_no_room_in_time_was_not_applied(
    fake_nodes: Any, room_for_four: None
) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await client.put("warm", "up")
            node.script = lambda _: "hold"
            puts = await one_a_turn([client.put(f"k{n}", "v") for n in range(4)])
            with pytest.raises(Unavailable, match="not applied: too much is in flight"):
                await client.put("late", "v", timeout_s=0.05)
            await node.until(lambda: len(node.writes) == 1 + 4)
            await node.release()
            await asyncio.gather(*puts)
            assert b"late" not in node.sent_keys

    asyncio.run(scenario())


def test_a_node_that_was_left_takes_up_no_room_at_the_next(
    fake_nodes: Any, room_for_four: None
) -> None:
    """Goal: one slow disk does not hold up what another node can do."""

    async def scenario() -> None:
        async with (
            fake_nodes(2) as (one, two),
            AsyncClient([one.address, two.address]) as client,
        ):
            await client.put("warm", "up")
            one.script = lambda _: "hold"
            slow = await one_a_turn([client.put(f"k{n}", "v") for n in range(3)])
            await one.until(lambda: len(one.writes) == 1 + 3)
            one.script = lambda _: Unavailable("not me")
            await client.put("a", "v")
            two.script = lambda _: "hold"
            puts = await one_a_turn([client.put(f"l{n}", "v") for n in range(4)])
            await two.until(lambda: len(two.writes) == 1 + 4)
            await two.release()
            await asyncio.gather(*puts)
            await one.release()
            await asyncio.gather(*slow)

    asyncio.run(scenario())


def test_calls_that_gave_up_while_they_waited_for_room_are_forgotten(
    fake_nodes: Any, room_for_four: None
) -> None:
    """Goal: whoever asks with little patience, again and again, costs no memory."""

    def remembered() -> int:
        gc.collect()
        return sum(isinstance(it, Pending) for it in gc.get_objects())

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await client.put("warm", "up")
            node.script = lambda _: "hold"
            puts = await one_a_turn([client.put(f"k{n}", "v") for n in range(4)])
            for _ in range(200):
                (late,) = await one_a_turn([client.put("late", "v")])
                late.cancel()
                await asyncio.gather(late, return_exceptions=True)
            del late
            assert remembered() < 20
            await node.until(lambda: len(node.writes) == 1 + 4)
            await node.release()
            await asyncio.gather(*puts)
            assert b"late" not in node.sent_keys

    asyncio.run(scenario())


@pytest.mark.parametrize(("timeout_s", "node_ms_max"), [(0.5, 450), (20, 19_900)])
def test_a_node_gives_up_a_little_before_its_client(
    fake_nodes: Any, timeout_s: float, node_ms_max: int
) -> None:
    """Goal: a node that knows that a write was not applied gets to say so, before the
    client says that it may have been."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await client.put("warm", "up")
            await client.put("k", "v", timeout_s=timeout_s)
            assert 0.8 * node_ms_max < node.writes[-1].timeout_ms <= node_ms_max

    asyncio.run(scenario())
