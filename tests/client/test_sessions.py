"""A write is carried out once, however often it is sent, and answered alike."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.cluster import ClusterTransport
from kvstore.client.outbox import Pending, numbered
from kvstore.client.pipeline import note_heard
from kvstore.client.session import WriteSession
from kvstore.client.stream import Patience
from kvstore.errors import (
    Busy,
    Closed,
    CorruptionError,
    DeadlineExceeded,
    InvalidRequest,
    KVStoreError,
    LeadershipLost,
    NotLeader,
    OutcomeUnknown,
    SessionExpired,
    Unavailable,
)
from kvstore.pb import kv_pb2

QUICK = Patience(connect_s=1.0, ping_interval_s=0.02, silence_s=0.1)
REPEATED: list[KVStoreError] = [LeadershipLost("l"), DeadlineExceeded("d")]


def in_turn(*verdicts: object) -> Any:
    """A script for the first requests; later ones are answered."""
    left = list(verdicts)

    def script(_request: object) -> object:
        return left.pop(0) if left else None

    return script


def headers(request: kv_pb2.OperateRequest) -> list[kv_pb2.SessionCommands]:
    batch = kv_pb2.CommandBatch.FromString(request.writes)
    return [
        it.session_commands for it in batch.commands if it.HasField("session_commands")
    ]


def numbers(request: kv_pb2.OperateRequest) -> list[int]:
    return [
        number
        for header in headers(request)
        for number in range(header.first_number, header.first_number + header.count)
    ]


@asynccontextmanager
async def writing(fake_nodes: Any) -> AsyncIterator[tuple[Any, AsyncClient]]:
    """One node, and a client of it that has sessions on."""
    async with (
        fake_nodes(1) as (node,),
        AsyncClient([node.address], sessions=True) as client,
    ):
        yield node, client


# ------------------------------------------------------------------- the numbers


def test_what_is_acknowledged_was_answered_without_a_gap() -> None:
    """Method: answers in any order, against the definition."""
    seed = 1
    chance = random.Random(seed)
    session = WriteSession(1, timeout_s=1, active_s=0)
    order = list(range(session.take(300), 301))
    chance.shuffle(order)
    answered: set[int] = set()
    for number in order:
        session.answered(number)
        answered.add(number)
        expected = next(n for n in range(1, 302) if n not in answered) - 1
        assert session.acknowledged == expected, f"seed {seed}"
        assert session.is_stale(now=10) == (len(answered) == 300)


def test_a_session_in_use_is_not_stale() -> None:
    session = WriteSession(1, timeout_s=10, active_s=100)
    assert not session.is_stale(now=105)
    assert session.is_stale(now=105.1)
    session.take(1)
    assert not session.is_stale(now=1_000)


# --------------------------------------------------------------------- repeating


@pytest.mark.parametrize(
    "verdict",
    ["drop", "apply and drop", *REPEATED],
    ids=lambda it: it if isinstance(it, str) else type(it).__name__,
)
def test_a_write_without_an_answer_goes_again_under_its_number(
    fake_nodes: Any, verdict: object
) -> None:
    async def scenario() -> None:
        async with (
            fake_nodes(2) as (one, two),
            AsyncClient([one.address, two.address], sessions=True) as client,
        ):
            await client.put("warm", "up")
            one.script = in_turn(verdict)
            written = await client.put("k", "v")
            assert (one.applied + two.applied).count(b"k") == 1
            sent = [*one.writes, *two.writes]
            assert [numbers(request) for request in sent] == [[1], [2], [2]]
            assert len(two.writes) == 1
            assert two.sessions.repeated == (verdict == "apply and drop")
            assert written.revision == (2 if verdict == "apply and drop" else 1)

    asyncio.run(scenario())


def test_a_silent_node_is_left_and_the_write_done_elsewhere(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(2) as (one, two):
            transport = ClusterTransport([one.address, two.address], patience=QUICK)
            async with AsyncClient(transport=transport, sessions=True) as client:
                await client.put("warm", "up")
                one.script = lambda _: "hang"
                put = asyncio.create_task(client.put("k", "v"))
                await one.until(lambda: len(one.writes) == 2)
                one.answer_pings = False
                await put
                assert two.applied == [b"k"]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [OutcomeUnknown("who knows"), CorruptionError("c")])
def test_what_repeating_cannot_mend_is_not_repeated(
    fake_nodes: Any, error: KVStoreError
) -> None:
    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            node.script = in_turn(error)
            with pytest.raises(type(error)):
                await client.put("k", "v")
            assert node.sent_keys == [b"k"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "refusal", [InvalidRequest("i"), CorruptionError("c"), SessionExpired("s")]
)
def test_a_refused_repetition_leaves_the_first_attempt_in_doubt(
    fake_nodes: Any, refusal: KVStoreError
) -> None:
    """Goal: "certainly not applied" of one attempt is not said of another."""

    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            node.script = in_turn("apply and drop", refusal)
            with pytest.raises(OutcomeUnknown) as it:
                await client.put("k", "v")
            assert not it.value.definite
            assert node.applied == [b"k"]
            assert node.sent_keys == [b"k", b"k"]

    asyncio.run(scenario())


def test_the_kept_answer_is_final_even_if_it_is_an_error(fake_nodes: Any) -> None:
    """The first attempt was applied, and failed: the repetition is told the same."""

    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            node.result_errors = {b"k": InvalidRequest("no such thing")}
            node.script = in_turn("apply and drop")
            with pytest.raises(InvalidRequest, match="no such thing"):
                await client.put("k", "v")
            assert node.sessions.repeated == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("first", ["drop", "hang", NotLeader("n")])
def test_a_deadline_says_whether_any_attempt_is_in_doubt(
    fake_nodes: Any, first: object
) -> None:
    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            await client.put("warm", "up")
            script = in_turn(first)
            node.script = lambda request: script(request) or Unavailable("u")
            expected = Unavailable if isinstance(first, NotLeader) else DeadlineExceeded
            with pytest.raises(expected):
                await client.put("k", "v", timeout_s=0.3)

    asyncio.run(scenario())


def test_numbers_that_do_not_follow_share_a_request(fake_nodes: Any) -> None:
    """Method: of six writes the middle ones are answered, the others go again."""

    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            refusal = InvalidRequest("no")
            refusal.command_index = 3  # the third put: the header is number 0
            node.script = in_turn(refusal)
            puts = [client.put(f"k{n}", f"v{n}") for n in range(6)]
            done = await asyncio.gather(*puts, return_exceptions=True)
            assert isinstance(done[2], InvalidRequest)
            assert [numbers(it) for it in node.writes] == [
                [1, 2, 3, 4, 5, 6],
                [1, 2, 4, 5, 6],
            ]
            assert node.pairs == {b"k%d" % n: b"v%d" % n for n in (0, 1, 3, 4, 5)}
            revisions = [
                it.revision for it in done if not isinstance(it, BaseException)
            ]
            assert revisions == [1, 2, 3, 4, 5]

    asyncio.run(scenario())


def test_a_second_header_counts_when_a_command_is_named(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            one, two = InvalidRequest("one"), InvalidRequest("two")
            one.command_index = 3
            # header, 1, 2, header, 4, 5, 6: the fourth put now stands at 5.
            two.command_index = 5
            node.script = in_turn(one, two)
            puts = [client.put(f"k{n}", "v") for n in range(6)]
            done = await asyncio.gather(*puts, return_exceptions=True)
            assert [str(it) for it in done if isinstance(it, InvalidRequest)] == [
                "one",
                "two",
            ]
            assert isinstance(done[2], InvalidRequest)
            assert isinstance(done[4], InvalidRequest)
            assert node.applied == [b"k0", b"k1", b"k3", b"k5"]

    asyncio.run(scenario())


def test_answered_numbers_are_acknowledged_with_the_next_request(
    fake_nodes: Any,
) -> None:
    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            for _ in range(3):
                await client.put("k", "v")
            said = [headers(request)[0].acknowledged for request in node.writes]
            assert said == [0, 1, 2]

    asyncio.run(scenario())


def test_a_write_that_was_given_up_is_not_applied_if_it_comes_late(
    fake_nodes: Any,
) -> None:
    """Method: the node holds it until it has answered a later one."""

    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            await client.put("warm", "up")
            node.script = in_turn("hold")
            with pytest.raises(DeadlineExceeded):
                await client.put("late", "v", timeout_s=0.05)
            await client.put("k", "v")
            await node.release()
            assert node.applied == [b"warm", b"k"]

    asyncio.run(scenario())


def test_numbers_in_flight_are_bounded(
    fake_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One write hangs; others may run ahead of it only so far, and go on after it."""
    monkeypatch.setattr("kvstore.client.pipeline.OPEN_NUMBERS_MAX", 4)

    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            await client.put("warm", "up")
            node.script = in_turn("hold")
            slow = asyncio.create_task(client.put("slow", "v"))
            await node.until(lambda: len(node.writes) == 2)
            puts = [asyncio.create_task(client.put(f"k{n}", "v")) for n in range(20)]
            await asyncio.wait(puts, return_when=asyncio.FIRST_COMPLETED)
            await client.get("k")  # a round trip: what could leave has left
            assert sum(put.done() for put in puts) == 3
            await node.release()
            await asyncio.gather(slow, *puts)
            assert len(node.applied) == 22

    asyncio.run(scenario())


def test_a_refusal_for_want_of_room_gives_its_number_back(fake_nodes: Any) -> None:
    """Goal: replies that a node has no room for are never kept by the very number that
    it refuses. Method: the node has room once everything before is acknowledged."""

    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            node.script = in_turn(Busy("full"))
            await client.put("k", "v")
            first, second = node.writes
            assert numbers(first) == [1]
            assert numbers(second) == [2]
            assert headers(second)[0].acknowledged == 1

    asyncio.run(scenario())


# ----------------------------------------------------------------- the session


def test_reads_need_no_session(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,):
            async with AsyncClient([node.address], sessions=True) as client:
                await client.get("k")
            assert node.sessions.opened == 0
            assert node.sessions.closed == []

    asyncio.run(scenario())


def test_a_client_opens_one_session_and_closes_it(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,):
            async with AsyncClient([node.address], sessions=True) as client:
                await asyncio.gather(*(client.put(f"k{n}", "v") for n in range(9)))
                await client.put("k", "v")
            assert node.sessions.opened == 1
            await node.until(lambda: node.sessions.closed == [1])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "verdict",
    ["drop", "apply and drop", Busy("b"), Unavailable("u"), *REPEATED],
    ids=lambda it: it if isinstance(it, str) else type(it).__name__,
)
def test_a_session_is_asked_for_until_there_is_one(
    fake_nodes: Any, verdict: object
) -> None:
    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            node.open_script = in_turn(verdict, verdict)
            await client.put("k", "v")
            assert node.applied == [b"k"]
            assert headers(node.writes[0])[0].session_id == node.sessions.opened

    asyncio.run(scenario())


def test_without_a_session_in_time_nothing_was_applied(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            node.open_script = lambda _: Busy("too many sessions")
            with pytest.raises(Unavailable, match=r"not applied.*too many sessions"):
                await client.put("k", "v", timeout_s=0.2)
            node.open_script = lambda _: "hang"
            with pytest.raises(Unavailable, match="not applied"):
                await client.put("k", "v", timeout_s=0.2)
            node.open_script = lambda _: None
            await client.put("other", "v")
            assert node.sent_keys == [b"other"]

    asyncio.run(scenario())


def test_a_node_that_knows_no_sessions_refuses_definitely(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            node.open_script = lambda _: InvalidRequest("what is that")
            with pytest.raises(InvalidRequest, match="what is that"):
                await client.put("k", "v")
            assert node.writes == []

    asyncio.run(scenario())


def test_an_expired_session_is_replaced_if_nothing_is_in_doubt(fake_nodes: Any) -> None:
    """Goal: who was away for a while does not notice."""

    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            await client.put("a", "v")
            node.sessions.expire()
            await asyncio.gather(*(client.put(f"k{n}", "v") for n in range(5)))
            assert sorted(node.applied) == [b"a", *(b"k%d" % n for n in range(5))]
            assert node.sessions.opened == 2

    asyncio.run(scenario())


def test_an_expired_session_leaves_what_was_in_doubt_unknown(fake_nodes: Any) -> None:
    """Never sent under another session: there it could be applied a second time."""

    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            await client.put("a", "v")

            def script(_request: object) -> object:
                node.sessions.expire()
                node.script = lambda _: None
                return "drop"

            node.script = script
            with pytest.raises(OutcomeUnknown):
                await client.put("k", "v")
            await client.put("b", "v")
            assert node.applied == [b"a", b"b"]

    asyncio.run(scenario())


def test_an_idle_session_is_replaced_before_it_expires(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,):
            node.sessions.timeout_ms = 1  # idle as soon as half of it has passed
            async with AsyncClient([node.address], sessions=True) as client:
                await client.put("a", "v")
                loop = asyncio.get_running_loop()
                since = loop.time()
                while loop.time() < since + 0.002:
                    await client.get("k")
                node.sessions.timeout_ms = 600_000
                await client.put("b", "v")
                await client.put("c", "v")
            await node.until(lambda: len(node.sessions.closed) == 2)
            assert node.sessions.closed == [1, 2]
            assert node.applied == [b"a", b"b", b"c"]

    asyncio.run(scenario())


def test_refusals_keep_no_session_alive(fake_nodes: Any) -> None:
    """A refused request may not have come to the nodes' log, where sessions live.
    Method: refusals come all the time, until the last answer is old."""

    async def scenario() -> None:
        async with writing(fake_nodes) as (node, client):
            node.sessions.timeout_ms = 200  # idle as soon as half of it has passed
            await client.put("a", "v")
            node.script = lambda _: InvalidRequest("no")
            loop = asyncio.get_running_loop()
            since = loop.time()
            while loop.time() < since + 0.11:
                with pytest.raises(InvalidRequest):
                    await client.put("b", "v")
            node.script = lambda _: None
            await client.put("c", "v")
            first, *_, last = (headers(it)[0].session_id for it in node.writes)
            assert last > first

    asyncio.run(scenario())


def test_an_answer_keeps_every_session_of_its_request_alive() -> None:
    async def scenario() -> None:
        older, newer, other = (
            WriteSession(n, timeout_s=1, active_s=0) for n in (1, 2, 3)
        )
        group = []
        for session, number in ((newer, 5), (older, 2), (older, 1), (newer, 7)):
            waiting = asyncio.get_running_loop().create_future()
            pending = Pending(b"", None, waiting, deadline=10.0)
            pending.session, pending.number = session, number
            group.append(pending)
        _, places = numbered(group)
        note_heard(group, places, 3.0)
        assert (older.active_s, newer.active_s, other.active_s) == (3, 3, 0)
        note_heard(group, places, 2.0)  # an earlier request, answered later
        assert (older.active_s, newer.active_s) == (3, 3)

    asyncio.run(scenario())


def test_a_session_is_not_used_at_another_cluster(fake_nodes: Any) -> None:
    """A cluster that was restored from a backup may know another client by that id.
    Method: the second node, of another cluster, has a session of the same id."""

    async def scenario() -> None:
        async with fake_nodes(2) as (one, two):
            one.cluster_id = one.header.cluster_id = b"1" * 16
            two.cluster_id = two.header.cluster_id = b"2" * 16
            two.sessions = type(two.sessions)()
            two.sessions.opened = 1
            two.sessions.open[1] = {}
            async with AsyncClient([one.address, two.address], sessions=True) as client:
                await client.put("a", "v")
                one.script = lambda _: "drop"
                put = asyncio.create_task(client.put("k", "v"))
                await one.until(lambda: len(one.writes) == 2)
                await one.stop()
                with pytest.raises(OutcomeUnknown):
                    await put
                await client.put("b", "v")
                assert two.sent_keys == [b"b"]
                assert headers(two.writes[0])[0].session_id == 2
            assert 1 in two.sessions.open

    asyncio.run(scenario())


def test_closing_does_not_wait_for_a_node_that_hangs(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,):
            client = AsyncClient([node.address], sessions=True)
            await client.put("k", "v")
            node.open_script = lambda _: "hang"
            async with asyncio.timeout(2):
                await client.close()
            with pytest.raises(Closed):
                await client.put("k", "v")

    asyncio.run(scenario())


# ------------------------------------------------------------------ all at once

VERDICTS: list[object] = [
    *[None] * 6,
    NotLeader("n"),
    Busy("b"),
    *REPEATED,
    "drop",
    "apply and drop",
    "expire",
]


@pytest.mark.parametrize("seed", range(8))
def test_every_write_is_applied_exactly_once(fake_nodes: Any, seed: int) -> None:
    """Random answers and broken streams; each key is written once.

    Without lost sessions every write succeeds; with them, some are of unknown outcome.
    """
    chance = random.Random(seed)
    verdicts = [it for it in VERDICTS if seed % 2 or it != "expire"]
    print(f"seed {seed}")

    async def scenario() -> None:
        async with fake_nodes(3) as nodes:

            def script(_request: object) -> object:
                verdict = chance.choice(verdicts)
                if verdict == "expire":
                    nodes[0].sessions.expire()
                    return None
                return verdict

            for node in nodes:
                node.script = node.open_script = script
            outcomes: dict[bytes, object] = {}
            async with AsyncClient(
                [node.address for node in nodes], sessions=True
            ) as client:

                async def work(name: int) -> None:
                    for n in range(8):
                        key = b"%d/%d" % (name, n)
                        try:
                            outcomes[key] = await client.put(key, key, timeout_s=20)
                        except KVStoreError as error:
                            outcomes[key] = error

                await asyncio.gather(*(work(name) for name in range(8)))
            applied = [key for node in nodes for key in node.applied]
            assert len(applied) == len(set(applied)), f"seed {seed}"
            unknown = [it for it in outcomes.values() if isinstance(it, OutcomeUnknown)]
            assert "expire" in verdicts or not unknown
            for key, result in outcomes.items():
                if result not in unknown:
                    assert not isinstance(result, KVStoreError), f"seed {seed}"
                    assert key in applied, f"seed {seed}"

    asyncio.run(scenario())
