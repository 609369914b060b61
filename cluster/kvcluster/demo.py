"""The main job on real data: load, lose the leader in mid-load, lose nothing.

Loads every file of the running Python's standard library, path to content, kills the
leader twice on the way, then reads each acknowledged key through each node.
"""

import asyncio
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import kvstore
from kvcluster.local import LocalCluster
from kvstore.errors import KVStoreError

NODES = 3
WRITERS = 16
KILLS = 2
VALUE_BYTES_MAX = 1 << 20
LEADER_TIMEOUT_S = 30.0
READ_TOGETHER = 16


@dataclass(slots=True)
class Load:
    """What was acknowledged, and when."""

    acknowledged: dict[str, bytes] = field(default_factory=dict)
    last_at: float = 0.0
    longest_gap_s: float = 0.0
    kills: int = 0
    progressed: asyncio.Event = field(default_factory=asyncio.Event)

    def acknowledge(self, key: str, value: bytes) -> None:
        now = time.monotonic()
        if self.last_at:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last_at)
        self.last_at = now
        self.acknowledged[key] = value
        self.progressed.set()


def library_files() -> tuple[list[tuple[str, Path]], int]:
    """Key and file of all within the limit, and how many were not."""
    root = Path(sysconfig.get_path("stdlib"))
    files: list[tuple[str, Path]] = []
    skipped = 0
    for path in sorted(_walk(root)):
        if path.stat().st_size > VALUE_BYTES_MAX:
            skipped += 1
        else:
            files.append((f"stdlib/{path.relative_to(root)}", path))
    return files, skipped


def _walk(root: Path) -> Iterator[Path]:
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name not in {"__pycache__", "site-packages"}:
                yield from _walk(path)
        elif path.is_file():
            yield path


async def load(cluster: LocalCluster, endpoints: list[str], result: Load) -> None:
    """Write all files from several writers; kill the leader at each third."""
    files, skipped = library_files()
    print(f"loading {len(files)} files ({skipped} over 1 MiB skipped)", flush=True)
    queue = list(reversed(files))
    kill_at = [len(files) * (n + 1) // (KILLS + 1) for n in range(KILLS)]

    async def write(client: kvstore.AsyncClient) -> None:
        while queue:
            key, path = queue.pop()
            value = path.read_bytes()
            while True:
                try:
                    await client.put(key, value)
                    break
                except KVStoreError as error:
                    # The same key and value: to apply it twice changes nothing here.
                    if error.definite and not error.retryable:
                        raise
            result.acknowledge(key, value)

    async def kill() -> None:
        for threshold in kill_at:
            while len(result.acknowledged) < threshold:
                result.progressed.clear()
                await result.progressed.wait()
            leader = await asyncio.to_thread(cluster.wait_for_leader, LEADER_TIMEOUT_S)
            await asyncio.to_thread(cluster.kill, leader.node_id)
            result.kills += 1
            print(
                f"{len(result.acknowledged)} acknowledged: killed leader, node "
                f"{leader.node_id} (SIGKILL)",
                flush=True,
            )
            await asyncio.to_thread(cluster.wait_for_leader, LEADER_TIMEOUT_S)
            await asyncio.to_thread(cluster.restart, leader.node_id)
            print(f"restarted node {leader.node_id}", flush=True)

    async with (
        kvstore.AsyncClient(endpoints, timeout_s=30) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(WRITERS):
            group.create_task(write(client))
        group.create_task(kill())


async def verify(endpoints: list[str], result: Load) -> tuple[int, int]:
    """Read every acknowledged key through each node: (verified, lost or wrong)."""
    bad: set[str] = set()
    for endpoint in endpoints:
        print(f"reading everything back through {endpoint}", flush=True)
        keys = list(result.acknowledged)

        async def check(client: kvstore.AsyncClient, keys: list[str]) -> None:
            while keys:
                key = keys.pop()
                found = await client.get(key)
                if found is None or found.value != result.acknowledged[key]:
                    bad.add(key)

        async with (
            kvstore.AsyncClient([endpoint], timeout_s=60) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(READ_TOGETHER):
                group.create_task(check(client, keys))
    return len(result.acknowledged) - len(bad), len(bad)


def main() -> int:
    """0 if nothing was lost."""
    result = Load()
    with tempfile.TemporaryDirectory(prefix="kvstore-demo-") as scratch:
        cluster = LocalCluster.create(Path(scratch) / "cluster", nodes=NODES)
        try:
            cluster.start()
            leader = cluster.wait_for_leader(LEADER_TIMEOUT_S)
            endpoints = list(cluster.endpoints)
            print(f"three nodes at {', '.join(endpoints)}; {leader.node_id} leads")
            asyncio.run(load(cluster, endpoints, result))
            verified, lost = asyncio.run(verify(endpoints, result))
        finally:
            cluster.stop()
    print(
        f"acknowledged {len(result.acknowledged)}, verified {verified}, lost {lost}, "
        f"leader kills {result.kills}, longest write gap "
        f"{result.longest_gap_s * 1_000:.0f} ms"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
