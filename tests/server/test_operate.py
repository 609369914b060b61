"""The pipelined stream: order, bounds, and what a bad request does to the others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from kvstore.errors import Busy, InvalidRequest, OutcomeUnknown, RequestTooLarge
from kvstore.pb import kv_pb2
from kvstore.rpc.errors import error_from_pb, error_from_rpc
from kvstore.server import operate
from kvstore.server.node import Node
from kvstore.server.operate import OperateContext, OperateStream
from tests.server.harness import (
    Medium,
    Rpc,
    configs,
    dialled,
    eventually,
    everything,
    puts,
    reads,
    run,
    running,
    value_of,
    writes,
)

PING = kv_pb2.OperateRequest(id=7, ping=kv_pb2.Ping())


async def ask(stream: Any, request: kv_pb2.OperateRequest) -> kv_pb2.OperateResponse:
    await stream.write(request)
    answer = await stream.read()
    assert isinstance(answer, kv_pb2.OperateResponse)
    return answer


async def led(tmp_path: Path, scenario: Any, **settings: Any) -> None:
    async with running(tmp_path, **settings) as node, dialled(node) as rpc:
        await scenario(node, rpc)


async def leaderless(tmp_path: Path, scenario: Any, **settings: Any) -> None:
    """One of two members: every write and read waits, until it is refused."""
    settings = {"election_timeout_ms": 60_000, "request_timeout_ms": 60_000} | settings
    config, _ = configs(tmp_path, 2, **settings)
    async with Node(config) as node, dialled(node) as rpc:
        await scenario(node, rpc)


def test_a_batch_is_answered_with_a_result_for_each_command(tmp_path: Path) -> None:
    async def scenario(_: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        answer = await ask(stream, writes("a", "b", request_id=3))
        assert answer.id == 3
        assert [r.put.revision for r in answer.results.results] == [1, 2]
        answer = await ask(stream, reads("a", "nothing", "b"))
        counts = [len(result.range.kvs) for result in answer.results.results]
        assert counts == [1, 0, 1]

    run(led(tmp_path, scenario))


def test_answers_overtake_each_other(tmp_path: Path) -> None:
    """A ping is answered at once, though a write before it still waits."""

    async def scenario(_: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        await stream.write(writes("a", request_id=1))
        answer = await ask(stream, PING)
        assert (answer.id, answer.HasField("error")) == (7, False)

    run(leaderless(tmp_path, scenario))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (kv_pb2.OperateRequest(writes=b"\x0a\xff"), "encoded CommandBatch"),
        (kv_pb2.OperateRequest(writes=b""), "no command"),
        (kv_pb2.OperateRequest(), "no operations"),
    ],
)
def test_a_malformed_request_is_refused_and_the_stream_goes_on(
    tmp_path: Path, request_: kv_pb2.OperateRequest, says: str
) -> None:
    async def scenario(_: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        error = error_from_pb((await ask(stream, request_)).error)
        assert type(error) is InvalidRequest
        assert says in str(error)
        assert not (await ask(stream, writes("a"))).HasField("error")

    run(led(tmp_path, scenario))


def test_an_invalid_command_is_named_and_nothing_of_its_batch_is_applied(
    tmp_path: Path,
) -> None:
    async def scenario(node: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        error = error_from_pb((await ask(stream, writes("a", "b", "", "d"))).error)
        assert isinstance(error, InvalidRequest)
        assert error.command_index == 2
        error = error_from_pb((await ask(stream, reads("a", ""))).error)
        assert isinstance(error, InvalidRequest)
        assert error.command_index == 1
        assert await value_of(node, "a") is None

    run(led(tmp_path, scenario))


def test_a_range_that_fails_leaves_the_others_of_its_request_alone(
    tmp_path: Path,
) -> None:
    async def scenario(_: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        await ask(stream, writes("a"))
        request = reads("a", "a", "a")
        request.reads.ranges[1].revision = 99
        first, second, third = (await ask(stream, request)).results.results
        assert first.range.kvs == third.range.kvs
        assert second.error.code == "FutureRevision"

    run(led(tmp_path, scenario))


def test_bytes_that_are_no_message_end_their_stream_alone(tmp_path: Path) -> None:
    async def scenario(_: Node, rpc: Rpc) -> None:
        raw: Any = rpc.channel.stream_stream("/kvstore.v1.KV/Operate", None, None)
        bad = raw()
        good = rpc.kv.Operate()
        await ask(good, PING)
        await bad.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError):
            await bad.read()
        assert not (await ask(good, writes("a"))).HasField("error")

    run(led(tmp_path, scenario))


def test_a_request_beyond_its_bound_is_refused_with_both_numbers(
    tmp_path: Path,
) -> None:
    async def scenario(_: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        request = writes(*(f"key{n:03}" for n in range(200)))
        error = error_from_pb((await ask(stream, request)).error)
        assert isinstance(error, RequestTooLarge)
        assert (error.limit, error.maximum) == ("request_bytes_max", 2048)
        assert error.actual == len(request.writes)

    run(
        led(
            tmp_path,
            scenario,
            request_bytes_max=2048,
            value_bytes_max=64,
            key_bytes_max=64,
        )
    )


def test_what_is_bounded_is_the_bytes_and_not_what_they_come_to(tmp_path: Path) -> None:
    """The same field a thousand times decodes to one; stored are the bytes."""
    put = kv_pb2.Command(put=kv_pb2.Put(key=b"a", value=b"v")).SerializeToString()
    command = put * 1_000
    batch = b"\x0a" + varint(len(command)) + command
    decoded = kv_pb2.CommandBatch.FromString(batch)
    assert decoded.ByteSize() < 20

    async def scenario(_: Node, rpc: Rpc) -> None:
        request = kv_pb2.OperateRequest(writes=batch)
        answer = await ask(rpc.kv.Operate(), request)
        assert answer.error.code == "RequestTooLarge"

    run(
        led(
            tmp_path,
            scenario,
            request_bytes_max=2048,
            value_bytes_max=64,
            key_bytes_max=64,
        )
    )


def varint(number: int) -> bytes:
    encoded = b""
    while number >= 0x80:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def test_streams_are_bounded(tmp_path: Path) -> None:
    async def scenario(_: Node, rpc: Rpc) -> None:
        kept = [rpc.kv.Operate() for _ in range(2)]
        for stream in kept:
            await ask(stream, PING)
        refused = rpc.kv.Operate()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await refused.read()
        error = error_from_rpc(caught.value)
        assert isinstance(error, Busy)
        assert (error.queue, error.maximum) == ("streams", 2)
        # One that ends makes room.
        await kept[0].done_writing()
        assert not isinstance(await kept[0].read(), kv_pb2.OperateResponse)
        await ask(rpc.kv.Operate(), PING)

    run(led(tmp_path, scenario, streams_max=2))


def test_a_stream_with_too_many_open_requests_is_refused_more_but_hears_pings(
    tmp_path: Path,
) -> None:
    """Goal: a node that is merely busy does not pass for one that died."""

    async def scenario(node: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        for number in range(50):
            await stream.write(writes("a", request_id=number))
        await stream.write(PING)
        answers = [await stream.read() for _ in range(47)]
        pong = answers.pop()
        assert (pong.id, pong.HasField("error")) == (PING.id, False)
        assert [answer.id for answer in answers] == list(range(4, 50))
        for answer in answers:
            error = error_from_pb(answer.error)
            assert isinstance(error, Busy)
            assert (error.queue, error.maximum) == ("stream_requests", 4)
        assert len(node.requests) == 4

    run(leaderless(tmp_path, scenario, stream_requests_max=4))


class Unheard:
    """The context of a call whose client fetches nothing."""

    async def write(self, _: kv_pb2.OperateResponse) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("request_", [PING, reads("a")], ids=["pings", "reads"])
def test_a_stream_whose_client_fetches_nothing_is_not_read_any_more(
    tmp_path: Path, request_: kv_pb2.OperateRequest
) -> None:
    """Goal: no client makes a node's memory grow, by refusals or pings either."""

    async def scenario(node: Node, _: Rpc) -> None:
        taken: list[kv_pb2.OperateRequest] = []

        async def endless() -> AsyncIterator[kv_pb2.OperateRequest]:
            while True:
                taken.append(request_)
                yield request_
                await asyncio.sleep(0)

        stream = OperateStream(node, cast("OperateContext", Unheard()))
        running = asyncio.create_task(stream.run(endless()))
        await eventually(lambda: len(taken) >= 8)
        await value_of(node, "a")  # the node and the stream had their turns
        assert len(taken) == 8
        running.cancel()

    run(led(tmp_path, scenario, stream_requests_max=4))


def test_answers_that_a_client_does_not_fetch_hold_its_stream(tmp_path: Path) -> None:
    """Method: 60 ranges of a megabyte each, read late. All are answered in the end."""

    async def scenario(node: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        for number in range(16):
            await ask(stream, writes(f"k{number}", value=bytes(65_536)))
        before = node.requests._last_ticket
        for number in range(60):
            await stream.write(everything(request_id=number))
        await ask(rpc.kv.Operate(), PING)
        await eventually(lambda: not node.requests)
        assert node.requests._last_ticket - before < 20
        answered = [(await stream.read()).id for _ in range(60)]
        assert sorted(answered) == list(range(60))

    run(led(tmp_path, scenario, stream_requests_max=4))


def test_results_too_large_to_send_leave_the_stream_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch was applied: its caller must not take it for refused."""
    monkeypatch.setattr(operate, "RESULTS_BYTES_MAX", 30)

    async def scenario(node: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        answer = await ask(stream, writes(*"abcdefgh"))
        error = error_from_pb(answer.error)
        assert type(error) is OutcomeUnknown
        assert "was applied" in str(error)
        assert node.applied_revision == 8
        assert not (await ask(stream, writes("i"))).HasField("error")

    run(led(tmp_path, scenario))


def test_reads_are_bounded_until_they_are_answered(tmp_path: Path) -> None:
    async def scenario(_: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        for number in (1, 2):
            await stream.write(reads("a", request_id=number))
        error = error_from_pb((await ask(stream, reads("a", request_id=3))).error)
        assert isinstance(error, Busy)
        assert error.queue == "waiting_reads"

    run(leaderless(tmp_path, scenario, waiting_reads_max=2))


def test_too_many_ranges_in_one_request_are_refused(tmp_path: Path) -> None:
    async def scenario(_: Node, rpc: Rpc) -> None:
        request = reads(*["a"] * 16_385)
        answer = await ask(rpc.kv.Operate(), request)
        assert answer.error.code == "RequestTooLarge"
        assert answer.error.details["limit"] == "batch_commands_max"

    run(led(tmp_path, scenario))


def test_a_client_that_has_said_its_last_gets_every_answer(tmp_path: Path) -> None:
    async def scenario(_: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        for number in range(10):
            await stream.write(writes("a", request_id=number))
        await stream.done_writing()
        answered = [answer.id async for answer in stream]
        assert sorted(answered) == list(range(10))

    run(led(tmp_path, scenario))


def test_a_write_whose_client_has_gone_is_carried_out(tmp_path: Path) -> None:
    """Requests belong to the node. Method: the client goes while the log is held."""

    async def scenario(node: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        await ask(stream, PING)
        medium = Medium(node)
        medium.hold()
        await stream.write(writes("a"))
        await eventually(lambda: len(node.requests) == 1)
        stream.cancel()
        await ask(rpc.kv.Operate(), PING)
        medium.release()
        await eventually(lambda: not node.requests)
        assert await value_of(node, "a") == b"v"

    run(led(tmp_path, scenario))


def test_many_batches_in_flight_share_log_entries(tmp_path: Path) -> None:
    """Group commit, end to end: fewer entries than requests."""

    async def scenario(node: Node, rpc: Rpc) -> None:
        stream = rpc.kv.Operate()
        before = node.replica.raft.last_index
        for number in range(200):
            await stream.write(
                kv_pb2.OperateRequest(id=number, writes=puts(f"{number}"))
            )
        for _ in range(200):
            await stream.read()
        assert node.replica.raft.last_index - before < 150

    run(led(tmp_path, scenario))
