"""A cluster of real processes that grows and shrinks, by the documented commands."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import kvstore
from kvcluster.topology import LOOPBACK, free_ports
from kvstore.errors import KVStoreError

PROGRAM = (sys.executable, "-m", "kvstore.cli.main")
PATIENCE_S = 30.0


class Nodes:
    """Members by number; each has a directory, an address, and perhaps a process."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory = directory
        self.address = {
            number: f"{LOOPBACK}:{port}"
            for number, port in enumerate(free_ports(count), start=1)
        }
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    async def command(self, *arguments: str, code: int = 0) -> str:
        """Run ``kvstore``; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == code, (arguments, out, err)
        return out.decode()

    def data(self, number: int) -> str:
        return str(self.directory / f"node-{number}")

    async def found(self, number: int) -> None:
        """The first member, alone."""
        member = f"--member={number}={self.address[number]}"
        await self.command(
            "init", "--dir", self.data(number), "--node-id", str(number), member
        )
        await self.start(number)

    async def join(self, number: int, through: int) -> None:
        """Prepare a directory for joining, and serve it."""
        await self.command(
            *("init", "--dir", self.data(number), "--node-id", str(number)),
            *("--join", self.address[through], "--address", self.address[number]),
        )
        await self.start(number)

    async def start(self, number: int) -> None:
        log = (self.directory / f"log-{number}").open("ab")
        with log:
            self.processes[number] = subprocess.Popen(  # noqa: ASYNC220 - at once
                [*PROGRAM, "serve", "--dir", self.data(number)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await self.until_answers(number)

    async def until_answers(self, number: int) -> None:
        address = self.address[number]
        await self._until(number, lambda client: client.status(address, timeout_s=0.5))

    async def until_serves(self, number: int) -> None:
        """Until it answers a linearizable read."""
        await self._until(number, lambda client: client.get(b"counter", timeout_s=0.5))

    async def _until(
        self, number: int, ask: Callable[[kvstore.AsyncClient], Awaitable[object]]
    ) -> None:
        endpoints = [self.address[number]]
        async with (
            asyncio.timeout(PATIENCE_S),
            kvstore.AsyncClient(endpoints) as client,
        ):
            while not await _answers(ask(client)):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)

    async def end(self, number: int, with_signal: signal.Signals) -> int:
        """Returns the exit code."""
        process = self.processes.pop(number)
        process.send_signal(with_signal)
        return await asyncio.wait_for(asyncio.to_thread(process.wait), PATIENCE_S)

    async def has_left(self, number: int) -> int:
        """The exit code of one that ends by itself."""
        process = self.processes.pop(number)
        return await asyncio.wait_for(asyncio.to_thread(process.wait), PATIENCE_S)

    async def member(self, *arguments: str) -> str:
        """``kvstore member …``, asking every member there may be."""
        endpoints = ",".join(self.address.values())
        return await self.command("member", *arguments, "--endpoints", endpoints)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()


async def _answers(asked: Awaitable[object]) -> bool:
    try:
        await asked
    except KVStoreError:
        return False
    return True
