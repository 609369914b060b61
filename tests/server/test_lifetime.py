"""How a node starts, stops, refuses to start, and starts again."""

import asyncio
import errno
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore.config import Config
from kvstore.errors import (
    Closed,
    ConfigError,
    CorruptionError,
    DirectoryLocked,
    DirectoryNotFounded,
    LeadershipLost,
    Unavailable,
)
from kvstore.founding import found
from kvstore.raft.messages import Entry, EntryKind, HardState
from kvstore.replica.interfaces import Identity
from kvstore.rpc.errors import error_from_pb
from kvstore.server.node import Node
from kvstore.server.stopping import DRAIN_S_MAX
from kvstore.server.stores import Stores, check_together
from kvstore.state_machine.view import EMPTY_PROGRESS
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.memory_log import MemoryLog
from kvstore.storage.memory_state import MemoryState
from kvstore.types import LogIndex, NodeId, Term
from tests.server.harness import (
    CLUSTER_ID,
    PATIENCE_S,
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


def in_use() -> socket.socket:
    """A port that somebody listens at."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken


# --------------------------------------------------------------------- starting


def test_nothing_listens_beyond_the_loopback_unless_told_to(tmp_path: Path) -> None:
    """Neither by a setting nor by the address that the member was founded with."""
    with pytest.raises(ConfigError, match="insecure"):
        Config(data_dir=tmp_path, listen="0.0.0.0:7400")
    with pytest.raises(ConfigError, match="insecure"):
        Config(data_dir=tmp_path, metrics="192.0.2.1:9000")
    path = tmp_path / "node"
    found(path, node_id=1, cluster_id=CLUSTER_ID, members={1: "192.0.2.1:7400"})

    async def scenario() -> None:
        with pytest.raises(ConfigError, match="insecure"):
            await Node(Config(data_dir=path)).__aenter__()
        async with Node(Config(data_dir=path, listen="127.0.0.1:0")):
            pass

    run(scenario())


def test_a_peer_is_dialled_where_somebody_can_listen(tmp_path: Path) -> None:
    for address in ("nonsense", "host:0", "host:70000"):
        with pytest.raises(ConfigError, match=r"peer_addresses\[2\]"):
            Config(data_dir=tmp_path, peer_addresses={2: address})


def test_a_port_in_use_is_a_configuration_error_and_leaves_nothing_open(
    tmp_path: Path,
) -> None:
    (config,) = configs(tmp_path)

    async def scenario(taken: socket.socket) -> None:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        node = Node(replace(config, listen=address))
        with pytest.raises(ConfigError, match="cannot bind"):
            await node.__aenter__()
        await node.close()  # allowed, and nothing is left to do
        async with Node(config):  # the directory's lock was given back
            pass

    with in_use() as taken:
        run(scenario(taken))


def test_a_start_that_fails_late_ends_what_had_started(tmp_path: Path) -> None:
    """The metrics' port is taken: the network had begun to serve."""
    (config,) = configs(tmp_path, scrub=True)

    async def scenario(taken: socket.socket) -> None:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match="cannot bind metrics"):
            await Node(replace(config, metrics=address)).__aenter__()
        async with Node(config) as node:  # its port and directory are free
            await eventually(lambda: node.replica.raft.is_leader)

    with in_use() as taken:
        run(scenario(taken))


def test_a_start_that_is_cancelled_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Method: cancelled while the thread that opens the stores is at work, twice."""
    (config,) = configs(tmp_path)
    begun, go_on = threading.Event(), threading.Event()
    really_open = Stores.open

    def slowly(config: Config) -> Stores:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return really_open(config)

    async def scenario() -> None:
        monkeypatch.setattr(Stores, "open", slowly)
        starting = asyncio.create_task(Node(config).__aenter__())
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        for _ in range(2):
            starting.cancel()
            await asyncio.sleep(0)
        assert not starting.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        monkeypatch.undo()
        Stores.open(config).close()  # nobody holds the directory

    run(scenario())


def test_a_start_that_is_cancelled_and_fails_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fails(config: Config) -> Stores:
        del config
        begun.set()
        assert go_on.wait(PATIENCE_S)
        raise DirectoryLocked("somebody else has it")

    async def scenario() -> None:
        monkeypatch.setattr(Stores, "open", fails)
        starting = asyncio.create_task(Node(Config(data_dir=tmp_path)).__aenter__())
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        starting.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting

    run(scenario())


def test_a_directory_is_opened_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as node:
            with pytest.raises(DirectoryLocked):
                await Node(node.config).__aenter__()

    run(scenario())


def test_an_unfounded_directory_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node(Config(data_dir=tmp_path))
        with pytest.raises(DirectoryNotFounded):
            await node.__aenter__()
        await node.close()

    run(scenario())


def test_a_log_that_lost_what_was_applied_is_refused(tmp_path: Path) -> None:
    """As if ``raft/`` were restored from an older copy: it forgot its promises."""
    (config,) = configs(tmp_path)

    async def fill() -> None:
        async with Node(config) as node:
            await eventually(lambda: node.replica.raft.is_leader)
            await put(node, "a")

    async def scenario() -> None:
        with pytest.raises(CorruptionError) as caught:
            await Node(config).__aenter__()
        text = str(caught.value)
        assert "lost durable entries" in text
        assert "must not vote" in text
        assert "new node id" in text  # what to do about it

    run(fill())
    forget_log(config)
    run(scenario())


def forget_log(config: Config) -> None:
    """Put an empty log of the same member in place of the one there is."""
    folder = config.data_dir / "raft"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    identity = Identity(cluster_id=CLUSTER_ID, node_id=NodeId(1))  # type: ignore[arg-type]
    LMDBLog.create(folder, identity)


@pytest.mark.parametrize(
    ("index", "term", "accepted"),
    [
        pytest.param(0, 0, True, id="empty"),
        pytest.param(1, 1, True, id="lags"),
        pytest.param(2, 2, True, id="level"),
        pytest.param(2, 1, False, id="of another term"),
        pytest.param(3, 2, False, id="ahead"),
    ],
)
def test_a_state_may_lag_behind_its_log_and_never_else(
    index: int, term: int, accepted: bool
) -> None:
    entries = [
        Entry(Term(1), LogIndex(1), EntryKind.NOOP, b""),
        Entry(Term(2), LogIndex(2), EntryKind.NOOP, b""),
    ]
    log = MemoryLog(HardState(term=Term(2), vote=None), entries)
    state = MemoryState()
    fields = {"index": LogIndex(index), "term": Term(term)}
    state.progress = replace(EMPTY_PROGRESS, **fields)  # type: ignore[arg-type]
    if accepted:
        check_together(log, state)
    else:
        with pytest.raises(CorruptionError):
            check_together(log, state)


# --------------------------------------------------------------------- stopping


def test_two_restarted_nodes_still_have_the_data(tmp_path: Path) -> None:
    async def write() -> None:
        one, two = made
        async with Node(one) as first, Node(two) as second:
            await led(first, second)
            await put(first, "a", value=b"1")
            await put(second, "b", value=b"2")

    async def read() -> None:
        one, two = made
        async with Node(one) as first, Node(two) as second:
            await led(first, second)
            for node in (first, second):
                assert await value_of(node, "a") == b"1"
                assert await value_of(node, "b") == b"2"

    made = configs(tmp_path, 2, election_timeout_ms=300)
    run(write())
    run(read())


async def led(*nodes: Node) -> None:
    """Every node knows who leads."""
    await eventually(lambda: all(node.replica.raft.leader_id for node in nodes))


def test_a_state_that_a_crash_set_back_is_replayed_from_the_log(tmp_path: Path) -> None:
    """Method: copy the directory while the node has not committed its state."""
    copy = tmp_path / "copy"

    async def scenario() -> None:
        async with running(tmp_path, state_commit_interval_ms=60_000) as node:
            await put(node, "a", value=b"1")
            await asyncio.to_thread(copy_directory, node.config.data_dir, copy)
        config = replace(node.config, data_dir=copy)
        stores = Stores.open(config)
        assert stores.state.progress.index == 0
        stores.close()
        async with Node(config) as node:
            assert await value_of(node, "a") == b"1"

    run(scenario())


def copy_directory(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True)
        elif path.name not in ("lock.mdb", "LOCK"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())


def test_close_twice_is_fine_and_the_second_waits_for_the_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as node:
            first = asyncio.create_task(node.close())
            await asyncio.sleep(0)
            await node.close()
            Stores.open(node.config).close()  # nobody holds the directory any more
            await first
            await node.wait_closed()

    run(scenario())


def test_a_cancelled_close_still_closes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as node:
            closing = asyncio.create_task(node.close())
            await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            await node.wait_closed()
            Stores.open(node.config).close()

    run(scenario())


def test_a_close_that_fails_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for the end of the node nor for an answer."""

    def fails(self: LMDBState) -> None:
        real_close(self)
        raise OSError(errno.EIO, "the medium refused")

    real_close = LMDBState.close

    async def scenario() -> None:
        (config,) = configs(tmp_path)
        node = await Node(config).__aenter__()
        await eventually(lambda: node.replica.raft.is_leader)
        ended = asyncio.create_task(node.wait_closed())
        # In a thread's hands, so that nothing but the end answers it.
        monkeypatch.setattr(node.state_thread, "submit", lambda _: None)
        asked = asyncio.create_task(node.operate(reads("a")))
        await eventually(lambda: len(node.requests) == 1)
        with monkeypatch.context() as patch:
            patch.setattr(LMDBState, "close", fails)
            with pytest.raises(OSError, match="refused"):
                await node.close()
        with pytest.raises(OSError, match="refused"):
            await ended
        assert error_from_pb((await asked).error).definite
        Stores.open(config).close()  # the rest was closed all the same

    run(scenario())


def test_a_node_that_was_never_entered_may_be_closed(tmp_path: Path) -> None:
    run(Node(Config(data_dir=tmp_path)).close())


def test_a_node_that_stops_first_answers_what_is_in_flight(tmp_path: Path) -> None:
    """An orderly restart leaves nobody with an unknown outcome."""

    async def scenario() -> None:
        async with running(tmp_path) as node:
            medium = Medium(node)
            medium.hold()
            in_flight = asyncio.create_task(node.operate(writes("a")))
            waits = asyncio.create_task(node.operate(writes("b")))
            await eventually(lambda: len(node.requests) == 2)
            closing = asyncio.create_task(node.close())
            await asyncio.sleep(0)
            late = await node.operate(writes("c"))
            assert isinstance(error_from_pb(late.error), Closed)
            medium.release()
            for answer in await asyncio.gather(in_flight, waits):
                assert not answer.HasField("error")
            await closing

    run(scenario())


def test_a_node_does_not_wait_for_ever_for_what_is_in_flight(tmp_path: Path) -> None:
    """No leader, so nothing can be answered: what waits fails for certain."""

    async def scenario() -> None:
        config, _ = configs(
            tmp_path, 2, election_timeout_ms=60_000, request_timeout_ms=60_000
        )
        async with Node(config) as node:
            asked = [
                asyncio.create_task(node.operate(request))
                for request in (writes("a"), reads("a"))
            ]
            await eventually(lambda: len(node.requests) == 2)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 10 * DRAIN_S_MAX
        for answer in await asyncio.gather(*asked):
            error = error_from_pb(answer.error)
            assert type(error) is Unavailable
            assert error.definite

    run(scenario())


def test_a_write_that_the_log_does_not_finish_in_time_is_of_unknown_outcome(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as node:
            medium = Medium(node)
            medium.hold()
            asked = asyncio.create_task(node.operate(writes("a")))
            await eventually(lambda: len(node.requests) == 1)
            closing = asyncio.create_task(node.close())
            error = error_from_pb((await asked).error)
            assert isinstance(error, LeadershipLost)
            medium.release()
            await closing

    run(scenario())


def test_a_stopped_leader_is_replaced_at_once_and_loses_nothing(tmp_path: Path) -> None:
    """Three members under load through a follower; the leader stops in order."""

    async def scenario() -> None:
        made = configs(tmp_path, 3)
        nodes = [Node(config) for config in made]
        for node in nodes:
            await node.__aenter__()
        try:
            await led(*nodes)
            leader = next(n for n in nodes if n.replica.raft.is_leader)
            others = [n for n in nodes if n is not leader]
            follower = others[0]
            await put(follower, "before")
            asked = [
                asyncio.create_task(follower.operate(writes(f"k{n}")))
                for n in range(50)
            ]
            await asyncio.sleep(0)
            await leader.close()
            await eventually(lambda: any(n.replica.raft.is_leader for n in others))
            answers = await asyncio.gather(*asked)
            assert [answer for answer in answers if answer.HasField("error")] == []
            for n in range(50):
                assert await value_of(follower, f"k{n}") == b"v"
        finally:
            for node in nodes:
                await node.close()

    run(scenario())


def test_a_stopping_node_takes_no_more_over_the_network(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as node, dialled(node) as rpc:
            stream = rpc.kv.Operate()
            await stream.write(writes("a"))
            await stream.read()
            medium = Medium(node)
            medium.hold()
            await stream.write(writes("b", request_id=2))
            await eventually(lambda: len(node.requests) == 1)
            closing = asyncio.create_task(node.close())
            await asyncio.sleep(0)
            await stream.write(writes("c", request_id=3))
            refused = await stream.read()
            assert (refused.id, refused.error.code) == (3, "Closed")
            medium.release()
            answered = await stream.read()
            assert (answered.id, answered.HasField("error")) == (2, False)
            await closing

    run(scenario())
