"""The one thread that writes the Raft store."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from kvstore.replica.effects import Persist
from kvstore.server.loop_calls import LoopCalls
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.types import ReadyNumber

LogWork = Callable[[LMDBLog], None]
LogCall = tuple[LogWork, Callable[[None], None]]


def _nothing(_: None) -> None: ...


class LogThread:
    """Works on the Raft store, one thing after the other; answers on the event loop."""

    def __init__(
        self,
        log: LMDBLog,
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
        self._queue: SimpleQueue[Persist | LogCall | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Persist) -> None:
        """Append; a snapshot is not this thread's business alone."""
        assert work.snapshot is None
        self._queue.put(work)

    def call(self, work: LogWork, done: Callable[[None], None] = _nothing) -> None:
        """Do something to the log that is no append, then call ``done`` on the loop."""
        self._queue.put((work, done))

    def close(self) -> None:
        """Finish what was submitted; blocks until it is durable."""
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        with self._calls.reporting(self._on_failure):
            while (work := self._queue.get()) is not None:
                if isinstance(work, Persist):
                    self._log.append(work.hard_state, work.entries)
                    self._calls.call(self._on_persisted, work.number)
                else:
                    act, done = work
                    act(self._log)
                    self._calls.call(done, None)
