"""Peer streams over real sockets on the loopback."""

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from typing import Any

import grpc
import pytest

from kvstore.errors import ConfigError
from kvstore.raft.messages import AppendEntries, Entry, EntryId, EntryKind, Heartbeat
from kvstore.replica.messages import ForwardWrites
from kvstore.rpc.admission import (
    CLUSTER_METADATA_KEY,
    FROM_METADATA_KEY,
    SERVICE,
    TO_METADATA_KEY,
    Hello,
)
from kvstore.rpc.codec import PeerCodec
from kvstore.rpc.peer_link import PeerOptions
from kvstore.rpc.peer_queue import PeerQueue
from kvstore.storage.record import entry_crc
from kvstore.types import ClusterId, LogIndex, NodeId, Term
from tests.rpc.conftest import eventually

EXCHANGE = f"/{SERVICE}/Exchange"


def append(sender: int, to: int, index: int, data: bytes) -> AppendEntries:
    return AppendEntries(
        sender=NodeId(sender),
        to=NodeId(to),
        term=Term(1),
        previous=EntryId(Term(1), LogIndex(index - 1)),
        entries=(Entry(Term(1), LogIndex(index), EntryKind.COMMANDS, data),),
        commit_index=LogIndex(0),
    )


def forward(sender: int, to: int, number: int) -> ForwardWrites:
    return ForwardWrites(
        sender=NodeId(sender), to=NodeId(to), request_id=number, writes=b"w", count=1
    )


def metadata(cluster: str, sender: str, to: str) -> tuple[tuple[str, str], ...]:
    whole = dict(
        Hello(cluster="", sender=NodeId(2), to=NodeId(1), address="h:1").encode()
    )
    said = {CLUSTER_METADATA_KEY: cluster, FROM_METADATA_KEY: sender}
    return tuple((whole | said | {TO_METADATA_KEY: to}).items())


def test_messages_of_one_moment_arrive_in_order_as_one_frame(pair: Any) -> None:
    async def scenario() -> None:
        async with pair() as (one, two):
            sent = [one.beat(2, n) for n in range(50)]
            for message in sent:
                one.transport.send([message])
            await two.until(lambda: len(two.received) == 50)
            assert two.received == sent
            assert two.frames == [50]

    asyncio.run(scenario())


def test_small_messages_pass_large_ones(pair: Any) -> None:
    """Heartbeats queued behind megabytes arrive before most of these."""

    async def scenario() -> None:
        async with pair(frame_bytes_max=64 * 1024) as (one, two):
            data = bytes(64 * 1024)
            one.transport.send(append(1, 2, n + 1, data) for n in range(64))
            one.transport.send([one.beat(2)])
            await two.until(lambda: len(two.received) == 65)
            kinds = [type(message) for message in two.received]
            assert kinds.index(Heartbeat) <= 1
            large = [m for m in two.received if isinstance(m, AppendEntries)]
            assert [m.previous.index for m in large] == list(range(64))

    asyncio.run(scenario())


def test_a_full_queue_drops_the_class_and_keeps_the_newest(pair: Any) -> None:
    """No gap may hide in what is sent: everything older goes at once."""

    async def scenario() -> None:
        async with pair(queue_messages_max=3) as (one, two):
            one.transport.send(append(1, 2, n + 1, b"x") for n in range(5))
            one.transport.send(one.beat(2, n) for n in range(5))
            await two.until(lambda: len(two.received) == 5)
            beats = [m.round for m in two.received if isinstance(m, Heartbeat)]
            large = [
                m.previous.index for m in two.received if isinstance(m, AppendEntries)
            ]
            assert beats == [2, 3, 4]
            assert large == [3, 4]
            assert one.transport.dropped_messages == {2: 5}

    asyncio.run(scenario())


def test_a_queue_is_bounded_in_bytes(pair: Any) -> None:
    async def scenario() -> None:
        async with pair(queue_bytes_max=10_000) as (one, two):
            one.transport.send(append(1, 2, n + 1, bytes(4_000)) for n in range(4))
            await two.until(lambda: len(two.received) == 2)
            assert one.transport.dropped_messages == {2: 2}

    asyncio.run(scenario())


def test_sending_to_an_unreachable_peer_neither_waits_nor_piles_up(
    member: Any,
) -> None:
    async def scenario() -> None:
        one = member(1)
        one.build({2: 1}, queue_messages_max=10)
        async with one.transport:
            for n in range(1_000):
                one.transport.send([one.beat(2, n)])
            assert one.transport.dropped_messages[NodeId(2)] == 990
            assert not one.transport.is_connected(NodeId(2))
        assert one.disconnected == []

    asyncio.run(scenario())


def test_writes_that_cannot_leave_are_handed_back(pair: Any, member: Any) -> None:
    """For want of a connection or of room. Their clients learn that they never left."""

    async def scenario() -> None:
        alone = member(1)
        alone.build({2: 1})
        async with alone.transport:
            write = forward(1, 2, 1)
            assert alone.transport.send([alone.beat(2), write]) == [write]
            assert alone.transport.dropped_messages == {2: 0}
        async with pair(queue_messages_max=3) as (one, two):
            sent = [forward(1, 2, number) for number in range(5)]
            assert one.transport.send(sent) == sent[3:]
            await two.until(lambda: len(two.received) == 3)
            assert two.received == sent[:3]

    asyncio.run(scenario())


def test_a_message_for_a_stranger_is_dropped(pair: Any) -> None:
    async def scenario() -> None:
        async with pair() as (one, two):
            one.transport.send([one.beat(9), one.beat(2)])
            await two.until(lambda: len(two.received) == 1)

    asyncio.run(scenario())


def test_a_peer_that_stops_is_noticed_once_and_found_again(pair: Any) -> None:
    async def scenario() -> None:
        async with pair() as (one, two):
            port = two.port
            await two.stop()
            await one.until(lambda: one.disconnected == [2])
            two.build({1: one.port})
            await two.serve(port)
            async with two.transport:
                await one.until_connected(2)
                await two.until_connected(1)
                one.transport.send([one.beat(2, 5)])
                await two.until(lambda: len(two.received) > 0)
                assert one.disconnected == [2]
                assert two.disconnected == []
                await two.stop()
                await one.until(lambda: one.disconnected == [2, 2])

    asyncio.run(scenario())


def test_a_peer_that_dials_us_is_dialled_at_once(member: Any) -> None:
    """However long we meant to wait before the next attempt: it is up again."""

    async def scenario() -> None:
        one, two = member(1), member(2)
        two.build({})
        await two.serve()
        port = two.port
        await two.stop()
        one.build({2: port}, backoff_s_min=30.0, backoff_s_max=60.0)
        await one.serve()
        async with one.transport:
            link = one.transport._links[NodeId(2)]
            await eventually(lambda: link.last_refusal != "")
            two.build({1: one.port})
            await two.serve(port)
            async with two.transport:
                await one.until_connected(2)
                await two.stop()
            await one.stop()

    asyncio.run(scenario())


def test_closing_is_no_evidence_to_oneself(pair: Any) -> None:
    async def scenario() -> None:
        async with pair() as (one, two):
            await one.stop()
            await two.until(lambda: two.disconnected == [1])
            assert one.disconnected == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("cluster", "sender", "to"),
    [
        pytest.param("ff" * 16, "2", "1", id="foreign_cluster"),
        pytest.param(b"c".hex() * 16, "2", "7", id="wrong_receiver"),
        pytest.param(b"c".hex() * 16, "1", "1", id="itself"),
        pytest.param(b"c".hex() * 16, "two", "1", id="no_number"),
        pytest.param(b"c".hex() * 16, "9" * 30, "1", id="huge_number"),
        pytest.param("", "", "", id="nothing"),
    ],
)
def test_a_stream_of_the_wrong_people_is_refused(
    member: Any, cluster: str, sender: str, to: str
) -> None:
    """With a status that says why, before anything of it is read."""

    async def scenario() -> None:
        one = member(1)
        one.build({2: 1})
        await one.serve()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
            stream = channel.stream_stream(EXCHANGE, None, None)
            call = stream(None, metadata=metadata(cluster, sender, to))
            assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert await call.details()
        assert one.received == []
        assert one.disconnected == []
        await one.stop()

    asyncio.run(scenario())


def test_foreign_members_do_not_connect(member: Any) -> None:
    """The refused side dials on, and is neither connected nor told of an end."""

    async def scenario() -> None:
        one, stranger = member(1), member(2, ClusterId(b"x" * 16))
        one.build({2: 1})
        await one.serve()
        stranger.build({1: one.port})
        async with stranger.transport:
            link = stranger.transport._links[NodeId(1)]
            async with asyncio.timeout(10):
                while "FAILED_PRECONDITION" not in link.last_refusal:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            assert not stranger.transport.is_connected(NodeId(1))
        assert stranger.disconnected == one.disconnected == []
        await one.stop()

    asyncio.run(scenario())


def test_the_end_of_a_superseded_stream_is_no_evidence(member: Any) -> None:
    """A peer may dial again before its old connection is known to be dead."""

    async def scenario() -> None:
        one, two = member(1), member(2)
        one.build({2: 1})
        two.build({1: 1})
        await one.serve()
        own = metadata(one.identity.cluster_id.hex(), "2", "1")
        codec = PeerCodec(entry_crc=entry_crc)
        async with contextlib.AsyncExitStack() as stack:
            calls = []
            for _ in range(2):
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{one.port}")
                await stack.enter_async_context(channel)
                call = channel.stream_stream(EXCHANGE, None, None)(None, metadata=own)
                await call.initial_metadata()
                calls.append(call)
            old, new = calls
            await old.write(codec.encode(two.beat(1, 1)))
            assert await old.code() is grpc.StatusCode.ABORTED
            await new.write(codec.encode(two.beat(1, 2)))
            await one.until(lambda: len(one.received) == 1)
            assert one.received[0].round == 2
            assert one.disconnected == []
            new.cancel()
            await one.until(lambda: one.disconnected == [2])
        await one.stop()

    asyncio.run(scenario())


def test_garbage_ends_the_stream_and_nothing_else(member: Any) -> None:
    async def scenario() -> None:
        one = member(1)
        one.build({2: 1})
        await one.serve()
        own = metadata(one.identity.cluster_id.hex(), "2", "1")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
            call = channel.stream_stream(EXCHANGE, None, None)(None, metadata=own)
            await call.write(b"\xff\xff\xff garbage")
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert one.received == []
        await one.stop()

    asyncio.run(scenario())


def test_a_link_that_ends_by_a_defect_is_reported(
    pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the peer would be dialled no more, and nobody would know why."""

    def broken(_: object) -> bytes:
        raise ZeroDivisionError("our bug")

    async def scenario() -> None:
        async with pair() as (one, two):
            monkeypatch.setattr(PeerQueue, "next_frame", broken)
            one.transport.send([one.beat(2)])
            await one.until(lambda: len(one.failures) == 1)
            assert isinstance(one.failures[0], ZeroDivisionError)
        # To be closed is no failure.
        assert two.failures == []
        assert len(one.failures) == 1

    asyncio.run(scenario())


PEER_PROCESS = """
    import asyncio, sys
    from kvstore.raft.membership import MemberInfo
    from kvstore.replica.interfaces import Identity
    from kvstore.rpc.codec import PeerCodec
    from kvstore.rpc.peers import PeerTransport

    async def main():
        transport = PeerTransport(
            Identity(cluster_id=b"c" * 16, node_id=2),
            {1: MemberInfo(f"127.0.0.1:{sys.argv[1]}")},
            address="127.0.0.1:1",
            codec=PeerCodec(entry_crc=lambda *_: 0),
            admit=print,
            on_messages=print,
            on_disconnect=print,
            on_identified=print,
            on_refused=print,
            on_failure=print,
        )
        async with transport:
            while not transport.is_connected(1):
                await asyncio.sleep(0.001)
            print("connected", flush=True)
            await asyncio.sleep(60)

    asyncio.run(main())
"""


@pytest.mark.process
def test_a_killed_peer_is_noticed_at_once(member: Any) -> None:
    """The kernel resets its connections: milliseconds, with a bound for slow machines.

    An election timeout is half a second; evidence that came later would be of no use.
    """

    async def scenario() -> float:
        one = member(1)
        one.build({2: 1})
        await one.serve()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            textwrap.dedent(PEER_PROCESS),
            str(one.port),
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"connected\n"
        loop = asyncio.get_running_loop()
        start = loop.time()
        process.kill()
        await one.until(lambda: one.disconnected == [2])
        elapsed_s = loop.time() - start
        await process.wait()
        await one.stop()
        return elapsed_s

    assert asyncio.run(scenario()) < 0.4


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="queue_bytes_max"):
        PeerOptions(queue_bytes_max=0)
