"""Operations in flight: coalesced, timed, repeated where that is safe.

Callers that are ready at one moment share a request; each gets its own answer. An
operation in flight belongs to the pipeline, never to the task that awaits it.
"""

import asyncio
import math
import random
from collections.abc import Sequence

from kvstore.client.answering import ON_ITS_WAY_S, Answering
from kvstore.client.consistency import (
    LINEARIZABLE,
    Consistency,
    ReadLevel,
    options_to_pb,
)
from kvstore.client.outbox import Answer, Outbox, Pending, numbered, take
from kvstore.client.session import Sessions
from kvstore.client.transport import Transport
from kvstore.errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    KVStoreError,
    SessionExpired,
    Unavailable,
)
from kvstore.pb import cluster_pb2, kv_pb2

SESSIONS = True
"""Whether writes are numbered unless a client is told otherwise."""
BACKOFF_S_MIN = 0.01
BACKOFF_S_MAX = 0.5
REQUEST_COMMANDS_MAX = 4_096
REQUEST_BYTES_MAX = 1 << 20
"""Operations ready at one moment share a request up to here."""
OPEN_MAX = 65_536
"""Operations of one client not answered yet; past it callers wait to submit."""
OPEN_BYTES_MAX = 64 << 20
"""Bytes of the same."""
OPEN_NUMBERS_MAX = 65_536
"""Numbers of a session from the lowest that is not answered to the newest; past this
writes wait for that one. A node keeps the replies of so many, if they are small."""
REQUESTS_OPEN_MAX = 256
"""Requests of one connection not answered yet; past it operations wait, and share the
next request. Far below what a node takes by default (``stream_requests_max``): a node
that stops reading cannot answer pings either, and would pass for dead."""
_CLOCK_TICK_S = 0.001
_TIMEOUT_S_MAX = 1e6
"""What a node is told of a longer patience: its own limit is below that anyway."""
_NO_ROOM = "too much is in flight"
_CLOSED_BEFORE = "it was closed before the call; nothing was sent"
_CLOSED_MEANWHILE = "it was closed during the call; nothing was applied"


class Pipeline:
    """Carries encoded operations over a transport, each to its own answer.

    ``timeout_s`` is how long an operation may take that does not say so itself. With
    ``sessions`` a write is sent again after an unknown outcome, too, until its
    deadline: its number in the client's session makes that safe.

    Raises:
        ConfigError: ``timeout_s`` is not above 0.
    """

    def __init__(
        self, transport: Transport, *, timeout_s: float, sessions: bool = SESSIONS
    ) -> None:
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s is {timeout_s}; it must be above 0")
        self._transport = transport
        self._timeout_s = timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: Sessions | None = None
        if sessions:
            self._sessions = Sessions(
                transport,
                flush=self._flush_soon,
                fail=self._fail_writes,
                backoff_s=self._backoff_s,
            )
        self._answering = Answering(
            transport,
            self._sessions,
            repeat=self._repeat,
            backoff_s=self._backoff_s,
        )
        self._outbox = Outbox()
        self._flush_due = False
        self._stalled = False
        """Writes wait for numbers."""
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
        return await self.submit(encoded, timeout_s=timeout_s)

    async def read(
        self,
        request: kv_pb2.Range,
        timeout_s: float | None = None,
        *,
        level: ReadLevel = LINEARIZABLE,
    ) -> Answer:
        """Serve one range. Raises as :meth:`submit`.

        ``EpochChanged`` at ``SESSION``: once after the store was restored.
        """
        if level.consistency is Consistency.SESSION:
            self._answering.seen.raise_change()
        encoded = kv_pb2.RangeBatch(ranges=[request]).SerializeToString()
        return await self.submit(encoded, timeout_s=timeout_s, level=level)

    async def submit(
        self,
        encoded: bytes,
        *,
        timeout_s: float | None,
        level: ReadLevel | None = None,
    ) -> Answer:
        """Carry out an encoded ``CommandBatch`` of one, or ``RangeBatch`` at a level.

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
        pending = Pending(encoded, level, loop.create_future(), deadline)
        self._open.add(pending)
        self._open_bytes += len(encoded)
        # One timer, at the earliest deadline: one for each operation costs too much.
        if deadline < self._sweep_due:
            self._sweep_at(deadline)
        self._outbox.add(pending)
        if not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)
        try:
            return await pending.waiting
        finally:
            self._open.discard(pending)
            self._open_bytes -= len(encoded)
            self._room.set()
            if pending.session is not None:
                pending.session.answered(pending.number)
                if self._stalled:
                    self._flush_soon()

    async def status(
        self, endpoint: str | None, timeout_s: float | None
    ) -> cluster_pb2.StatusResponse:
        """What one node says of itself.

        Raises:
            Unavailable: it does not answer. Closed: the client is closed. Definite.
        """
        return await self._transport.status(endpoint, self.patience_s(timeout_s))

    def patience_s(self, timeout_s: float | None) -> float:
        """How long a request beside the pipeline may take.

        Raises:
            Closed: the client is closed. InvalidRequest: it is no time. Definite.
        """
        if self._closed:
            raise Closed(_CLOSED_BEFORE)
        patience_s = self._timeout_s if timeout_s is None else _checked(timeout_s)
        return min(patience_s, _TIMEOUT_S_MAX)

    async def close(self) -> None:
        """Answer everybody, and close the transport. Repeatable."""
        self._closed = True
        self._answering.close()
        if (connecting := self._connecting) is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        if self._sessions is not None:
            # Also makes sure that nothing which is still on its way is applied later.
            await self._sessions.close()
        await self._transport.close()
        # Who has left was answered by the transport: the rest waits for another try.
        for pending in self._open:
            self._answering.settle_error(pending, Closed(_CLOSED_MEANWHILE))
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
        if (pending.left or pending.in_doubt) and not pending.is_read:
            message = "no answer in time; the write may have been applied"
            pending.waiting.set_exception(DeadlineExceeded(message))
            return
        cause = "no answer" if pending.left else pending.cause
        if not cause and self._sessions is not None and not pending.is_read:
            cause = self._sessions.trouble
        cause = cause or _NO_ROOM
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
        self._stalled = False
        if self._closed:
            return
        transport, outbox = self._transport, self._outbox
        if not transport.ready:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
            return
        if transport.requests_open < REQUESTS_OPEN_MAX:
            for queue in outbox.turns():
                if queue[0].is_read:
                    self._send_reads(queue)
                elif queue[0].number:
                    self._send_repeats(queue)
                else:
                    self._send_writes(queue)
        if len(outbox) > 2 * len(self._open):
            outbox.forget_done()  # most have given up: they must not pile up here

    def _take(self, queue: list[Pending], commands_max: int) -> list[Pending]:
        """A request's worth of a queue; empty if there is none, or no room for it."""
        if self._transport.requests_open >= REQUESTS_OPEN_MAX:
            return []
        return take(queue, commands_max=commands_max, bytes_max=REQUEST_BYTES_MAX)

    def _send_reads(self, queue: list[Pending]) -> None:
        while group := self._take(queue, REQUEST_COMMANDS_MAX):
            level = group[0].level
            assert level is not None
            request = kv_pb2.OperateRequest()
            request.reads.MergeFromString(_joined(group))
            if level != LINEARIZABLE:
                options = options_to_pb(level, self._answering.seen)
                request.reads.options.CopyFrom(options)
            self._send(group, request)

    def _send_writes(self, queue: list[Pending]) -> None:
        """Those that have no number yet. With sessions they get one."""
        if self._sessions is None:
            while group := self._take(queue, REQUEST_COMMANDS_MAX):
                self._send(group, kv_pb2.OperateRequest(writes=_joined(group)))
            return
        now = asyncio.get_running_loop().time()
        session = self._sessions.usable(now)
        if session is None:
            self._outbox.forget_done()
            if queue:
                patience_s = max([pending.deadline for pending in queue]) - now
                self._sessions.open(patience_s)
            return
        while queue:
            commands_max = min(
                REQUEST_COMMANDS_MAX, OPEN_NUMBERS_MAX - session.open_numbers
            )
            if commands_max < 1:
                self._stalled = True
                return
            if not (group := self._take(queue, commands_max)):
                return
            first = session.take(len(group))
            for number, pending in enumerate(group, first):
                pending.session, pending.number = session, number
            writes = session.header(first, len(group)) + _joined(group)
            self._send(group, kv_pb2.OperateRequest(writes=writes), headers=(0,))

    def _send_repeats(self, queue: list[Pending]) -> None:
        """Those that have a number from an earlier attempt."""
        assert self._sessions is not None
        while taken := self._take(queue, REQUEST_COMMANDS_MAX):
            group = []
            for pending in taken:
                if self._sessions.is_reached(pending.session):
                    group.append(pending)
                else:
                    # By chance it could have a session of the same number.
                    error = SessionExpired("another cluster answers at the endpoint")
                    self._answering.settle_error(pending, error)
            if group:
                writes, headers = numbered(group)
                request = kv_pb2.OperateRequest(writes=writes)
                self._send(group, request, headers=headers)

    def _send(
        self,
        group: list[Pending],
        request: kv_pb2.OperateRequest,
        *,
        headers: Sequence[int] = (),
    ) -> None:
        """``headers`` says which commands of the request are none of the group's."""
        for pending in group:
            pending.left = True
        # The longest: a node that gives up early would fail those who still wait.
        deadline = max([pending.deadline for pending in group])
        now = asyncio.get_running_loop().time()
        remaining_s = min(deadline - now, _TIMEOUT_S_MAX)
        # A little less: its "not applied" is worth more than our "nobody knows".
        node_s = remaining_s - min(ON_ITS_WAY_S, remaining_s / 10)
        request.timeout_ms = max(1, int(node_s * 1_000))

        def done(
            response: kv_pb2.OperateResponse | None, error: KVStoreError | None
        ) -> bool:
            if headers and response is not None and not response.HasField("error"):
                note_heard(group, headers, now)
            if self._outbox:
                self._flush_soon()  # they wait for the room that this one took
            return self._answering.settle(group, headers, response, error)

        self._transport.send(request, done)

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
                    for pending in self._outbox.take_all():
                        self._answering.settle_error(pending, error)
                    return
                attempts += 1
                await asyncio.sleep(self._backoff_s(attempts))
        finally:
            self._connecting = None

    def _has_waiting(self) -> bool:
        """Whether a caller has not given up yet. Forgets those that have."""
        self._outbox.forget_done()
        return bool(self._outbox)

    def _fail_writes(self, error: KVStoreError) -> None:
        """There will be no session for those that wait for one."""
        waiting, self._outbox.writes = self._outbox.writes, []
        for pending in waiting:
            self._answering.settle_error(pending, error)

    def _backoff_s(self, attempts: int) -> float:
        ceiling = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(attempts, 16))
        return self._jitter.uniform(0, ceiling)

    def _repeat(self, pending: Pending, pause_s: float) -> None:
        if pause_s:
            loop = asyncio.get_running_loop()
            loop.call_later(pause_s, self._requeue, pending)
        else:
            self._requeue(pending)

    def _requeue(self, pending: Pending) -> None:
        if not pending.waiting.done():
            self._outbox.add(pending)
            self._flush_soon()


def note_heard(group: list[Pending], headers: Sequence[int], asked_s: float) -> None:
    """The nodes have carried out a request: they heard of each session in it.

    ``asked_s`` is when it left, by the loop's clock. A request that was refused may not
    have come to their log, and keeps no session alive. O(headers).
    """
    for before, place in enumerate(headers):
        session = group[place - before].session  # the headers are none of the group's
        if session is not None and session.active_s < asked_s:
            session.active_s = asked_s


def _checked(timeout_s: float) -> float:
    if not timeout_s >= 0:  # so that NaN is refused
        raise InvalidRequest(f"timeout_s is {timeout_s}; it must not be negative")
    return timeout_s


def _joined(group: list[Pending]) -> bytes:
    return b"".join([pending.encoded for pending in group])
