"""LocalCluster over stub nodes: founding, finding again, faults, destroying."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvcluster.errors import (
    ClusterError,
    ClusterExists,
    NodeFailed,
    NotACluster,
    UnknownNode,
)
from kvcluster.local import LocalCluster, Settings
from kvcluster.process import ProcessIdentity
from kvcluster.status import ClusterStatus, NodeStatus, ProcessState
from kvcluster.topology import Topology, free_ports

Make = Callable[..., LocalCluster]
STUB = (sys.executable, str(Path(__file__).with_name("stub_node.py")))


def states(cluster: LocalCluster) -> list[str]:
    return [node.process.value for node in cluster.status().nodes]


@pytest.mark.process
def test_a_cluster_lives_through_its_verbs(stub_cluster: Make) -> None:
    """Start, pause, resume, kill, restart, stop: seen by a second object too."""
    cluster = stub_cluster()
    assert states(cluster) == ["down"] * 3
    assert cluster.start() == (1, 2, 3)
    assert cluster.wait_for_leader(10.0).node_id == 1
    cluster.wait_caught_up(10.0)  # two make a leader; the third may still be starting
    again = LocalCluster.load(cluster.directory, program=STUB)
    assert again.start() == ()
    assert again.processes() == cluster.processes()

    assert again.pause(2) == 2
    assert states(cluster) == ["running", "paused", "running"]
    assert again.resolve("follower") == 3
    assert again.resume(2) == 2
    assert cluster.wait_caught_up(10.0).node(2).process is ProcessState.RUNNING

    assert cluster.kill("leader") == 1
    assert states(again) == ["down", "running", "running"]
    with pytest.raises(NodeFailed, match="not running"):
        cluster.kill(1)
    assert again.start() == (1,)
    before = cluster.processes()[1]
    assert cluster.restart(2) == 2
    assert cluster.processes()[1] != before
    cluster.wait_caught_up(10.0)
    assert "node 2 serves" in cluster.logs(2, lines=1)

    cluster.stop()
    assert states(again) == ["down"] * 3
    assert cluster.processes() == ()


@pytest.mark.process
def test_destroying_leaves_neither_process_nor_directory(stub_cluster: Make) -> None:
    cluster = stub_cluster()
    cluster.start()
    processes = cluster.processes()
    cluster.destroy()
    assert not cluster.directory.exists()
    assert not any(process.is_alive() for process in processes)


@pytest.mark.process
def test_settings_reach_every_start(stub_cluster: Make) -> None:
    cluster = stub_cluster(settings=Settings(election_timeout_ms=321))
    LocalCluster.load(cluster.directory, program=STUB).start()
    cluster.wait_caught_up(10.0)
    assert all("election 321 ms" in cluster.logs(n) for n in cluster.node_ids)


@pytest.mark.process
def test_proxied_nodes_are_told_to_dial_the_proxies(stub_cluster: Make) -> None:
    cluster = stub_cluster(proxied=True)
    cluster.start()
    cluster.wait_caught_up(10.0)
    words = cluster.logs(1).split()
    peers = dict(word.split("=") for word in words if "=" in word)
    assert sorted(peers) == ["2", "3"]
    assert not set(peers.values()) & set(cluster.endpoints)
    cluster.isolate("leader")
    cluster.heal()


@pytest.mark.process
def test_a_node_that_ignores_sigterm_is_killed(stub_cluster: Make) -> None:
    cluster = stub_cluster(nodes=1)
    (cluster.directory / "node-1" / "ignore-term").touch()
    cluster.start()
    cluster.wait_for_leader(10.0)
    cluster.stop(grace_s=0.1)
    assert cluster.processes() == ()


@pytest.mark.process
def test_a_node_that_cannot_serve_is_reported_with_its_last_words(
    stub_cluster: Make,
) -> None:
    cluster = stub_cluster(nodes=1)
    (cluster.directory / "node-1" / "fail-serve").touch()
    cluster.start()
    with pytest.raises(NodeFailed, match="cannot serve today"):
        cluster.wait_for_leader(10.0)


@pytest.mark.process
def test_founding_that_was_cut_short_is_repeated_at_the_next_start(
    tmp_path: Path,
) -> None:
    """A member that failed to found leaves a cluster that can still be founded."""
    topology = Topology.draw(tmp_path / "c", nodes=2)
    (tmp_path / "c" / "node-2").mkdir(parents=True)
    (tmp_path / "c" / "node-2" / "fail-init").touch()
    topology.save()
    cluster = LocalCluster.load(tmp_path / "c", program=STUB)
    with pytest.raises(NodeFailed, match="no room on the device"):
        cluster.start()
    assert cluster.processes() == ()
    (tmp_path / "c" / "node-2" / "fail-init").unlink()
    try:
        assert cluster.start() == (1, 2)
        assert cluster.wait_for_leader(10.0).node_id == 1
    finally:
        cluster.destroy()


@pytest.mark.process
def test_founding_is_not_repeated_under_nodes_that_another_command_started(
    tmp_path: Path,
) -> None:
    """A member whose directory is founded anew has forgotten what it voted."""
    (tmp_path / "c").mkdir()
    Topology.draw(tmp_path / "c", nodes=2).save()
    late = LocalCluster.load(tmp_path / "c", program=STUB)
    first = LocalCluster.load(tmp_path / "c", program=STUB)
    try:
        assert first.start() == (1, 2)
        written = tmp_path / "c" / "node-1" / "data" / "written"
        written.touch()
        assert late.start() == ()
        assert written.exists()
    finally:
        first.destroy()
    with pytest.raises(NotACluster):
        late.start()


@pytest.mark.process
def test_a_cluster_is_founded_once(stub_cluster: Make, tmp_path: Path) -> None:
    cluster = stub_cluster("one", nodes=1)
    with pytest.raises(ClusterExists):
        stub_cluster("one", nodes=1)
    assert LocalCluster.load(tmp_path / "one").endpoints == cluster.endpoints


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    """Neither founded in, nor destroyed."""
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(NotACluster, match=r"thesis\.txt"):
        LocalCluster.create(tmp_path)
    with pytest.raises(NotACluster):
        LocalCluster.load(tmp_path)
    (tmp_path / "cluster.json").write_text(json.dumps({"kind": "other", "format": 1}))
    with pytest.raises(NotACluster):
        LocalCluster.load(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 2


def test_destroying_refuses_a_directory_that_changed_hands(tmp_path: Path) -> None:
    topology = Topology.draw(tmp_path / "c", nodes=1)
    (tmp_path / "c").mkdir()
    topology.save()
    cluster = LocalCluster.load(tmp_path / "c")
    Topology.draw(tmp_path / "c", nodes=1).save()
    with pytest.raises(NotACluster, match="another cluster"):
        cluster.destroy()
    assert (tmp_path / "c").exists()


def test_selectors_that_name_nobody_say_what_would(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    Topology.draw(tmp_path / "c", nodes=3).save()
    cluster = LocalCluster.load(tmp_path / "c")
    for selector in ("leader", "follower", "4", "0", "nobody"):
        with pytest.raises(UnknownNode) as caught:
            cluster.resolve(selector)
        assert caught.value.advice
    assert cluster.resolve("3") == cluster.resolve(3) == 3


def test_a_pid_file_of_another_process_is_ignored(tmp_path: Path) -> None:
    """Goal: a pid reused since by this very test process is not taken for a node."""
    (tmp_path / "c").mkdir()
    topology = Topology.draw(tmp_path / "c", nodes=1)
    topology.save()
    topology.nodes[0].directory.mkdir()
    here = ProcessIdentity.of(1)
    assert here is not None
    topology.nodes[0].process.write_text(
        json.dumps({"pid": 1, "start_ticks": -1, "boot_id": here.boot_id})
    )
    cluster = LocalCluster.load(tmp_path / "c")
    assert cluster.processes() == ()
    assert states(cluster) == ["down"]


@pytest.mark.parametrize("nodes", [0, 10])
def test_the_number_of_nodes_is_bounded(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(ClusterError, match="1 to 9"):
        Topology.draw(tmp_path, nodes=nodes)


def test_free_ports_differ_and_stay_out_of_the_ephemeral_range() -> None:
    """An outgoing connection must not take the port of a node that is down."""
    ports = free_ports(9)
    assert len(set(ports)) == 9
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < first for port in ports)


def node(number: int, role: str, *, term: int, leader: int) -> NodeStatus:
    return NodeStatus(
        node_id=number,
        address="127.0.0.1:1",
        process=ProcessState.RUNNING,
        pid=1,
        serving=True,
        role=role,
        term=term,
        leader_id=leader,
    )


def test_a_deposed_leader_is_not_taken_for_the_leader() -> None:
    status = ClusterStatus(
        nodes=(
            node(1, "leader", term=3, leader=1),
            node(2, "leader", term=4, leader=2),
            node(3, "follower", term=4, leader=2),
        )
    )
    assert status.leader is not None
    assert status.leader.node_id == 2
    assert ClusterStatus(nodes=status.nodes[:1]).leader is not None
    alone = ClusterStatus(
        nodes=(status.nodes[0], node(2, "follower", term=4, leader=0), status.nodes[1])
    )
    assert alone.leader is None
