"""The threads of a node, and how they speak to its loop."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvstore.errors import Busy
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryId, EntryKind
from kvstore.replica.effects import Apply, Persist
from kvstore.rpc.errors import error_from_pb
from kvstore.server import state_thread
from kvstore.server.log_thread import LogThread
from kvstore.server.loop_calls import LoopCalls
from kvstore.server.node import MISSED_TICKS_MAX, Node
from kvstore.server.state_thread import Applied, ReadDone, ReadJob, StateThread
from kvstore.server.stores import Stores
from kvstore.state_machine.reads import SLICE_RECORDS
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.memory_log import MemoryLog
from kvstore.types import LogIndex, ReadyNumber, Term, Ticket
from tests.server.harness import configs, put, puts, run, running


class Loop:
    """Stands for an event loop: keeps what was called, in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.closed = False

    def call_soon_threadsafe(self, _callback: Any, value: Any) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.calls.append(value)

    def is_closed(self) -> bool:
        return self.closed


def calls_into(loop: Loop) -> LoopCalls:
    return LoopCalls(loop)  # type: ignore[arg-type]


def no_call(_: object) -> None: ...


# -------------------------------------------------------------------- the state


class StateBench:
    """A state thread whose work is queued before it starts: what it does is fixed."""

    def __init__(self, state: LMDBState, **settings: Any) -> None:
        self.loop = Loop()
        self.thread = StateThread(
            state,
            calls=calls_into(self.loop),
            on_applied=no_call,
            on_read=no_call,
            on_failure=no_call,
            name="kvstore-state-test",
            **{
                "response_bytes_max": 4 << 20,
                "session_timeout_ms": 1_000,
                "commit_interval_s": 60.0,
            }
            | settings,
        )
        self._last_index = state.progress.index

    def apply(self, *keys: str, value: bytes = b"v", groups: int = 1) -> None:
        """One entry of puts; ``groups`` 0: nobody waits for the results."""
        self._last_index = LogIndex(self._last_index + 1)
        data = puts(*keys, value=value)
        entry = Entry(Term(1), self._last_index, EntryKind.COMMANDS, data)
        self.thread.submit(Apply((entry,), ((len(keys),) if groups else (),)))

    def read(self, ticket: int, *ranges: kv_pb2.Range) -> None:
        self.thread.submit(ReadJob(Ticket(ticket), ranges))

    def finish(self) -> list[Any]:
        """Run to the end; what the loop was told."""
        self.thread.start()
        self.thread.close()
        return self.loop.calls


@pytest.fixture
def state(tmp_path: Path) -> Iterator[LMDBState]:
    (config,) = configs(tmp_path)
    stores = Stores.open(config)
    yield stores.state
    stores.close()


ALL = kv_pb2.Range(key=b"\0", range_end=b"\0", count_only=True)
LONG = 12 * SLICE_RECORDS


def fill(bench: StateBench) -> None:
    """More keys than a read takes in one go."""
    for first in range(0, LONG, 1_000):
        keys = [f"{number:06}" for number in range(first, first + 1_000)]
        bench.apply(*keys, groups=0)


def results_of(done: ReadDone) -> list[kv_pb2.Result]:
    return list(kv_pb2.ResultBatch.FromString(done.results).results)


def test_a_read_sees_what_was_submitted_before_it_and_nothing_after(
    state: LMDBState,
) -> None:
    bench = StateBench(state)
    bench.apply("a")
    bench.read(1, ALL)
    bench.apply("b")
    applied, read, _ = bench.finish()
    assert applied.last == EntryId(Term(1), LogIndex(1))
    assert results_of(read)[0].range.count == 1
    assert read.revision == 1


def test_a_long_range_does_not_delay_a_put(state: LMDBState) -> None:
    """Writes behind a read of many slices are answered before it is, and it still
    counts what was there at its moment."""
    bench = StateBench(state)
    fill(bench)
    bench.read(1, ALL)
    for number in range(3):
        bench.apply(f"late{number}")
    told = bench.loop.calls
    bench.thread.start()
    wait_for(lambda: any(isinstance(call, ReadDone) for call in told))
    bench.thread.close()
    kinds = [type(call) for call in told[LONG // 1_000 :]]
    assert kinds == [Applied, Applied, Applied, ReadDone]
    assert results_of(told[-1])[0].range.count == LONG


def test_a_long_range_goes_on_while_writes_never_pause(
    state: LMDBState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: no starvation. Method: more writes queued than the read needs slices."""
    monkeypatch.setattr(state_thread, "SLICE_PAUSE_S_MAX", 0.0)
    bench = StateBench(state)
    fill(bench)
    bench.read(1, ALL)
    for number in range(50):
        bench.apply(f"late{number}")
    kinds = [type(call) for call in bench.finish()[LONG // 1_000 :]]
    assert ReadDone in kinds[:20]
    assert kinds.count(Applied) == 50


def test_a_short_read_overtakes_a_long_one(state: LMDBState) -> None:
    bench = StateBench(state)
    fill(bench)
    bench.read(1, ALL)
    bench.read(2, kv_pb2.Range(key=b"000001"))
    told = bench.loop.calls
    bench.thread.start()
    wait_for(lambda: sum(isinstance(call, ReadDone) for call in told) == 2)
    bench.thread.close()
    assert [c.ticket for c in told if isinstance(c, ReadDone)] == [2, 1]


def wait_for(condition: Any) -> None:
    """For what another thread does."""
    pause = threading.Event()
    for _ in range(5_000):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("waited ten seconds in vain")


def test_an_answer_is_bounded_however_many_ranges_it_has(
    state: LMDBState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is refused by itself, and may be read again."""
    monkeypatch.setattr(state_thread, "ANSWER_BYTES_MAX", 1_000)
    bench = StateBench(state)
    bench.apply("a", "b", value=bytes(400))
    bench.read(1, *[kv_pb2.Range(key=b"a")] * 5)
    bench.read(2, kv_pb2.Range(key=b"a"), kv_pb2.Range(key=b"\0", range_end=b"\0"))
    *_, first, second = bench.finish()
    results = results_of(first)
    assert [r.HasField("error") for r in results] == [False] * 3 + [True] * 2
    error = error_from_pb(results[-1].error)
    assert isinstance(error, Busy)
    assert error.retryable
    # A range within what is left comes in pages, as any other.
    assert (len(results_of(second)[1].range.kvs), results_of(second)[1].range.more) == (
        1,
        True,
    )


def test_what_is_applied_reaches_the_disk_at_the_interval(state: LMDBState) -> None:
    """The log replays the rest; without it a crash would cost a long replay."""
    bench = StateBench(state, commit_interval_s=0.001)
    bench.apply("a")
    bench.thread.start()

    def committed() -> bool:
        with state.read_view() as view:
            return view.progress.index == 1

    wait_for(committed)
    bench.thread.close()


def test_a_thread_that_is_told_to_end_commits_first(state: LMDBState) -> None:
    bench = StateBench(state)
    bench.apply("a")
    bench.finish()
    with state.read_view() as view:
        assert view.progress.index == 1


def test_a_state_that_cannot_be_applied_is_reported_and_not_committed(
    state: LMDBState,
) -> None:
    bench = StateBench(state)
    bench.apply("a")
    entry = Entry(Term(1), LogIndex(2), EntryKind.COMMANDS, b"\x0a\xff")
    bench.thread.submit(Apply((entry,), ((),)))
    bench.apply("b")
    told = bench.finish()
    assert [type(call).__name__ for call in told] == ["Applied", "CorruptionError"]
    with state.read_view() as view:
        assert view.progress.index == 0


# ---------------------------------------------------------------------- the log


def log_thread(log: Any, loop: Loop) -> LogThread:
    return LogThread(
        log,
        calls=calls_into(loop),
        on_persisted=no_call,
        on_failure=no_call,
        name="kvstore-log-test",
    )


def persist(number: int) -> Persist:
    entry = Entry(Term(0), LogIndex(number), EntryKind.NOOP, b"")
    return Persist(ReadyNumber(number), None, (entry,))


def test_log_writes_are_reported_in_order_once_they_are_durable() -> None:
    loop, log = Loop(), MemoryLog()
    thread = log_thread(log, loop)
    for number in (1, 2, 3):
        thread.submit(persist(number))
    thread.start()
    thread.close()
    assert loop.calls == [1, 2, 3]
    assert log.last_index == 3


def test_after_a_refused_write_nothing_is_written_any_more() -> None:
    class Refusing(MemoryLog):
        def append(self, hard_state: Any, entries: Any) -> None:
            if entries[0].index == 2:
                raise OSError("the medium refused")
            super().append(hard_state, entries)

    loop, log = Loop(), Refusing()
    thread = log_thread(log, loop)
    for number in (1, 2, 3):
        thread.submit(persist(number))
    thread.start()
    thread.close()
    assert loop.calls[0] == 1
    assert isinstance(loop.calls[1], OSError)
    assert len(loop.calls) == 2
    assert log.last_index == 1


def test_a_thread_that_was_not_started_can_be_closed() -> None:
    log_thread(MemoryLog(), Loop()).close()


def test_a_loop_that_is_gone_is_nothing_to_a_thread() -> None:
    """A program may end its loop without closing the node."""
    loop, log = Loop(), MemoryLog()
    loop.closed = True
    thread = log_thread(log, loop)
    thread.submit(persist(1))
    thread.start()
    thread.close()
    assert log.last_index == 1


def test_a_loop_that_refuses_though_it_is_open_is_an_error() -> None:
    class Odd(Loop):
        def call_soon_threadsafe(self, _callback: Any, value: Any) -> None:
            raise RuntimeError(f"something else than {value}")

    with pytest.raises(RuntimeError):
        calls_into(Odd()).call(no_call, 1)


# --------------------------------------------------------------------- the timer


def test_late_ticks_are_made_up_for_once_and_few_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy loop must not make a node's time run faster than its clock, and a long
    pause must not look like a long silence of the leader."""

    async def scenario() -> None:
        async with running(
            tmp_path, tick_interval_ms=100, heartbeat_interval_ms=100
        ) as node:
            assert node._tick_timer is not None
            node._tick_timer.cancel()
            ticks: list[float] = []
            now = node._next_tick
            monkeypatch.setattr(
                type(node.replica), "tick", lambda _: ticks.append(round(now, 6))
            )
            loop = Clock()
            monkeypatch.setattr(node, "_loop", loop)
            start = node._next_tick
            for late in (0.0, 0.249, 0.301):
                loop.now = now = start + late
                node._on_tick()
            # Due at 0, 0.1, 0.2 and 0.3: four ticks, though one callback came late.
            assert len(ticks) == 4
            assert node._next_tick == pytest.approx(start + 0.4)
            ticks.clear()
            loop.now = now = start + 60
            node._on_tick()
            assert len(ticks) == 1 + MISSED_TICKS_MAX
            assert loop.now < node._next_tick <= loop.now + 0.1001
            monkeypatch.undo()

    run(scenario())


class Clock:
    """A loop's clock that the test sets; its timers never fire."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def call_at(self, _when: float, _callback: Any) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_at(loop.time() + 3_600, no_call, None)

    def call_soon(self, callback: Any) -> asyncio.Handle:
        return asyncio.get_running_loop().call_soon(callback)


def test_what_comes_in_one_turn_of_the_loop_is_decided_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group commit begins here."""

    async def scenario() -> None:
        async with running(tmp_path) as node:
            await put(node, "a")
            last = node.replica.raft.last_index
            await asyncio.gather(*(put(node, f"{n}") for n in range(100)))
            assert node.replica.raft.last_index - last <= 2

    run(scenario())


def test_a_node_is_entered_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as node:
            with pytest.raises(AssertionError):
                await Node.__aenter__(node)

    run(scenario())
