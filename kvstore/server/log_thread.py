"""The one thread that writes the Raft store."""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from kvstore.errors import KVStoreError
from kvstore.replica.effects import Persist
from kvstore.replica.interfaces import LogStorage
from kvstore.types import ReadyNumber

_T = TypeVar("_T")

STORAGE_FAILURES = (KVStoreError, OSError, MemoryError)
"""What a store can raise. None is retried: after a failed fsync a second one that
succeeds proves nothing, because the kernel marks the pages clean (ATC'20 fsync)."""


class LogThread:
    """Makes log writes durable one after the other, and says so on the event loop."""

    def __init__(
        self,
        log: LogStorage,
        *,
        loop: asyncio.AbstractEventLoop,
        on_persisted: Callable[[ReadyNumber], None],
        on_failure: Callable[[BaseException], None],
        name: str,
    ) -> None:
        self._log = log
        self._loop = loop
        self._on_persisted = on_persisted
        self._on_failure = on_failure
        self._queue: SimpleQueue[Persist | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Persist) -> None:
        self._queue.put(work)

    def close(self) -> None:
        """Finish what was submitted; blocks until it is durable."""
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                self._log.append(work.hard_state, work.entries)
            except STORAGE_FAILURES as error:
                self._tell(self._on_failure, error)
                return
            self._tell(self._on_persisted, work.number)

    def _tell(self, callback: Callable[[_T], None], value: _T) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, value)
