"""Ending well when interrupted: what was started is stopped, what was made is removed.

Ctrl-C and SIGTERM both arrive as ``KeyboardInterrupt``, so that every ``finally`` runs;
while cleaning up, neither can cut that short. Main thread only, but for the last.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C inside."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        # Through SIGINT, because asyncio.Runner turns that into a cancellation.
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    # A shell starts background jobs with SIGINT ignored.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore both signals inside: for a clean-up that takes a moment."""
    before = [
        (number, signal.signal(number, signal.SIG_IGN))
        for number in (signal.SIGINT, signal.SIGTERM)
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Deliver both signals to this thread only after the block. Any thread."""
    both = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, both)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
