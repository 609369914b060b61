"""A plain copy by gRPC: what a transfer would cost that does nothing else.

Two processes on loopback, the least code there is: one reads a file and streams it in
messages of 1 MiB, the other writes them to a file and syncs it.
"""

import asyncio
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import grpc

from kvcluster.topology import LOOPBACK
from kvstore.event_loop import new_event_loop

MIB = 1 << 20
METHOD = "/kvcluster.bench.Copy/Copy"
OPTIONS = (
    ("grpc.max_receive_message_length", 8 * MIB),
    ("grpc.max_send_message_length", 8 * MIB),
)
READY_TIMEOUT_S = 30.0


def copy_over_grpc(size: int, directory: Path) -> float:
    """Copy ``size`` bytes from file to file; returns the seconds it took. Blocks."""
    source, target = directory / "copy-from", directory / "copy-to"
    with source.open("wb") as file:
        block = os.urandom(MIB)
        for start in range(0, size, MIB):
            file.write(block[: min(MIB, size - start)])
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    receiver = context.Process(target=_receive, args=(theirs, target), daemon=True)
    receiver.start()
    try:
        if not ours.poll(READY_TIMEOUT_S):
            raise TimeoutError("the receiver of the copy did not start")
        port = ours.recv()
        started = time.monotonic()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            copied = runner.run(_send(source, port))
        took = time.monotonic() - started
        assert copied == size, (copied, size)
    finally:
        receiver.terminate()
        receiver.join()
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    return took


async def _send(source: Path, port: int) -> int:
    async with grpc.aio.insecure_channel(
        f"{LOOPBACK}:{port}", options=OPTIONS
    ) as channel:
        call = channel.stream_unary(METHOD, None, None)(None)
        with source.open("rb") as file:
            while data := file.read(MIB):
                await call.write(data)
        await call.done_writing()
        return int(await call)


def _receive(ready: Connection, target: Path) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(ready, target))


async def _serve(ready: Connection, target: Path) -> None:
    async def copy(requests: object, context: grpc.aio.ServicerContext) -> bytes:  # type: ignore[type-arg]
        del requests
        size = 0
        with target.open("wb") as file:
            while isinstance(data := await context.read(), bytes):
                file.write(data)
                size += len(data)
            file.flush()
            os.fsync(file.fileno())
        return b"%d" % size

    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.stream_unary_rpc_method_handler(copy)
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    ready.send(port)
    await server.wait_for_termination()
