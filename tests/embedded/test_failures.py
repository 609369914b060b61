"""An embedded store that cannot go on says so at once, and never hangs its callers."""

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import kvstore
from kvstore.errors import Closed, CorruptionError, KVStoreError, OutcomeUnknown
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.lmdb_state import LMDBState

PROMPTLY_S = 5.0
"""Far below the ten seconds after which a caller would give up by itself."""


class Fault:
    """Makes a method of a store wait for, or raise, what a test says."""

    def __init__(self, original: Callable[..., object]) -> None:
        self._original = original
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()

    def __get__(self, store: object, _: type) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            self.reached.set()
            self.gate.wait()
            if self.error is not None:
                raise self.error
            return self._original(store, *args, **kwargs)

        return call


@pytest.fixture
def log_fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    fault = Fault(LMDBLog.append)
    monkeypatch.setattr(LMDBLog, "append", fault)
    return fault


@pytest.fixture
def head_fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    fault = Fault(LMDBState.head)
    monkeypatch.setattr(LMDBState, "head", fault)
    return fault


async def outcome(waiting: "asyncio.Future[kvstore.PutResult]") -> KVStoreError | None:
    try:
        await waiting
    except KVStoreError as error:
        return error
    return None


def test_a_disk_that_fails_ends_everything_at_once(
    tmp_path: Path, log_fault: Fault
) -> None:
    """Goal: who waits learns that the outcome is unknown; who comes later, that nothing
    was done; both, why. Method: the log's write raises EIO with five writes in it."""

    async def scenario() -> None:
        async with kvstore.open_async(tmp_path / "data") as store:
            await store.put("before", "v")
            log_fault.error = OSError(errno.EIO, "it broke")
            async with asyncio.timeout(PROMPTLY_S):
                puts = [
                    asyncio.ensure_future(store.put(f"k{n}", "v")) for n in range(5)
                ]
                failed = await asyncio.gather(*(outcome(put) for put in puts))
                assert all(isinstance(it, OutcomeUnknown) for it in failed), failed
                with pytest.raises(Closed, match="it broke") as refusal:
                    await store.put("later", "v")
                assert isinstance(refusal.value.__cause__, OSError)
                with pytest.raises(Closed, match="it broke"):
                    await store.get("before")
                with pytest.raises(Closed, match="it broke"):
                    await store.status()
        log_fault.error = None
        async with kvstore.open_async(tmp_path / "data") as store:
            assert await store.get("before") is not None
            assert await store.get("later") is None

    asyncio.run(scenario())


def test_a_read_under_way_when_the_node_fails_is_not_forgotten(
    tmp_path: Path, head_fault: Fault, log_fault: Fault
) -> None:
    """Method: the thread that reads stands still while the log fails beside it."""

    async def scenario() -> None:
        async with kvstore.open_async(tmp_path / "data") as store:
            await store.put("k", "v")
            head_fault.gate.clear()
            head_fault.reached.clear()
            read = asyncio.ensure_future(store.get("k"))
            await asyncio.to_thread(head_fault.reached.wait, PROMPTLY_S)
            log_fault.error = OSError(errno.EIO, "it broke")
            async with asyncio.timeout(PROMPTLY_S):
                with pytest.raises(OutcomeUnknown):
                    await store.put("k2", "v")
                with pytest.raises(Closed, match="it broke"):
                    await read
            head_fault.gate.set()

    try:
        asyncio.run(scenario())
    finally:
        head_fault.gate.set()


def test_a_damaged_record_fails_its_reader_at_once_and_nobody_else(
    tmp_path: Path, head_fault: Fault
) -> None:
    """Goal: there is no other node to ask, so the error is not held back."""
    with kvstore.open(tmp_path / "data") as store:
        store.put("k", "v")
        head_fault.error = CorruptionError("rotten")
        with pytest.raises(CorruptionError, match="rotten"):
            store.get("k")
        head_fault.error = None
        assert store.get("k") is not None


def test_closing_answers_what_is_in_flight(tmp_path: Path, log_fault: Fault) -> None:
    async def scenario() -> None:
        async with kvstore.open_async(tmp_path / "data") as store:
            await store.put("before", "v")
            log_fault.gate.clear()
            log_fault.reached.clear()
            put = asyncio.ensure_future(store.put("k", "v"))
            await asyncio.to_thread(log_fault.reached.wait, PROMPTLY_S)
            await store.close()
            assert isinstance(await outcome(put), OutcomeUnknown)
            with pytest.raises(Closed):
                await store.put("later", "v")
            await store.close()
            log_fault.gate.set()
        with pytest.raises(Closed):
            await store.get("before")

    try:
        asyncio.run(scenario())
    finally:
        log_fault.gate.set()


def test_a_node_that_is_closed_beneath_its_client_refuses(tmp_path: Path) -> None:
    """Goal: a member's owner may stop it while others in the process still call."""

    kvstore.open(tmp_path / "data").close()
    config = kvstore.Config(data_dir=tmp_path / "data", network=False)

    async def scenario() -> None:
        async with kvstore.Node(config) as node, kvstore.client_of(node) as store:
            await store.put("k", "v")
            await node.close()
            async with asyncio.timeout(PROMPTLY_S):
                with pytest.raises(Closed):
                    await store.put("k", "v")

    asyncio.run(scenario())


def test_a_bug_in_the_node_reaches_the_loop_and_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: an exception that nobody foresaw is reported as what it is, and its caller
    does not wait for the deadline."""

    async def scenario() -> None:
        told: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with kvstore.open_async(tmp_path / "data") as store:
            await store.put("k", "v")

            def begin_operation(*_: object) -> None:
                raise ZeroDivisionError

            monkeypatch.setattr("kvstore.embedded.begin_operation", begin_operation)
            async with asyncio.timeout(PROMPTLY_S):
                with pytest.raises(OutcomeUnknown):
                    await store.put("k", "v")
        assert [type(it) for it in told] == [ZeroDivisionError]

    asyncio.run(scenario())
