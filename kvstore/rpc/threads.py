"""Blocking work of a coroutine, which may be cancelled while it goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(work: Callable[..., _T], *arguments: object) -> _T:
    """Have a thread do what blocks, and wait for its end, whatever happens.

    A caller that is cancelled is so only when the thread is done: it can close the file
    that the thread had in hand.
    """
    return await to_its_end(asyncio.to_thread(work, *arguments))


async def to_its_end(awaitable: Awaitable[_T]) -> _T:
    """Await something that goes on when its caller is cancelled, which then waits."""
    work = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not work.cancelled():
            work.exception()  # nobody is left to hear of it
        raise cancelled
    return work.result()
