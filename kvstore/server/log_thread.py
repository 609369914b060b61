"""The one thread that writes the Raft store."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from kvstore.replica.effects import Persist
from kvstore.replica.interfaces import LogStorage
from kvstore.server.loop_calls import LoopCalls
from kvstore.types import ReadyNumber


class LogThread:
    """Makes log writes durable one after the other, and says so on the event loop."""

    def __init__(
        self,
        log: LogStorage,
        *,
        calls: LoopCalls,
        on_persisted: Callable[[ReadyNumber], None],
        on_failure: Callable[[BaseException], None],
        name: str,
    ) -> None:
        self._log = log
        self._calls = calls
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
        with self._calls.reporting(self._on_failure):
            while (work := self._queue.get()) is not None:
                self._log.append(work.hard_state, work.entries)
                self._calls.call(self._on_persisted, work.number)
