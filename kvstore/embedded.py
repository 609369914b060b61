"""One durable node inside the process: no network, the same operations."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kvstore.client.blocking import Blocking
from kvstore.client.operations import Operations, Pending
from kvstore.config import Config
from kvstore.pb import kv_pb2
from kvstore.server.founding import found_alone_if_empty
from kvstore.server.node import Node


class AsyncStore(Operations):
    """An embedded node's operations. Use as ``async with kvstore.open_async(path)``."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._node = Node(Config(data_dir=path, network=False))
        self._path = path

    async def __aenter__(self) -> Self:
        """Open the store, founding it if the directory is empty.

        Raises:
            DataDirectoryError, CorruptionError: the message says what to do.
        """
        await asyncio.to_thread(found_alone_if_empty, self._path)
        await self._node.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the node. What was acknowledged is durable, closed or not."""
        self._closed = True
        await self._node.close()

    def _dispatch(self, request: kv_pb2.OperateRequest, group: list[Pending]) -> None:
        for pending in group:
            pending.left = True
        waiting = asyncio.ensure_future(self._node.operate(request))
        waiting.add_done_callback(lambda done: self._settle(group, done.result(), None))


def open_async(path: str | Path) -> AsyncStore:
    """A durable store in directory ``path``, for asyncio."""
    return AsyncStore(Path(path))


def open(path: str | Path) -> Blocking:  # noqa: A001 - as of a file
    """A durable store in directory ``path``, blocking, usable from any thread.

    ::

        with kvstore.open("data") as store:
            store.put("key", "value")

    Raises:
        DataDirectoryError, CorruptionError: the message says what to do.
    """

    async def make() -> tuple[Operations, Callable[[], Any]]:
        store = await open_async(path).__aenter__()
        return store, store.close

    return Blocking(make)
