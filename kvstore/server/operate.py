"""One client's Operate stream, and single requests in the same form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import grpc

from kvstore.errors import Busy, InvalidRequest, KVStoreError, OutcomeUnknown
from kvstore.pb import kv_pb2
from kvstore.rpc.errors import error_to_pb
from kvstore.rpc.options import MESSAGE_BYTES_MAX
from kvstore.server.requests import AS_WRITTEN, Confirmed
from kvstore.types import Revision

if TYPE_CHECKING:
    from kvstore.server.node import Node

RESULTS_BYTES_MAX = MESSAGE_BYTES_MAX - 1024 * 1024
"""More in one message would break the stream, with all that is in flight on it."""

OperateContext = grpc.aio.ServicerContext[kv_pb2.OperateRequest, kv_pb2.OperateResponse]


def begin_operation(
    node: Node,
    request: kv_pb2.OperateRequest,
    answer: Callable[[kv_pb2.OperateResponse], None],
) -> None:
    """Start one request; ``answer`` is called once, on the loop, perhaps at once."""
    request_id = request.id

    def done(
        results: bytes,
        revision: Revision,
        error: KVStoreError | None,
        confirmed: Confirmed,
    ) -> None:
        if error is not None:
            answer(
                kv_pb2.OperateResponse(
                    id=request_id, header=node.header(), error=error_to_pb(error)
                )
            )
            return
        response = kv_pb2.OperateResponse(
            id=request_id, header=node.header(revision, confirmed)
        )
        if len(results) > RESULTS_BYTES_MAX:
            response.error.CopyFrom(error_to_pb(too_large(len(results))))
        else:
            response.results.MergeFromString(results)
        answer(response)

    try:
        match request.WhichOneof("operations"):
            case "writes":
                node.begin_writes(request.writes, request.timeout_ms, done)
            case "reads":
                node.begin_reads(request.reads, request.timeout_ms, done)
            case "ping":
                done(b"", node.applied_revision, None, AS_WRITTEN)
            case _:
                raise InvalidRequest("the request names no operations")
    except KVStoreError as error:
        done(b"", Revision(0), error, AS_WRITTEN)


async def operate(node: Node, request: kv_pb2.OperateRequest) -> kv_pb2.OperateResponse:
    """One request, in this process. A cancelled caller does not take the write back."""
    waiting: asyncio.Future[kv_pb2.OperateResponse]
    waiting = asyncio.get_running_loop().create_future()

    def answer(response: kv_pb2.OperateResponse) -> None:
        if not waiting.done():
            waiting.set_result(response)

    begin_operation(node, request, answer)
    return await waiting


def too_large(size: int) -> OutcomeUnknown:
    """The error of writes that were applied, with more to say than can be sent."""
    return OutcomeUnknown(
        f"the batch was applied, but its results have {size} bytes, over the "
        f"{RESULTS_BYTES_MAX} that can be sent: ask for fewer pairs in one batch"
    )


class OperateStream:
    """Requests in, answers out in the order in which they come to be.

    Past ``stream_requests_max`` open requests all but pings are refused with ``Busy``,
    definitely; past twice as many the stream is not read.
    """

    def __init__(self, node: Node, context: OperateContext) -> None:
        self._node = node
        self._context = context
        self._answers: list[kv_pb2.OperateResponse] = []
        self._open_requests = 0
        self._ended = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    async def run(self, requests: AsyncIterator[kv_pb2.OperateRequest]) -> None:
        """Until the client has said its last and everything is answered."""
        writing = asyncio.create_task(self._write())
        writing.add_done_callback(lambda _: self._room.set())
        maximum = self._node.config.stream_requests_max
        try:
            async for request in requests:
                self._open_requests += 1
                if self._open_requests <= maximum or request.HasField("ping"):
                    begin_operation(self._node, request, self._answer)
                else:
                    # Read on and refuse: behind it may be a ping, and to a client that
                    # hears nothing a node that does not read is a dead one.
                    self._answer(self._refusal(request, maximum))
                while self._open_requests >= 2 * maximum and not writing.done():
                    # The client does not fetch what it is told. HTTP/2 flow control
                    # now holds it; nothing piles up here.
                    self._room.clear()
                    await self._room.wait()
                if writing.done():
                    break  # nobody can be answered any more
            self._ended = True
            self._wake.set()
            await writing
        finally:
            writing.cancel()

    def _refusal(
        self, request: kv_pb2.OperateRequest, maximum: int
    ) -> kv_pb2.OperateResponse:
        message = f"{maximum} requests of this stream are not answered yet"
        error = Busy(message, queue="stream_requests", maximum=maximum)
        return kv_pb2.OperateResponse(
            id=request.id, header=self._node.header(), error=error_to_pb(error)
        )

    def _answer(self, response: kv_pb2.OperateResponse) -> None:
        self._answers.append(response)
        self._wake.set()

    async def _write(self) -> None:
        while not self._ended or self._open_requests:
            await self._wake.wait()
            self._wake.clear()
            answers, self._answers = self._answers, []
            for answer in answers:
                try:
                    await self._context.write(answer)
                except grpc.aio.BaseError:
                    return  # the client is gone; gRPC is about to cancel the call
                # Not before: an answer that the client does not fetch takes up room.
                self._open_requests -= 1
                self._room.set()
