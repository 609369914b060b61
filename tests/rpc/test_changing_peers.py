"""Members that come, go and move while their streams are open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from kvstore.raft.membership import NOBODY, Configuration, MemberInfo
from kvstore.replica.messages import ForwardWrites
from kvstore.rpc import peers
from kvstore.rpc.admission import SERVICE, Hello, RefusalKind
from kvstore.types import Incarnation, NodeId
from tests.rpc.conftest import Member, configuration_of, eventually

ONE, TWO, THREE = NodeId(1), NodeId(2), NodeId(3)


@asynccontextmanager
async def serving(*members: Member) -> AsyncIterator[None]:
    """Members that know nobody yet."""
    for member in members:
        member.build({})
        await member.serve()
        # Only now is its address known.
        member.transport._address = f"127.0.0.1:{member.port}"
        await member.transport.__aenter__()
    try:
        yield
    finally:
        for member in members:
            await member.stop()


def knows(*members: Member, **more: Any) -> Configuration:
    return configuration_of({int(m.node_id): m.port for m in members}, **more)


def with_incarnation(of: Configuration, node_id: NodeId, number: int) -> Configuration:
    info = replace(of.members[node_id], incarnation=Incarnation(number))
    return of.with_info(node_id, info)


def write(sender: int, to: int) -> ForwardWrites:
    return ForwardWrites(
        sender=NodeId(sender), to=NodeId(to), request_id=1, writes=b"w", count=1
    )


def test_a_new_member_is_dialled_and_can_answer_though_it_knows_nobody() -> None:
    """It joins: its configuration comes by the first stream that reaches it."""

    async def scenario() -> None:
        leader, joiner = Member(1, incarnation=11), Member(2, incarnation=22)
        async with serving(leader, joiner):
            leader.change(knows(leader, joiner))
            await leader.until_connected(2)
            await joiner.until_connected(1)
            assert joiner.transport.guests == {ONE}
            assert leader.transport.guests == set()
            leader.transport.send([leader.beat(2)])
            await joiner.until(lambda: len(joiner.received) == 1)
            joiner.transport.send([joiner.beat(1)])
            await leader.until(lambda: len(leader.received) == 1)
            # The leader did not know the data directory, and does now.
            assert leader.identified == {2: 22}
            # What it learns of members changes nothing about the link that it has.
            link = joiner.transport._links[ONE]
            joiner.change(leader.configuration)
            assert joiner.transport.guests == set()
            assert joiner.transport._links[ONE] is link
            assert joiner.disconnected == leader.disconnected == []

    asyncio.run(scenario())


def test_a_guest_is_forgotten_with_its_stream() -> None:
    async def scenario() -> None:
        one, two = Member(1), Member(2)
        async with serving(one, two):
            one.change(knows(one, two))
            await two.until_connected(1)
            await one.transport.close()
            await two.until(lambda: two.disconnected == [1])
            await eventually(lambda: two.transport.guests == set())
            assert not two.transport.is_connected(ONE)
            assert not two.transport._told

    asyncio.run(scenario())


def test_guests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members have their room whoever else comes."""
    monkeypatch.setattr(peers, "LINKS_MAX", 2)

    async def scenario() -> None:
        one = Member(1)
        guests = [Member(number) for number in (3, 4)]
        async with serving(one, *guests):
            one.change(configuration_of({2: 1}))
            for guest in guests:
                guest.change(knows(one))
            await eventually(lambda: bool(one.transport.guests))
            (accepted,) = one.transport.guests
            (refused,) = [g for g in guests if g.node_id != accepted]
            await refused.until(lambda: bool(refused.refusals))
            assert refused.refusals[0].kind is RefusalKind.UNKNOWN
            assert one.transport.guests == {accepted}
            one.change(configuration_of({2: 1, int(refused.node_id): refused.port}))
            await refused.until_connected(1)

    asyncio.run(scenario())


def test_a_removed_member_learns_it_on_the_stream_that_it_has() -> None:
    """A learner says nothing by itself: its next word could be waited for in vain."""

    async def scenario() -> None:
        one, two = Member(1), Member(2)
        async with serving(one, two):
            both = knows(one, two)
            one.change(both)
            two.change(both)
            await one.until_connected(2)
            await two.until_connected(1)
            one.change(knows(one, removed=(TWO,)))
            await two.until(lambda: bool(two.refusals))
            assert two.refusals[0].kind is RefusalKind.REMOVED
            await eventually(lambda: not one.transport._links)
            assert not two.transport.is_connected(ONE)
            assert one.refusals == []

    asyncio.run(scenario())


def test_a_member_with_another_data_directory_is_sent_away() -> None:
    """Method: member 2 was recorded as 22 and comes back as 23, on either's dial."""

    async def scenario() -> None:
        one, two = Member(1, incarnation=11), Member(2, incarnation=23)
        async with serving(one, two):
            lost = RefusalKind.IDENTITY_LOST
            two.change(knows(one, two))
            await two.until_connected(1)
            one.change(with_incarnation(knows(one, two), TWO, 22))
            # Its stream ends, with the reason; and the other's dial tells it, too.
            await two.until(lambda: len(two.refusals) >= 2)
            assert {refusal.kind for refusal in two.refusals} == {lost}
            assert not one.transport.is_connected(TWO)
            assert lost not in [refusal.kind for refusal in one.refusals]
            one.change(with_incarnation(knows(one, two), TWO, 23))
            await one.until_connected(2)
            await two.until_connected(1)

    asyncio.run(scenario())


def test_a_member_that_moves_is_dialled_where_it_serves_now() -> None:
    """Writes on their way to the old place may be lost: the replica is told."""

    async def scenario() -> None:
        one, two, moved = Member(1), Member(2), Member(2)
        async with serving(one, two, moved):
            one.change(knows(one, two))
            await one.until_connected(2)
            one.transport._links[TWO].queue.dropped = 5
            one.change(knows(one, moved))
            assert one.disconnected == [2]
            await one.until_connected(2)
            assert one.transport.address_of(TWO) == f"127.0.0.1:{moved.port}"
            assert one.transport.dropped_messages == {2: 5}
            one.transport.send([one.beat(2)])
            await moved.until(lambda: len(moved.received) == 1)
            assert two.received == []

    asyncio.run(scenario())


def test_a_member_that_left_is_hung_up() -> None:
    async def scenario() -> None:
        one, two = Member(1), Member(2)
        async with serving(one, two):
            one.change(knows(one, two))
            await one.until_connected(2)
            # As from another cluster: nothing of its own comes here.
            one.change(replace(NOBODY, removed=(TWO,)))
            assert one.transport.dropped_messages == {}
            assert one.disconnected == [2]
            await two.until(lambda: two.disconnected == [1])
            lost = write(1, 2)
            assert one.transport.send([one.beat(2), lost]) == [lost]

    asyncio.run(scenario())


def test_a_route_leads_around_a_members_address() -> None:
    """As through a proxy, for members and guests alike."""
    one = Member(1)
    one.build({2: 7})
    one.transport._routes = {TWO: "127.0.0.1:8", THREE: "127.0.0.1:9"}
    one.transport.update({TWO: MemberInfo("127.0.0.1:7")})
    assert one.transport.address_of(TWO) == "127.0.0.1:8"
    hello = Hello(cluster="", sender=THREE, to=ONE, address="127.0.0.1:3")
    one.transport._accepted_from(hello)
    assert one.transport.address_of(THREE) == "127.0.0.1:9"
    assert one.transport.address_of(NodeId(4)) is None


def test_a_hello_names_the_directory_that_is_expected() -> None:
    one = Member(1, incarnation=11)
    one.build({2: 7})
    one.change(with_incarnation(one.configuration, TWO, 22))
    hello = one.transport.hello_to(TWO)
    assert (hello.incarnation, hello.to_incarnation) == (11, 22)
    assert one.transport._links[TWO].hello == hello
    assert one.transport.hello_to(THREE).to_incarnation == 0


def test_a_judgement_that_comes_with_the_end_of_a_stream_is_no_failure() -> None:
    """Method: the stream is cancelled by its client and by us in one moment."""

    async def scenario() -> None:
        one = Member(1)
        async with serving(one):
            hello = Hello(
                cluster=one.identity.cluster_id.hex(),
                sender=TWO,
                to=ONE,
                address="127.0.0.1:1",
            )
            async with grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
                exchange = channel.stream_stream(f"/{SERVICE}/Exchange", None, None)
                call = exchange(None, metadata=hello.encode())
                await call.initial_metadata()
                call.cancel()
                one.change(replace(NOBODY, removed=(TWO,)))
            await one.until(lambda: one.disconnected == [2])
            await eventually(lambda: not one.transport._service._newest)

    asyncio.run(scenario())
