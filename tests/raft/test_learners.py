"""Members that count for nothing: how they join, and when they begin to count."""

import pytest

from kvstore.errors import ChangePending, MembershipRefused
from kvstore.raft.membership import (
    AddLearner,
    Configuration,
    Demote,
    Promote,
    Remove,
)
from kvstore.raft.messages import (
    AppendEntries,
    Heartbeat,
    InstallSnapshot,
    RequestVote,
    RequestVoteReply,
)
from kvstore.raft.node import Role
from kvstore.types import NodeId
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, founded, info, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks


def led(size: int = 3, *, learners: tuple[int, ...] = ()) -> Cluster:
    """Node 1 leads, and everybody knows what is committed."""
    cluster = Cluster(size, learners=learners)
    cluster.elect(1)
    cluster.tick_all()
    return cluster


def shape(configuration: Configuration) -> tuple[list[int], list[int], list[int]]:
    """Voters, outgoing voters and learners."""
    return (
        [*map(int, configuration.voters)],
        [*map(int, configuration.outgoing)],
        [*map(int, configuration.learners)],
    )


def test_a_learner_receives_everything_and_counts_for_nothing() -> None:
    """etcd's TestLearnerLogReplication, TestRaftNodes and
    TestLeaderAcknowledgeCommit's learners: its word makes no majority."""
    bench = Bench(voters=(1, 2, 3), learners=(4,))
    bench.become_leader()
    bench.acknowledge(1, sender=4)
    bench.raft.propose(b"x")
    assert {m.to for m in of_kind(bench.work(), AppendEntries)} == {2, 3, 4}
    bench.acknowledge(2, sender=4)
    assert bench.raft.commit_index == 1
    bench.acknowledge(2, sender=2)
    assert bench.raft.commit_index == 2


def test_a_leader_that_hears_only_learners_steps_down() -> None:
    """CheckQuorum counts voters."""
    cluster = led(4, learners=(4,))
    cluster.cut([2, 3])
    cluster.tick_all(2 * T)
    assert not cluster.raft(1).is_leader


def test_a_learner_never_campaigns() -> None:
    """Mutant M43's first half (dragonboat#94), etcd's TestLearnerElectionTimeout and
    TestLearnerCampaign: whatever the silence, and whoever tells it to."""
    bench = Bench(configuration=founded([2, 3], learners=[1]), terms=(1,))
    bench.tick(5 * T)
    assert bench.role() is Role.FOLLOWER
    bench.raft.campaign()
    assert bench.work() == []
    bench.become_follower(term=1)
    bench.time_out_now(last=1)
    assert bench.role() is Role.FOLLOWER
    assert bench.raft.term == 1


def test_a_learner_that_is_asked_votes() -> None:
    """Mutant M43's other half (etcd#10998), etcd's TestLearnerCanVote and
    ``campaign_learner_must_vote``: the candidate knows of its promotion, it does not
    yet, and no other voter lives."""
    cluster = led(4, learners=(3, 4))
    cluster.cut([4])
    cluster.change(1, Promote(NodeId(3)), Remove(NodeId(4)))
    cluster.deliver(cluster.take(AppendEntries, to=2))
    assert not cluster.raft(3).configuration.is_voter(NodeId(3))
    cluster.wire.clear()
    cluster.crash(1)
    cluster.disconnect(2, 1)
    cluster.disconnect(3, 1)
    cluster.campaign(2)
    requests = cluster.take(RequestVote, to=3)
    assert requests
    cluster.deliver(requests)
    (reply,) = of_kind(cluster.take(RequestVoteReply), RequestVoteReply)
    assert reply.granted


def test_a_learner_is_promoted_once_it_has_caught_up() -> None:
    """Dissertation section 4.2.1: a new server joins as a non-voter, so that it does
    not hold up commitment while it has nothing; etcd's TestLearnerPromotion."""
    cluster = led()
    for _ in range(100):
        cluster.propose(1)
    cluster.stabilize()
    cluster.join(4)
    cluster.change(1, AddLearner(NodeId(4), info(4)))
    while not cluster.raft(1).progress[NodeId(4)].match_index:
        assert not cluster.raft(1).configuration.is_voter(NodeId(4))
        cluster.carry(cluster.wire.pop(0))
    cluster.tick_all(3)
    assert shape(cluster.raft(4).configuration) == ([1, 2, 3, 4], [], [])
    assert cluster.raft(4).commit_index == cluster.raft(1).commit_index


def test_a_learner_that_lags_is_not_promoted() -> None:
    """As a voter it would stop the cluster; asked for it, the leader says why."""
    cluster = led()
    cluster.add(4, promotable=False)
    cluster.cut([4])
    cluster.raft(1).propose_info(NodeId(4), info(4))  # now it may be
    for _ in range(OPTIONS.promotion_lag_entries_max + 1):
        cluster.propose(1)
    cluster.tick_all(2)
    assert shape(cluster.raft(1).configuration) == ([1, 2, 3], [], [4])
    with pytest.raises(ChangePending, match="lags"):
        cluster.change(1, Promote(NodeId(4)))
    cluster.heal()
    cluster.tick_all(3)
    assert shape(cluster.raft(1).configuration) == ([1, 2, 3, 4], [], [])


def test_a_learner_that_may_not_be_promoted_stays_one() -> None:
    """Until it is told to."""
    cluster = led()
    cluster.add(4, promotable=False)
    cluster.tick_all(T)
    assert shape(cluster.raft(1).configuration) == ([1, 2, 3], [], [4])
    cluster.change(1, Promote(NodeId(4)))
    cluster.tick_all(2)
    assert shape(cluster.raft(4).configuration) == ([1, 2, 3, 4], [], [])


def test_a_voter_that_is_demoted_counts_until_the_change_is_done() -> None:
    """etcd's ``confchange/joint_learners_next``: it may not be a learner of the new
    half and a voter of the old one at once."""
    bench = Bench()
    bench.become_leader()
    bench.change(Demote(NodeId(3)))
    joint = bench.raft.configuration
    assert (shape(joint), joint.learners_next) == (([1, 2], [1, 2, 3], []), (3,))
    bench.acknowledge(2, sender=2)
    assert shape(bench.raft.configuration) == ([1, 2], [], [3])
    assert not bench.raft.configuration.members[NodeId(3)].promotable
    for peer in (2, 3):
        bench.acknowledge(3, sender=peer)
    bench.tick()
    assert shape(bench.raft.configuration) == ([1, 2], [], [3])  # nor back by itself


def test_a_removed_learner_is_told_and_left() -> None:
    """It hears of its end, then of nothing."""
    cluster = led(4, learners=(4,))
    cluster.change(1, Remove(NodeId(4)))
    cluster.stabilize()
    cluster.tick_all(3)
    assert cluster.raft(4).is_removed
    assert 4 not in cluster.raft(1).progress
    cluster.tick(1, 2)
    assert cluster.take(to=4) == []


def test_a_learner_promoted_and_removed_at_once_is_removed_for_ever() -> None:
    """It never was a voter of the old half, and its id is spent all the same."""
    bench = Bench(learners=(4,))
    bench.become_leader()
    bench.acknowledge(1, sender=4)
    bench.change(Promote(NodeId(4)), Remove(NodeId(4)))
    assert bench.raft.configuration.removed == (4,)
    assert 4 not in bench.raft.configuration.members
    for index in (2, 3):
        bench.acknowledge(index)
    with pytest.raises(MembershipRefused, match="never used again"):
        bench.change(AddLearner(NodeId(4), info(4)))


def test_a_removed_peer_that_does_not_answer_is_left_after_a_while() -> None:
    """2 T, so that a dead one is not sent to for ever."""
    cluster = led()
    cluster.cut([3])
    cluster.change(1, Remove(NodeId(3)))
    cluster.tick_all(2 * T)
    assert 3 in cluster.raft(1).progress
    cluster.tick_all(2)
    assert 3 not in cluster.raft(1).progress
    cluster.take()
    cluster.tick(1)
    assert of_kind(cluster.take(to=3), Heartbeat) == []


def test_a_joining_node_waits_to_be_found() -> None:
    """It knows of nobody: it neither campaigns nor votes for itself, and takes a
    leader's whole log, or a snapshot."""
    cluster = led()
    cluster.propose(1)
    cluster.stabilize()
    cluster.compact(1)
    cluster.join(4)
    cluster.tick(4, 5 * T)
    assert cluster.raft(4).role is Role.FOLLOWER
    assert cluster.take(sender=4) == []
    cluster.change(1, AddLearner(NodeId(4), info(4)))
    cluster.tick(1, 1)
    while not (sent := cluster.take(InstallSnapshot, to=4)):
        cluster.carry(cluster.wire.pop(0))
    cluster.deliver(sent)
    cluster.tick_all(3)
    assert cluster.raft(4).configuration == cluster.raft(1).configuration
    assert cluster.servers[NodeId(4)].state == cluster.servers[NodeId(1)].state
