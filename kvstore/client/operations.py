"""The operations of a store, over whatever carries requests."""

import asyncio
import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from kvstore.errors import (
    Busy,
    Closed,
    CorruptionError,
    DeadlineExceeded,
    InvalidRequest,
    KVStoreError,
    OutcomeUnknown,
    Unavailable,
)
from kvstore.pb import kv_pb2
from kvstore.rpc.errors import clone, error_from_pb

TIMEOUT_S = 10.0
"""Default patience of one operation."""
BACKOFF_S_MIN = 0.01
BACKOFF_S_MAX = 0.5
REQUEST_COMMANDS_MAX = 4_096
REQUEST_BYTES_MAX = 1 << 20
"""Operations ready at one moment share a request up to here."""
OPEN_MAX = 65_536
"""Operations of one client not answered yet; past it callers wait to submit."""
OPEN_BYTES_MAX = 64 << 20
"""Bytes of the same."""
_CLOCK_TICK_S = 0.001

Text = bytes | str


def to_bytes(text: Text) -> bytes:
    """Text is UTF-8."""
    return text.encode() if isinstance(text, str) else text


def prefix_end(prefix: bytes) -> bytes:
    """The ``range_end`` that covers every key with ``prefix``."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0"


@dataclass(slots=True, eq=False)
class Pending:
    """One caller's operation. It belongs to the client, never to the caller's task."""

    encoded: bytes
    """A ``CommandBatch`` or ``RangeBatch`` of one: encoded batches concatenate."""
    is_read: bool
    waiting: asyncio.Future[kv_pb2.Result]
    deadline: float
    left: bool = False
    """It may have reached a node."""
    attempts: int = 0
    alone: bool = False
    """A request of its own, so that it fails or succeeds by itself."""


class Operations:
    """put, get, range, delete, txn, compact. Subclassed by what carries requests."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._writes: list[Pending] = []
        self._reads: list[Pending] = []
        self._flush_due = False
        self._open: set[Pending] = set()
        self._open_bytes = 0
        self._room = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._last_cause = "no node has answered"
        self._jitter = random.Random()

    @abstractmethod
    def _dispatch(self, request: kv_pb2.OperateRequest, group: list[Pending]) -> None:
        """Send, and call ``_settle`` once with the outcome."""

    async def put(
        self,
        key: Text,
        value: Text,
        *,
        prev_kv: bool = False,
        timeout_s: float | None = None,
    ) -> kv_pb2.PutResult:
        """Write a key.

        Raises:
            OutcomeUnknown: it may have been applied. Read before writing again.
            KVStoreError: any other: it was not applied.
        """
        batch = kv_pb2.CommandBatch()
        put = batch.commands.add().put  # in place: half the cost of copying it in
        put.key = to_bytes(key)
        put.value = to_bytes(value)
        if prev_kv:
            put.prev_kv = True
        return (await self._submit(batch.SerializeToString(), False, timeout_s)).put

    async def get(
        self, key: Text, *, revision: int = 0, timeout_s: float | None = None
    ) -> kv_pb2.KeyValue | None:
        """The pair at ``key``, linearizably; None if there is none."""
        request = kv_pb2.Range(key=to_bytes(key), revision=revision)
        found = await self._read(request, timeout_s)
        return found.kvs[0] if found.kvs else None

    async def range(
        self,
        key: Text = b"",
        range_end: Text = b"",
        *,
        prefix: Text | None = None,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        sort_by: kv_pb2.Range.SortTarget = kv_pb2.Range.KEY,
        descending: bool = False,
        timeout_s: float | None = None,
    ) -> kv_pb2.RangeResult:
        """Pairs in [key, range_end), or with ``prefix``; ``more`` says if cut.

        With neither, every pair. A ``range_end`` of one zero byte has no end.
        """
        start, end = to_bytes(key), to_bytes(range_end)
        if not start and prefix is None:
            prefix = b""
        if prefix is not None:
            start = to_bytes(prefix) or b"\0"
            end = prefix_end(to_bytes(prefix))
        order = kv_pb2.Range.DESCEND if descending else kv_pb2.Range.NONE
        request = kv_pb2.Range(
            key=start,
            range_end=end,
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
            sort_order=order,
            sort_target=sort_by,
        )
        return await self._read(request, timeout_s)

    async def delete(
        self,
        key: Text,
        range_end: Text = b"",
        *,
        prev_kv: bool = False,
        timeout_s: float | None = None,
    ) -> kv_pb2.DeleteRangeResult:
        """Delete a key, or [key, range_end). Raises as ``put``."""
        delete = kv_pb2.DeleteRange(
            key=to_bytes(key), range_end=to_bytes(range_end), prev_kv=prev_kv
        )
        command = kv_pb2.Command(delete_range=delete)
        return (await self._write(command, timeout_s)).delete_range

    async def txn(
        self,
        compare: Sequence[kv_pb2.Compare] = (),
        then: Sequence[kv_pb2.Operation] = (),
        otherwise: Sequence[kv_pb2.Operation] = (),
        *,
        timeout_s: float | None = None,
    ) -> kv_pb2.TxnResult:
        """Run ``then`` if all of ``compare`` holds, else ``otherwise``, atomically."""
        txn = kv_pb2.Txn(compare=compare, success=then, failure=otherwise)
        return (await self._write(kv_pb2.Command(txn=txn), timeout_s)).txn

    async def compact(
        self, revision: int, *, timeout_s: float | None = None
    ) -> kv_pb2.CompactResult:
        """Give up history below ``revision``."""
        compact = kv_pb2.Compact(revision=revision)
        return (await self._write(kv_pb2.Command(compact=compact), timeout_s)).compact

    # ---------------------------------------------------------------- plumbing

    async def _write(
        self, command: kv_pb2.Command, timeout_s: float | None
    ) -> kv_pb2.Result:
        encoded = kv_pb2.CommandBatch(commands=[command]).SerializeToString()
        return await self._submit(encoded, False, timeout_s)

    async def _read(
        self, request: kv_pb2.Range, timeout_s: float | None
    ) -> kv_pb2.RangeResult:
        encoded = kv_pb2.RangeBatch(ranges=[request]).SerializeToString()
        return (await self._submit(encoded, True, timeout_s)).range

    async def _submit(
        self, encoded: bytes, is_read: bool, timeout_s: float | None
    ) -> kv_pb2.Result:
        loop = asyncio.get_running_loop()
        patience_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = loop.time() + patience_s
        if len(self._open) >= OPEN_MAX or self._open_bytes >= OPEN_BYTES_MAX:
            await self._wait_for_room(deadline)
        if self._closed:
            raise Closed("the client is closed; nothing was sent")
        pending = Pending(encoded, is_read, loop.create_future(), deadline)
        self._open.add(pending)
        self._open_bytes += len(encoded)
        # One timer, at the earliest deadline: one for each operation costs too much.
        if self._sweep is None or deadline < self._sweep.when():
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

    async def _wait_for_room(self, deadline: float) -> None:
        """Backpressure: a caller past the bounds waits, within its deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                while len(self._open) >= OPEN_MAX or self._open_bytes >= OPEN_BYTES_MAX:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError as error:
            message = f"not sent in time: too much is in flight; {self._last_cause}"
            raise Unavailable(message) from error

    def _sweep_at(self, deadline: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_at(deadline, self._sweep_deadlines)

    def _sweep_deadlines(self) -> None:
        self._sweep = None
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

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Everything ready in this turn of the loop leaves together."""
        self._flush_due = False
        writes, self._writes = self._writes, []
        reads, self._reads = self._reads, []
        for group in _groups(writes):
            batch = b"".join([pending.encoded for pending in group])
            self._dispatch(kv_pb2.OperateRequest(writes=batch), group)
        for group in _groups(reads):
            request = kv_pb2.OperateRequest()
            batch = b"".join([pending.encoded for pending in group])
            request.reads.MergeFromString(batch)
            self._dispatch(request, group)

    def _settle(
        self,
        group: list[Pending],
        response: kv_pb2.OperateResponse | None,
        error: KVStoreError | None,
    ) -> bool:
        """Answer a group. Returns whether another node should be asked from now on."""
        if response is not None and response.HasField("error"):
            error = error_from_pb(response.error)
        if response is not None and error is None:
            results = response.results.results
            if len(results) == len(group):
                return self._settle_results(group, results)
            error = OutcomeUnknown(f"{len(results)} results to {len(group)} operations")
        assert error is not None
        if isinstance(error, InvalidRequest) and len(group) > 1:
            self._part(group, error)
            return False
        for pending in group:
            self._settle_error(pending, error)
        return _is_better_elsewhere(error)

    def _settle_results(
        self, group: list[Pending], results: Sequence[kv_pb2.Result]
    ) -> bool:
        elsewhere = False
        for pending, result in zip(group, results, strict=True):
            if result.HasField("error"):
                error = error_from_pb(result.error)
                elsewhere = elsewhere or _is_better_elsewhere(error)
                self._settle_error(pending, error)
            elif not pending.waiting.done():
                pending.waiting.set_result(result)
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
        if self._closed or not _may_repeat(pending, error):
            pending.waiting.set_exception(clone(error))
            return
        self._last_cause = str(error)
        pending.left = False
        pending.attempts += 1
        ceiling = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(pending.attempts, 16))
        loop = asyncio.get_running_loop()
        loop.call_later(self._jitter.uniform(0, ceiling), self._requeue, pending)

    def _requeue(self, pending: Pending) -> None:
        if pending.waiting.done():
            return
        if self._closed:
            message = f"the client closed; not applied: {self._last_cause}"
            pending.waiting.set_exception(Unavailable(message))
            return
        (self._reads if pending.is_read else self._writes).append(pending)
        self._flush_soon()

    def _give_up(self, pending: Pending) -> None:
        if pending.waiting.done():
            return
        if pending.left and not pending.is_read:
            message = "no answer in time; the write may have been applied"
            pending.waiting.set_exception(DeadlineExceeded(message))
        else:
            message = f"not done in time, and not applied: {self._last_cause}"
            pending.waiting.set_exception(Unavailable(message))


def _may_repeat(pending: Pending, error: KVStoreError) -> bool:
    """Whether sending again is safe and can help."""
    if isinstance(error, Closed):
        return True  # the node closed before the request: another may take it
    if pending.is_read:
        return error.retryable or not error.definite
    # Never again what may have been applied; and damage does not mend by writing.
    return error.definite and error.retryable and not isinstance(error, CorruptionError)


def _is_better_elsewhere(error: KVStoreError) -> bool:
    """Whether another node may do better than the one that said this."""
    if isinstance(error, Busy):
        return False
    return isinstance(error, Unavailable | CorruptionError | Closed)


def _groups(waiting: list[Pending]) -> list[list[Pending]]:
    """Requests' worth of operations, in order."""
    groups: list[list[Pending]] = []
    size = REQUEST_BYTES_MAX
    for pending in waiting:
        if pending.waiting.done():
            continue
        size += len(pending.encoded)
        if (
            size > REQUEST_BYTES_MAX
            or len(groups[-1]) >= REQUEST_COMMANDS_MAX
            or pending.alone
        ):
            groups.append([])
            # What follows one that goes alone opens a group of its own.
            size = REQUEST_BYTES_MAX if pending.alone else len(pending.encoded)
        groups[-1].append(pending)
    return groups
