"""What the members' answers mean, in words and as healthy or not."""

from kvstore.cli.cluster_status import ClusterReport, NodeReport
from kvstore.pb import cluster_pb2


def node(node_id: int, role: str = "", *, term: int = 7, leader: int = 2) -> NodeReport:
    """A member that answered; without a role, one that did not."""
    status = None
    if role:
        status = cluster_pb2.StatusResponse(
            node_id=node_id, role=role, term=term, leader_id=leader
        )
    return NodeReport(node_id=node_id, address=f"n{node_id}:1", status=status)


def report(*nodes: NodeReport) -> ClusterReport:
    return ClusterReport(cluster_id=b"c", nodes=nodes)


def test_all_members_behind_one_leader_are_healthy() -> None:
    whole = report(node(1, "follower"), node(2, "leader"), node(3, "follower"))
    assert whole.healthy
    assert whole.in_words() == "Healthy: node 2 leads in term 7, all 3 answer."


def test_a_minority_may_be_silent() -> None:
    degraded = report(node(1), node(2, "leader"), node(3, "follower"))
    assert degraded.healthy
    assert degraded.in_words() == (
        "Degraded, but serving: node 2 leads in term 7; no answer from node 1; "
        "losing one more would stop it."
    )


def test_without_a_majority_there_is_no_quorum_even_if_a_leader_says_so() -> None:
    """A leader cut off from the others does not know it yet."""
    lost = report(node(1), node(2, "leader"), node(3))
    assert not lost.healthy
    assert lost.in_words().startswith("No quorum: 1 of 3 nodes answered, 2 are needed")


def test_a_deposed_leader_is_not_the_leader() -> None:
    two = report(
        node(1, "leader", term=6, leader=1),
        node(2, "leader"),
        node(3, "follower"),
    )
    assert two.leader is not None
    assert two.leader.node_id == 2


def test_an_election_is_not_healthy() -> None:
    electing = report(
        node(1, "candidate", leader=0), node(2, "follower", leader=0), node(3)
    )
    assert not electing.healthy
    assert electing.in_words().startswith("No leader: 2 of 3 nodes answered")


def test_a_single_node_is_its_own_majority() -> None:
    single = report(node(2, "leader"))
    assert (
        single.in_words() == "Healthy: node 2 leads in term 7, its only node answers."
    )


def test_lag_counts_from_the_leaders_commit_and_is_never_negative() -> None:
    behind, leader, ahead = node(1, "follower"), node(2, "leader"), node(3, "follower")
    for one, commit, applied in (
        (behind, 90, 60),
        (leader, 100, 99),
        (ahead, 101, 101),
    ):
        assert one.status is not None
        one.status.commit_index, one.status.applied_index = commit, applied
    whole = report(behind, leader, ahead)
    assert [whole.lag(one) for one in whole.nodes] == [40, 1, 0]
    assert report(node(1, "follower"), node(2), node(3)).lag(behind) is None


def test_corruption_is_said_on_the_top_line() -> None:
    single = report(node(2, "leader"))
    assert single.nodes[0].status is not None
    single.nodes[0].status.scrub.tours.add(store="raft", corrupt_records=2)
    assert single.corrupt_records == 2
    assert "2 corrupt records" in single.in_words()


def member(
    node_id: int, *, voter: bool = True, outgoing: bool = False
) -> cluster_pb2.Member:
    return cluster_pb2.Member(
        node_id=node_id, address=f"n{node_id}:1", voter=voter, outgoing=outgoing
    )


def knowing(
    one: NodeReport, *members: cluster_pb2.Member, commit_index: int = 10
) -> NodeReport:
    """The same node, with an account of the members."""
    assert one.status is not None
    one.status.members.extend(members)
    one.status.commit_index = commit_index
    return one


def test_a_learner_counts_for_no_majority() -> None:
    """Two of four answer and follow; the learner among them does not help."""
    members = [member(1), member(2), member(3), member(4, voter=False)]
    lost = report(
        node(1), knowing(node(2, "leader"), *members), node(3), node(4, "follower")
    )
    assert lost.quorum == 2
    assert not lost.healthy
    assert lost.in_words().startswith("No quorum: 1 of 3 voters answered, 2 are needed")
    assert lost.role(lost.nodes[3]) == "learner"
    serving = report(knowing(node(2, "leader"), *members), node(3, "follower"))
    assert serving.healthy


def test_who_leaves_is_seen_until_the_change_is_done() -> None:
    """The leader removes itself, and leads until then."""
    members = [member(1), member(2, outgoing=True), member(3)]
    changing = report(
        node(1, "follower"), knowing(node(2, "leader"), *members), node(3, "follower")
    )
    assert changing.nodes[1].status is not None
    changing.nodes[1].status.joint = True
    assert changing.voters == {1, 3}
    assert changing.role(changing.nodes[1]) == "leader, leaving"
    assert changing.in_words() == (
        "Healthy: node 2 leads in term 7, all 3 answer. "
        "A change of the members is under way."
    )


def test_the_newest_account_of_the_members_counts() -> None:
    """A removed node that still answers has an old one, and may think that it leads."""
    old, new = [member(1), member(2)], [member(2)]
    gone = knowing(node(1, "leader", term=6, leader=1), *old, commit_index=9)
    leader = knowing(node(2, "leader"), *new)
    assert leader.status is not None
    leader.status.removed.append(1)
    both = report(gone, leader)
    assert both.voters == {2}
    assert both.leader is leader
    assert both.role(gone) == "removed"


def test_a_node_that_waits_to_be_added_is_not_taken_for_a_lost_quorum() -> None:
    waiting = report(node(4, "follower", leader=0))
    assert waiting.in_words().startswith("Not in a cluster yet")
    assert waiting.role(waiting.nodes[0]) == "joining"


def test_a_transfer_and_a_snapshot_under_way_are_seen() -> None:
    leader = node(2, "leader")
    assert leader.status is not None
    leader.status.transferee = 1
    leader.status.peers.add(node_id=3, state="snapshot")
    busy = report(node(1, "follower"), leader, node(3, "follower"))
    assert "hands over to node 1" in busy.in_words()
    assert "snapshot is being sent to node 3" in busy.in_words()
    assert [busy.receives_snapshot(it) for it in busy.nodes] == [False, False, True]
