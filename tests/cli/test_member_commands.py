"""member and leader: what they ask of a cluster, print, warn of and refuse."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kvstore.cli.main import cli
from kvstore.errors import ChangePending, LeadershipLost
from kvstore.pb import cluster_pb2
from kvstore.types import NodeId
from tests.cli.fake_cluster import FakeCluster, fake_cluster

ANYWHERE = "127.0.0.1:1"


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster() as running:
        yield running


def run(cluster: FakeCluster, *arguments: str, answer: str = "") -> Result:
    endpoints = ("--endpoints", cluster.endpoints)
    return CliRunner().invoke(cli, [*endpoints, *arguments], input=answer)


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def standings(members: list[dict[str, Any]]) -> dict[int, str]:
    return {member["node_id"]: member["standing"] for member in members}


def test_list_shows_every_member_and_who_leads(cluster: FakeCluster) -> None:
    assert run(cluster, "member", "leases", "on").exit_code == 0
    assert run(cluster, "member", "remove", "3").exit_code == 0
    result = run(cluster, "member", "list")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows == [
        ["NODE", "ADDRESS", "STANDING", "LEADER"],
        ["1", cluster.addresses[NodeId(1)], "voter", "leader"],
        ["2", cluster.addresses[NodeId(2)], "voter"],
    ]
    assert "leases are on" in result.stderr
    assert "never to be used again: 3" in result.stderr
    answer = document(run(cluster, "member", "list", "--json"))
    assert answer["removed"] == [3]
    assert answer["leases"] is True
    assert answer["epoch"] == 2
    assert answer["members"][0]["incarnation"] == f"{101:016x}"


def test_list_says_if_it_comes_from_a_node_that_does_not_lead(
    cluster: FakeCluster,
) -> None:
    cluster.kill(1)
    result = run(cluster, "member", "list")
    assert result.exit_code == 0
    assert "Node 2 says so, which does not lead" in result.stderr


def test_an_added_member_is_a_learner_at_first(cluster: FakeCluster) -> None:
    cluster.catches_up = False
    result = run(cluster, "member", "add", "4", ANYWHERE)
    assert result.exit_code == 0
    assert "Node 4 is a learner, and a voter once" in result.stdout
    answer = document(run(cluster, "member", "list", "--json"))
    assert standings(answer["members"])[4] == "learner"
    assert document(run(cluster, "member", "promote", "4", "--json"))["did"] == (
        "promote"
    )
    assert NodeId(4) in cluster.configuration.voters


def test_add_can_wait_until_it_is_a_voter(cluster: FakeCluster) -> None:
    answer = document(run(cluster, "member", "add", "4", ANYWHERE, "--wait", "--json"))
    assert standings(answer["members"])[4] == "voter"
    cluster.catches_up = False
    late = run(
        cluster, "member", "add", "5", "127.0.0.1:2", "--wait", "--timeout", "0.3"
    )
    assert late.exit_code == 1
    assert "goes on catching up" in late.stderr


@pytest.mark.parametrize("missing", [set[int](), {2, 3}], ids=["silent", "behind"])
def test_a_done_addition_stays_done_whoever_answers_while_it_waits(
    cluster: FakeCluster, missing: set[int]
) -> None:
    """Goal: what was changed is never reported as not changed. Method: after the change
    nobody answers, or only who has not received it."""
    cluster.silent_after_change = {1, 2, 3} - missing
    cluster.missing_changes = missing
    result = run(
        cluster, "member", "add", "4", ANYWHERE, "--wait", "--timeout", "0.5", "--json"
    )
    assert result.exit_code == 1, result.stderr
    assert "goes on catching up" in result.stderr
    assert "Nothing was changed" not in result.stderr
    members = json.loads(result.stdout)["members"]
    assert standings(members) == {1: "voter", 2: "voter", 3: "voter", 4: "learner"}


def test_an_addition_that_another_undid_at_once_is_told_as_it_is(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = cluster_pb2.ChangeMembershipResponse()
    monkeypatch.setattr("kvstore.cli.member_commands.change", lambda *_: answer)
    result = run(cluster, "member", "add", "4", ANYWHERE)
    assert result.exit_code == 0, result.exception
    assert "has been removed again since" in result.stdout


def test_a_learner_stays_one_if_asked(cluster: FakeCluster) -> None:
    result = run(cluster, "member", "add", "4", ANYWHERE, "--learner")
    assert "until you promote it" in result.stdout
    members = document(run(cluster, "member", "list", "--json"))["members"]
    assert standings(members)[4] == "learner"
    both = run(cluster, "member", "add", "5", "h:1", "--learner", "--wait")
    assert both.exit_code == 2


def test_replace_swaps_two_members(cluster: FakeCluster) -> None:
    cluster.kill(3)
    answer = document(run(cluster, "member", "replace", "3", "4", ANYWHERE, "--json"))
    assert standings(answer["members"]) == {1: "voter", 2: "voter", 4: "voter"}


def test_a_change_is_sent_on_to_the_leader(cluster: FakeCluster) -> None:
    cluster.leader_id = NodeId(3)
    endpoint = ("--endpoints", cluster.addresses[NodeId(2)])
    result = CliRunner().invoke(cli, [*endpoint, "member", "remove", "2", "--json"])
    assert result.exit_code == 0, result.stderr
    assert cluster.configuration.voters == (1, 3)


def test_what_makes_no_sense_is_refused_with_5(cluster: FakeCluster) -> None:
    result = run(cluster, "member", "promote", "1")
    assert result.exit_code == 5
    assert "node 1 is not a learner" in result.stderr
    assert run(cluster, "member", "add", "4", "nowhere").exit_code == 2


def test_a_change_that_cannot_begin_in_time_exits_with_3(cluster: FakeCluster) -> None:
    cluster.fails_with = ChangePending("another change is under way")
    result = run(cluster, "--timeout", "0.3", "member", "remove", "3")
    assert result.exit_code == 3
    assert "another change is under way" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("member", "remove", "3"), "kvstore member list"),
        (
            ("--timeout", "0.3", "member", "replace", "3", "4", ANYWHERE),
            "Repeat the command",
        ),
        (("leader", "transfer"), "kvstore leader show"),
    ],
)
def test_an_unknown_outcome_exits_with_4_and_says_where_to_look(
    cluster: FakeCluster, arguments: tuple[str, ...], advice: str
) -> None:
    cluster.fails_with = LeadershipLost("the leader stepped down")
    result = run(cluster, *arguments)
    assert result.exit_code == 4
    assert advice in result.stderr
    assert "the key" not in result.stderr


def test_removing_what_the_quorum_needs_is_asked_about(cluster: FakeCluster) -> None:
    """Of members 1, 2 and 3 only 1 and 3 answer: without 3, node 1 is alone of two."""
    cluster.kill(2)
    refused = run(cluster, "member", "remove", "3", answer="n\n")
    assert refused.exit_code == 1
    assert "only 1 of the 2 voters left answer" in refused.stderr
    assert NodeId(3) in cluster.configuration.voters
    assert run(cluster, "member", "remove", "3", answer="").exit_code == 1
    assert NodeId(3) in cluster.configuration.voters
    assert run(cluster, "member", "remove", "3", "--yes").exit_code == 0
    assert NodeId(3) not in cluster.configuration.voters


def test_leaving_one_voter_is_asked_about() -> None:
    with fake_cluster(nodes=2) as two:
        asked = run(two, "member", "remove", "2", answer="y\n")
        assert asked.exit_code == 0
        assert "node 1 would be the only voter" in asked.stderr
        last = run(two, "member", "remove", "1")
        assert last.exit_code == 5
        assert "the last voter must stay" in last.stderr


def test_a_removal_that_leaves_no_spare_is_only_noted(cluster: FakeCluster) -> None:
    cluster.kill(3)
    result = run(cluster, "member", "remove", "3")
    assert result.exit_code == 0
    assert "losing one more stops the cluster" in result.stderr


def test_removing_a_learner_or_a_spare_voter_says_nothing() -> None:
    with fake_cluster(nodes=5) as five:
        assert run(five, "member", "add", "6", ANYWHERE, "--learner").exit_code == 0
        assert run(five, "member", "remove", "6").stderr == ""
        assert run(five, "member", "remove", "5").stderr == ""


def test_leader_shows_and_transfers(cluster: FakeCluster) -> None:
    shown = document(run(cluster, "leader", "show", "--json"))
    assert shown["leader_id"] == 1
    assert shown["address"] == cluster.addresses[NodeId(1)]
    moved = run(cluster, "leader", "transfer", "--to", "3")
    assert moved.stdout == "Node 3 leads in term 4.\n"
    assert "Node 3 at" in run(cluster, "leader", "show").stdout
    assert document(run(cluster, "leader", "transfer", "--json"))["leader_id"] == 1


def test_leader_show_exits_with_1_if_nobody_leads(cluster: FakeCluster) -> None:
    cluster.kill(2, 3)
    result = run(cluster, "leader", "show")
    assert result.exit_code == 1
    assert "No quorum" in result.stderr
    assert result.stdout == ""
