"""Requests of clients on their way through a node: checked, named, answered once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from kvstore.errors import (
    InvalidRequest,
    KVStoreError,
    LeadershipLost,
    RequestTooLarge,
    Unavailable,
)
from kvstore.pb import kv_pb2
from kvstore.state_machine.commands import validate_batch, validate_range
from kvstore.state_machine.limits import Limits
from kvstore.types import Revision, Ticket


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What the answer to a read is worth."""

    consistency: kv_pb2.Consistency
    staleness_ms: int | None
    """Everything acknowledged longer ago is in it; None: nothing is known of that."""


AS_WRITTEN = Confirmed(kv_pb2.LINEARIZABLE, None)
"""Of the answer to a write, which is at home at its revision."""

Answer = Callable[[bytes, Revision, KVStoreError | None, Confirmed], None]
"""Called once, on the event loop: an encoded ``ResultBatch`` and the revision it was
made at, or an error."""


@dataclass(slots=True)
class Request:
    """A client waits for it."""

    answer: Answer
    ranges: Sequence[kv_pb2.Range] | None
    """What to read; None for a write."""
    confirmed: Confirmed = AS_WRITTEN


class Requests:
    """What this node owes its clients. Each request is answered exactly once.

    They belong to the node, never to the task that awaits one: a caller that is
    cancelled takes nothing back.
    """

    __slots__ = ("_last_ticket", "_open", "reads")

    def __init__(self) -> None:
        self._open: dict[Ticket, Request] = {}
        self._last_ticket = 0
        self.reads = 0
        """How many of them read."""

    def __len__(self) -> int:
        return len(self._open)

    def next_ticket(self) -> Ticket:
        """A name that no request had before."""
        self._last_ticket += 1
        return Ticket(self._last_ticket)

    def add(
        self, ticket: Ticket, answer: Answer, ranges: Sequence[kv_pb2.Range] | None
    ) -> None:
        """Owe an answer."""
        self._open[ticket] = Request(answer, ranges)
        self.reads += ranges is not None

    def ranges(self, ticket: Ticket) -> Sequence[kv_pb2.Range] | None:
        """What a read is to read; None if it was answered meanwhile."""
        request = self._open.get(ticket)
        return None if request is None else request.ranges

    def confirmed(self, ticket: Ticket, confirmed: Confirmed) -> None:
        """It is known how a read is confirmed."""
        if (request := self._open.get(ticket)) is not None:
            request.confirmed = confirmed

    def answer(
        self,
        ticket: Ticket,
        results: bytes,
        revision: Revision,
        error: KVStoreError | None = None,
    ) -> None:
        """Answer a request, unless it was given up."""
        if (request := self._open.pop(ticket, None)) is not None:
            self.reads -= request.ranges is not None
            request.answer(results, revision, error, request.confirmed)

    def abandon(self) -> None:
        """The node ends: nobody will answer what is left. Writes may be applied yet."""
        for ticket, request in list(self._open.items()):
            if request.ranges is None:
                error: KVStoreError = LeadershipLost(
                    "the node stopped with the write in flight; "
                    "it may have been applied"
                )
            else:
                error = Unavailable("the node stopped; read at another one")
            self.answer(ticket, b"", Revision(0), error)


def check_writes(writes: bytes, limits: Limits) -> int:
    """Check an encoded ``CommandBatch`` of a client; returns how many commands it has.

    Raises:
        InvalidRequest: also ``RequestTooLarge``; ``command_index`` may name a command.
            Definite.
    """
    try:
        batch = kv_pb2.CommandBatch.FromString(writes)
    except DecodeError as error:
        raise InvalidRequest("writes is not an encoded CommandBatch") from error
    validate_batch(batch, limits, size=len(writes))
    return len(batch.commands)


def check_reads(reads: kv_pb2.RangeBatch, limits: Limits) -> Sequence[kv_pb2.Range]:
    """Check a client's reads; returns them.

    Raises:
        InvalidRequest: also ``RequestTooLarge``; ``command_index`` may name a range.
            Definite.
    """
    _check_request_bytes(reads.ByteSize(), limits)
    ranges = list(reads.ranges)
    maximum = limits.batch_commands_max
    _check_options(reads.options)
    if len(ranges) > maximum:
        raise RequestTooLarge(
            f"the batch: {len(ranges)} reads are over batch_commands_max ({maximum})",
            limit="batch_commands_max",
            actual=len(ranges),
            maximum=maximum,
        )
    for index, request in enumerate(ranges):
        try:
            validate_range(request, limits)
        except InvalidRequest as error:
            error.command_index = index
            raise
    return ranges


def _check_options(options: kv_pb2.ReadOptions) -> None:
    """Refuse what makes no sense, rather than ignore it."""
    level = options.consistency
    if level not in kv_pb2.Consistency.values():
        raise InvalidRequest(f"consistency {level} is not known here")
    if (level == kv_pb2.BOUNDED) != bool(options.staleness_ms_max):
        raise InvalidRequest(
            "staleness_ms_max belongs to BOUNDED reads, which need it: 1 or more"
        )
    if level != kv_pb2.SESSION and (options.revision_min or options.epoch):
        raise InvalidRequest("revision_min and epoch belong to SESSION reads")
    if options.revision_min < 0:
        raise InvalidRequest("revision_min is below 0")


def _check_request_bytes(size: int, limits: Limits) -> None:
    if size > limits.request_bytes_max:
        raise RequestTooLarge(
            f"the request: {size} bytes are over request_bytes_max "
            f"({limits.request_bytes_max})",
            limit="request_bytes_max",
            actual=size,
            maximum=limits.request_bytes_max,
        )
