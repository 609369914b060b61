"""The one thread that owns the state store's write transaction.

It applies entries, serves reads in between from the same transaction, and commits now
and then: the log holds what a crash takes. A long read is cut into slices, so that
writes behind it do not wait for its end; and it gets a slice now and then even if
writes never pause.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from kvstore.errors import Busy, KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.messages import EntryId
from kvstore.replica.effects import Apply
from kvstore.rpc.errors import error_to_pb
from kvstore.server.loop_calls import LoopCalls
from kvstore.state_machine import machine
from kvstore.state_machine.reads import read_range
from kvstore.storage.lmdb_state import LMDBState
from kvstore.types import Revision, Ticket

T = TypeVar("T")

ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Pairs in the answer to one request, however many ranges it has: half of what gRPC is
set up to carry. Each range has ``response_bytes_max`` to itself within it."""
SLICE_PAUSE_S_MAX = 0.02
"""A long read goes on after this much of other work."""


@dataclass(slots=True)
class ReadJob:
    """Ranges to read at one moment."""

    ticket: Ticket
    ranges: Sequence[kv_pb2.Range]


@dataclass(slots=True)
class StateCall(Generic[T]):
    """Something else to be done with the state, between applying and reading."""

    work: Callable[[LMDBState], T]
    done: Callable[[T], None]
    """Called on the event loop."""


@dataclass(slots=True)
class StateSwap:
    """The state is replaced by what ``open_next`` opens, once this one is closed."""

    open_next: Callable[[], LMDBState]
    done: Callable[[LMDBState], None]
    """Called on the event loop."""


@dataclass(slots=True)
class ReadDone:
    """What one ``ReadJob`` came to."""

    ticket: Ticket
    results: bytes
    """Encoded ``ResultBatch``: a range that failed has its error for a result."""
    revision: Revision


@dataclass(slots=True)
class Applied:
    """What one ``Apply`` came to."""

    last: EntryId
    results: list[tuple[EntryId, list[bytes]]]
    revision: Revision
    compact_revision: Revision
    compaction_pending: bool
    sessions: int
    """Client sessions open."""


Work = Apply | ReadJob | StateCall[Any] | StateSwap


class StateThread:
    """Applies and reads in the order submitted; answers on the event loop."""

    def __init__(
        self,
        state: LMDBState,
        *,
        calls: LoopCalls,
        response_bytes_max: int,
        session_timeout_ms: int,
        commit_interval_s: float,
        on_applied: Callable[[Applied], None],
        on_read: Callable[[ReadDone], None],
        on_failure: Callable[[BaseException], None],
        name: str,
    ) -> None:
        self._state = state
        self._calls = calls
        self._response_bytes_max = response_bytes_max
        self._session_timeout_ms = session_timeout_ms
        self._commit_interval_s = commit_interval_s
        self._on_applied = on_applied
        self._on_read = on_read
        self._on_failure = on_failure
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._swapped = False
        self._long_reads: deque[Iterator[ReadDone | None]] = deque()
        self._commit_due: float | None = None
        self._slice_due = 0.0
        """When a long read must go on, whatever else there is to do."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Work) -> None:
        self._queue.put(work)

    def close(self) -> None:
        """Finish what was submitted and commit; blocks until then.

        A state that was swapped in is closed, for perhaps nobody else has heard of it.
        """
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join()
            if self._swapped:
                self._state.close()

    # -------------------------------------------------------------- the thread

    def _run(self) -> None:
        with self._calls.reporting(self._on_failure):
            try:
                while self._turn():
                    pass
                self._commit()
            finally:
                if self._state.in_transaction:
                    self._state.abort()

    def _turn(self) -> bool:
        """Carry out one piece of work; False when told to end."""
        try:
            work = self._next()
        except Empty:
            self._commit_if_due()
            self._continue_long_read()
            return True
        match work:
            case None:
                return False
            case Apply():
                self._apply(work)
            case ReadJob():
                self._advance(self._read(work))
            case StateCall():
                self._calls.call(work.done, work.work(self._state))
            case StateSwap():
                self._swap(work)
        self._commit_if_due()
        if self._long_reads and time.monotonic() >= self._slice_due:
            self._continue_long_read()
        return True

    def _swap(self, work: StateSwap) -> None:
        # Nobody is answered from a state that is gone: let long reads end first.
        while self._long_reads:
            self._continue_long_read()
        self._commit()
        self._state.close()
        self._state = work.open_next()
        self._swapped = True
        self._calls.call(work.done, self._state)

    def commit(self, state: LMDBState) -> None:
        """On the state's thread: commit what is applied so far, durably."""
        assert state is self._state
        self._commit()
        state.environment.sync()

    def _next(self) -> Work | None:
        """Raises ``Empty`` when something else is due first."""
        if self._long_reads:
            return self._queue.get_nowait()
        if self._commit_due is None:
            return self._queue.get()
        patience = self._commit_due - time.monotonic()
        if patience <= 0:
            return self._queue.get_nowait()
        return self._queue.get(timeout=patience)

    def _apply(self, work: Apply) -> None:
        state = self._state
        results: list[tuple[EntryId, list[bytes]]] = []
        for entry, groups in zip(work.entries, work.groups, strict=True):
            if not state.in_transaction:
                state.begin()
                self._commit_due = time.monotonic() + self._commit_interval_s
            answers = machine.apply(
                state,
                entry,
                want_results=bool(groups),
                response_bytes_max=self._response_bytes_max,
                session_timeout_ms=self._session_timeout_ms,
            )
            if groups:
                done = EntryId(entry.term, entry.index)
                results.append((done, machine.encode_groups(answers, groups)))
        last = work.entries[-1]
        progress = state.progress
        applied = Applied(
            last=EntryId(last.term, last.index),
            results=results,
            revision=progress.revision,
            compact_revision=progress.compact_revision,
            compaction_pending=progress.compaction_pending,
            sessions=len(state.sessions),
        )
        self._calls.call(self._on_applied, applied)

    def _commit_if_due(self) -> None:
        if self._commit_due is not None and time.monotonic() >= self._commit_due:
            self._commit()

    def _commit(self) -> None:
        self._commit_due = None
        if self._state.in_transaction:
            self._state.commit()

    # ------------------------------------------------------------------- reads

    def _read(self, job: ReadJob) -> Iterator[ReadDone | None]:
        """Yields None between slices, and the answer at the end."""
        batch = kv_pb2.ResultBatch()
        revision = self._state.progress.revision
        bytes_left = ANSWER_BYTES_MAX
        for request in job.ranges:
            result = batch.results.add()
            try:
                if bytes_left <= 0:
                    raise answer_is_full()
                found = yield from read_range(
                    self._state,
                    request,
                    revision=revision,
                    response_bytes_max=min(self._response_bytes_max, bytes_left),
                )
            except KVStoreError as error:
                # It concerns whoever asked for this range; the others have their own.
                result.error.CopyFrom(error_to_pb(error))
                continue
            bytes_left -= found.ByteSize()
            result.range.CopyFrom(found)
        yield ReadDone(job.ticket, batch.SerializeToString(), revision)

    def _advance(self, reading: Iterator[ReadDone | None]) -> None:
        done = next(reading)
        if done is None:
            self._long_reads.append(reading)
        else:
            self._calls.call(self._on_read, done)

    def _continue_long_read(self) -> None:
        if self._long_reads:
            self._advance(self._long_reads.popleft())
            self._slice_due = time.monotonic() + SLICE_PAUSE_S_MAX


def answer_is_full() -> Busy:
    """The error of a range whose fellows have filled the answer. Read it again."""
    return Busy(
        f"the other ranges of the request have {ANSWER_BYTES_MAX} bytes of pairs",
        queue="answer_bytes",
        maximum=ANSWER_BYTES_MAX,
    )
