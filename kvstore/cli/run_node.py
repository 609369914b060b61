"""Run one node in the foreground: event loop, signals, the last word."""

import asyncio
import logging
import os
import signal
import sys
import threading

from kvstore.cli.errors import CommandFailed, ExitCode
from kvstore.cli.output import note
from kvstore.config import Config
from kvstore.errors import Removed
from kvstore.event_loop import new_event_loop
from kvstore.server.logs import LogFormat, configure_logging, log_event
from kvstore.server.node import Node

LOGGER = logging.getLogger("kvstore.cli")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_node(config: Config, *, log_format: str | None, log_level: str) -> None:
    """Run a node until a signal stops it, or its cluster has removed it.

    Raises:
        KVStoreError: it could not start, or a failure stopped it.
        CommandFailed: the disk or the network refused.
    """
    configure_logging(
        format=LogFormat(log_format) if log_format else None,
        level=logging.getLevelNamesMapping()[log_level.upper()],
    )
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(config))
    except Removed as error:
        # It did what was asked of it: whoever watches over it need not start it again.
        note(f"{error}. Delete {config.data_dir} once nobody wants to look into it.")
    except OSError as error:
        raise CommandFailed(
            f"the node stopped: {error}",
            code=ExitCode.DIRECTORY_OR_CONFIG,
            hint="Look for a full or failing disk, and at the permissions of "
            f"{config.data_dir}. Nothing acknowledged was lost; restart the node once "
            "the cause is gone.",
        ) from error


async def _serve(config: Config) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_exit_as_bug)
    threading.excepthook = _exit_as_bug_of_thread
    stopped: asyncio.Future[None] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        log_event(LOGGER, logging.INFO, "stopping", signal=number.name)
        if not stopped.done():
            stopped.set_result(None)
        # The next one is from somebody who will not wait: it ends the process.
        for stop_signal in _STOP_SIGNALS:
            loop.remove_signal_handler(stop_signal)
            signal.signal(stop_signal, signal.SIG_DFL)

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    async with Node(config) as node:
        closed = asyncio.ensure_future(node.wait_closed())
        await asyncio.wait({closed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if closed.done():
            # Nobody else closes the node, so this raises what stopped it.
            await closed
        closed.cancel()


def _exit_as_bug(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """An assertion failed in a callback: what should have come after it never will.

    A node that went on would answer some messages and forget others. One that is gone
    is a failure that the others know how to live with.
    """
    error = context.get("exception")
    if not isinstance(error, AssertionError):
        # Not ours, or of one connection: gRPC's own callbacks report here too.
        loop.default_exception_handler(context)
        return
    LOGGER.critical(str(context.get("message", "")), exc_info=error)
    _exit_now()


def _exit_as_bug_of_thread(args: threading.ExceptHookArgs) -> None:
    """As :func:`_exit_as_bug`, for a thread of the node: nobody else does its work."""
    thread = args.thread
    if thread is None or not thread.name.startswith("kvstore-"):
        threading.__excepthook__(args)
        return
    LOGGER.critical("%s failed", thread.name, exc_info=args.exc_value)
    _exit_now()


def _exit_now() -> None:
    sys.stderr.flush()
    # Not sys.exit: this is not the main task, and no clean-up can be trusted now.
    os._exit(ExitCode.INTERNAL)
