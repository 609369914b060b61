"""Members, the lead and backups change under writers, on real processes."""

import asyncio
import json
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import kvstore
from kvstore import Compare, Op
from kvstore.errors import KVStoreError
from tests.cluster.growing import PATIENCE_S, Nodes

pytestmark = pytest.mark.process
WRITERS = 32
TRANSFERS = 10


class Writers:
    """Write without a pause, and know what was acknowledged.

    Each writes keys of its own, and increments one counter by compare-and-swap: an
    increment that is applied but not acknowledged, or twice, shows in the sum.
    """

    def __init__(self, client: kvstore.AsyncClient) -> None:
        self._client = client
        self._running = True
        self._tasks: list[asyncio.Task[None]] = []
        self.incremented = 0
        self.written: dict[int, int] = {}
        self.errors: list[str] = []

    async def start(self) -> None:
        await self._client.put(b"counter", b"0")
        self._tasks = [asyncio.create_task(self._write(n)) for n in range(WRITERS)]

    async def stop(self) -> None:
        self._running = False
        await asyncio.gather(*self._tasks)

    async def _write(self, writer: int) -> None:
        self.written[writer] = 0
        while self._running:
            number = self.written[writer] + 1
            try:
                await self._client.put(b"w/%d/%d" % (writer, number), b"%d" % number)
                self.written[writer] = number
                pair = await self._client.get(b"counter")
                assert pair is not None
                after = b"%d" % (int(pair.value) + 1)
                done = await self._client.txn(
                    compare=[Compare.value(b"counter", "==", pair.value)],
                    then=[Op.put(b"counter", after)],
                )
                self.incremented += done.succeeded
            except KVStoreError as error:
                self.errors.append(f"{type(error).__name__}: {error}")

    async def check(self) -> None:
        """Nothing failed, nothing is lost, nothing was applied twice."""
        assert self.errors == []
        pair = await self._client.get(b"counter")
        assert pair is not None
        assert int(pair.value) == self.incremented
        for writer, count in self.written.items():
            assert count, "a writer never wrote"
            pairs = await self._client.range(prefix=b"w/%d/" % writer, limit=0)
            assert len(pairs.items) == count


def run(
    scenario: Callable[[Nodes], Awaitable[None]], directory: Path, count: int
) -> None:
    nodes = Nodes(directory, count)
    try:
        asyncio.run(scenario(nodes))  # type: ignore[arg-type]
    finally:
        nodes.close()


async def become_voter(nodes: Nodes, number: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = json.loads(await nodes.member("list", "--json"))
            standing = {it["node_id"]: it["standing"] for it in found["members"]}
            if standing.get(number) == "voter":
                return


def test_members_come_go_and_restart_and_no_request_fails(tmp_path: Path) -> None:
    """Grow 1 to 5, replace a dead member, shrink to 3, transfer, restart everybody."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def scenario(nodes: Nodes) -> None:
        await nodes.found(1)
        async with kvstore.AsyncClient(list(nodes.address.values())) as client:
            writers = Writers(client)
            await writers.start()
            for number in (2, 3, 4, 5):
                await nodes.join(number, through=1)
                await nodes.member("add", str(number), nodes.address[number])
                await become_voter(nodes, number)
            await nodes.end(3, signal.SIGKILL)
            await nodes.join(6, through=1)
            await nodes.member("replace", "3", "6", nodes.address[6])
            for number in (1, 2):
                await nodes.member("remove", str(number), "--yes")
                assert await nodes.has_left(number) == 0
            endpoints = ",".join(nodes.address[number] for number in (4, 5, 6))
            for _ in range(TRANSFERS):
                to = str(chance.choice([4, 5, 6]))
                await nodes.command(
                    "leader", "transfer", "--to", to, "--endpoints", endpoints
                )
            for number in (4, 5, 6):
                assert await nodes.end(number, signal.SIGTERM) == 0
                await nodes.start(number)
                await nodes.until_serves(number)
            await writers.stop()
            await writers.check()

    run(scenario, tmp_path, 6)


def test_a_snapshot_under_load_becomes_a_cluster_that_the_old_members_cannot_enter(
    tmp_path: Path,
) -> None:
    file = tmp_path / "backup.snap"

    async def scenario(nodes: Nodes) -> None:
        await nodes.found(1)
        old = nodes.address[1]
        async with kvstore.AsyncClient([old]) as client:
            writers = Writers(client)
            await writers.start()
            for number in range(200):
                await client.put(b"key/%d" % number, b"%d" % number)
            saved = json.loads(
                await nodes.command(
                    "snapshot", "save", str(file), "--endpoints", old, "--json"
                )
            )
            await writers.stop()
            revision = saved["revision"]
            expected = await client.range(prefix=b"", revision=revision, limit=0)
        checked = json.loads(
            await nodes.command("snapshot", "verify", str(file), "--json")
        )
        assert checked["revision"] == revision
        await nodes.command(
            *("snapshot", "restore", str(file), "--dir", nodes.data(2)),
            *("--node-id", "2", "--member", f"2={nodes.address[2]}"),
        )
        await nodes.start(2)
        async with kvstore.AsyncClient([nodes.address[2]]) as client:
            restored = await client.range(prefix=b"", revision=revision, limit=0)
            assert restored.items == expected.items
            assert len(restored.items) >= 200
            now = await client.put(b"after", b"restore")
            assert now.revision > revision
            status = await client.status()
            assert (status.cluster_id.hex(), status.epoch) != (saved["cluster_id"], 1)
        refused = await nodes.command(
            *("member", "add", "1", old, "--endpoints", nodes.address[2]), code=5
        )
        assert refused == ""

    run(scenario, tmp_path, 2)
