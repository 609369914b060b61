"""init and serve: what they accept, print and refuse, without running a node."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvstore.cli.main import cli
from kvstore.raft.membership import Remove
from kvstore.storage.data_directory import DataDirectory
from kvstore.types import NodeId
from tests.cli.fake_cluster import CLUSTER_ID, EPOCH, STATE_ID, fake_cluster

MEMBERS = ("--member", "1=10.0.0.1:7400", "--member", "2=10.0.0.2:7400")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_init_founds_and_prints_the_commands_for_the_others(tmp_path: Path) -> None:
    first, second = tmp_path / "one of two", tmp_path / "second"
    result = run("init", "--dir", str(first), "--node-id", "1", *MEMBERS)
    assert result.exit_code == 0
    assert "--insecure" in result.stdout
    assert "2 members tolerate no more failures than 1" in result.stderr
    (printed,) = [
        line.strip() for line in result.stdout.splitlines() if "kvstore init" in line
    ]
    program, *arguments = shlex.split(printed)
    assert program == "kvstore"
    arguments[arguments.index(str(first))] = str(second)
    assert run(*arguments).exit_code == 0
    with DataDirectory.open(first) as one, DataDirectory.open(second) as other:
        assert one.identity.cluster_id == other.identity.cluster_id
        assert one.members == other.members
        assert (one.identity.node_id, other.identity.node_id) == (1, 2)


def test_init_with_a_cluster_id_prints_no_commands_for_others(tmp_path: Path) -> None:
    cluster_id = "0123456789abcdef" * 2
    founding = ("init", "--node-id", "1", "--cluster-id", cluster_id, *MEMBERS)
    result = run(*founding, "--dir", str(tmp_path / "a"))
    assert "kvstore init" not in result.stdout
    answer = json.loads(run(*founding, "--dir", str(tmp_path / "b"), "--json").stdout)
    assert answer["cluster_id"] == cluster_id
    assert answer["members"][1] == {"node_id": 2, "address": "10.0.0.2:7400"}


def test_init_refuses_a_used_directory(tmp_path: Path) -> None:
    directory = ("--dir", str(tmp_path))
    (tmp_path / "precious").touch()
    strange = run("init", *directory, "--node-id", "1", *MEMBERS)
    assert strange.exit_code == 7
    assert "is not empty" in strange.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--node-id", "3", *MEMBERS), "3 is not among the members (1, 2)"),
        (("--node-id", "0", *MEMBERS), "--node-id"),
        (("--node-id", "1"), "list the founding members with --member, or --join"),
        (("--node-id", "1", "--member", "10.0.0.1:7400"), "is not ID=HOST:PORT"),
        (("--node-id", "1", "--member", "1=host"), "is not HOST:PORT"),
        (("--node-id", "1", "--member", "0=h:1"), "an id is 1 to"),
        (("--node-id", "1", *MEMBERS, "--member", "1=h:1"), "node 1 is named twice"),
        (
            ("--node-id", "1", *MEMBERS, "--member", "3=10.0.0.1:7400"),
            "10.0.0.1:7400 is named twice",
        ),
        (("--node-id", "1", "--join", "h:1"), "say with --address"),
        (("--node-id", "1", *MEMBERS, "--join", "h:1"), "--join asks the cluster"),
        (("--node-id", "1", *MEMBERS, "--address", "h:1"), "--address goes with"),
        (("--node-id", "1", *MEMBERS, "--cluster-id", "xy"), "is not hexadecimal"),
        (("--node-id", "1", *MEMBERS, "--cluster-id", "00"), "32 hexadecimal digits"),
    ],
)
def test_init_names_a_mistake_and_makes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    directory = tmp_path / "data"
    result = run("init", "--dir", str(directory), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not directory.exists()


def test_init_makes_a_node_that_joins_a_running_cluster(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with fake_cluster() as cluster:
        joining = (
            "init",
            "--join",
            cluster.addresses[NodeId(2)],
            "--dir",
            str(directory),
        )
        answer = run(*joining, "--node-id", "4", "--address", "127.0.0.1:1", "--json")
    assert answer.exit_code == 0, answer.stderr
    serve, add = json.loads(answer.stdout)["next"]
    assert serve == f"kvstore serve --dir {directory}"
    assert add.startswith("kvstore member add 4 127.0.0.1:1 --endpoints ")
    with DataDirectory.open(directory) as made:
        assert made.identity.cluster_id == CLUSTER_ID
        assert made.identity.origin_id == STATE_ID
        assert made.identity.epoch == EPOCH
        assert made.identity.node_id == 4
        assert [member.node_id for member in made.members] == [1, 2, 3, 4]


def test_init_refuses_to_join_in_anothers_place(tmp_path: Path) -> None:
    """An id that is, or was, a member; or its address."""
    directory = tmp_path / "data"
    with fake_cluster() as cluster:
        change = cluster.configuration.enter_joint([Remove(NodeId(3))])
        cluster.configuration = change.leave_joint()
        joining = (
            "init",
            "--join",
            cluster.addresses[NodeId(2)],
            "--dir",
            str(directory),
        )
        for node_id, address, message in (
            ("2", "h:1", "node 2 is a member already"),
            ("3", "h:1", "node 3 was a member once"),
            ("4", cluster.addresses[NodeId(1)], "a member serves at"),
        ):
            result = run(*joining, "--node-id", node_id, "--address", address)
            assert result.exit_code == 5
            assert message in result.stderr
    assert not directory.exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("no_such_setting=1", "there is no 'no_such_setting'"),
        ("insecure=true", "has an option of its own"),
        ("value_bytes_max=many", "must be a whole number"),
        ("scrub_pause_s=long", "must be a number"),
        ("scrub=maybe", "must be on or off"),
    ],
)
def test_serve_names_a_setting_that_cannot_be(
    tmp_path: Path, setting: str, message: str
) -> None:
    result = run("serve", "--dir", str(tmp_path), "--set", setting)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set", "value_bytes_max=0"),
        ("--heartbeat-interval-ms", "400"),
        ("--listen", "0.0.0.0:7400"),
        ("--metrics", "0.0.0.0:9000"),
        ("--listen", "nowhere"),
    ],
)
def test_serve_shows_what_the_settings_refuse(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    result = run("serve", "--dir", str(tmp_path), *arguments)
    assert result.exit_code == 7
    assert result.stderr.startswith("Error: ")
