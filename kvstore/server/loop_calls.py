"""How a thread of a node speaks to the node's event loop, and how it ends."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from kvstore.errors import KVStoreError

_T = TypeVar("_T")

STORAGE_FAILURES = (KVStoreError, OSError, MemoryError)
"""What a store can raise. None is retried: after a failed fsync a second one that
succeeds proves nothing, because the kernel marks the pages clean (ATC'20 fsync)."""


class LoopCalls:
    """Calls from other threads into one event loop, which may be gone by then."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def call(self, callback: Callable[[_T], None], value: _T) -> None:
        """Have the loop call ``callback(value)``; nothing if it was closed.

        A loop that ended without closing its node is a program's end: the threads are
        daemons, and what they would have said nobody can hear.
        """
        try:
            self._loop.call_soon_threadsafe(callback, value)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    @contextmanager
    def reporting(self, on_failure: Callable[[BaseException], None]) -> Iterator[None]:
        """Around all that a thread does: nobody else does its work, so the node ends.

        A failure of storage is the world's and is told to the node. Anything else is
        our bug: it is told too, and goes on to the process's thread hook.
        """
        try:
            yield
        except STORAGE_FAILURES as error:
            self.call(on_failure, error)
        except BaseException as error:
            self.call(on_failure, error)
            raise


def settling(waiting: asyncio.Future[_T]) -> Callable[[_T], None]:
    """What sets a future's result, unless whoever waited has given up."""

    def settle(value: _T) -> None:
        if not waiting.done():
            waiting.set_result(value)

    return settle
