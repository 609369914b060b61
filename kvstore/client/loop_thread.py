"""An event loop in a thread of its own, for callers that block."""

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from kvstore.errors import Closed, OutcomeUnknown
from kvstore.event_loop import new_event_loop

_T = TypeVar("_T")
_R = TypeVar("_R")

INTERRUPT_S = 0.25
"""How long an interrupt can go unnoticed. A signal that another thread takes, or that
comes just before the wait, does not wake a waiting thread: it has to look."""


class LoopThread(Generic[_T]):
    """Enters an async context in an event loop of its own, and runs calls in it.

    The thread starts with the first call and ends with ``close``. Calls may come from
    any thread at any time. It does not survive a fork: a child has no such thread.
    """

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[_T]]) -> None:
        self._make = make
        self._process_id = os.getpid()
        # Held to check and submit, so that nothing is submitted to a loop that ends.
        # Re-entrant, because a signal handler may close what its thread is calling.
        self._lock = threading.RLock()
        self._closed = False
        self._running: _Running[_T] | None = None

    def start(self) -> None:
        """Enter the context now. Raises what entering raises, and is closed then."""
        with self._lock:
            self._started()

    def run(self, call: Callable[[_T], Coroutine[object, object, _R]]) -> _R:
        """Run a call on the loop and wait for it.

        An exception in the waiting thread itself, as ``KeyboardInterrupt``, cancels it.

        Raises:
            Closed: it was not run. Definite.
            OutcomeUnknown: it was cancelled in the loop, wherever it was then.
        """
        if os.getpid() != self._process_id:
            message = "it was opened before this process was forked: open it in each"
            raise Closed(f"{message} process")
        with self._lock:
            running = self._started()
            future = running.submit(call(running.entered))
        try:
            return _result(future)
        except concurrent.futures.CancelledError as error:
            raise OutcomeUnknown("it was cancelled during the call") from error
        finally:
            future.cancel()

    def _started(self) -> "_Running[_T]":
        if self._closed:
            raise Closed("it was closed before the call; nothing was sent")
        if self._running is None:
            # Stays so if entering fails: whoever else waits for the lock is told.
            self._closed = True
            running = _Running(self._make())
            running.start()
            self._running, self._closed = running, False
        return self._running

    def close(self) -> None:
        """Leave the context and end the thread. Raises what leaving raises.

        Twice is fine. An interrupt ends the wait, not the leaving: that goes on, and a
        second ``close`` waits for it again.
        """
        if os.getpid() != self._process_id:
            return  # the parent's to close
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._running.stop()


class _Running(Generic[_T]):
    """The thread, its loop, and what was entered in it.

    The loop's main task enters and leaves: no wait in another thread that is given up
    can break either off half-way.
    """

    def __init__(self, context: AbstractAsyncContextManager[_T]) -> None:
        self._context = context
        self._begun: concurrent.futures.Future[asyncio.Task[None]]
        self._begun = concurrent.futures.Future()
        self._ready: concurrent.futures.Future[_T] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(
            target=self._serve, name="kvstore-loop", daemon=True
        )
        self.entered: _T

    def start(self) -> None:
        """Raises what entering raises. Nothing is left running then."""
        try:
            self._start_thread()
            self.entered = _result(self._ready)
        except BaseException:
            self._abandon()
            raise

    def submit(
        self, work: Coroutine[object, object, _R]
    ) -> concurrent.futures.Future[_R]:
        return asyncio.run_coroutine_threadsafe(work, self._begun.result().get_loop())

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before
            self._begun.result().get_loop().call_soon_threadsafe(self._stop.set)
        self._join()
        self._ended.result()

    def _start_thread(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has none to give
            self._fail(error)

    def _abandon(self) -> None:
        """Entering failed, or is not waited for any more."""
        if self._begun.exception() is None:
            main = self._begun.result()
            with contextlib.suppress(RuntimeError):  # the loop has ended before
                main.get_loop().call_soon_threadsafe(main.cancel)
        self._join()

    def _join(self) -> None:
        # Not in ``join``: one that is interrupted takes the thread for ended (3.11).
        while not self._ended.done():
            concurrent.futures.wait((self._ended,), INTERRUPT_S)
        if self._thread.is_alive():
            self._thread.join()

    def _serve(self) -> None:
        try:
            # The runner cancels what is left, and ends generators and executors.
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:  # noqa: BLE001 - raised in those that wait
            self._fail(error)
        else:
            self._ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        for waited_for in (self._begun, self._ready, self._ended):
            if not waited_for.done():
                waited_for.set_exception(error)

    async def _main(self) -> None:
        main = asyncio.current_task()
        assert main is not None
        self._begun.set_result(main)
        async with self._context as entered:
            self._ready.set_result(entered)
            await self._stop.wait()


def _result(future: concurrent.futures.Future[_R]) -> _R:
    """Wait for it, open to signals."""
    while True:
        try:
            return future.result(INTERRUPT_S)
        except TimeoutError:
            if future.done():  # it came late, or this error is its own
                return future.result()
