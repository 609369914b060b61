"""The main job on real data: load, lose the leader in mid-load, lose nothing.

Loads every file of the running Python's standard library, path to content, into three
node processes from several concurrent writers. Kills the leader (SIGKILL) at a third
and at two thirds of the load and restarts it while the load goes on. Then reads every
acknowledged key back, linearizably and through each node, and compares the bytes.

Leaves neither a process nor a directory behind, also when interrupted.
"""

import asyncio
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import kvstore
from kvcluster.demo_screen import Screen, open_screen
from kvcluster.errors import ClusterError
from kvcluster.local import LocalCluster
from kvcluster.scratch import scratch_directory
from kvcluster.signals import interruptible, uninterrupted
from kvstore.errors import KVStoreError

NODES = 3
WRITERS = 24
READERS = 24
KILLS = 2
VALUE_BYTES_MAX = 1 << 20
"""The store's default limit on one value."""
LOAD_TIMEOUT_S = 120.0
VERIFY_TIMEOUT_S = 120.0
NODE_TIMEOUT_S = 30.0
RECOVERY_PACE_S = 0.05
"""Each writer's pause after a file while a node comes back: the whole library loads in
a second or two, and the next kill should strike in the middle of it."""
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Library:
    """What there is to load."""

    files: tuple[tuple[str, Path], ...]
    """Key and file."""
    skipped: tuple[Path, ...]
    """Larger than a value may be."""

    @classmethod
    def of_this_python(cls) -> "Library":
        root = Path(sysconfig.get_path("stdlib"))
        files: list[tuple[str, Path]] = []
        skipped: list[Path] = []
        for path in sorted(_walk(root)):
            if path.stat().st_size > VALUE_BYTES_MAX:
                skipped.append(path)
            else:
                files.append((f"stdlib/{path.relative_to(root)}", path))
        return cls(tuple(files), tuple(skipped))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if not path.is_symlink() and path.name not in {
                "__pycache__",
                "site-packages",
            }:
                yield from _walk(path)
        elif path.is_file():
            yield path


@dataclass(slots=True)
class Acknowledged:
    """What the store has promised to keep, and how steadily it promised."""

    values: dict[str, bytes] = field(default_factory=dict)
    longest_gap_s: float = 0.0
    """Between two acknowledgements, one after the other."""
    _last_at: float | None = None
    _progressed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: str, value: bytes) -> None:
        now = time.monotonic()
        if self._last_at is not None:
            self.longest_gap_s = max(self.longest_gap_s, now - self._last_at)
        self._last_at = now
        self.values[key] = value
        self._progressed.set()

    async def reach(self, count: int) -> None:
        """Wait until at least ``count`` keys are acknowledged."""
        while len(self.values) < count:
            self._progressed.clear()
            await self._progressed.wait()


class Loading:
    """The writers, and the one who kills leaders meanwhile."""

    def __init__(self, cluster: LocalCluster, library: Library, screen: Screen) -> None:
        self._cluster = cluster
        self._screen = screen
        self._total = len(library.files)
        self._queue = deque(library.files)
        self._kills_done = asyncio.Event()
        self._recovering = False
        self.acknowledged = Acknowledged()
        self.kills = 0

    async def run(self) -> None:
        """Raises ExceptionGroup of what ended it; TimeoutError after two minutes."""
        endpoints = list(self._cluster.endpoints)
        async with (
            asyncio.timeout(LOAD_TIMEOUT_S),
            kvstore.AsyncClient(endpoints) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(WRITERS):
                group.create_task(self._write(client))
            group.create_task(self._kill_leaders())

    async def _write(self, client: kvstore.AsyncClient) -> None:
        while self._queue:
            if len(self._queue) <= self._total // 20:
                # A small library could be loaded before the last leader is dead, and
                # that would show nothing.
                await self._kills_done.wait()
                if not self._queue:
                    return
            key, path = self._queue.popleft()
            value = path.read_bytes()
            await self._put(client, key, value)
            self.acknowledged.add(key, value)
            self._screen.loaded(len(self.acknowledged.values))
            if self._recovering:
                await asyncio.sleep(RECOVERY_PACE_S)

    async def _put(self, client: kvstore.AsyncClient, key: str, value: bytes) -> None:
        while True:
            try:
                await client.put(key, value)
            except KVStoreError as error:
                # Unknown outcome: the put may have been applied, or may yet be. Here
                # it is safe to repeat it, because nobody else writes the key and the
                # value is the same: applied twice, it leaves what it left once.
                if error.definite and not error.retryable:
                    raise
            else:
                return

    async def _kill_leaders(self) -> None:
        cluster, screen = self._cluster, self._screen
        for number in range(1, KILLS + 1):
            await self.acknowledged.reach(self._total * number // (KILLS + 1))
            leader = await asyncio.to_thread(cluster.wait_for_leader, NODE_TIMEOUT_S)
            self._recovering = True
            await asyncio.to_thread(cluster.kill, leader.node_id)
            self.kills += 1
            screen.say(
                f"{len(self.acknowledged.values)} acknowledged: "
                f"killed the leader, node {leader.node_id} (SIGKILL)"
            )
            heir = await asyncio.to_thread(cluster.wait_for_leader, NODE_TIMEOUT_S)
            await asyncio.to_thread(cluster.restart, leader.node_id)
            screen.say(f"node {heir.node_id} leads; restarted node {leader.node_id}")
            # Two nodes must be whole before the next one is killed.
            await asyncio.to_thread(
                cluster.wait_serving, leader.node_id, NODE_TIMEOUT_S
            )
            await asyncio.to_thread(cluster.wait_caught_up, NODE_TIMEOUT_S)
        self._kills_done.set()


async def verify(
    cluster: LocalCluster, expected: dict[str, bytes], screen: Screen
) -> set[str]:
    """Read every key through each node. Returns those lost or wrong at any."""
    bad: set[str] = set()

    async def check(client: kvstore.AsyncClient, node_id: int, keys: list[str]) -> None:
        while keys:
            key = keys.pop()
            found = await client.get(key)
            if found is None or found.value != expected[key]:
                bad.add(key)
                screen.say(
                    f"{key}: {'LOST' if found is None else 'WRONG'} at node {node_id}"
                )
            screen.verified(node_id, len(expected) - len(keys))

    async with asyncio.timeout(VERIFY_TIMEOUT_S):
        for node_id in cluster.node_ids:
            keys = list(expected)
            async with (
                # One endpoint: this node must answer, and no other instead of it.
                kvstore.AsyncClient([cluster.address(node_id)]) as client,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(READERS):
                    group.create_task(check(client, node_id, keys))
            screen.say(f"read everything back through node {node_id}")
    return bad


async def _watch_roles(cluster: LocalCluster, screen: Screen) -> None:
    while True:
        screen.roles(await asyncio.to_thread(cluster.status))
        await asyncio.sleep(0.3)


async def _load_and_verify(
    cluster: LocalCluster, library: Library, screen: Screen
) -> tuple[Loading, set[str]]:
    """Raises as ``run``."""
    loading = Loading(cluster, library, screen)
    watching = asyncio.create_task(_watch_roles(cluster, screen), name="watch roles")
    try:
        await loading.run()
        bad = await verify(cluster, loading.acknowledged.values, screen)
    except ExceptionGroup as group:
        cause = _known_cause(group)
        if cause is None:
            raise
        raise cause from group
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    return loading, bad


def _known_cause(
    group: ExceptionGroup[Exception],
) -> ClusterError | KVStoreError | None:
    """The first error in the group, at any depth, that can be told to the user."""
    for error in group.exceptions:
        cause = _known_cause(error) if isinstance(error, ExceptionGroup) else error
        if isinstance(cause, ClusterError | KVStoreError):
            return cause
    return None


def run() -> tuple[Loading, set[str]]:
    """The whole demo: what was loaded, and the keys that are lost or wrong.

    Raises ClusterError if the cluster does not start; also KVStoreError or TimeoutError
    if the load or the check cannot go on, and ExceptionGroup if that is a bug.
    """
    library = Library.of_this_python()
    with scratch_directory("kvstore-demo-", allow_memory=True) as scratch:
        cluster = LocalCluster.create(scratch.directory / "cluster", nodes=NODES)
        try:
            cluster.start()
            leader = cluster.wait_for_leader(NODE_TIMEOUT_S)
            with open_screen(len(library.files), cluster.node_ids) as screen:
                screen.say(
                    f"{NODES} nodes serve at {', '.join(cluster.endpoints)}; "
                    f"node {leader.node_id} leads"
                )
                screen.say(
                    f"loading {len(library.files)} files of Python's standard library "
                    f"with {WRITERS} writers; skipped {len(library.skipped)} over 1 MiB"
                    + "".join(f"\n  {path.name}" for path in library.skipped)
                )
                return asyncio.run(_load_and_verify(cluster, library, screen))
        finally:
            with uninterrupted():
                cluster.destroy()


def main() -> int:
    """0 if nothing is lost or wrong, 1 otherwise, 130 if interrupted."""
    with interruptible():
        try:
            loading, bad = run()
        except KeyboardInterrupt:
            print("interrupted; the nodes are stopped, the directory is gone")
            return EXIT_INTERRUPTED
        except (ClusterError, KVStoreError, TimeoutError) as error:
            advice = error.advice if isinstance(error, ClusterError) else ""
            why = str(error) or "it took too long"
            print(f"the demo failed: {why}\n{advice}".rstrip())
            return 1
    acknowledged = loading.acknowledged
    print(
        f"acknowledged {len(acknowledged.values)}, "
        f"verified {len(acknowledged.values) - len(bad)}, lost {len(bad)}, "
        f"leader kills {loading.kills}, "
        f"longest write gap {acknowledged.longest_gap_s * 1_000:.0f} ms"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
