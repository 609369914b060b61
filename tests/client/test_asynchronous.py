"""The asyncio client against nodes that misbehave on command."""

import asyncio
import math
from typing import Any

import pytest

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.cluster import ClusterTransport
from kvstore.client.stream import OperateStream, Patience
from kvstore.errors import (
    Busy,
    Closed,
    ConfigError,
    CorruptionError,
    DeadlineExceeded,
    InvalidRequest,
    KVStoreError,
    NotLeader,
    OutcomeUnknown,
    ProposalDropped,
    RequestTooLarge,
    Unavailable,
)
from kvstore.pb import kv_pb2

QUICK = Patience(connect_s=1.0, ping_interval_s=0.02, silence_s=0.1)


def impatient(*nodes: Any, sessions: bool = True) -> AsyncClient:
    endpoints = [node.address for node in nodes]
    transport = ClusterTransport(endpoints, patience=QUICK)
    return AsyncClient(transport=transport, sessions=sessions)


def without_sessions(*nodes: Any) -> AsyncClient:
    return AsyncClient([node.address for node in nodes], sessions=False)


def carrier(client: AsyncClient) -> ClusterTransport:
    transport = client._transport
    assert isinstance(transport, ClusterTransport)
    return transport


def stream_of(client: AsyncClient) -> OperateStream:
    stream = carrier(client)._stream
    assert stream is not None
    return stream


def first_only(verdict: object) -> Any:
    """A script that applies to the first request alone."""
    seen = []

    def script(request: object) -> object:
        seen.append(request)
        return verdict if len(seen) == 1 else None

    return script


async def outcome(waiting: Any) -> object:
    try:
        return await waiting
    except KVStoreError as error:
        return type(error)


def test_operations_ready_at_one_moment_share_a_request(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), without_sessions(node) as client:
            puts = [client.put(f"k{n}", f"v{n}") for n in range(64)]
            gets = [client.get(f"k{n}") for n in range(10)]
            written, read = await asyncio.gather(
                asyncio.gather(*puts), asyncio.gather(*gets)
            )
            assert [r.revision for r in written] == list(range(1, 65))
            assert [r and r.value for r in read] == [b"v%d" % n for n in range(10)]
            assert len(node.writes) == 1
            assert len(node.requests) == 2

    asyncio.run(scenario())


def test_callers_woken_together_stay_together(fake_nodes: Any) -> None:
    """Closed-loop callers coalesce by themselves, round after round."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:

            async def work(name: int) -> None:
                for n in range(20):
                    await client.put(f"{name}/{n}", "v")

            await asyncio.gather(*(work(name) for name in range(32)))
            assert len(node.applied) == 640
            assert len(node.writes) <= 25

    asyncio.run(scenario())


def test_requests_are_bounded_in_bytes(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            value = bytes(400_000)
            await asyncio.gather(*(client.put(f"k{n}", value) for n in range(8)))
            assert len(node.writes) >= 4
            assert node.applied == [b"k%d" % n for n in range(8)]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "refusal",
    [NotLeader("n"), Busy("b"), ProposalDropped("p"), Unavailable("u")],
    ids=lambda e: type(e).__name__,
)
def test_a_write_refused_definitely_is_tried_again(
    fake_nodes: Any, refusal: KVStoreError
) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.script = first_only(refusal)
            await client.put("k", "v")
            assert node.applied == [b"k"]
            assert node.sent_keys == [b"k", b"k"]

    asyncio.run(scenario())


@pytest.mark.parametrize("verdict", ["drop", "apply and drop"])
def test_a_write_on_a_broken_stream_is_of_unknown_outcome(
    fake_nodes: Any, verdict: str
) -> None:
    """Whether the node had applied it nobody can tell, so nobody repeats it."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), without_sessions(node) as client:
            node.script = first_only(verdict)
            with pytest.raises(OutcomeUnknown):
                await client.put("k", "v")
            await client.put("other", "v")  # the client found its way back
            assert node.sent_keys == [b"k", b"other"]

    asyncio.run(scenario())


def test_a_read_on_a_broken_stream_is_tried_again(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await client.put("k", "v")
            node.script = first_only("drop")
            found = await client.get("k")
            assert found is not None
            assert found.value == b"v"

    asyncio.run(scenario())


def test_an_indefinite_answer_is_passed_on_and_not_repeated(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.script = first_only(OutcomeUnknown("who knows"))
            with pytest.raises(OutcomeUnknown, match="who knows"):
                await client.put("k", "v")
            assert node.sent_keys == [b"k"]

    asyncio.run(scenario())


def test_a_dead_endpoint_is_passed_over_quickly(fake_nodes: Any) -> None:
    """A refused connection is no reason to wait."""

    async def scenario() -> None:
        async with fake_nodes(2) as (dead, node):
            address = dead.address
            await dead.stop()
            async with AsyncClient([address, node.address]) as client:
                async with asyncio.timeout(0.8):
                    await client.put("k", "v")
            assert node.applied == [b"k"]

    asyncio.run(scenario())


def test_the_client_moves_on_when_its_node_stops(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with (
            fake_nodes(2) as (one, two),
            AsyncClient([one.address, two.address]) as client,
        ):
            await client.put("a", "v")
            await one.stop()
            await outcome(client.put("b", "v"))
            await client.put("c", "v")
            assert two.applied[-1] == b"c"

    asyncio.run(scenario())


def test_a_node_that_will_not_lead_is_left_for_another(fake_nodes: Any) -> None:
    """A node cut off from its leader answers, but cannot serve: the next one can."""

    async def scenario() -> None:
        async with fake_nodes(2) as (one, two):
            one.script = lambda _: Unavailable("no leader known")
            async with AsyncClient([one.address, two.address]) as client:
                await client.put("k", "v", timeout_s=5)
                assert two.applied == [b"k"]

    asyncio.run(scenario())


def test_a_silent_node_is_given_up(fake_nodes: Any) -> None:
    """A paused process answers no pings; its kernel keeps the connection."""

    async def scenario() -> None:
        async with fake_nodes(2) as (one, two):
            one.script = lambda _: "hang"
            one.answer_pings = True
            async with impatient(one, two, sessions=False) as c:
                put = asyncio.create_task(outcome(c.put("k", "v")))
                await one.until(lambda: len(one.requests) == 1)
                one.answer_pings = False
                assert issubclass(await put, OutcomeUnknown)  # type: ignore[arg-type]
                await c.put("k2", "v")
                assert two.applied == [b"k2"]

    asyncio.run(scenario())


def test_a_slow_write_on_a_living_node_is_waited_for(fake_nodes: Any) -> None:
    """Pings are answered, so silence about the write is not death."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,):
            node.script = lambda _: "hold"
            async with impatient(node) as client:
                put = asyncio.create_task(client.put("k", "v"))
                # Three times what a silent node is allowed.
                await node.until(lambda: node.pings >= 15)
                assert not put.done()
                await node.release()
                assert (await put).revision == 1

    asyncio.run(scenario())


def test_a_deadline_before_anything_left_is_definite(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,):
            await node.stop()
            async with AsyncClient([node.address]) as client:
                with pytest.raises(Unavailable, match="not applied"):
                    await client.put("k", "v", timeout_s=0.1)
                with pytest.raises(Unavailable):
                    await client.get("k", timeout_s=0.1)

    asyncio.run(scenario())


def test_a_read_out_of_time_is_unavailable(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.script = lambda _: "hang"
            with pytest.raises(Unavailable):
                await client.get("k", timeout_s=0.1)

    asyncio.run(scenario())


@pytest.mark.parametrize("sessions", [True, False])
def test_one_bad_operation_does_not_fail_its_neighbours(
    fake_nodes: Any, sessions: bool
) -> None:
    """The node names the command that it refuses; the others were not applied. In a
    session a header is a command of the batch, too."""

    async def scenario() -> None:
        async with (
            fake_nodes(1) as (node,),
            AsyncClient([node.address], sessions=sessions) as client,
        ):
            refusal = RequestTooLarge("too large", limit="value_bytes_max")
            refusal.command_index = 2 if sessions else 1
            node.script = first_only(refusal)
            results = await asyncio.gather(
                *(outcome(client.put(f"k{n}", "v")) for n in range(3))
            )
            assert results[1] is RequestTooLarge
            assert node.applied == [b"k0", b"k2"]

    asyncio.run(scenario())


def test_an_unnamed_bad_operation_is_found_by_sending_each_alone(
    fake_nodes: Any,
) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:

            def script(request: Any) -> KVStoreError | None:
                return InvalidRequest("no") if b"bad" in request.writes else None

            node.script = script
            results = await asyncio.gather(
                *(outcome(client.put(k, "v")) for k in ("a", "bad", "c"))
            )
            assert results[1] is InvalidRequest
            assert sorted(node.applied) == [b"a", b"c"]

    asyncio.run(scenario())


def test_a_command_that_failed_alone_fails_its_caller_alone(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.result_errors = {b"k1": InvalidRequest("no such thing")}
            results = await asyncio.gather(
                *(outcome(client.put(f"k{n}", "v")) for n in range(3))
            )
            assert results[1] is InvalidRequest
            assert node.applied == [b"k0", b"k2"]

    asyncio.run(scenario())


def test_a_corrupt_read_is_taken_to_another_node(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(2) as (one, two):
            one.script = lambda _: CorruptionError("rotten")
            two.pairs[b"k"] = b"whole"
            async with AsyncClient([one.address, two.address]) as client:
                found = await client.get("k", timeout_s=5)
                assert found is not None
                assert found.value == b"whole"

    asyncio.run(scenario())


def test_a_corrupt_result_of_one_read_is_tried_again(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.pairs[b"k"] = b"v"
            node.result_errors = {b"k": CorruptionError("rotten")}
            found = await client.get("k")
            assert found is not None

    asyncio.run(scenario())


def test_a_cancelled_caller_changes_nothing_for_others(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await client.put("warm", "up")
            node.script = lambda _: "hold"
            tasks = [asyncio.create_task(client.put(f"k{n}", "v")) for n in range(3)]
            await node.until(lambda: len(node.writes) == 2)
            tasks[1].cancel()
            await node.release()
            assert (await tasks[0]).revision == 2
            assert (await tasks[2]).revision == 4
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]

    asyncio.run(scenario())


def test_a_write_cancelled_before_it_left_never_leaves(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            task = asyncio.create_task(client.put("k", "v"))
            await asyncio.sleep(0)
            task.cancel()
            await client.put("other", "v")
            assert b"k" not in node.sent_keys

    asyncio.run(scenario())


def test_a_closed_client_refuses_definitely(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,):
            client = AsyncClient([node.address])
            node.script = lambda _: "hang"
            put = asyncio.create_task(outcome(client.put("k", "v")))
            await node.until(lambda: len(node.writes) == 1)
            await client.close()
            assert issubclass(await put, OutcomeUnknown)  # type: ignore[arg-type]
            with pytest.raises(Closed):
                await client.put("k", "v")
            await client.close()

    asyncio.run(scenario())


def test_closing_ends_what_waits_for_another_try(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,):
            client = AsyncClient([node.address])
            node.script = lambda _: Unavailable("not now")
            put = asyncio.create_task(outcome(client.put("k", "v")))
            await node.until(lambda: len(node.writes) >= 3)
            await client.close()
            async with asyncio.timeout(2):
                result = await put
            # The last try may have been in flight.
            assert isinstance(result, type)
            assert issubclass(result, OutcomeUnknown | Closed)

    asyncio.run(scenario())


def test_a_client_needs_an_endpoint_and_patience() -> None:
    with pytest.raises(ConfigError):
        AsyncClient([])
    with pytest.raises(ConfigError):
        AsyncClient(["127.0.0.1:1"], timeout_s=0)


@pytest.mark.parametrize("patience_s", [math.inf, 1e12])
def test_any_patience_is_possible(fake_nodes: Any, patience_s: float) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            assert (await client.put("k", "v", timeout_s=patience_s)).revision == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("patience_s", [math.nan, -1])
def test_senseless_patience_is_refused(fake_nodes: Any, patience_s: float) -> None:
    """Goal: the mistake of one caller is not the trouble of those beside it."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            good = asyncio.create_task(client.put("k", "v"))
            with pytest.raises(InvalidRequest, match="timeout_s"):
                await client.put("k", "v", timeout_s=patience_s)
            with pytest.raises(InvalidRequest, match="timeout_s"):
                await client.status(timeout_s=patience_s)
            assert (await good).revision == 1

    asyncio.run(scenario())


def test_a_client_says_that_it_belongs_to_another_loop(fake_nodes: Any) -> None:
    """Goal: the alternative is a call that never ends."""
    client = AsyncClient(["127.0.0.1:1"])

    async def use() -> None:
        await client.put("k", "v", timeout_s=0.01)

    with pytest.raises(Unavailable):
        asyncio.run(use())
    with pytest.raises(RuntimeError, match="event loop"):
        asyncio.run(use())


def test_a_closed_client_gives_no_status(fake_nodes: Any) -> None:
    async def scenario() -> None:
        client = AsyncClient(["127.0.0.1:1"])
        await client.close()
        with pytest.raises(Closed):
            await client.status()

    asyncio.run(scenario())


def test_a_request_queued_on_a_stream_that_breaks_is_sent_elsewhere(
    fake_nodes: Any,
) -> None:
    """It never left, so it is no unknown outcome."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await client.put("a", "v")
            stream = stream_of(client)
            put = asyncio.create_task(client.put("b", "v"))
            await asyncio.sleep(0)  # the put is submitted…
            await asyncio.sleep(0)  # …and its request queued, not yet written
            assert len(stream._outgoing) == 1
            stream._break("told to")
            await put
            assert node.sent_keys == [b"a", b"b"]

    asyncio.run(scenario())


def test_leaving_a_node_lets_it_answer_what_is_in_flight(fake_nodes: Any) -> None:
    """A read sends the client elsewhere; the write under way here still succeeds."""

    async def scenario() -> None:
        async with fake_nodes(2) as (one, two):
            two.pairs[b"k"] = b"v"
            async with AsyncClient([one.address, two.address]) as client:
                one.script = lambda _: "hold"
                put = asyncio.create_task(client.put("w", "v"))
                await one.until(lambda: len(one.writes) == 1)
                one.script = lambda _: Unavailable("not me")
                assert await client.get("k") is not None
                await one.release()
                assert (await put).revision == 1
                assert two.applied == []

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["deadline", "cancel"])
def test_a_write_given_up_while_connecting_never_leaves(
    fake_nodes: Any, end: str
) -> None:
    """Its caller was told that it was not applied: that has to stay true."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.ping_gate.clear()
            patience_s = 0.05 if end == "deadline" else 10
            put = asyncio.create_task(client.put("k", "v", timeout_s=patience_s))
            await node.until(lambda: node.pings == 1)
            other = asyncio.create_task(client.put("other", "v"))
            if end == "deadline":
                with pytest.raises(Unavailable, match="not applied"):
                    await put
            else:
                put.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await put
            node.ping_gate.set()
            await other
            assert node.sent_keys == [b"other"]

    asyncio.run(scenario())


def test_callers_past_the_bound_wait_for_room(
    fake_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backpressure: nothing is refused, nothing piles up; the deadline still holds."""
    monkeypatch.setattr("kvstore.client.pipeline.OPEN_MAX", 8)

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            await asyncio.gather(*(client.put(f"k{n}", "v") for n in range(100)))
            assert len(node.applied) == 100
            assert max(commands_in(request) for request in node.writes) <= 8
            node.script = lambda _: "hang"
            held = [asyncio.create_task(outcome(client.get("k"))) for _ in range(8)]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable, match="too much is in flight"):
                await client.put("late", "v", timeout_s=0.05)
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            assert b"late" not in node.sent_keys

    asyncio.run(scenario())


def commands_in(request: kv_pb2.OperateRequest) -> int:
    batch = kv_pb2.CommandBatch.FromString(request.writes)
    return sum(1 for it in batch.commands if it.HasField("put"))


def test_each_deadline_is_kept(fake_nodes: Any) -> None:
    """One timer serves all: a later, shorter deadline must not wait for it."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.script = lambda _: "hang"
            loop = asyncio.get_running_loop()
            start = loop.time()
            took: list[float] = []

            async def put(timeout_s: float) -> None:
                with pytest.raises(DeadlineExceeded):
                    await client.put("k", "v", timeout_s=timeout_s)
                took.append(loop.time() - start - timeout_s)

            await asyncio.gather(*(put(s) for s in (0.3, 0.1, 0.2, 0.15)))
            assert all(-0.01 < late < 1.0 for late in took)

    asyncio.run(scenario())
