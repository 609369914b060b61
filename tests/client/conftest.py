"""A node that answers as it is told to: real gRPC, no store behind it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from kvstore.errors import InvalidRequest, KVStoreError, SessionExpired
from kvstore.pb import kv_pb2, kv_pb2_grpc
from kvstore.rpc.errors import error_to_pb
from kvstore.rpc.options import SERVER_OPTIONS

PATIENCE_S = 10.0

Script = Callable[[kv_pb2.OperateRequest], "KVStoreError | str | None"]
"""What to do with a request: refuse with an error, "drop" the stream, "hang", "hold" it
until :meth:`FakeNode.release`, or None for an answer."""
Answer = Callable[[kv_pb2.OperateResponse], Awaitable[None]]


def commands(request: kv_pb2.OperateRequest) -> list[kv_pb2.Command]:
    """Those that a caller asked for."""
    batch = kv_pb2.CommandBatch.FromString(request.writes)
    return [it for it in batch.commands if not it.HasField("session_commands")]


class SessionTable:
    """What the nodes of one cluster remember of their clients: the server's half."""

    def __init__(self) -> None:
        self.open: dict[int, dict[int, kv_pb2.Result]] = {}
        self.acknowledged: dict[int, int] = {}
        self.opened = 0
        self.closed: list[int] = []
        self.repeated = 0
        """Commands that came again and were answered from memory."""
        self.timeout_ms = 600_000

    def expire(self) -> None:
        """Forget every session, as a leader does with those that are silent."""
        self.open.clear()


def keys(request: kv_pb2.OperateRequest) -> list[bytes]:
    if request.WhichOneof("operations") == "writes":
        return [command.put.key for command in commands(request)]
    return [r.key for r in request.reads.ranges]


class FakeNode(kv_pb2_grpc.KVServicer):
    """Keeps what it was sent, in order, and a dictionary of what it applied."""

    def __init__(self, sessions: SessionTable | None = None) -> None:
        self.sessions = sessions or SessionTable()
        self.open_script: Script = lambda _request: None
        """As ``script``, for requests that open a session."""
        self.cluster_id = b""
        self.requests: list[kv_pb2.OperateRequest] = []
        self.applied: list[bytes] = []
        self.pairs: dict[bytes, bytes] = {}
        self.pings = 0
        self.answer_pings = True
        self.ping_gate = asyncio.Event()
        self.ping_gate.set()
        self.script: Script = lambda _request: None
        self.result_errors: dict[bytes, KVStoreError] = {}
        self.header = kv_pb2.ResponseHeader(node_id=1)
        self.more = 0
        """Reads that are told that there is more."""
        self.streams = 0
        self.port = 0
        self._held: list[tuple[kv_pb2.OperateRequest, Answer]] = []
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def writes(self) -> list[kv_pb2.OperateRequest]:
        return [r for r in self.requests if r.WhichOneof("operations") == "writes"]

    @property
    def sent_keys(self) -> list[bytes]:
        return [key for request in self.writes for key in keys(request)]

    async def start(self) -> None:
        self._server = grpc.aio.server(options=list(SERVER_OPTIONS))
        kv_pb2_grpc.add_KVServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def release(self) -> None:
        """Apply and answer what is held, in order, as a slow node would."""
        held, self._held = self._held, []
        for request, answer in held:
            await answer(self._apply(request))

    async def Operate(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        writing = asyncio.Lock()  # gRPC takes one message of a call at a time

        async def answer(response: kv_pb2.OperateResponse) -> None:
            async with writing:
                await context.write(response)

        self.streams += 1
        self._changed.set()
        async for request in request_iterator:
            if request.WhichOneof("operations") == "ping":
                self.pings += 1
                self._changed.set()
                await self.ping_gate.wait()
                if self.answer_pings:
                    header = kv_pb2.ResponseHeader(cluster_id=self.cluster_id)
                    pong = kv_pb2.OperateResponse(id=request.id, header=header)
                    await answer(pong)
                continue
            if _about_session(request):
                verdict = self.open_script(request)
            else:
                self.requests.append(request)
                self._changed.set()
                verdict = self.script(request)
            if verdict == "drop":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "told to drop")
            elif verdict == "apply and drop":
                self._apply(request)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "told to drop")
            elif isinstance(verdict, KVStoreError):
                error = error_to_pb(verdict)
                await answer(kv_pb2.OperateResponse(id=request.id, error=error))
            elif verdict == "hold":
                self._held.append((request, answer))
            elif verdict is None:
                await answer(self._apply(request))

    def _apply(self, request: kv_pb2.OperateRequest) -> kv_pb2.OperateResponse:
        response = kv_pb2.OperateResponse(id=request.id, header=self.header)
        add = response.results.results.add
        if request.WhichOneof("operations") == "reads":
            for wanted in request.reads.ranges:
                result = add()
                if (error := self.result_errors.pop(wanted.key, None)) is not None:
                    result.error.CopyFrom(error_to_pb(error))
                    continue
                result.range.revision = len(self.applied)
                result.range.more = self.more > 0
                self.more -= 1
                if wanted.key in self.pairs:
                    value = self.pairs[wanted.key]
                    result.range.kvs.add(key=wanted.key, value=value)
            return response
        replies: dict[int, kv_pb2.Result] | None = None
        session_id = number = left = 0
        for command in kv_pb2.CommandBatch.FromString(request.writes).commands:
            result = add()
            match command.WhichOneof("command"):
                case "open_session":
                    self.sessions.opened += 1
                    result.session.session_id = self.sessions.opened
                    result.session.timeout_ms = self.sessions.timeout_ms
                    self.sessions.open[self.sessions.opened] = {}
                case "close_session":
                    session_id = command.close_session.session_id
                    self.sessions.open.pop(session_id, None)
                    self.sessions.closed.append(session_id)
                    self._changed.set()
                    result.session.session_id = session_id
                case "session_commands":
                    header = command.session_commands
                    assert not left
                    assert header.count >= 1
                    session_id = header.session_id
                    number, left = header.first_number, header.count
                    replies = self.sessions.open.get(session_id)
                    if replies is None:
                        result.error.CopyFrom(error_to_pb(SessionExpired("gone")))
                        continue
                    result.session.session_id = session_id
                    done = max(
                        header.acknowledged,
                        self.sessions.acknowledged.get(session_id, 0),
                    )
                    self.sessions.acknowledged[session_id] = done
                    for old in [it for it in replies if it <= done]:
                        del replies[old]
                case _ if not left:
                    self._put(command.put, result)
                case _:
                    self._put_once(session_id, number, replies, command.put, result)
                    number, left = number + 1, left - 1
        assert not left
        return response

    def _put_once(
        self,
        session_id: int,
        number: int,
        replies: dict[int, kv_pb2.Result] | None,
        put: kv_pb2.Put,
        result: kv_pb2.Result,
    ) -> None:
        if replies is None:
            result.error.CopyFrom(error_to_pb(SessionExpired("gone")))
        elif number <= self.sessions.acknowledged[session_id]:
            result.error.CopyFrom(error_to_pb(InvalidRequest("acknowledged")))
        elif number in replies:
            self.sessions.repeated += 1
            result.CopyFrom(replies[number])
        else:
            self._put(put, result)
            if not (result.HasField("error") and result.error.code == "Busy"):
                replies[number] = kv_pb2.Result()
                replies[number].CopyFrom(result)

    def _put(self, put: kv_pb2.Put, result: kv_pb2.Result) -> None:
        if (error := self.result_errors.get(put.key)) is not None:
            result.error.CopyFrom(error_to_pb(error))
            return
        self.applied.append(put.key)
        self.pairs[put.key] = put.value
        result.put.revision = len(self.applied)


def _about_session(request: kv_pb2.OperateRequest) -> bool:
    """Whether it opens or closes one, and does nothing for a caller."""
    if request.WhichOneof("operations") != "writes":
        return False
    first = kv_pb2.CommandBatch.FromString(request.writes).commands[0]
    return first.WhichOneof("command") in {"open_session", "close_session"}


@contextlib.asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[FakeNode]]:
    sessions = SessionTable()
    made = [FakeNode(sessions) for _ in range(count)]
    for node in made:
        await node.start()
    try:
        yield made
    finally:
        for node in made:
            await node.stop()


@pytest.fixture
def fake_nodes() -> Any:
    return nodes
