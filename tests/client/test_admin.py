"""Changes of the cluster find its leader, and say what is known of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

import kvstore
from kvstore import MemberAddress
from kvstore.client import admin
from kvstore.client.admin import HOPS_MAX
from kvstore.client.asynchronous import AsyncClient
from kvstore.errors import (
    Busy,
    ChangePending,
    Closed,
    ConfigError,
    DamagedSnapshot,
    DeadlineExceeded,
    KVStoreError,
    LeadershipLost,
    MembershipRefused,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from kvstore.pb import cluster_pb2, cluster_pb2_grpc
from kvstore.rpc.errors import abort

Verdict = KVStoreError | str | None


class FakeMember(cluster_pb2_grpc.ClusterServicer):
    """Keeps what it was asked for, and does as it is told."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.leader_id = 0
        self.members: list[cluster_pb2.Member] = []
        self.script: Callable[[], Verdict] = lambda: None
        self.asked: list[Any] = []
        self.parts = [b"one", b"two"]
        self.size_bytes = 6
        self.address = ""
        self.says_status = True
        self._server = grpc.aio.server()

    async def start(self) -> None:
        cluster_pb2_grpc.add_ClusterServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def Status(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        if not self.says_status:
            await asyncio.Event().wait()
        return cluster_pb2.StatusResponse(
            node_id=self.node_id, leader_id=self.leader_id, members=self.members
        )

    async def ChangeMembership(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._obey(request, context)
        return cluster_pb2.ChangeMembershipResponse(members=self.members)

    async def TransferLeadership(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._obey(request, context)
        return cluster_pb2.TransferLeadershipResponse(leader_id=request.to, term=7)

    async def SaveSnapshot(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        for part in self.parts:
            yield cluster_pb2.SnapshotPart(data=part, size_bytes=self.size_bytes)
        await self._obey(None, context)

    async def _obey(self, request: Any, context: Any) -> None:
        if request is not None:
            self.asked.append(request)
        verdict = self.script()
        if isinstance(verdict, KVStoreError):
            await abort(context, verdict)
        if verdict == "drop":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to")
        if verdict == "hang":
            await asyncio.Event().wait()


ROUNDS = 3


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time runs out after so many rounds, however slow the machine is."""
    monkeypatch.setattr(admin, "_pause_s", lambda rounds: 1e9 * (rounds // ROUNDS))


def in_turn(*verdicts: Verdict) -> Callable[[], Verdict]:
    left = list(verdicts)
    return lambda: left.pop(0) if left else None


@contextlib.asynccontextmanager
async def fake_members(count: int) -> AsyncIterator[list[FakeMember]]:
    made = [FakeMember(n + 1) for n in range(count)]
    for member in made:
        await member.start()
    addresses = [
        cluster_pb2.Member(node_id=it.node_id, address=it.address, voter=True)
        for it in made
    ]
    for member in made:
        member.members = addresses
    try:
        yield made
    finally:
        for member in made:
            await member.stop()


def not_leader(leader: FakeMember) -> Callable[[], Verdict]:
    return lambda: NotLeader(
        "n", leader_id=leader.node_id, leader_address=leader.address
    )


def test_a_change_is_taken_to_the_leader_that_is_named() -> None:
    """The client knows one member, and follows."""

    async def scenario() -> None:
        async with fake_members(3) as (one, two, three):
            one.script = not_leader(two)
            two.script = not_leader(three)
            async with AsyncClient([one.address]) as client:
                members = await client.add_member(4, "127.0.0.1:9", learner_only=True)
                assert [it.node_id for it in members] == [1, 2, 3]
                assert all(isinstance(it, MemberAddress) and it.voter for it in members)
                (request,) = three.asked
                added = cluster_pb2.AddMember(
                    node_id=4, address="127.0.0.1:9", learner_only=True
                )
                assert request.add == added
                assert 0 < request.timeout_ms < 10_000

    asyncio.run(scenario())


def test_every_change_says_what_it_wants() -> None:
    async def scenario() -> None:
        async with fake_members(1) as (one,), AsyncClient([one.address]) as client:
            await client.promote_member(4)
            await client.remove_member(5)
            await client.replace_member(6, 7, "127.0.0.1:9")
            handed = await client.transfer_leadership(2)
            assert (handed.leader_id, handed.term) == (2, 7)
            await client.transfer_leadership()
            promote, remove, replace, to_two, to_any = one.asked
            assert (promote.promote, remove.remove) == (4, 5)
            assert replace.replace.old_node_id == 6
            assert replace.replace.added.node_id == 7
            assert (to_two.to, to_any.to) == (2, 0)

    asyncio.run(scenario())


@pytest.mark.usefixtures("few_rounds")
def test_members_that_point_at_each_other_are_asked_a_few_times_only() -> None:
    async def scenario() -> None:
        async with fake_members(2) as (one, two):
            one.script, two.script = not_leader(two), not_leader(one)
            async with AsyncClient([one.address]) as client:
                with pytest.raises(NotLeader):
                    await client.remove_member(2)
            assert len(one.asked) + len(two.asked) == ROUNDS * (1 + HOPS_MAX)

    asyncio.run(scenario())


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize(
    "refusal", [ChangePending("c"), Busy("b"), Unavailable("u"), Closed("closing")]
)
def test_what_was_not_begun_is_asked_for_again(refusal: KVStoreError) -> None:
    async def scenario() -> None:
        async with fake_members(1) as (one,), AsyncClient([one.address]) as client:
            one.script = in_turn(refusal, refusal)
            await client.remove_member(2)
            assert len(one.asked) == 3
            one.script = lambda: refusal
            with pytest.raises(type(refusal)):
                await client.remove_member(2)
            assert len(one.asked) == 3 + ROUNDS

    asyncio.run(scenario())


@pytest.mark.parametrize("verdict", ["drop", "hang", MembershipRefused("no")])
def test_what_may_be_under_way_or_makes_no_sense_is_not_asked_for_again(
    verdict: Verdict,
) -> None:
    async def scenario() -> None:
        async with fake_members(1) as (one,), AsyncClient([one.address]) as client:
            one.script = lambda: verdict
            expected = OutcomeUnknown if isinstance(verdict, str) else MembershipRefused
            with pytest.raises(expected) as it:
                await client.remove_member(2, timeout_s=1.0)
            assert len(one.asked) == 1
            if verdict == "hang":
                assert isinstance(it.value, DeadlineExceeded)
                assert one.address in str(it.value)

    asyncio.run(scenario())


@pytest.mark.parametrize("verdict", ["drop", LeadershipLost("node 7 was added")])
def test_a_replacement_goes_on_at_the_next_leader(verdict: Verdict) -> None:
    async def scenario() -> None:
        async with fake_members(2) as (one, two):
            one.script = lambda: verdict
            async with AsyncClient([one.address, two.address]) as client:
                await client.replace_member(6, 7, "127.0.0.1:9")
                assert (len(one.asked), len(two.asked)) == (1, 1)

    asyncio.run(scenario())


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize(
    "later", [NotLeader("n"), Unavailable("u"), MembershipRefused("no"), Closed("c")]
)
def test_a_replacement_that_was_begun_does_not_end_as_if_it_was_not(
    later: KVStoreError,
) -> None:
    async def scenario() -> None:
        async with fake_members(1) as (one,), AsyncClient([one.address]) as client:
            lost = in_turn(LeadershipLost("node 7 was added"))
            one.script = lambda: lost() or later
            with pytest.raises(OutcomeUnknown, match=f"{later}; an earlier attempt"):
                await client.replace_member(6, 7, "127.0.0.1:9")
            assert len(one.asked) > 1
            # One that was not begun is still told as that.
            one.script = lambda: later
            with pytest.raises(type(later)):
                await client.replace_member(6, 7, "127.0.0.1:9")

    asyncio.run(scenario())


@pytest.mark.usefixtures("few_rounds")
def test_a_member_that_is_down_is_passed_over() -> None:
    async def scenario() -> None:
        async with fake_members(2) as (one, two):
            await one.stop()
            async with AsyncClient([one.address, two.address]) as client:
                await client.remove_member(3)
                assert len(two.asked) == 1
            await two.stop()
            async with AsyncClient([one.address, two.address]) as client:
                with pytest.raises(Unavailable, match="connection refused"):
                    await client.remove_member(3)
                with pytest.raises(Unavailable, match="no member answers"):
                    await client.members()

    asyncio.run(scenario())


def test_out_of_time_it_is_said_what_the_last_member_that_was_asked_did() -> None:
    """And not that there was no time for another."""

    async def scenario() -> None:
        async with fake_members(2) as (one, two):
            one.says_status = False
            async with AsyncClient([one.address, two.address]) as client:
                with pytest.raises(Unavailable, match=f"{one.address} .no answer in"):
                    await client.remove_member(3, timeout_s=0.1)

    asyncio.run(scenario())


def test_a_wait_that_our_deadline_cut_short_hides_no_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admin, "PROBE_S_MAX", 60.0)

    async def scenario() -> None:
        async with fake_members(1) as (one,), AsyncClient([one.address]) as client:

            def busy_then_silent() -> Verdict:
                one.says_status = False
                return Busy("the last that was heard of it")

            one.script = busy_then_silent
            with pytest.raises(Busy, match="the last that was heard"):
                await client.remove_member(3, timeout_s=1.0)
            assert len(one.asked) == 1

    asyncio.run(scenario())


def test_the_members_are_those_that_the_leader_sees() -> None:
    async def scenario() -> None:
        async with fake_members(2) as (one, two):
            one.leader_id = two.leader_id = 2
            learner = cluster_pb2.Member(node_id=3, address="127.0.0.1:9")
            two.members = [*one.members, learner]
            async with AsyncClient([one.address]) as client:
                found = await client.members()
                assert [(it.node_id, it.voter) for it in found] == [
                    (1, True),
                    (2, True),
                    (3, False),
                ]
                await two.stop()
                assert len(await client.members()) == 2

    asyncio.run(scenario())


# -------------------------------------------------------------------- a snapshot


def test_a_snapshot_is_written_whole(tmp_path: Path) -> None:
    target = tmp_path / "saved"
    target.write_bytes(b"the one before")

    async def scenario() -> None:
        async with fake_members(1) as (one,), AsyncClient([one.address]) as client:
            assert await client.save_snapshot(target) == 6

    asyncio.run(scenario())
    assert target.read_bytes() == b"onetwo"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("trouble", ["short", "broken", "refused", "silent"])
def test_a_snapshot_that_does_not_come_whole_leaves_no_file(
    tmp_path: Path, trouble: str
) -> None:
    async def scenario() -> None:
        async with fake_members(1) as (one,), AsyncClient([one.address]) as client:
            expected: type[KVStoreError] = Unavailable
            match trouble:
                case "short":
                    one.size_bytes = 99
                    expected = DamagedSnapshot
                case "broken":
                    one.script = lambda: "drop"
                case "refused":
                    one.script = lambda: Busy("one at a time")
                case _:
                    one.script = lambda: "hang"
            with pytest.raises(expected):
                await client.save_snapshot(tmp_path / "saved", timeout_s=0.3)

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trouble", ["broken", "short", "damaged"])
def test_another_member_sends_the_snapshot_if_one_cannot(
    tmp_path: Path, trouble: str
) -> None:
    async def scenario() -> None:
        async with fake_members(2) as (one, two):
            match trouble:
                case "broken":
                    one.script = lambda: "drop"
                case "short":
                    one.size_bytes = 99
                case _:
                    one.script = lambda: DamagedSnapshot("a page is damaged")
            async with AsyncClient([one.address, two.address]) as client:
                assert await client.save_snapshot(tmp_path / "saved") == 6
                assert len(two.asked) == 1
                await two.stop()
                if trouble != "broken":
                    with pytest.raises(DamagedSnapshot, match=one.address) as it:
                        await client.save_snapshot(tmp_path / "other")
                    assert two.address in str(it.value)

    asyncio.run(scenario())
    assert [it.name for it in tmp_path.iterdir()] == ["saved"]


# ---------------------------------------------------------------------- elsewhere


def test_a_closed_client_changes_nothing() -> None:
    async def scenario() -> None:
        client = AsyncClient("127.0.0.1:1")
        await client.close()
        with pytest.raises(Closed):
            await client.remove_member(1)
        with pytest.raises(Closed):
            await client.members()

    asyncio.run(scenario())


def test_a_store_without_a_network_has_no_members_to_change(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with kvstore.open_async(tmp_path / "data") as store:
            with pytest.raises(ConfigError, match="no network"):
                await store.remove_member(1)

    asyncio.run(scenario())
