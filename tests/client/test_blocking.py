"""The blocking client: the asyncio one from any thread, and no other."""

import asyncio
import contextlib
import errno
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore.client.asynchronous import AsyncClient
from kvstore.client.blocking import Client
from kvstore.client.loop_thread import LoopThread
from kvstore.errors import (
    Closed,
    ConfigError,
    InvalidRequest,
    KVStoreError,
    LeadershipLost,
    OutcomeUnknown,
    Unavailable,
)
from kvstore.pb import kv_pb2


@contextlib.contextmanager
def node_in_a_thread(fake_nodes: Any) -> Iterator[Any]:
    """A fake node in a loop and a thread of its own."""
    ready = threading.Event()
    made: list[Any] = []

    async def serve() -> None:
        async with fake_nodes(1) as (node,):
            stop = asyncio.Event()
            made.extend((node, stop, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    node, stop, loop = made
    try:
        yield node
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def loop_threads() -> list[threading.Thread]:
    return [it for it in threading.enumerate() if it.name == "kvstore-loop"]


def public(of: type) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_")
    }


def drop_awaiting(annotation: str) -> str:
    return annotation.replace("AsyncIterator", "Iterator")


def test_both_faces_are_the_same_but_for_waiting() -> None:
    """Goal: what one learns of one face holds for the other."""
    awaiting, blocking = public(AsyncClient), public(Client)
    assert set(awaiting) == set(blocking)
    for name, method in awaiting.items():
        ours, theirs = inspect.signature(blocking[name]), inspect.signature(method)
        assert list(ours.parameters.values()) == list(theirs.parameters.values()), name
        assert str(ours.return_annotation) == drop_awaiting(
            str(theirs.return_annotation)
        ), name
        assert inspect.getdoc(blocking[name]) == inspect.getdoc(method), name


@pytest.mark.parametrize("name", sorted(set(public(Client)) - {"close", "scan"}))
def test_each_operation_runs_the_one_of_its_name(name: str) -> None:
    """Goal: that the names fit is all that the type checker cannot see."""
    ours, theirs = getattr(Client, name), getattr(AsyncClient, name)
    assert inspect.unwrap(ours) is theirs
    assert (ours.__qualname__, ours.__module__) == (f"Client.{name}", Client.__module__)
    assert not inspect.iscoroutinefunction(ours)


def test_arguments_are_passed_on_by_place_and_by_name(fake_nodes: Any) -> None:
    with node_in_a_thread(fake_nodes) as node, Client(node.address) as client:
        client.put("k", value="v")
        client.range("a", end="b", limit=7, descending=True)
        (asked,) = node.requests[-1].reads.ranges
        assert (asked.key, asked.range_end, asked.limit) == (b"a", b"b", 7)
        assert asked.sort_order == kv_pb2.Range.DESCEND
        with pytest.raises(TypeError, match="colour"):
            client.put("k", "v", colour="red")  # type: ignore[call-arg]


def test_threads_share_a_client(fake_nodes: Any) -> None:
    with (
        node_in_a_thread(fake_nodes) as node,
        Client([node.address]) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        results = list(pool.map(lambda n: client.put(f"k{n}", "v"), range(50)))
        assert sorted(r.revision for r in results) == list(range(1, 51))
        found = client.get("k7")
        assert found is not None
        assert found.value == b"v"
        assert client.get("absent") is None


@pytest.mark.parametrize("with_uvloop", [True, False])
def test_a_client_runs_in_either_loop(
    fake_nodes: Any, with_uvloop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: uvloop is taken where there is one, and not missed elsewhere."""
    if not with_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    used: list[str] = []

    @contextlib.asynccontextmanager
    async def entered() -> AsyncIterator[AsyncClient]:
        used.append(type(asyncio.get_running_loop()).__module__)
        async with AsyncClient(node.address) as client:
            yield client

    with node_in_a_thread(fake_nodes) as node, Client.holding(entered) as client:
        assert client.put("k", "v").revision == 1
    assert used[0].startswith("uvloop") == with_uvloop


def test_errors_reach_the_calling_thread(fake_nodes: Any) -> None:
    with node_in_a_thread(fake_nodes) as node, Client([node.address]) as client:
        node.result_errors = {b"k": InvalidRequest("no")}
        with pytest.raises(InvalidRequest, match="no"):
            client.put("k", "v")


def test_a_closed_client_refuses() -> None:
    client = Client(["127.0.0.1:1"])
    with pytest.raises(Unavailable):
        client.put("k", "v", timeout_s=0.05)
    client.close()
    client.close()
    with pytest.raises(Closed):
        client.put("k", "v")


def test_closing_from_several_threads_waits_until_it_is_closed(fake_nodes: Any) -> None:
    with node_in_a_thread(fake_nodes) as node, ThreadPoolExecutor(4) as pool:
        client = Client([node.address])
        client.put("k", "v")
        for done in [pool.submit(client.close) for _ in range(4)]:
            done.result(10)
        assert not loop_threads()


def test_calls_racing_with_a_close_end_at_once(fake_nodes: Any) -> None:
    """Goal: no call is lost in a loop that ends. Method: threads that call without a
    pause while another closes, over and over; each must end by itself."""

    def call_until_closed(client: Client, begun: threading.Barrier) -> object:
        begun.wait(10)
        number = 0
        while True:
            try:
                client.put(f"{threading.get_ident()}/{number}", "v", timeout_s=60)
            except KVStoreError as error:
                return error
            number += 1

    with node_in_a_thread(fake_nodes) as node, ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            client = Client([node.address])
            begun = threading.Barrier(5)
            calls = [pool.submit(call_until_closed, client, begun) for _ in range(4)]
            begun.wait(10)
            client.put("one at least", "v")
            client.close()
            ends = {type(call.result(10)) for call in calls}
            assert ends <= {Closed, OutcomeUnknown, LeadershipLost}, ends


@pytest.mark.parametrize("taken_by", ["the waiting thread", "another thread"])
def test_an_interrupted_call_ends_and_the_client_goes_on(
    fake_nodes: Any, taken_by: str
) -> None:
    """Goal: Ctrl-C works while a call waits. Method: a real signal to this process,
    as soon as the node has the request. A signal that another thread takes does not
    wake the wait, and neither does one that comes just before it."""
    with node_in_a_thread(fake_nodes) as node, Client([node.address]) as client:
        client.put("warm", "up")
        main = threading.main_thread().ident
        assert main is not None

        def interrupt(request: object) -> str:
            here = threading.get_ident()
            target = main if taken_by == "the waiting thread" else here
            signal.pthread_kill(target, signal.SIGINT)
            return "hang"

        node.script = interrupt
        with pytest.raises(KeyboardInterrupt):
            client.put("k", "v", timeout_s=60)
        node.script = lambda _: None
        assert client.put("other", "v").revision == 2
        (thread,) = loop_threads()
        assert thread.is_alive()


def test_an_interrupt_while_a_store_opens_leaves_no_thread() -> None:
    """Goal: what was not opened needs no closing."""

    @contextlib.asynccontextmanager
    async def never() -> AsyncIterator[AsyncClient]:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        await asyncio.Event().wait()
        yield AsyncClient(["127.0.0.1:1"])

    with pytest.raises(KeyboardInterrupt):
        Client.holding(never)
    assert not loop_threads()


def test_an_interrupted_close_goes_on_and_can_be_waited_for() -> None:
    """Goal: Ctrl-C leaves no directory locked and no thread behind. Method: leaving
    interrupts who waits for it, and then takes until it is told to go on."""
    main = threading.main_thread().ident
    assert main is not None
    go_on = threading.Event()
    left: list[bool] = []

    @contextlib.asynccontextmanager
    async def entered() -> AsyncIterator[AsyncClient]:
        yield AsyncClient(["127.0.0.1:1"])
        signal.pthread_kill(main, signal.SIGINT)
        left.append(await asyncio.to_thread(go_on.wait, 10))

    client = Client.holding(entered)
    with pytest.raises(KeyboardInterrupt):
        client.close()
    with pytest.raises(Closed):
        client.put("k", "v")
    assert left == []
    go_on.set()
    client.close()
    assert left == [True]
    assert not loop_threads()


def test_what_leaving_raises_reaches_the_caller() -> None:
    @contextlib.asynccontextmanager
    async def entered() -> AsyncIterator[AsyncClient]:
        yield AsyncClient(["127.0.0.1:1"])
        raise OSError(errno.EIO, "it broke")

    client = Client.holding(entered)
    with pytest.raises(OSError, match="it broke"):
        client.close()
    assert not loop_threads()


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("new_event_loop", OSError(errno.EMFILE, "too many open files")),
        ("threading.Thread.start", RuntimeError("can't start new thread")),
    ],
    ids=["loop", "thread"],
)
def test_what_cannot_be_started_is_said(
    monkeypatch: pytest.MonkeyPatch, what: str, error: Exception
) -> None:
    """Goal: a process without descriptors or threads left learns that, and does not
    hang. Method: call from a thread beside the test, which could be left behind."""

    def refuse(*_: object) -> None:
        raise error

    client = Client(["127.0.0.1:1"])
    raised: list[BaseException] = []
    begin = threading.Event()

    def call() -> None:
        begin.wait(5)
        for _ in range(2):
            try:
                client.put("k", "v")
            except (OSError, RuntimeError, KVStoreError) as it:
                raised.append(it)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    monkeypatch.setattr(f"kvstore.client.loop_thread.{what}", refuse)
    begin.set()
    caller.join(5)
    assert not caller.is_alive()
    assert [type(it) for it in raised] == [type(error), Closed]
    client.close()
    assert not loop_threads()


def test_a_call_that_is_cancelled_in_the_loop_may_have_been_carried_out() -> None:
    """Goal: only what was certainly not applied is called so."""

    async def cancelled(_: None) -> None:
        raise asyncio.CancelledError

    thread = LoopThread(contextlib.nullcontext)
    with pytest.raises(OutcomeUnknown):
        thread.run(cancelled)
    thread.close()


def test_who_waits_while_it_is_closed_hears_what_became_of_it() -> None:
    """Goal: what is known of an operation is not lost in a loop that ends."""
    begun = threading.Event()

    @contextlib.asynccontextmanager
    async def entered() -> AsyncIterator[asyncio.Future[None]]:
        answer = asyncio.get_running_loop().create_future()
        yield answer
        answer.set_exception(Unavailable("not applied"))

    async def wait(answer: asyncio.Future[None]) -> None:
        begun.set()
        await answer

    with ThreadPoolExecutor(1) as pool:
        thread = LoopThread(entered)
        call = pool.submit(thread.run, wait)
        assert begun.wait(10)
        thread.close()
        with pytest.raises(Unavailable, match="not applied"):
            call.result(10)


def test_what_entering_raises_reaches_the_caller() -> None:
    @contextlib.asynccontextmanager
    async def broken() -> AsyncIterator[AsyncClient]:
        raise ConfigError("no good")
        yield

    with pytest.raises(ConfigError, match="no good"):
        Client.holding(broken)
    assert not loop_threads()


def test_constructing_a_client_starts_nothing() -> None:
    before = threading.active_count()
    client = Client(["127.0.0.1:1"])
    assert threading.active_count() == before
    client.close()


@pytest.mark.parametrize(
    "endpoints",
    [
        [],
        ["nowhere"],
        "nowhere",
        ["host:port"],
        ":7400",
        "host:",
        "host:-1",
        "host:²",
        "host:٣",
        "host:0",
        "host:65536",
        "host:" + "1" * 5_000,
        "::1:7400",
    ],
)
def test_endpoints_are_checked_at_once(endpoints: Any) -> None:
    with pytest.raises(ConfigError):
        Client(endpoints)


def test_one_endpoint_needs_no_list(fake_nodes: Any) -> None:
    with node_in_a_thread(fake_nodes) as node, Client(node.address) as client:
        assert client.put("k", "v").revision == 1


@pytest.mark.process
def test_a_program_may_end_without_closing(tmp_path: Path) -> None:
    """Goal: an exit is quiet and prompt, and what was acknowledged is there."""
    program = (
        "import sys, kvstore\n"
        "store = kvstore.open(sys.argv[1])\n"
        "store.put('k', 'v')\n"
        "client = kvstore.Client('127.0.0.1:1')\n"
        "try:\n"
        "    client.get('k', timeout_s=0.1)\n"
        "except kvstore.Unavailable:\n"
        "    print('unavailable')\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (outcome.returncode, outcome.stdout) == (0, "unavailable\n")
    assert outcome.stderr == ""
    with kvstore.open(tmp_path / "data") as store:
        assert store.get("k") is not None


def test_no_thread_is_left(fake_nodes: Any) -> None:
    with node_in_a_thread(fake_nodes) as node:
        with Client(node.address) as client:
            client.put("k", "v")
            assert loop_threads()
        assert not loop_threads()
