"""The event loop that this project runs on wherever it starts one itself."""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, the fastest, where it is installed; asyncio's own elsewhere."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
