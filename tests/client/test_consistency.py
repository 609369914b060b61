"""Reads say how they are to be confirmed, and learn how they were."""

import asyncio
from typing import Any

import pytest

from kvstore import Consistency
from kvstore.client.asynchronous import AsyncClient
from kvstore.client.blocking import Client
from kvstore.client.consistency import LINEARIZABLE, ReadLevel, Seen, read_level
from kvstore.errors import (
    Behind,
    ConfigError,
    EpochChanged,
    InvalidRequest,
    Unavailable,
)
from kvstore.pb import kv_pb2

WEAK = [it for it in Consistency if it is not Consistency.LINEARIZABLE]


def reads(node: Any) -> list[kv_pb2.RangeBatch]:
    return [it.reads for it in node.requests if it.HasField("reads")]


def at(level: Consistency) -> dict[str, Any]:
    bounded = level is Consistency.BOUNDED
    return {"consistency": level, **({"staleness_ms": 200} if bounded else {})}


# -------------------------------------------------------------------- the level


def test_every_level_travels() -> None:
    names = {level.name for level in Consistency}
    assert names == set(kv_pb2.Consistency.keys())


def test_a_bound_goes_with_bounded_alone() -> None:
    assert read_level(Consistency.BOUNDED, 5) == ReadLevel(Consistency.BOUNDED, 5)
    for level in Consistency:
        if level is not Consistency.BOUNDED:
            with pytest.raises(InvalidRequest, match="staleness_ms"):
                read_level(level, 5)
    for bound_ms in (None, 0, -1, 1 << 32):
        with pytest.raises(InvalidRequest, match="staleness_ms"):
            read_level(Consistency.BOUNDED, bound_ms)


def test_what_is_left_out_is_the_default() -> None:
    default = ReadLevel(Consistency.BOUNDED, 500)
    assert read_level(None, None) == LINEARIZABLE
    assert read_level(None, None, default) == default
    assert read_level(None, 100, default) == ReadLevel(Consistency.BOUNDED, 100)
    assert read_level(Consistency.STALE, None, default).staleness_ms == 0


def test_a_default_that_makes_no_sense_is_a_setting() -> None:
    with pytest.raises(ConfigError, match="staleness_ms"):
        AsyncClient("127.0.0.1:1", consistency=Consistency.BOUNDED)


# ----------------------------------------------------------------- what was seen


def test_what_was_seen_never_goes_back() -> None:
    seen = Seen()
    for revision in (3, 9, 5):
        seen.note(1, revision)
    assert (seen.epoch, seen.revision) == (1, 9)
    seen.raise_change()


def test_a_change_of_epoch_is_told_once_and_forgets() -> None:
    seen = Seen()
    seen.note(1, 900)
    seen.note(2, 5)
    assert (seen.epoch, seen.revision) == (2, 5)
    with pytest.raises(EpochChanged) as change:
        seen.raise_change()
    assert change.value.epoch == 2
    seen.raise_change()


def test_a_node_that_does_not_say_its_epoch_changes_nothing() -> None:
    seen = Seen()
    seen.note(1, 7)
    seen.note(0, 99)
    assert (seen.epoch, seen.revision) == (1, 7)
    seen.raise_change()


# ------------------------------------------------------------------- the client


@pytest.mark.parametrize("level", WEAK)
def test_a_read_says_its_level_and_learns_what_it_got(
    fake_nodes: Any, level: Consistency
) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.header.consistency = kv_pb2.Consistency.Value(level.name)
            node.header.staleness_ms = 0
            node.header.epoch = 3
            found = await client.range("k", **at(level))
            (batch,) = reads(node)
            assert batch.options.consistency == kv_pb2.Consistency.Value(level.name)
            bounded = level is Consistency.BOUNDED
            assert batch.options.staleness_ms_max == (200 if bounded else 0)
            assert (found.header.consistency, found.header.epoch) == (level, 3)
            assert found.header.staleness_ms == 0
            node.header.ClearField("staleness_ms")
            assert (await client.range("k")).header.staleness_ms is None
            assert not reads(node)[1].HasField("options")

    asyncio.run(scenario())


def test_reads_of_different_levels_share_no_request(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            levels = [
                {},
                *map(at, WEAK),
                {**at(Consistency.BOUNDED), "staleness_ms": 7},
            ]
            calls = [client.get("k", **level) for level in levels for _ in range(3)]
            await asyncio.gather(*calls)
            assert len(reads(node)) == len(levels)
            assert {len(batch.ranges) for batch in reads(node)} == {3}
            # A level that is not asked for any more is not remembered.
            await client.get("k")
            await client.get("k")
            assert len(client._pipeline._outbox.reads) <= len(levels)

    asyncio.run(scenario())


def test_a_client_has_a_level_of_its_own(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with (
            fake_nodes(1) as (node,),
            AsyncClient([node.address], consistency=Consistency.STALE) as client,
        ):
            await client.get("k")
            await client.get("k", consistency=Consistency.LINEARIZABLE)
            stale, linearizable = reads(node)
            assert stale.options.consistency == kv_pb2.STALE
            assert not linearizable.HasField("options")

    asyncio.run(scenario())


def test_a_session_read_asks_for_all_that_its_client_saw(fake_nodes: Any) -> None:
    """Writes and other reads included; whichever node is asked."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.header.epoch = 4
            for revision, call in (
                (3, client.put("k", "v")),
                (8, client.get("k")),
                (5, client.get("k", consistency=Consistency.STALE)),
            ):
                node.header.revision = revision
                await call
            await client.get("k", consistency=Consistency.SESSION)
            options = reads(node)[-1].options
            assert (options.revision_min, options.epoch) == (8, 4)

    asyncio.run(scenario())


def test_a_node_that_is_behind_is_left_for_another(fake_nodes: Any) -> None:
    async def scenario() -> None:
        async with (
            fake_nodes(2) as (one, two),
            AsyncClient([one.address, two.address]) as client,
        ):
            one.script = lambda _: Behind("behind", revision=2)
            two.pairs[b"k"] = b"v"
            found = await client.get("k", consistency=Consistency.SESSION)
            assert found is not None
            async with AsyncClient([one.address]) as alone:
                with pytest.raises(Unavailable, match="not applied: behind"):
                    await alone.get("k", consistency=Consistency.SESSION, timeout_s=0.2)

    asyncio.run(scenario())


def test_a_restored_store_is_told_to_session_reads_once(fake_nodes: Any) -> None:
    """Method: a write hears of it first, and cannot say so: it was applied."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.header.epoch, node.header.revision = 1, 900
            await client.put("k", "v")
            node.header.epoch, node.header.revision = 2, 5
            await client.put("k", "v")
            await client.get("k")
            with pytest.raises(EpochChanged):
                await client.get("k", consistency=Consistency.SESSION)
            await client.get("k", consistency=Consistency.SESSION)
            assert reads(node)[-1].options.revision_min == 5

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["refused", "answered"])
def test_a_session_read_of_another_epoch_fails_once(fake_nodes: Any, how: str) -> None:
    async def scenario() -> None:
        async with fake_nodes(1) as (node,), AsyncClient([node.address]) as client:
            node.header.epoch, node.header.revision = 1, 900
            await client.get("k")
            if how == "refused":
                node.script = lambda _: EpochChanged("restored", epoch=2)
            node.header.epoch, node.header.revision = 2, 5
            session = Consistency.SESSION
            calls = [client.get("k", consistency=session) for _ in range(3)]
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(it) for it in done] == [EpochChanged] * 3
            node.script = lambda _: None
            await client.get("k", consistency=session)
            options = reads(node)[-1].options
            assert options.epoch == 2
            assert options.revision_min == (0 if how == "refused" else 5)

    asyncio.run(scenario())


@pytest.mark.parametrize("face", ["asyncio", "blocking"])
def test_later_pages_of_a_stale_scan_wait_for_their_revision(
    fake_nodes: Any, face: str
) -> None:
    """Goal: a scan survives that its client turns to a node which is further behind.
    Method: the node has the revision of the first page, and says that there is more."""

    async def scenario() -> None:
        async with fake_nodes(1) as (node,):
            node.pairs = {b"a": b"", b"a\0": b""}
            node.more = 1

            async def by_asyncio() -> list[bytes]:
                stale = Consistency.STALE
                async with AsyncClient([node.address], consistency=stale) as client:
                    return [pair.key async for pair in client.scan("a")]

            def blocking() -> list[bytes]:
                stale = Consistency.STALE
                with Client([node.address], consistency=stale) as client:
                    return [pair.key for pair in client.scan("a")]

            if face == "asyncio":
                found = await by_asyncio()
            else:
                found = await asyncio.to_thread(blocking)
            assert found == [b"a", b"a\0"]
            levels = [batch.options.consistency for batch in reads(node)]
            assert levels == [kv_pb2.STALE, kv_pb2.SESSION]

    asyncio.run(scenario())
