"""The asyncio client of a cluster: several endpoints, one stream, failover."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from kvstore.client.operations import TIMEOUT_S, Operations, Pending
from kvstore.client.stream import OperateStream, Patience
from kvstore.errors import ConfigError, KVStoreError, Unavailable
from kvstore.pb import kv_pb2


class AsyncClient(Operations):
    """Operations on a cluster; any node takes them.

    Fails over between endpoints by itself. A write that may have been applied is never
    repeated: its caller gets ``OutcomeUnknown``.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout_s: float = TIMEOUT_S,
        patience: Patience | None = None,
    ) -> None:
        super().__init__(timeout_s=timeout_s)
        if not endpoints:
            raise ConfigError("a client needs at least one HOST:PORT")
        self._endpoints = list(endpoints)
        self._next = 0
        self._patience = patience or Patience()
        self._stream: OperateStream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._draining: dict[asyncio.Task[None], OperateStream] = {}
        self._unsent: list[Pending] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Requests in flight fail as of unknown outcome."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        draining = dict(self._draining)
        for task, stream in draining.items():
            task.cancel()
            await stream.close()
        await asyncio.gather(*draining, return_exceptions=True)
        if self._stream is not None:
            await self._stream.close()
        self._refuse_unsent(Unavailable("the client closed; nothing was sent"))

    def _dispatch(self, request: kv_pb2.OperateRequest, group: list[Pending]) -> None:
        stream = self._stream
        if stream is None or stream.broken:
            self._unsent.extend(group)
            if self._connecting is None and not self._closed:
                self._connecting = asyncio.create_task(self._connect())
            return
        for pending in group:
            pending.left = True
        # The longest: a node that gives up early would fail those who still wait.
        deadline = max(pending.deadline for pending in group)
        remaining_s = deadline - asyncio.get_running_loop().time()
        request.timeout_ms = max(1, int(remaining_s * 1_000))

        def done(
            response: kv_pb2.OperateResponse | None, error: KVStoreError | None
        ) -> None:
            elsewhere = self._settle(group, response, error)
            if elsewhere and self._stream is stream and len(self._endpoints) > 1:
                self._leave(stream)

        stream.send(request, done)

    def _leave(self, stream: OperateStream) -> None:
        """Ask another node from now on; what is in flight here is still answered."""
        self._stream = None
        draining = asyncio.create_task(stream.drain())
        self._draining[draining] = stream
        draining.add_done_callback(lambda task: self._draining.pop(task, None))

    async def _connect(self) -> None:
        """Try the next endpoint; what cannot be sent waits out a backoff."""
        old, self._stream = self._stream, None
        if old is not None:
            await old.close()
        endpoint = self._endpoints[self._next % len(self._endpoints)]
        self._next += 1
        stream = OperateStream(endpoint, self._patience)
        try:
            await stream.open()
        except Unavailable as error:
            self._connecting = None
            self._refuse_unsent(error)
            return
        self._stream = stream
        self._connecting = None
        unsent, self._unsent = self._unsent, []
        for pending in unsent:
            # Not as it was: whose caller has given up meanwhile must not be sent.
            self._requeue(pending)

    def _refuse_unsent(self, error: KVStoreError) -> None:
        unsent, self._unsent = self._unsent, []
        for pending in unsent:
            self._settle_error(pending, error)
