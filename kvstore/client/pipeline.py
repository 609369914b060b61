"""Operations in flight: coalesced, timed, repeated where that is safe.

Callers that are ready at one moment share a request; each gets its own answer. An
operation in flight belongs to the pipeline, never to the task that awaits it.
"""

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from kvstore.client.results import ResponseHeader, header_from_pb
from kvstore.client.transport import Transport
from kvstore.errors import (
    Busy,
    Closed,
    ConfigError,
    CorruptionError,
    DeadlineExceeded,
    InvalidRequest,
    KVStoreError,
    OutcomeUnknown,
    Unavailable,
)
from kvstore.pb import cluster_pb2, kv_pb2
from kvstore.rpc.errors import clone, error_from_pb

BACKOFF_S_MIN = 0.01
BACKOFF_S_MAX = 0.5
REQUEST_COMMANDS_MAX = 4_096
REQUEST_BYTES_MAX = 1 << 20
"""Operations ready at one moment share a request up to here."""
OPEN_MAX = 65_536
"""Operations of one client not answered yet; past it callers wait to submit."""
OPEN_BYTES_MAX = 64 << 20
"""Bytes of the same."""
REQUESTS_OPEN_MAX = 256
"""Requests of one connection not answered yet; past it operations wait, and share the
next request. Far below what a node takes by default (``stream_requests_max``): a node
that stops reading cannot answer pings either, and would pass for dead."""
_CLOCK_TICK_S = 0.001
_TIMEOUT_S_MAX = 1e6
"""What a node is told of a longer patience: its own limit is below that anyway."""
_ON_ITS_WAY_S_MAX = 0.1
"""A node gives up this long before its client, for its answer to come in time."""
_NO_ROOM = "too much is in flight"
_CLOSED_BEFORE = "it was closed before the call; nothing was sent"
_CLOSED_MEANWHILE = "it was closed during the call; nothing was applied"

Answer = tuple[kv_pb2.Result, ResponseHeader]


@dataclass(slots=True, eq=False)
class Pending:
    """One caller's operation. It belongs to the client, never to the caller's task."""

    encoded: bytes
    """A ``CommandBatch`` or ``RangeBatch`` of one: encoded batches concatenate."""
    is_read: bool
    waiting: asyncio.Future[Answer]
    deadline: float
    left: bool = False
    """It may have reached a node."""
    attempts: int = 0
    cause: str = ""
    """Why the last attempt failed."""
    alone: bool = False
    """A request of its own, so that it fails or succeeds by itself."""


class Pipeline:
    """Carries encoded operations over a transport, each to its own answer.

    ``timeout_s`` is how long an operation may take that does not say so itself.

    Raises:
        ConfigError: ``timeout_s`` is not above 0.
    """

    def __init__(self, transport: Transport, *, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s is {timeout_s}; it must be above 0")
        self._transport = transport
        self._timeout_s = timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writes: list[Pending] = []
        self._reads: list[Pending] = []
        self._flush_due = False
        self._reads_first = False
        self._open: set[Pending] = set()
        self._open_bytes = 0
        self._room = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_due = math.inf
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        self._jitter = random.Random()

    async def write(
        self, command: kv_pb2.Command, timeout_s: float | None = None
    ) -> Answer:
        """Carry out one command. Raises as :meth:`submit`."""
        encoded = kv_pb2.CommandBatch(commands=[command]).SerializeToString()
        return await self.submit(encoded, is_read=False, timeout_s=timeout_s)

    async def read(
        self, request: kv_pb2.Range, timeout_s: float | None = None
    ) -> Answer:
        """Serve one range. Raises as :meth:`submit`."""
        encoded = kv_pb2.RangeBatch(ranges=[request]).SerializeToString()
        return await self.submit(encoded, is_read=True, timeout_s=timeout_s)

    async def submit(
        self, encoded: bytes, *, is_read: bool, timeout_s: float | None
    ) -> Answer:
        """Carry out an encoded ``CommandBatch`` or ``RangeBatch`` of one.

        Raises:
            OutcomeUnknown: the write may have been applied.
            KVStoreError: any other: it was not applied.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        patience_s = self._timeout_s if timeout_s is None else _checked(timeout_s)
        deadline = loop.time() + patience_s
        if len(self._open) >= OPEN_MAX or self._open_bytes >= OPEN_BYTES_MAX:
            await self._wait_for_room(deadline)
        if self._closed:
            raise Closed(_CLOSED_BEFORE)
        pending = Pending(encoded, is_read, loop.create_future(), deadline)
        self._open.add(pending)
        self._open_bytes += len(encoded)
        # One timer, at the earliest deadline: one for each operation costs too much.
        if deadline < self._sweep_due:
            self._sweep_at(deadline)
        (self._reads if is_read else self._writes).append(pending)
        if not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)
        try:
            return await pending.waiting
        finally:
            self._open.discard(pending)
            self._open_bytes -= len(encoded)
            self._room.set()

    async def status(
        self, endpoint: str | None, timeout_s: float | None
    ) -> cluster_pb2.StatusResponse:
        """What one node says of itself.

        Raises:
            Unavailable: it does not answer. Closed: the client is closed. Definite.
        """
        if self._closed:
            raise Closed(_CLOSED_BEFORE)
        patience_s = self._timeout_s if timeout_s is None else _checked(timeout_s)
        return await self._transport.status(endpoint, min(patience_s, _TIMEOUT_S_MAX))

    async def close(self) -> None:
        """Answer everybody, and close the transport. Repeatable."""
        self._closed = True
        if (connecting := self._connecting) is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        await self._transport.close()
        # Who has left was answered by the transport: the rest waits for another try.
        for pending in self._open:
            self._settle_error(pending, Closed(_CLOSED_MEANWHILE))
        if self._sweep is not None:
            self._sweep.cancel()
        self._room.set()

    # ------------------------------------------------------------------ waiting

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The first call decides; what is in flight is of that loop."""
        if self._loop is not None:
            message = "it belongs to the event loop in which it was first used"
            raise RuntimeError(f"{message}: open one in each")
        self._loop = loop

    async def _wait_for_room(self, deadline: float) -> None:
        """Backpressure: a caller past the bounds waits, within its deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                while not self._closed and (
                    len(self._open) >= OPEN_MAX or self._open_bytes >= OPEN_BYTES_MAX
                ):
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError as error:
            raise Unavailable(f"not sent in time: {_NO_ROOM}") from error

    def _sweep_at(self, deadline: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_at(deadline, self._sweep_deadlines)
        self._sweep_due = deadline

    def _sweep_deadlines(self) -> None:
        self._sweep = None
        self._sweep_due = math.inf
        # A timer may come a clock tick early.
        now = asyncio.get_running_loop().time() + _CLOCK_TICK_S
        later = None
        for pending in self._open:
            if pending.deadline <= now:
                self._give_up(pending)
            elif later is None or pending.deadline < later:
                later = pending.deadline
        if later is not None:
            self._sweep_at(later)

    def _give_up(self, pending: Pending) -> None:
        if pending.waiting.done():
            return
        if pending.left and not pending.is_read:
            message = "no answer in time; the write may have been applied"
            pending.waiting.set_exception(DeadlineExceeded(message))
            return
        cause = "no answer" if pending.left else pending.cause or _NO_ROOM
        if not self._transport.ready:
            cause = self._transport.trouble
        message = f"not done in time, and not applied: {cause}"
        pending.waiting.set_exception(Unavailable(message))

    # ------------------------------------------------------------------ sending

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Everything ready in this turn of the loop leaves together, given room."""
        self._flush_due = False
        if self._closed:
            return
        if not self._transport.ready:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
            return
        if self._reads_first:
            self._send_all(self._reads)
            self._send_all(self._writes)
        else:
            self._send_all(self._writes)
            self._send_all(self._reads)
        # Where each answer makes room for one request, neither kind starves the other.
        self._reads_first = bool(self._reads) and not self._reads_first
        if len(self._writes) + len(self._reads) > 2 * len(self._open):
            self._has_waiting()  # most have given up: they must not pile up here

    def _send_all(self, waiting: list[Pending]) -> None:
        transport = self._transport
        while waiting and transport.requests_open < REQUESTS_OPEN_MAX:
            group, size = _group(waiting)
            del waiting[:size]
            if group:
                self._send(group)

    def _send(self, group: list[Pending]) -> None:
        batch = b"".join([pending.encoded for pending in group])
        request = kv_pb2.OperateRequest()
        if group[0].is_read:
            request.reads.MergeFromString(batch)
        else:
            request.writes = batch
        for pending in group:
            pending.left = True
        # The longest: a node that gives up early would fail those who still wait.
        deadline = max([pending.deadline for pending in group])
        remaining_s = deadline - asyncio.get_running_loop().time()
        remaining_s = min(remaining_s, _TIMEOUT_S_MAX)
        # A little less: its "not applied" is worth more than our "nobody knows".
        node_s = remaining_s - min(_ON_ITS_WAY_S_MAX, remaining_s / 10)
        request.timeout_ms = max(1, int(node_s * 1_000))
        self._transport.send(
            request, lambda response, error: self._settle(group, response, error)
        )

    async def _connect(self) -> None:
        """Until the transport is ready, or nobody waits for it any more."""
        attempts = 0
        try:
            while self._has_waiting():
                try:
                    await self._transport.connect()
                    self._flush_soon()
                    return
                except Unavailable:
                    pass  # the transport remembers why
                except KVStoreError as error:
                    waiting = self._writes + self._reads
                    self._writes, self._reads = [], []
                    for pending in waiting:
                        self._settle_error(pending, error)
                    return
                attempts += 1
                await asyncio.sleep(self._backoff_s(attempts))
        finally:
            self._connecting = None

    def _has_waiting(self) -> bool:
        """Whether a caller has not given up yet. Forgets those that have."""
        self._writes = [it for it in self._writes if not it.waiting.done()]
        self._reads = [it for it in self._reads if not it.waiting.done()]
        return bool(self._writes or self._reads)

    def _backoff_s(self, attempts: int) -> float:
        ceiling = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(attempts, 16))
        return self._jitter.uniform(0, ceiling)

    # ---------------------------------------------------------------- answering

    def _settle(
        self,
        group: list[Pending],
        response: kv_pb2.OperateResponse | None,
        error: KVStoreError | None,
    ) -> bool:
        """Answer a group. Returns whether another node should be asked from now on."""
        if self._writes or self._reads:
            self._flush_soon()  # they wait for the room that this one took
        if response is not None and response.HasField("error"):
            error = error_from_pb(response.error)
        if response is not None and error is None:
            results = response.results.results
            if len(results) == len(group):
                header = header_from_pb(response.header)
                return self._settle_results(group, results, header)
            error = OutcomeUnknown(f"{len(results)} results to {len(group)} operations")
        assert error is not None
        if isinstance(error, InvalidRequest) and len(group) > 1:
            self._part(group, error)
            return False
        for pending in group:
            self._settle_error(pending, error)
        return _is_better_elsewhere(error)

    def _settle_results(
        self,
        group: list[Pending],
        results: Sequence[kv_pb2.Result],
        header: ResponseHeader,
    ) -> bool:
        elsewhere = False
        for pending, result in zip(group, results, strict=True):
            if result.HasField("error"):
                error = error_from_pb(result.error)
                elsewhere = elsewhere or _is_better_elsewhere(error)
                self._settle_error(pending, error)
            elif not pending.waiting.done():
                pending.waiting.set_result((result, header))
        return elsewhere

    def _part(self, group: list[Pending], error: InvalidRequest) -> None:
        """One operation made the node refuse all: the others go again at once.

        Safe, because the refusal is definite. If it does not say which one is at fault,
        each goes alone.
        """
        index = error.command_index
        named = index is not None and index < len(group)
        for place, pending in enumerate(group):
            if named and place == index:
                self._settle_error(pending, error)
                continue
            pending.alone = not named
            pending.left = False
            self._requeue(pending)

    def _settle_error(self, pending: Pending, error: KVStoreError) -> None:
        if pending.waiting.done():
            return
        if not self._may_repeat(pending, error):
            copy = clone(error)
            copy.__cause__ = error.__cause__
            pending.waiting.set_exception(copy)
            return
        if self._closed:
            pending.waiting.set_exception(Closed(_CLOSED_MEANWHILE))
            return
        pending.cause = str(error)
        pending.left = False
        pending.attempts += 1
        pause_s = self._backoff_s(pending.attempts)
        asyncio.get_running_loop().call_later(pause_s, self._requeue, pending)

    def _may_repeat(self, pending: Pending, error: KVStoreError) -> bool:
        """Whether sending again is safe and can help."""
        if isinstance(error, Closed | CorruptionError) and not self._transport.recovers:
            return False
        if isinstance(error, Closed):
            return True  # the node closed before the request: another may take it
        if pending.is_read:
            return error.retryable or not error.definite
        # Never again what may have been applied; and damage does not mend by writing.
        mends = not isinstance(error, CorruptionError)
        return error.definite and error.retryable and mends

    def _requeue(self, pending: Pending) -> None:
        if pending.waiting.done():
            return
        (self._reads if pending.is_read else self._writes).append(pending)
        self._flush_soon()


def _checked(timeout_s: float) -> float:
    if not timeout_s >= 0:  # so that NaN is refused
        raise InvalidRequest(f"timeout_s is {timeout_s}; it must not be negative")
    return timeout_s


def _is_better_elsewhere(error: KVStoreError) -> bool:
    """Whether another node may do better than the one that said this."""
    if isinstance(error, Busy):
        return False
    return isinstance(error, Unavailable | CorruptionError | Closed)


def _group(waiting: list[Pending]) -> tuple[list[Pending], int]:
    """A request's worth of operations, in order, and from how many it was picked."""
    group: list[Pending] = []
    size = 0
    for place, pending in enumerate(waiting):
        if pending.waiting.done():
            continue
        size += len(pending.encoded)
        if group and (
            size > REQUEST_BYTES_MAX
            or len(group) >= REQUEST_COMMANDS_MAX
            or pending.alone
        ):
            return group, place
        group.append(pending)
        if pending.alone:
            return group, place + 1
    return group, len(waiting)
