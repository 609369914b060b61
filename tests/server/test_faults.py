"""What a node does when its disk lies or refuses: it says so, or it ends."""

import asyncio
import errno
import urllib.request
from pathlib import Path

import grpc
import pytest

from kvstore.config import Config
from kvstore.errors import Closed, CorruptionError, KVStoreError
from kvstore.pb import cluster_pb2, kv_pb2
from kvstore.raft.events import LeaderChanged
from kvstore.raft.messages import Entry, EntryKind, HardState, Heartbeat
from kvstore.rpc.errors import error_from_pb
from kvstore.server.node import Node
from kvstore.server.stores import Stores
from kvstore.storage.record import FORMAT_VERSION, RecordType
from kvstore.types import LogIndex, NodeId, Term
from tests.server.harness import (
    Medium,
    configs,
    dialled,
    eventually,
    put,
    reads,
    run,
    running,
    value_of,
    writes,
)
from tests.storage.damage import Place, flip_on_disk, get

NEEDLE = b"needle in the store"


async def ended(node: Node) -> BaseException:
    """Why the node ended by itself."""
    with pytest.raises((KVStoreError, OSError, ArithmeticError)) as caught:
        async with asyncio.timeout(10):
            await node.wait_closed()
    return caught.value


async def committed(node: Node) -> None:
    """What has been applied is in the file of the state store."""

    def is_committed() -> bool:
        with node.stores.state.read_view() as view:
            return view.progress.revision == node.applied_revision

    await eventually(is_committed)


# ---------------------------------------------------------------------- writing


def test_a_log_that_refuses_a_write_ends_the_node_and_nothing_is_acknowledged(
    tmp_path: Path,
) -> None:
    """M22: a failed sync is never retried, for the next one proves nothing."""

    async def scenario() -> None:
        async with running(tmp_path) as node, dialled(node) as rpc:
            await put(node, "before")
            medium = Medium(node)
            medium.error = OSError(errno.EIO, "the medium refused")
            answer = await node.operate(writes("lost"))
            error = error_from_pb(answer.error)
            assert not error.definite  # it may be on the disk, or not
            failure = await ended(node)
            assert isinstance(failure, OSError)
            assert failure.errno == errno.EIO
            # It serves nothing further, neither here nor over the network.
            answer = await node.operate(reads("before"))
            assert answer.error.code == "Closed"
            with pytest.raises(grpc.aio.AioRpcError):
                await rpc.kv.Range(kv_pb2.Range(key=b"before"), timeout=2)

    run(scenario())


def test_a_failed_node_starts_again_with_all_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as node:
            config = node.config
            await put(node, "before")
            Medium(node).error = OSError(errno.ENOSPC, "no space")
            await node.operate(writes("lost"))
            await ended(node)
        async with Node(config) as node:
            assert await value_of(node, "before") == b"v"

    run(scenario())


def test_requests_in_flight_at_a_failure_are_all_answered(tmp_path: Path) -> None:
    """A caller inside the process must not wait for ever."""

    async def scenario() -> None:
        async with running(tmp_path) as node:
            medium = Medium(node)
            medium.hold()
            medium.error = OSError(errno.EIO, "the medium refused")
            asked = [
                asyncio.create_task(node.operate(writes(f"{n}"))) for n in range(5)
            ]
            asked += [asyncio.create_task(node.operate(reads("a"))) for _ in range(5)]
            await eventually(lambda: len(node.requests) >= 5)
            medium.release()
            await ended(node)
            for answer in await asyncio.gather(*asked[:5]):
                assert answer.HasField("error")
            await asyncio.gather(*asked[5:])
            assert not node.requests

    run(scenario())


# ---------------------------------------------------------------------- reading


def test_a_damaged_value_fails_its_reader_and_nobody_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, state_commit_interval_ms=1) as node:
            await put(node, "bad", value=NEEDLE)
            await put(node, "good")
            await committed(node)
            flip_on_disk(node.config.data_dir / "state", NEEDLE)
            answer = await node.operate(reads("good", "bad", "good"))
            first, second, third = answer.results.results
            error = error_from_pb(second.error)
            assert isinstance(error, CorruptionError)
            assert (error.store, error.database) == ("state", "kv")
            assert first.range.kvs[0].value == third.range.kvs[0].value == b"v"
            # The node goes on, and a new value takes the place of the damaged one.
            await put(node, "bad", value=b"again")
            assert await value_of(node, "bad") == b"again"

    run(scenario())


def test_a_damaged_record_that_apply_needs_ends_the_node(tmp_path: Path) -> None:
    """To go on without it would make this member differ from the others."""

    async def scenario() -> None:
        async with running(tmp_path, state_commit_interval_ms=1) as node:
            await put(node, "needle/key")
            await committed(node)
            head = b"needle/key" + bytes([FORMAT_VERSION, RecordType.HEAD])
            flip_on_disk(node.config.data_dir / "state", head)
            answer = await node.operate(writes("needle/key"))
            assert not error_from_pb(answer.error).definite
            failure = await ended(node)
            assert isinstance(failure, CorruptionError)
            assert failure.database == "heads"

    run(scenario())


def test_a_damaged_log_entry_that_apply_needs_ends_the_node(tmp_path: Path) -> None:
    """Method: a state that lags far behind, as after a crash, and a log too long to be
    checked whole at the start."""
    config = lagging(tmp_path, damaged_index=2)

    async def scenario() -> None:
        async with Node(config) as node:
            failure = await ended(node)
            assert isinstance(failure, CorruptionError)
            assert failure.store == "raft"

    run(scenario())


def lagging(tmp_path: Path, *, damaged_index: int) -> Config:
    """A log of 5,000 entries with one damaged, and a state that has none of them."""
    (config,) = configs(tmp_path)
    stores = Stores.open(config)
    data = [writes("k", value=b"entry %d" % n).writes for n in range(5_001)]
    stores.log.append(
        HardState(term=Term(1), vote=NodeId(1)),
        [
            Entry(Term(1), LogIndex(index), EntryKind.COMMANDS, data[index])
            for index in range(1, 5_001)
        ],
    )
    stores.close()
    flip_on_disk(config.data_dir / "raft", data[damaged_index])
    return config


def test_a_log_that_forgot_what_it_acknowledged_ends_the_node(tmp_path: Path) -> None:
    """A leader knows better how far this log once reached: it must not vote again."""

    async def scenario() -> None:
        config, _ = configs(tmp_path, 2)
        async with Node(config) as node:
            heartbeat = Heartbeat(
                sender=NodeId(2),
                to=NodeId(1),
                term=Term(9),
                commit_index=LogIndex(50),
                round=0,
            )
            node.receive([heartbeat])
            failure = await ended(node)
            assert isinstance(failure, CorruptionError)
            assert "acknowledged entries to 50" in str(failure)

    run(scenario())


# --------------------------------------------------------------------- scrubbing


def test_the_scrubber_reports_damage_in_status_and_metrics(tmp_path: Path) -> None:
    """Method: a record that nobody reads is flipped while the node runs."""

    async def scenario() -> None:
        async with (
            running(
                tmp_path,
                scrub=True,
                scrub_pause_s=0,
                state_commit_interval_ms=1,
                metrics="127.0.0.1:0",
            ) as node,
            dialled(node) as rpc,
        ):
            await put(node, "bad", value=NEEDLE)
            await committed(node)
            flip_on_disk(node.config.data_dir / "state", NEEDLE)
            assert node.scrubber is not None
            scrubber = node.scrubber
            await eventually(lambda: bool(scrubber.status().findings))
            said = await rpc.cluster.Status(cluster_pb2.StatusRequest())
            (finding,) = said.scrub.findings
            assert (finding.store, finding.database) == ("state", "kv")
            assert finding.key_hex
            tours = {tour.store: tour.corrupt_records for tour in said.scrub.tours}
            assert tours == {"raft": 0, "state": 1}
            text = await asyncio.to_thread(scraped, node)
            assert 'kvstore_corrupt_records_total{store="state"} 1.0' in text
            # Reported, not mended, and the node goes on.
            await put(node, "good")

    run(scenario())


def test_damage_that_opening_mended_is_reported_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Method: one copy of the hard state is flipped while the node is down."""
    (config,) = configs(tmp_path)
    stores = Stores.open(config)
    stores.log.append(HardState(term=Term(3), vote=NodeId(1)), [])
    record = get(stores.log.environment, Place("hs_a", b"hard_state"))
    stores.close()
    flip_on_disk(config.data_dir / "raft", record)

    async def scenario(reports: int) -> None:
        caplog.clear()
        async with Node(config) as node:
            value = node.metrics.registry.get_sample_value
            counted = value("kvstore_corrupt_records_total", {"store": "raft"})
            assert (counted or 0) == reports
            found = [r for r in caplog.records if r.message == "corrupt_record"]
            assert len(found) == reports
            if found:
                (record,) = found
                fields = vars(record)["kvstore_fields"]
                assert (fields["store"], fields["database"]) == ("raft", "hs_a")
                assert "replaced from the other copy" in fields["what"]

    run(scenario(1))
    run(scenario(0))  # it was mended


def scraped(node: Node) -> str:
    """What Prometheus would read."""
    assert node.metrics.port
    url = f"http://127.0.0.1:{node.metrics.port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as response:
        text: str = response.read().decode()
    return text


# ---------------------------------------------------------------------- our bugs


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError("our bug")


@pytest.mark.parametrize("method", ["poll", "tick", "receive", "persisted", "applied"])
def test_a_defect_in_the_replica_ends_the_node(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-changed replica decides nothing more, and the process hears of it."""

    async def scenario() -> None:
        seen: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(context["exception"]))
        async with running(tmp_path) as node:
            monkeypatch.setattr(type(node.replica), method, broken)
            node.receive([])
            asked = asyncio.create_task(node.operate(writes("a")))
            failure = await ended(node)
            assert isinstance(failure, ZeroDivisionError)
            assert failure in seen
            await asked  # answered, one way or the other
            answer = await node.operate(writes("b"))
            assert isinstance(error_from_pb(answer.error), Closed)

    run(scenario())


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("kvstore.rpc.peer_queue.PeerQueue.next_frame", id="link"),
        pytest.param("kvstore.server.network.HealthServicer.set", id="health"),
    ],
)
def test_a_defect_in_a_task_of_the_network_ends_the_node(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Method: two members are up; one of them is broken, and both are told of news."""

    async def scenario() -> None:
        seen: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(context["exception"]))
        one, two = configs(tmp_path, 2)
        async with Node(one) as first, Node(two):
            await eventually(lambda: first.replica.raft.leader_id is not None)
            monkeypatch.setattr(method, broken)
            first.observer.observe([LeaderChanged(term=Term(99), leader_id=None)])
            failure = await ended(first)
            assert isinstance(failure, ZeroDivisionError)
            assert failure in seen
            answer = await first.operate(writes("a"))
            assert isinstance(error_from_pb(answer.error), Closed)
            monkeypatch.undo()

    run(scenario())


def test_a_defect_in_a_thread_ends_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        seen: list[object] = []
        monkeypatch.setattr("threading.excepthook", lambda a: seen.append(a.exc_value))
        async with running(tmp_path) as node:
            Medium(node).error = ZeroDivisionError("our bug")
            await node.operate(writes("a"))
            failure = await ended(node)
            assert isinstance(failure, ZeroDivisionError)
        assert seen == [failure]

    run(scenario())
