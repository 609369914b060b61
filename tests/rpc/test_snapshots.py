"""Snapshots over real streams: whole, resumed, superseded, paced, refused."""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from kvcluster.proxy import FaultProxy, Link
from kvstore.errors import (
    ConfigError,
    CorruptionError,
    DamagedSnapshot,
    ForeignDirectory,
    InvalidRequest,
    KVStoreError,
    NotLeader,
    ProposalDropped,
    Unavailable,
)
from kvstore.rpc import snapshots
from kvstore.rpc.snapshot_codec import Progress, SnapshotCodec
from kvstore.rpc.snapshots import BURST_S, Pace, SnapshotOptions
from kvstore.rpc.threads import in_thread
from kvstore.storage.checksum import crc32c
from kvstore.types import NodeId
from tests.rpc.conftest import eventually
from tests.rpc.snapshots import (
    HELLO,
    PATIENCE_S,
    SMALL,
    Hold,
    Staged,
    content,
    damaged,
    header_of,
    receiving,
)

MIB = 1 << 20


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


@pytest.mark.parametrize("size", [1, 999, 1_000, 1_001, 50_500])
def test_a_snapshot_arrives_whole(size: int) -> None:
    async def scenario() -> None:
        data = content(size)
        async with receiving() as target:
            await target.send(data)
            assert target.store.received_ == [(NodeId(1), header_of(data), data)]
            assert target.sent_bytes == size
            assert isinstance(target.store.staged, Staged)
            assert target.store.staged.finished == 1

    run(scenario())


def test_no_more_than_a_window_is_under_way() -> None:
    """Whatever gRPC would buffer: the receiver holds its first write back."""

    async def scenario() -> None:
        data = content(100_000)
        async with receiving() as target:
            hold = target.store.before_write = Hold()
            sending = asyncio.create_task(target.send(data))
            window = SMALL.window_bytes(len(data))
            await eventually(lambda: target.sent_bytes > window - SMALL.chunk_bytes)
            for _ in range(50):
                await asyncio.sleep(0)
            assert target.sent_bytes <= window
            hold.release()
            await sending
            assert target.sent_bytes == len(data)

    run(scenario())


@pytest.mark.parametrize(
    ("size_bytes", "window_bytes"),
    [(1, MIB), (64 * MIB, 2 * MIB), (96 * MIB, 3 * MIB), (1 << 40, 4 * MIB)],
)
def test_a_window_is_a_small_part_of_a_large_snapshot(
    size_bytes: int, window_bytes: int
) -> None:
    assert SnapshotOptions().window_bytes(size_bytes) == window_bytes


def test_a_transfer_goes_on_where_it_was_cut() -> None:
    """Three cuts of a silent network, with the options of production.

    What was under way is lost each time: less than a third of the snapshot in all.
    """

    async def scenario() -> None:
        data = content(64 * MIB)
        options = SnapshotOptions()
        async with receiving(options) as target:
            # Member 1 only dials.
            proxy = FaultProxy({1: "127.0.0.1:9", 2: target.address})
            async with proxy:
                link = Link(source=1, target=2)
                cuts = [10 * MIB, 25 * MIB, 50 * MIB]
                reached = asyncio.Event()
                loop = asyncio.get_running_loop()

                def watch(offset: int) -> None:
                    if cuts and offset >= cuts[0]:
                        loop.call_soon_threadsafe(reached.set)

                target.store.before_write = watch
                address = proxy.address(link)
                sends = 0
                while not target.store.received_:
                    sending = asyncio.create_task(
                        target.send(data, address=address, options=options)
                    )
                    sends += 1
                    if not cuts:
                        await sending
                        break
                    await reached.wait()
                    proxy.cut([link])
                    del cuts[0]
                    reached.clear()
                    proxy.heal()
                    with pytest.raises(Unavailable):
                        await sending
            assert sends == 4
            assert target.store.received_[0][2] == data
            assert sorted(target.store.offsets) == target.store.offsets
            assert target.store.offsets[1] >= 10 * MIB
            lost = target.sent_bytes - len(data)
            assert 0 <= lost <= 3 * options.window_bytes(len(data))
            assert target.sent_bytes < 1.3 * len(data)

    run(scenario())


def test_a_newer_snapshot_replaces_one_under_way() -> None:
    """The old stream ends, and only when its file is no longer in use."""

    async def scenario() -> None:
        old, new = content(20_000, 1), content(30_000, 2)
        async with receiving() as target:
            hold = target.store.before_write = Hold()
            first = asyncio.create_task(target.send(old, header_of(old, b"old")))
            await hold.entered()
            second = asyncio.create_task(target.send(new, header_of(new, b"new", 6)))
            await eventually(lambda: newest(target) == b"new")
            assert target.store.offsets == [0]
            hold.release()
            with pytest.raises(ProposalDropped):
                await first
            await second
            assert [data for _, _, data in target.store.received_] == [new]

    run(scenario())


def newest(target: Any) -> bytes:
    turn = target.service._newest
    return b"" if turn is None else turn.header.snapshot_id


def test_an_older_leader_does_not_disturb_a_newer_one() -> None:
    async def scenario() -> None:
        data = content(20_000)
        async with receiving() as target:
            hold = target.store.before_write = Hold()
            newer = asyncio.create_task(target.send(data, header_of(data, term=6)))
            await hold.entered()
            with pytest.raises(NotLeader):
                await target.send(data, header_of(data, b"stale", term=5))
            hold.release()
            await newer

    run(scenario())


def test_a_receiver_says_what_it_does_not_want() -> None:
    async def scenario() -> None:
        data = content(5_000)
        async with receiving() as target:
            target.store.refusal = NotLeader("that term is over")
            with pytest.raises(NotLeader, match="over"):
                await target.send(data)
            assert target.sent_bytes == 0
            assert target.store.offsets == []

    run(scenario())


def test_a_term_that_ends_meanwhile_makes_a_snapshot_useless() -> None:
    async def scenario() -> None:
        async with receiving() as target:
            store = target.store

            def refuse() -> None:
                store.refusal = NotLeader("that term is over")

            store.before_finish = refuse
            with pytest.raises(NotLeader):
                await target.send(content(5_000))
            assert store.received_ == []

    run(scenario())


def test_a_snapshot_that_is_not_whole_is_not_handed_on() -> None:
    async def scenario() -> None:
        async with receiving() as target:
            target.store.before_finish = damaged
            with pytest.raises(DamagedSnapshot, match="page"):
                await target.send(content(5_000))
            assert target.store.received_ == []

    run(scenario())


def test_a_receiver_that_cannot_store_is_asked_again() -> None:
    def full(_: int) -> None:
        raise OSError(28, "no space left on device")

    async def scenario() -> None:
        data = content(900)
        async with receiving() as target:
            target.store.before_write = full
            with pytest.raises(Unavailable, match="no space"):
                await target.send(data)
            target.store.before_write = lambda _: None
            await target.send(data)
            assert target.store.received_[0][2] == data

    run(scenario())


def test_checking_for_long_is_not_being_dead() -> None:
    """The receiver says that it goes on, more often than the sender's patience ends."""
    patient = replace(SMALL, answer_timeout_s=0.3, answer_interval_s=0.03)

    async def scenario() -> None:
        async with receiving(patient) as target:
            hold = target.store.before_finish = Hold()
            sending = asyncio.create_task(target.send(content(5_000), options=patient))
            await hold.entered()
            done, _ = await asyncio.wait((sending,), timeout=0.6)
            assert not done
            hold.release()
            await sending

    run(scenario())


def test_a_receiver_that_does_not_answer_is_given_up() -> None:
    impatient = replace(SMALL, answer_timeout_s=0.05)

    async def scenario() -> None:
        async with receiving() as target:
            hold = target.store.before_write = Hold()
            with pytest.raises(Unavailable, match="does not answer"):
                await target.send(content(50_000), options=impatient)
            hold.release()

    run(scenario())


def test_a_snapshot_whose_sender_is_gone_is_used_all_the_same() -> None:
    """All of it is there: to ask for it again would cost the same again."""

    async def scenario() -> None:
        async with receiving() as target:
            hold = target.store.before_finish = Hold()
            sending = asyncio.create_task(target.send(content(5_000)))
            await hold.entered()
            sending.cancel()
            await asyncio.wait((sending,))
            hold.release()
            await eventually(lambda: len(target.store.received_) == 1)

    run(scenario())


def test_closing_waits_until_no_file_is_in_use() -> None:
    async def scenario() -> None:
        async with receiving() as target:
            hold = target.store.before_write = Hold()
            sending = asyncio.create_task(target.send(content(5_000)))
            await hold.entered()
            closing = asyncio.create_task(target.service.close())
            done, _ = await asyncio.wait((closing,), timeout=0.05)
            assert not done
            hold.release()
            await closing
            with pytest.raises(ProposalDropped):
                await sending
            with pytest.raises(Unavailable, match="stopping"):
                await target.send(content(5_000))

    run(scenario())


def test_an_unreachable_receiver_is_unavailable() -> None:
    async def scenario() -> None:
        async with receiving() as target:
            with pytest.raises(Unavailable):
                await target.send(content(5_000), address="127.0.0.1:1")

    run(scenario())


def test_the_wrong_receiver_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with receiving() as target:
            wrong = replace(HELLO, to=NodeId(3))
            monkeypatch.setattr("tests.rpc.snapshots.HELLO", wrong)
            with pytest.raises(ForeignDirectory, match="member 2"):
                await target.send(content(5_000))

    run(scenario())


def test_a_file_that_is_too_short_is_damaged() -> None:
    async def scenario() -> None:
        data = content(5_000)
        async with receiving() as target:
            whole = replace(header_of(data), size_bytes=6_000)
            with pytest.raises(DamagedSnapshot, match="ends at 5000"):
                await target.send(data, whole)
            assert target.store.received_ == []

    run(scenario())


CHUNKS = [
    pytest.param(0, b"x" * 5_001, InvalidRequest, id="past_the_end"),
    pytest.param(1_000, b"x", InvalidRequest, id="gap"),
    pytest.param(0, b"", InvalidRequest, id="empty"),
]


@pytest.mark.parametrize(("offset", "data", "error"), CHUNKS)
def test_a_chunk_out_of_place_ends_the_stream(
    monkeypatch: pytest.MonkeyPatch,
    offset: int,
    data: bytes,
    error: type[KVStoreError],
) -> None:
    codec = SnapshotCodec(crc=crc32c)
    whole = SnapshotOptions(chunk_bytes=5_000)
    frame = codec.encode_chunk(b"export 1", offset, data)
    monkeypatch.setattr(SnapshotCodec, "encode_chunk", lambda *_: frame)

    async def scenario() -> None:
        async with receiving() as target:
            # One chunk: what is written to a stream that has ended hides its status.
            with pytest.raises(error):
                await target.send(content(5_000), options=whole)
            assert target.store.staged is not None
            assert target.store.staged.offset == 0

    run(scenario())


def test_a_chunk_damaged_on_its_way_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = SnapshotCodec.encode_chunk
    damage = [True]

    def encode(
        self: SnapshotCodec, snapshot_id: bytes, offset: int, data: bytes
    ) -> bytes:
        frame = whole(self, snapshot_id, offset, data)
        if offset >= 3_000 and damage:
            damage.clear()
            return frame[:-1] + bytes([frame[-1] ^ 1])
        return frame

    monkeypatch.setattr(SnapshotCodec, "encode_chunk", encode)

    async def scenario() -> None:
        data = content(9_000)
        async with receiving() as target:
            with pytest.raises((CorruptionError, Unavailable)):
                await target.send(data)
            await target.send(data)
            assert target.store.offsets == [0, 3_000]
            assert target.store.received_[0][2] == data

    run(scenario())


def test_a_receiver_that_claims_more_than_was_sent_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        snapshots, "decode_progress", lambda _: Progress(3_000, complete=False)
    )

    async def scenario() -> None:
        async with receiving() as target:
            with pytest.raises(InvalidRequest):
                await target.send(content(2_000))

    run(scenario())


def test_a_pace_is_kept_and_shared() -> None:
    """Method: its own arithmetic, with the clock in hand."""
    pace = Pace(1_000)
    assert pace.delay_s(500, 100.0) == 0.0  # what was not used, in part
    first = pace.delay_s(500, 100.0)
    assert first == pytest.approx(0.5 - BURST_S)
    assert pace.delay_s(1_000, 100.0) == pytest.approx(1.0 - BURST_S)
    assert pace.delay_s(1_000, 100.0) == pytest.approx(2.0 - BURST_S)
    # A long rest is not made up for.
    assert pace.delay_s(1_000, 1_000.0) == 0.0
    assert pace.delay_s(1_000, 1_000.0) == pytest.approx(1.0 - BURST_S)
    assert all(Pace(0).delay_s(1 << 40, now) == 0 for now in (0.0, 1.0))


def test_a_transfer_keeps_its_pace() -> None:
    async def scenario() -> None:
        data = content(20_000)
        async with receiving() as target:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await target.send(data, pace=Pace(100_000))
            # All but the last chunk have had their time, but for the burst.
            assert loop.time() - began >= 0.19 - BURST_S

    run(scenario())


def test_who_is_cancelled_waits_for_the_thread() -> None:
    async def scenario() -> None:
        gate, ended = threading.Event(), threading.Event()

        def work() -> None:
            assert gate.wait(PATIENCE_S)
            ended.set()
            raise OSError("nobody hears it")

        task = asyncio.create_task(in_thread(work))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert ended.is_set()
        assert await in_thread(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await in_thread(divmod, 7, 0)

    run(scenario())


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="chunk_bytes"):
        SnapshotOptions(chunk_bytes=0)
