"""``kvstore cluster`` against real nodes, and its refusals without any."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kvcluster.local import LocalCluster
from kvcluster.topology import Topology
from tests import command_line


def kvstore(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return command_line.kvstore(*arguments, KVSTORE_CLUSTER_DIR=str(directory))


def succeed(*arguments: str, directory: Path) -> str:
    done = kvstore(*arguments, directory=directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(directory: Path, *, code: int = 0) -> dict[str, Any]:
    done = kvstore("cluster", "status", "--json", directory=directory)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.process
def test_a_cluster_from_up_to_destroy(tmp_path: Path) -> None:
    """As in the README: up, put, kill the leader, get, up again, down, destroy."""
    directory = tmp_path / "c"
    try:
        up = json.loads(
            succeed("cluster", "up", "--nodes", "3", "--json", directory=directory)
        )
        assert up["started"] == [1, 2, 3]
        assert len(up["endpoints"]) == 3
        endpoints = ["--endpoints", ",".join(up["endpoints"])]
        succeed("put", "greeting", "hello", *endpoints, directory=directory)

        killed = json.loads(
            succeed("cluster", "kill", "leader", "--json", directory=directory)
        )["node_id"]
        assert killed == up["leader_id"]
        read = succeed("get", "greeting", *endpoints, directory=directory)
        assert read.strip() == "hello"
        after = status(directory)
        assert after["leader_id"] not in {None, killed}
        states = {node["node_id"]: node["process"] for node in after["nodes"]}
        assert states[killed] == "down"

        again = json.loads(succeed("cluster", "up", "--json", directory=directory))
        assert again["started"] == [killed]
        assert again["endpoints"] == up["endpoints"]

        paused = succeed("cluster", "pause", "follower", directory=directory)
        number = paused.split()[-1]
        assert "paused" in succeed("cluster", "status", directory=directory)
        succeed("cluster", "resume", number, directory=directory)
        succeed("cluster", "restart", number, directory=directory)
        logs = succeed("cluster", "logs", number, "--all", directory=directory)
        assert logs.count("node_started") >= 2

        succeed("cluster", "down", directory=directory)
        assert status(directory, code=1)["leader_id"] is None
        assert succeed("cluster", "up", directory=directory)
        read = succeed("get", "greeting", *endpoints, directory=directory)
        assert read.strip() == "hello"
    finally:
        processes = LocalCluster.load(directory).processes()
        destroyed = json.loads(
            succeed("cluster", "destroy", "--yes", "--json", directory=directory)
        )
    assert destroyed == {"directory": str(directory), "stopped": 3}
    assert len(processes) == 3
    assert not any(process.is_alive() for process in processes)
    assert not directory.exists()


@pytest.mark.parametrize(
    "command",
    [["status"], ["down"], ["kill", "leader"], ["logs", "1"], ["destroy", "--yes"]],
)
def test_a_directory_without_a_cluster_is_refused(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "precious").touch()
    done = kvstore("cluster", *command, directory=tmp_path)
    assert done.returncode == 7
    assert "no cluster in" in done.stderr
    assert "kvstore cluster up" in done.stderr
    assert done.stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def founded(directory: Path) -> Path:
    """A cluster's record, without nodes."""
    directory.mkdir()
    Topology.draw(directory, nodes=3).as_founded().save()
    return directory


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["up", "--nodes", "5"], 2, "has 3 nodes, not 5"),
        (["up", "--election-timeout-ms", "900"], 2, "when a cluster is founded"),
        (["kill", "2"], 1, "node 2 is not running"),
        (["kill", "leader"], 1, "no leader right now"),
        (["pause", "7"], 1, "no node 7"),
        (["resume", "nobody"], 1, "names no node"),
        (["destroy"], 1, "Aborted"),
    ],
)
def test_what_cannot_be_done_says_why(
    tmp_path: Path, command: list[str], code: int, words: str
) -> None:
    directory = founded(tmp_path / "c")
    done = kvstore("cluster", *command, directory=directory)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert directory.exists()
