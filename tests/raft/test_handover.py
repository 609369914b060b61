"""Leadership transfer (dissertation section 3.10)."""

import pytest

from kvstore.errors import Busy, ChangePending, MembershipRefused, NotLeader
from kvstore.raft.events import (
    BecameCandidate,
    BecamePreCandidate,
    CampaignReason,
    HandoverEnded,
    HandoverStarted,
    VoteRefused,
)
from kvstore.raft.membership import Demote, Promote, Remove
from kvstore.raft.messages import AppendEntries, RequestVote, TimeoutNow
from kvstore.raft.node import Role
from kvstore.types import NodeId, Term
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, entry_id, founded, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks


def led(size: int = 3) -> Cluster:
    """Node 1 leads, and is heard."""
    cluster = Cluster(size)
    cluster.elect(1)
    cluster.tick_all()
    return cluster


def leader() -> Bench:
    bench = Bench()
    bench.become_leader()
    return bench


def test_a_voter_that_is_up_to_date_leads_at_once() -> None:
    """etcd's TestLeaderTransferToUpToDateNode and TestLeaderTransferWithCheckQuorum:
    one round, without a pre-vote, and past stickiness: the leader wants it."""
    cluster = led()
    term = cluster.raft(1).term
    assert cluster.transfer(1, 2) == 2
    cluster.stabilize()
    assert cluster.leader().node_id == 2
    assert {cluster.raft(i).term for i in cluster.ids} == {term + 1}
    assert {cluster.raft(i).leader_id for i in cluster.ids} == {2}
    events = cluster.servers[NodeId(2)].events
    assert not [event for event in events if isinstance(event, BecamePreCandidate)]
    (campaign,) = [event for event in events if isinstance(event, BecameCandidate)]
    assert campaign.reason is CampaignReason.HANDED_OVER
    others = cluster.servers[NodeId(3)].events
    assert not [event for event in others if isinstance(event, VoteRefused)]
    cluster.propose(2)
    cluster.tick_all(2)
    assert cluster.commits() == [3, 3, 3]


def test_a_follower_cannot_hand_over() -> None:
    """etcd's TestLeaderTransferToUpToDateNodeFromFollower: it names whom to ask, where
    etcd's forwards."""
    cluster = led()
    with pytest.raises(NotLeader) as caught:
        cluster.transfer(2, 3)
    assert caught.value.leader_id == 1


def test_the_lead_comes_back() -> None:
    """etcd's TestLeaderTransferBack."""
    cluster = led()
    for to in (2, 1):
        cluster.transfer(cluster.leader().node_id, to)
        cluster.stabilize()
        assert cluster.leader().node_id == to


def test_a_slow_voter_catches_up_before_it_is_told() -> None:
    """etcd's TestLeaderTransferToSlowFollower: told before, it could not win."""
    cluster = led()
    cluster.cut([3])
    for _ in range(3):
        cluster.propose(1)
    cluster.stabilize()
    cluster.heal()
    cluster.transfer(1, 3)
    assert cluster.take(TimeoutNow) == []
    cluster.tick_all(2)
    assert cluster.leader().node_id == 3
    assert cluster.raft(3).commit_index == 5


def test_a_voter_that_needs_a_snapshot_gets_it_first() -> None:
    """etcd's TestLeaderTransferAfterSnapshot."""
    cluster = led()
    cluster.cut([3])
    for _ in range(3):
        cluster.propose(1)
    cluster.stabilize()
    cluster.compact(1)
    cluster.heal()
    cluster.transfer(1, 3)
    cluster.tick_all(3)
    assert cluster.servers[NodeId(3)].installed == 1
    assert cluster.leader().node_id == 3


def test_a_leader_that_hands_over_to_itself_does_nothing() -> None:
    """etcd's TestLeaderTransferToSelf."""
    bench = leader()
    assert bench.raft.transfer(NodeId(1)) == 1
    assert bench.work() == []
    assert bench.raft.transferee is None
    bench.raft.propose(b"x")


@pytest.mark.parametrize("to", [4, 9])
def test_only_a_voter_can_take_the_lead(to: int) -> None:
    """etcd's TestLeaderTransferToNonExistingNode, and a learner."""
    bench = Bench(learners=(4,))
    bench.become_leader()
    with pytest.raises(MembershipRefused, match="not a voter"):
        bench.raft.transfer(NodeId(to))
    assert bench.raft.transferee is None


def test_a_transfer_is_given_up_after_t() -> None:
    """etcd's TestLeaderTransferTimeout: the cluster must not stand still for a
    transferee that is dead."""
    cluster = led()
    cluster.cut([3])
    cluster.transfer(1, 3)
    cluster.tick_all(T - 1)
    assert cluster.raft(1).transferee == 3
    cluster.tick_all()
    assert cluster.raft(1).transferee is None
    assert cluster.raft(1).is_leader
    term = cluster.raft(1).term
    events = cluster.servers[NodeId(1)].events
    assert HandoverStarted(term, NodeId(3)) in events
    assert HandoverEnded(term, NodeId(3)) in events
    cluster.propose(1)


def test_a_lost_word_ends_like_a_dead_transferee() -> None:
    """It is told once: were it told again and again, it might campaign late."""
    cluster = led()
    cluster.transfer(1, 2)
    assert len(cluster.take(TimeoutNow)) == 1
    cluster.tick_all(T)
    assert cluster.take(TimeoutNow) == []
    assert cluster.raft(1).is_leader
    assert cluster.raft(1).ready_for_writes


def test_proposals_are_refused_during_a_transfer() -> None:
    """etcd's TestLeaderTransferIgnoreProposal: or the transferee never catches up."""
    bench = leader()
    bench.raft.transfer(NodeId(2))
    with pytest.raises(Busy) as caught:
        bench.raft.propose(b"x")
    assert caught.value.queue == "handover"
    assert not bench.raft.ready_for_writes
    assert (bench.raft.last_index, bench.raft.uncommitted_bytes) == (1, 0)


def test_a_higher_term_ends_a_transfer() -> None:
    """etcd's TestLeaderTransferReceiveHigherTermVote: whoever leads next begins
    afresh."""
    bench = leader()
    bench.raft.transfer(NodeId(3))
    bench.work()
    bench.step(
        RequestVote(
            sender=NodeId(2),
            to=NodeId(1),
            term=Term(bench.raft.term + 1),
            last_log=entry_id(1, 1),
            pre_vote=False,
            transfer=True,
        )
    )
    assert (bench.role(), bench.raft.transferee) == (Role.FOLLOWER, None)


@pytest.mark.parametrize("change", [Remove(NodeId(3)), Demote(NodeId(3))])
def test_members_do_not_change_during_a_transfer(change: Remove | Demote) -> None:
    """etcd's TestLeaderTransferRemoveNode and TestLeaderTransferDemoteNode: there the
    transfer is aborted; here the change waits, for an election timeout at most."""
    bench = leader()
    bench.raft.transfer(NodeId(3))
    with pytest.raises(ChangePending):
        bench.raft.propose_changes([change])
    assert not bench.raft.can_change_members


def test_another_transfer_takes_the_place_of_the_first() -> None:
    """etcd's TestLeaderTransferSecondTransferToAnotherNode."""
    cluster = led()
    cluster.cut([3])
    cluster.transfer(1, 3)
    cluster.transfer(1, 2)
    cluster.stabilize()
    assert cluster.leader().node_id == 2


def test_the_same_transfer_again_wins_no_time() -> None:
    """etcd's TestLeaderTransferSecondTransferToSameNode."""
    bench = leader()
    bench.raft.transfer(NodeId(3))
    bench.tick(T // 2)
    bench.raft.transfer(NodeId(3))
    for _ in range(T - T // 2):
        bench.answer_heartbeat(sender=2)
        bench.tick()
    assert bench.raft.is_leader
    assert bench.raft.transferee is None


def test_by_default_the_closest_voter_takes_the_lead() -> None:
    """Of those that answer, the one that lacks the least. Nobody if none does."""
    bench = Bench(voters=(1, 2, 3, 4), learners=(5,))
    bench.become_leader()
    for index, peers in ((2, (3, 4)), (3, (4,))):
        bench.raft.propose(b"x")
        bench.work()
        for peer in peers:
            bench.acknowledge(index, sender=peer)
    assert bench.raft.transfer() == 4
    (told,) = of_kind(bench.work(), TimeoutNow)
    assert (told.to, told.last_index) == (4, 3)
    alone = Bench(voters=(1, 2))
    alone.become_leader(commit=False)
    assert alone.raft.transfer() is None


def test_the_lead_can_be_handed_over_while_joint() -> None:
    """``confchange_v2_replace_leader``: to a voter of the new half, which then leaves
    the joint configuration; one of the old half alone would be gone at once."""
    cluster = Cluster(4, learners=(4,))
    cluster.elect(1)
    cluster.tick_all()
    cluster.change(1, Promote(NodeId(4)), Remove(NodeId(3)))
    assert cluster.raft(1).configuration.is_joint
    with pytest.raises(MembershipRefused):
        cluster.transfer(1, 3)
    cluster.transfer(1, 4)
    cluster.stabilize()
    cluster.tick_all(2)
    assert cluster.leader().node_id == 4
    assert cluster.leader().configuration.voters == (1, 2, 4)
    assert not cluster.leader().configuration.is_joint


# ------------------------------------------------------------- the transferee


def test_a_transferee_that_lacks_entries_does_not_campaign() -> None:
    """Mutant M65 (openraft#1805): the word was overtaken by nothing, but what it lacks
    was lost; it could not win, and would depose its leader for nothing."""
    bench = Bench(terms=(1,))
    bench.become_follower(term=1)
    assert bench.time_out_now(last=2) == []
    assert bench.role() is Role.FOLLOWER
    sent = bench.time_out_now(last=1)
    assert {(m.pre_vote, m.transfer) for m in of_kind(sent, RequestVote)} == {
        (False, True)
    }


def test_a_transferee_that_does_not_know_its_promotion_does_not_campaign() -> None:
    """Mutant M65's other half (cockroach#68539): by its own log it is no voter."""
    bench = Bench(configuration=founded([2, 3], learners=[1]))
    bench.become_follower(term=1)
    assert bench.time_out_now(last=0) == []
    assert bench.raft.term == 1


def test_only_the_leader_can_hand_over() -> None:
    """A late word of a leader that was, or of the term's other nodes, is void."""
    bench = Bench()
    bench.become_follower(term=1)
    assert bench.time_out_now(last=0, sender=3) == []
    late = TimeoutNow(
        sender=NodeId(2),
        to=NodeId(1),
        term=bench.raft.term,
        last_index=bench.raft.last_index,
    )
    bench.become_follower(term=2, leader=2)
    assert bench.step(late) == []
    assert (bench.role(), bench.raft.term) == (Role.FOLLOWER, 2)


def test_a_repeated_word_opens_one_term() -> None:
    """The network may deliver it twice."""
    bench = Bench()
    bench.become_follower(term=1)
    bench.time_out_now(last=0)
    bench.time_out_now(last=0)
    assert (bench.role(), bench.raft.term) == (Role.CANDIDATE, 2)


def test_a_transferee_that_loses_does_no_harm() -> None:
    """Its term deposes the old leader, and its vote request names a log that is behind:
    somebody else is elected soon."""
    cluster = led()
    cluster.transfer(1, 2)
    told = cluster.take(TimeoutNow)
    cluster.tick_all(T)  # the transfer is given up
    cluster.cut([2])
    cluster.propose(1)
    cluster.stabilize()
    cluster.deliver(told)
    cluster.heal()
    for _ in range(4 * T):
        cluster.tick_all()
    assert len({cluster.raft(i).leader_id for i in cluster.ids}) == 1
    assert cluster.leader().commit_index >= 2
    assert len({str(log) for log in cluster.logs()}) == 1


def test_appends_under_way_reach_the_transferee_first() -> None:
    """The word leaves once all is acknowledged, so the transferee holds everything."""
    bench = leader()
    bench.raft.propose(b"x")
    bench.work()
    bench.raft.transfer(NodeId(2))
    assert of_kind(bench.work(), TimeoutNow) == []
    sent = bench.acknowledge(2, sender=2)
    assert [m.last_index for m in of_kind(sent, TimeoutNow)] == [2]
    assert of_kind(sent, AppendEntries) == []
