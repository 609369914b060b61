"""A leader's transfers: shared, resumed, repeated, given up, stopped."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from kvcluster.proxy import FaultProxy, Link
from kvstore.errors import ConfigError, NotLeader
from kvstore.raft.messages import EntryId
from kvstore.rpc.snapshot_codec import SnapshotCodec, SnapshotHeader
from kvstore.rpc.snapshots import SnapshotOptions
from kvstore.server.snapshot_sender import SenderOptions, SnapshotSender
from kvstore.storage.checksum import crc32c
from kvstore.types import LogIndex, NodeId, Term
from tests.rpc.snapshots import (
    HELLO,
    SMALL,
    Hold,
    Target,
    content,
    damaged,
    header_of,
    receiving,
)
from tests.server.harness import eventually, run

TWO, THREE = NodeId(2), NodeId(3)
SOON = SenderOptions(backoff_s_min=0.001, backoff_s_max=0.01, give_up_s=0.2)


class Source:
    """An export in memory, which knows whether it is still open."""

    def __init__(self, number: int, data: bytes) -> None:
        name = b"export %d" % number
        last = EntryId(Term(3), LogIndex(1_000 + number))
        self.header: SnapshotHeader = replace(header_of(data, name), last=last)
        self.data = data
        self.is_open = True
        self.error: OSError | None = None

    def read(self, offset: int, size: int) -> bytes:
        assert self.is_open
        if self.error is not None:
            raise self.error
        return self.data[offset : offset + size]

    def close(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert self.is_open
        self.is_open = False


class Leader:
    """A sender, its exports, and what it tells the core."""

    def __init__(self, targets: dict[NodeId, str], data: bytes, **more: Any) -> None:
        self.targets = targets
        self.data = data
        self.exports: list[Source] = []
        self.failing: list[OSError] = []
        self.made = asyncio.Event()
        self.made.set()
        self.ended: list[tuple[NodeId, LogIndex]] = []
        self.failures: list[BaseException] = []
        self.term = Term(5)
        self._asked: set[NodeId] = set()
        self.sender = SnapshotSender(
            export=self._export,
            target=self._target,
            term=lambda: self.term,
            codec=SnapshotCodec(crc=crc32c),
            on_ended=self._on_ended,
            on_failure=self.failures.append,
            **more,
        )

    async def _export(self) -> Source:
        source = Source(len(self.exports) + 1, self.data)
        self.exports.append(source)
        try:
            await self.made.wait()
        except asyncio.CancelledError:
            source.is_open = False  # as whoever makes one must
            raise
        if self.failing:
            raise self.failing.pop()
        return source

    def asked(self, peer: NodeId) -> bool:
        """Whether it was about to be sent something."""
        return peer in self._asked

    def _target(self, peer: NodeId) -> Any:
        self._asked.add(peer)
        address = self.targets.get(peer)
        return None if address is None else (address, HELLO)

    def _on_ended(self, peer: NodeId, reached: LogIndex) -> None:
        assert peer not in self.sender.peers
        self.ended.append((peer, reached))

    async def until_ended(self, count: int = 1) -> None:
        await eventually(lambda: len(self.ended) >= count or bool(self.failures))
        assert self.failures == []

    async def close(self) -> None:
        await self.sender.close()
        open_ = [source.is_open for source in self.exports[: len(self.exports)]]
        assert not any(open_) or self.failing


@asynccontextmanager
async def leading(size: int = 20_000, **more: Any) -> AsyncIterator[Any]:
    """A leader and a receiver."""
    async with receiving() as target:
        settings = {"transfer": SMALL, "options": SOON} | more
        leader = Leader({TWO: target.address}, content(size), **settings)
        try:
            yield leader, target
        finally:
            await leader.close()


Scenario = Callable[[Leader, Target], Any]


def test_a_peer_is_sent_an_export_which_is_then_thrown_away() -> None:
    async def scenario() -> None:
        async with leading() as (leader, target):
            leader.sender.send_to(TWO)
            leader.sender.send_to(TWO)
            assert leader.sender.peers == {TWO}
            await leader.until_ended()
            assert leader.ended == [(TWO, 1_001)]
            assert [data for _, _, data in target.store.received_] == [leader.data]
            assert leader.sender.bytes_sent == len(leader.data)
            await eventually(lambda: not leader.exports[0].is_open)
            # Again, if the core says so.
            leader.sender.send_to(TWO)
            await leader.until_ended(2)
            assert leader.ended[1] == (TWO, 1_002)

    run(scenario())


def test_peers_at_one_time_share_an_export() -> None:
    async def scenario() -> None:
        async with leading() as (leader, target), receiving() as other:
            leader.targets[THREE] = other.address
            leader.made.clear()
            leader.sender.send_to(TWO)
            await eventually(lambda: len(leader.exports) == 1)
            leader.sender.send_to(THREE)
            for _ in range(5):
                await asyncio.sleep(0)
            leader.made.set()
            await leader.until_ended(2)
            assert len(leader.exports) == 1
            assert target.store.received_[0][2] == other.store.received_[0][2]

    run(scenario())


def test_an_old_export_is_not_shared_and_exports_are_few() -> None:
    """A chain of latecomers would keep the log from being cut for ever."""

    async def scenario() -> None:
        patient = SenderOptions(share_s_max=1e-9, give_up_s=60.0)
        async with leading(options=patient) as (leader, target):
            hold = target.store.before_write = Hold()
            leader.targets.update({THREE: "127.0.0.1:1", NodeId(4): "127.0.0.1:1"})
            leader.sender.send_to(TWO)
            await hold.entered()
            leader.sender.send_to(THREE)
            await eventually(lambda: len(leader.exports) == 2)
            leader.sender.send_to(NodeId(4))
            await eventually(lambda: leader.asked(NodeId(4)))
            assert len(leader.exports) == 2
            hold.release()
            await leader.until_ended()
            await eventually(lambda: not leader.exports[0].is_open)
            assert leader.exports[1].is_open

    run(scenario())


def test_a_transfer_is_taken_up_where_the_network_cut_it() -> None:
    """Three times, by a network that goes silent; with the options of production."""
    mib = 1 << 20

    async def scenario() -> None:
        options = SnapshotOptions()
        patient = SenderOptions(backoff_s_min=0.001, backoff_s_max=0.01)
        async with leading(64 * mib, transfer=options, options=patient) as (
            leader,
            target,
        ):
            proxy = FaultProxy({1: "127.0.0.1:9", 2: target.address})
            async with proxy:
                link = Link(source=1, target=2)
                leader.targets[TWO] = proxy.address(link)
                loop, reached = asyncio.get_running_loop(), asyncio.Event()
                cuts = [10 * mib, 25 * mib, 50 * mib]

                def watch(offset: int) -> None:
                    if cuts and offset >= cuts[0]:
                        loop.call_soon_threadsafe(reached.set)

                target.store.before_write = watch
                leader.sender.send_to(TWO)
                while cuts:
                    await reached.wait()
                    proxy.cut([link])
                    del cuts[0]
                    reached.clear()
                    proxy.heal()
                await leader.until_ended()
            size = len(leader.data)
            assert leader.ended == [(TWO, 1_001)]
            assert target.store.received_[0][2] == leader.data
            assert len(leader.exports) == 1
            assert len(target.store.offsets) >= 4
            assert size <= leader.sender.bytes_sent < 1.3 * size

    run(scenario())


def test_the_term_is_the_one_of_the_attempt() -> None:
    async def scenario() -> None:
        async with leading() as (leader, target):
            target.store.refusal = NotLeader("term 5 is over")
            leader.sender.send_to(TWO)
            await eventually(lambda: TWO in leader.sender._reasons)
            leader.term = Term(6)
            target.store.refusal = None
            await leader.until_ended()
            assert target.store.received_[0][1].term == 6

    run(scenario())


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    """Or the log could not be cut while it is away."""

    async def scenario() -> None:
        async with leading() as (leader, _):
            leader.targets = {TWO: "127.0.0.1:1"}
            for peer in (TWO, THREE):  # the second one is nowhere at all
                leader.sender.send_to(peer)
            await leader.until_ended(2)
            assert sorted(leader.ended) == [(TWO, 0), (THREE, 0)]

    run(scenario())


def test_a_damaged_export_is_made_anew() -> None:
    async def scenario() -> None:
        async with leading() as (leader, target):
            target.store.before_finish = damaged
            leader.sender.send_to(TWO)
            await eventually(lambda: len(leader.exports) == 2)
            target.store.before_finish = lambda: None
            await leader.until_ended()
            assert leader.ended[0][1] > 1_001
            assert not leader.exports[0].is_open

    run(scenario())


def test_a_file_that_cannot_be_read_is_made_anew() -> None:
    async def scenario() -> None:
        async with leading() as (leader, _):
            leader.made.clear()
            leader.sender.send_to(TWO)
            await eventually(lambda: len(leader.exports) == 1)
            leader.exports[0].error = OSError(5, "the medium refused")
            leader.made.set()
            await leader.until_ended()
            assert leader.ended == [(TWO, 1_002)]

    run(scenario())


def test_an_export_that_fails_is_tried_again() -> None:
    """As on a full disk: the leader leads on."""

    async def scenario() -> None:
        async with leading() as (leader, _):
            leader.failing = [OSError(28, "no space left on device")]
            leader.sender.send_to(TWO)
            await leader.until_ended()
            assert leader.ended == [(TWO, 1_002)]
            leader.exports[0].is_open = False  # it never was

    run(scenario())


def test_a_transfer_that_is_stopped_says_nothing_more() -> None:
    async def scenario() -> None:
        async with leading() as (leader, target):
            hold = target.store.before_write = Hold()
            leader.sender.send_to(TWO)
            await hold.entered()
            leader.sender.stop(TWO)
            leader.sender.stop(THREE)
            assert leader.sender.peers == set()
            await eventually(lambda: not leader.exports[0].is_open)
            # It may be wanted again at once.
            hold.release()
            leader.sender.send_to(TWO)
            await leader.until_ended()
            assert leader.ended == [(TWO, 1_002)]

    run(scenario())


def test_an_export_that_never_comes_holds_nobody_up() -> None:
    """As when the thread that owns the state has died."""

    async def scenario() -> None:
        async with leading() as (leader, _):
            leader.made.clear()
            leader.sender.send_to(TWO)
            await eventually(lambda: len(leader.exports) == 1)
            await leader.sender.close()
            assert not leader.exports[0].is_open
            assert leader.ended == leader.failures == []

    run(scenario())


def test_a_defect_is_reported() -> None:
    async def scenario() -> None:
        async with leading() as (leader, _):

            def broken(_: NodeId) -> Any:
                raise ZeroDivisionError("our bug")

            leader.sender._target = broken
            leader.sender.send_to(TWO)
            await eventually(lambda: len(leader.failures) == 1)
            assert isinstance(leader.failures[0], ZeroDivisionError)

    run(scenario())


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="give_up_s"):
        SenderOptions(give_up_s=0)
