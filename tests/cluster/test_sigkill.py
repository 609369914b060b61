"""What was acknowledged survives SIGKILL of any node, at any moment, fifty times over.

The kills are of processes, so they prove recovery from a torn program, not from a torn
disk: the kernel keeps what the process had written.
"""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kvstore
from kvcluster.local import LocalCluster
from kvstore.errors import KVStoreError

pytestmark = [pytest.mark.process, pytest.mark.slow]

ROUNDS = 50
WRITERS = 8
WRITE_PAUSE_S = 0.003
"""About as long as a write takes, so that many are in flight when a node is killed: of
those sent afterwards, none is applied."""
PAGE = 1_000
DEADLINE_S = 150.0


def draw_seed() -> int:
    """``KVSTORE_TEST_SEED``, or a new one; printed, so that a failure shows it."""
    seed = int(
        os.environ.get("KVSTORE_TEST_SEED", random.SystemRandom().getrandbits(32))
    )
    print(f"KVSTORE_TEST_SEED={seed}")
    return seed


# --------------------------------------------------------------------- cluster


class Written:
    """What writers were told of each key's only put."""

    def __init__(self) -> None:
        self.acknowledged: dict[bytes, bytes] = {}
        self.unknown: dict[bytes, bytes] = {}
        """Of unknown outcome: may be there."""
        self.refused: dict[bytes, KVStoreError] = {}
        """Certainly not applied, said the error."""
        self.progressed = asyncio.Condition()

    async def acknowledge(self, key: bytes, value: bytes) -> None:
        self.acknowledged[key] = value
        async with self.progressed:
            self.progressed.notify_all()

    async def more(self, count: int) -> None:
        """Wait for ``count`` further acknowledgements."""
        target = len(self.acknowledged) + count
        async with self.progressed:
            await self.progressed.wait_for(lambda: len(self.acknowledged) >= target)


async def write(client: kvstore.AsyncClient, writer: int, written: Written) -> None:
    """Put one new key after another, never one again whose outcome is unknown."""
    number = 0
    while True:
        key = b"w%d/%08d" % (writer, number)
        value = b"%d by %d " % (number, writer) * 10
        number += 1
        try:
            await client.put(key, value)
        except asyncio.CancelledError:
            # Cut off while it may have been under way.
            written.unknown[key] = value
            raise
        except KVStoreError as error:
            if error.definite:
                written.refused[key] = error
            else:
                written.unknown[key] = value
        else:
            await written.acknowledge(key, value)
        await asyncio.sleep(WRITE_PAUSE_S)


async def read_everything(address: str) -> dict[bytes, bytes]:
    """All pairs, linearizably, through one node."""
    found: dict[bytes, bytes] = {}
    start = b"w"
    async with kvstore.AsyncClient([address]) as client:
        while True:
            page = await client.range(start, b"x", limit=PAGE)
            found |= {pair.key: pair.value for pair in page}
            if not page.more:
                return found
            start = page.items[-1].key + b"\0"


async def kill_over_and_over(
    cluster: LocalCluster, draw: random.Random, written: Written
) -> dict[str, int]:
    kills = {"leader": 0, "follower": 0}
    for _ in range(ROUNDS):
        await written.more(draw.randrange(1, 200))
        status = await asyncio.to_thread(cluster.status)
        victim = draw.choice(cluster.node_ids)
        await asyncio.to_thread(cluster.kill, victim)
        led = status.leader is not None and status.leader.node_id == victim
        kills["leader" if led else "follower"] += 1
        # The others go on without it.
        await written.more(1)
        await asyncio.to_thread(cluster.restart, victim)
        # A majority must be whole before the next one.
        await asyncio.to_thread(cluster.wait_serving, victim)
        await asyncio.to_thread(cluster.wait_caught_up)
    return kills


def test_every_acknowledged_write_survives_fifty_kills_of_nodes(tmp_path: Path) -> None:
    """Goal: under concurrent writers, leader or follower, nothing acknowledged is lost,
    at any node, and nothing appears that nobody wrote or that an error said is not."""
    draw = random.Random(draw_seed())
    cluster = LocalCluster.create(tmp_path / "cluster")
    written = Written()

    async def scenario() -> dict[str, int]:
        async with (
            asyncio.timeout(DEADLINE_S),
            kvstore.AsyncClient(list(cluster.endpoints)) as client,
        ):
            writers = [
                asyncio.create_task(write(client, number, written))
                for number in range(WRITERS)
            ]
            try:
                kills = await kill_over_and_over(cluster, draw, written)
            finally:
                for writer in writers:
                    writer.cancel()
                await asyncio.wait(writers)
            possible = written.acknowledged | written.unknown
            for address in cluster.endpoints:
                found = await read_everything(address)
                lost = written.acknowledged.keys() - found.keys()
                assert not lost, (address, sorted(lost)[:10])
                denied = found.keys() & written.refused.keys()
                assert not denied, [
                    (address, key, written.refused[key]) for key in sorted(denied)[:10]
                ]
                extra = found.keys() - possible.keys()
                assert not extra, (address, sorted(extra)[:10])
                for key in found:
                    assert found[key] == possible[key], key
            return kills

    try:
        cluster.start()
        cluster.wait_for_leader()
        kills = asyncio.run(scenario())
    finally:
        cluster.destroy()
    print(
        f"{kills}, {len(written.acknowledged)} acknowledged, "
        f"{len(written.unknown)} unknown, {len(written.refused)} refused"
    )
    # Both were tried. One of them never being drawn is a chance below 1 in 10**8.
    assert min(kills.values()) > 0


# -------------------------------------------------------------------- embedded

EMBEDDED = """
import sys
import kvstore

path, first = sys.argv[1], int(sys.argv[2])
with kvstore.open(path) as store:
    number = first
    while True:
        store.put(b"%012d" % number, b"value of %d" % number)
        print(number, flush=True)
        number += 1
"""
KILL_AFTER_S = (0.0, 0.2)


def write_until_killed(path: Path, first: int, after_s: float) -> list[int]:
    """Run a writer, SIGKILL it ``after_s`` seconds after its first acknowledgement."""
    with subprocess.Popen(
        [sys.executable, "-c", EMBEDDED, str(path), str(first)],
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        try:
            lines = [writer.stdout.readline()]
            time.sleep(after_s)  # The moment of the kill is what is drawn at random.
        finally:
            writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.read().splitlines(keepends=True)
    assert writer.returncode == -signal.SIGKILL, "the writer ended by itself"
    # The last line may be cut short, or never have been written.
    return [int(line) for line in lines if line.endswith("\n")]


def test_every_acknowledged_write_survives_fifty_kills_of_an_embedded_node(
    tmp_path: Path,
) -> None:
    """Goal: reopened after each kill, the store holds all that was acknowledged to the
    program, and at most the one write that was in flight beside it."""
    draw = random.Random(draw_seed())
    path = tmp_path / "store"
    first = total = 0
    for _ in range(ROUNDS):
        acknowledged = write_until_killed(path, first, draw.uniform(*KILL_AFTER_S))
        assert acknowledged == list(range(first, first + len(acknowledged)))
        total += len(acknowledged)
        with kvstore.open(path) as store:
            for number in acknowledged:
                pair = store.get(b"%012d" % number)
                assert pair is not None, number
                assert pair.value == b"value of %d" % number
            # What was in flight may be there; the next round writes it again.
            beyond = store.range(b"%012d" % (first + len(acknowledged)))
            assert len(beyond.items) <= 1
        first += len(acknowledged)
    with contextlib.closing(kvstore.open(path)) as store:
        assert store.range(count_only=True).count >= total
