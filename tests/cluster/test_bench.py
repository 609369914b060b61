"""Benchmarks: the arithmetic, the load, and one short run of each for real."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvcluster.bench import put as put_bench
from kvcluster.bench import targets
from kvcluster.bench.load import Load, Plan, Round
from kvcluster.bench.put import Report, Summary
from kvcluster.bench.statistics import median, percentile
from kvcluster.bench.targets import KvstoreTarget
from kvcluster.errors import ClusterError
from kvcluster.local import LocalCluster
from kvcluster.process import ProcessIdentity
from kvcluster.scratch import Scratch, filesystem_of, scratch_directory
from kvcluster.status import ClusterStatus
from kvstore.errors import Unavailable
from tests.command_line import kvstore


def plan(**changes: float) -> Plan:
    values = {
        "in_flight": 4,
        "value_bytes": 8,
        "rounds": 2,
        "round_s": 0.1,
        "warm_up_s": 0.05,
    }
    return Plan(**(values | changes))  # type: ignore[arg-type]


class Store:
    """Acknowledges after a turn of the loop; fails every so often."""

    def __init__(self, *, fails_every: int = 0, answer: object = True) -> None:
        self.keys: list[bytes] = []
        self.open = self.open_max = 0
        self._fails_every = fails_every
        self._answer = answer

    async def put(self, key: bytes, _value: bytes) -> object:
        self.keys.append(key)
        self.open += 1
        self.open_max = max(self.open_max, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        if self._fails_every and len(self.keys) % self._fails_every == 0:
            raise Unavailable("busy")
        return self._answer


def load(store: Store, **changes: float) -> list[Round]:
    return asyncio.run(
        Load(
            store.put,
            plan(**changes),
            failures=(Unavailable,),
            server_cpu_seconds=lambda: 0.0,
        ).run()
    )


def test_a_load_keeps_its_depth_and_writes_each_key_once() -> None:
    store = Store()
    rounds = load(store)
    assert store.open_max == 4
    assert store.open == 0
    assert len(set(store.keys)) == len(store.keys)
    assert len(rounds) == 2
    # The warm-up and what came after the last round are not counted.
    assert 0 < sum(each.operations for each in rounds) < len(store.keys)
    for each in rounds:
        assert each.errors == 0
        assert 0 < each.p50_ms <= each.p99_ms <= each.longest_ms
        assert each.ops_per_second == pytest.approx(each.operations / each.seconds)


def test_errors_are_counted_and_are_no_operations() -> None:
    rounds = load(Store(fails_every=3))
    assert all(each.errors > 0 and each.operations > 0 for each in rounds)
    assert {kind for each in rounds for kind in each.error_kinds} == {"Unavailable"}


def test_no_answer_is_no_acknowledgement() -> None:
    """aetcd returns None for a status that it does not know."""
    rounds = load(Store(answer=None), rounds=1)
    assert rounds[0].operations == 0
    assert rounds[0].errors > 0


def test_what_no_store_should_raise_ends_the_load() -> None:
    class Broken(Store):
        async def put(self, key: bytes, _value: bytes) -> object:
            raise ZeroDivisionError(key)

    with pytest.raises(ZeroDivisionError):
        load(Broken())


def test_percentiles_agree_with_counting() -> None:
    """Nearest rank: the smallest value with enough values at or below it."""
    draw = random.Random(7)
    for _ in range(200):
        values = sorted(draw.randrange(50) for _ in range(draw.randrange(1, 40)))
        for fraction in (0.01, 0.5, 0.9, 0.99, 1.0):
            found = percentile(values, fraction)
            enough = fraction * len(values)
            assert sum(v <= found for v in values) >= enough
            assert sum(v < found for v in values) < enough
    assert percentile([], 0.5) == 0.0
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5


def a_round(operations: int) -> Round:
    return Round(
        seconds=1.0,
        operations=operations,
        p50_ms=1.0,
        p99_ms=2.0,
        longest_ms=3.0,
        errors=0,
        error_kinds=(),
        server_cpu_seconds=0.5,
        client_cpu_seconds=0.25,
        other_cpu_seconds=0.0,
    )


def test_the_report_is_of_64_in_flight_and_of_medians() -> None:
    options = put_bench.Options(in_flight=(256, 64), compare_etcd=True)
    ours = Summary(rounds=(a_round(100), a_round(900), a_round(300)))
    theirs = Summary(rounds=(a_round(100),))
    report = Report(
        options=options,
        scratch=Scratch(directory=Path("/x"), filesystem="ext4", device="/dev/x"),
        loop="uvloop",
        versions={},
        leader_changes={"kvstore": 0, "etcd": 1},
        depths={
            256: {"kvstore": theirs, "etcd": theirs},
            64: {"kvstore": ours, "etcd": theirs},
        },
    )
    document: Any = json.loads(json.dumps(report.as_json()))
    assert document["in_flight"] == 64
    assert document["kvstore"]["ops_per_second"] == 300
    assert document["etcd"]["ops_per_second"] == 100
    assert document["ratio"] == 3.0
    assert document["depths"]["256"]["ratio"] == 1.0
    assert document["leader_changes"] == 0
    assert len(document["kvstore"]["rounds"]) == 3
    assert document["kvstore"]["server_cpu_seconds"] == 1.5


def test_a_scratch_directory_goes_to_a_disk_and_goes_away(tmp_path: Path) -> None:
    with scratch_directory("x-", parent=tmp_path, allow_memory=True) as scratch:
        assert scratch.directory.parent == tmp_path
        assert scratch.filesystem == filesystem_of(tmp_path)[0]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_does_not_keep_a_scratch_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(directory: Path, **options: bool) -> None:
        signal.raise_signal(signal.SIGINT)
        rmtree(directory, **options)

    rmtree: Any = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with scratch_directory("x-", parent=tmp_path, allow_memory=True):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_a_load_begins_once_all_nodes_know_their_leader(
    stub_cluster: Callable[..., LocalCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: no node's first leader counts as a change. Method: one starts late."""
    cluster = stub_cluster()
    late = cluster.directory / "node-3" / "hold-serve"
    late.touch()
    wait_caught_up = cluster.wait_caught_up

    def let_it_serve(timeout_s: float) -> ClusterStatus:
        late.unlink()
        return wait_caught_up(timeout_s)

    monkeypatch.setattr(cluster, "wait_caught_up", let_it_serve)
    monkeypatch.setattr(LocalCluster, "create", lambda *_, **__: cluster)
    target = KvstoreTarget(cluster.directory, nodes=3)
    target.start()
    assert target.leader_epochs() == (1, 1, 1)


def test_an_interrupt_while_etcd_starts_leaves_no_process_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aetcd")
    started = ProcessIdentity.of(os.getpid())

    def spawn(*_: object, **__: object) -> ProcessIdentity | None:
        signal.raise_signal(signal.SIGINT)
        return started

    monkeypatch.setattr(targets, "find_etcd", lambda: Path("etcd"))
    monkeypatch.setattr(targets, "spawn", spawn)
    target = targets.EtcdTarget(tmp_path / "etcd", nodes=3)
    with pytest.raises(KeyboardInterrupt):
        target.start()
    assert target._processes == [started]


def test_a_memory_filesystem_is_no_disk() -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or filesystem_of(shared_memory)[0] != "tmpfs":
        pytest.skip("no tmpfs at /dev/shm")
    with (
        pytest.raises(ClusterError, match="on a disk"),
        scratch_directory("x-", parent=shared_memory),
    ):
        pass


def test_a_missing_etcd_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ClusterError) as caught:
        put_bench.run(put_bench.Options(compare_etcd=True), put_bench.Reporter())
    assert "kvstore[bench]" in caught.value.advice


def bench(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = kvstore("bench", *arguments)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.process
def test_bench_put_measures_without_losing_its_leader(tmp_path: Path) -> None:
    done = bench("put", "--seconds", "1", "--json", "--scratch", str(tmp_path))
    document = json.loads(done.stdout)
    assert document["ops_per_second"] > 0
    assert document["errors"] == 0
    assert document["leader_changes"] == 0
    assert document["kvstore"]["server_cpu_seconds"] > 0
    assert document["ratio"] is None
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
@pytest.mark.parametrize("fault", ["kill", "pause", "partition"])
def test_writes_come_back_after_each_fault(tmp_path: Path, fault: str) -> None:
    """Goal: within a few seconds on a busy machine; about one on an idle one."""
    done = bench(
        *("failover", "--fault", fault, "--rounds", "2", "--seed", "1"),
        *("--json", "--scratch", str(tmp_path)),
    )
    document = json.loads(done.stdout)
    assert len(document["rounds"]) == 2
    assert 0 < document["median_ms"] <= document["max_ms"] < 8_000
    assert document["fault"] == fault
    assert document["election_timeout_ms"] > document["heartbeat_interval_ms"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["put", "--seconds", "5", "--rounds", "2"], "not both"),
        (["put", "--in-flight", "many"], "64,256"),
        (["put", "--in-flight", "0"], "from 1 to"),
        (["failover", "--nodes", "2"], "3<=x<=9"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], words: str) -> None:
    assert words in bench(*arguments, code=2).stderr
