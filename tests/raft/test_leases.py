"""Reads by a leader's lease (dissertation section 6.4.1)."""

import pytest

from kvstore.raft.events import Refusal, VoteRefused
from kvstore.raft.membership import SetLeases
from kvstore.raft.messages import Heartbeat, RequestVoteReply, TimeoutNow
from kvstore.types import NodeId
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, TICK_MS, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks
LEASE_MS = OPTIONS.lease_ms


def leader(*, leases: bool = True) -> Bench:
    bench = Bench(leases=leases)
    bench.become_leader()
    bench.work()
    return bench


def leased() -> Cluster:
    """Node 1 leads, with a lease. Nobody votes in a node's first T."""
    cluster = Cluster(leases=True)
    while not any(cluster.raft(node_id).is_leader for node_id in cluster.ids):
        cluster.tick_all()
    cluster.transfer(cluster.leader().node_id, 1)
    cluster.stabilize()
    cluster.tick_all(2)
    assert cluster.raft(1).has_lease
    return cluster


def renew(bench: Bench) -> None:
    """A heartbeat asks, and 2 answers at once."""
    (beat, _) = of_kind(bench.tick(), Heartbeat)
    assert beat.round
    bench.answer_heartbeat(read_round=beat.round)
    assert bench.raft.has_lease


def read(bench: Bench, request_id: int = 1) -> list[tuple[int, int, bool]]:
    """What a read by lease is answered at once."""
    bench.raft.read_index(request_id, lease=True)
    bench.work()
    answers = [(r.request_id, int(r.index), r.lease) for r in bench.reads]
    bench.reads.clear()
    return answers


def test_a_leader_with_a_lease_answers_at_once() -> None:
    """etcd's TestReadOnlyOptionLease: it asks nobody."""
    bench = leader()
    renew(bench)
    assert read(bench) == [(1, 1, True)]
    assert of_kind(bench.work(), Heartbeat) == []


def test_a_lease_ends_by_itself() -> None:
    """By the clock, ticks or none: afterwards a quorum must confirm each read."""
    bench = leader()
    renew(bench)
    bench.pass_time(LEASE_MS - 1)
    assert read(bench) == [(1, 1, True)]
    bench.pass_time(1)
    assert not bench.raft.has_lease
    assert read(bench, 2) == []


def test_a_lease_counts_from_the_question() -> None:
    """Whoever answered may have heard it as soon as it left, and its patience began
    then: what the answer took is lost."""
    bench = leader()
    (beat, _) = of_kind(bench.tick(), Heartbeat)
    bench.pass_time(LEASE_MS - 10)
    bench.answer_heartbeat(read_round=beat.round)
    assert bench.raft.has_lease
    bench.pass_time(10)
    assert not bench.raft.has_lease


def test_an_answer_that_comes_too_late_gives_no_lease() -> None:
    """The leader stood still between question and answer (tikv#964, mutant M49)."""
    bench = leader()
    (beat, _) = of_kind(bench.tick(), Heartbeat)
    bench.pass_time(LEASE_MS)
    bench.answer_heartbeat(read_round=beat.round)
    assert not bench.raft.has_lease


def test_a_lease_is_shorter_than_what_a_voter_promises() -> None:
    """Mutant M49: a voter's T may begin just before one of its ticks, and its clock may
    run faster than the leader's. The options here leave both room."""
    assert (T - 1) * TICK_MS > LEASE_MS


def test_a_new_leader_reads_by_no_lease_before_its_first_commit() -> None:
    """Mutant M45's kin: it does not know yet how far the log is committed."""
    bench = Bench(leases=True)
    bench.become_leader(commit=False)
    beats = of_kind(bench.tick(), Heartbeat)
    assert {beat.round for beat in beats} == {0}
    assert read(bench) == []


def test_without_leases_a_leader_never_has_one() -> None:
    """etcd's TestReadOnlyOptionLeaseWithoutCheckQuorum: where voters may campaign
    early, a lease is worth nothing. The configuration has them on for all, or off."""
    bench = leader(leases=False)
    for _ in range(3):
        (beat, _) = of_kind(bench.tick(), Heartbeat)
        assert beat.round == 0
        bench.answer_heartbeat()
    assert not bench.raft.has_lease
    assert read(bench) == []


def test_a_read_that_wants_a_quorum_gets_one() -> None:
    """The caller chooses, read by read."""
    bench = leader()
    renew(bench)
    bench.raft.read_index(1)
    assert len(of_kind(bench.work(), Heartbeat)) == 2
    assert bench.reads == []


def test_one_voter_needs_nobody_for_its_lease() -> None:
    """It is its own quorum."""
    bench = Bench(voters=[1], leases=True)
    bench.tick(2)
    assert read(bench) == [(1, 1, True)]


def test_a_lease_counts_voters_that_know_of_leases() -> None:
    """Switched on, they hold once a quorum holds the entry that says so: others may
    still shorten their patience, and elect inside it."""
    bench = leader(leases=False)
    bench.change(SetLeases(True))
    bench.acknowledge(2, sender=2)
    assert bench.raft.commit_index == 2  # the joint configuration, not its end
    (beat, _) = of_kind(bench.tick(), Heartbeat)
    bench.answer_heartbeat(read_round=beat.round, sender=2)
    assert not bench.raft.has_lease
    bench.acknowledge(3, sender=2)
    renew(bench)


def test_a_transfer_ends_leases_for_the_term() -> None:
    """Mutant M48 (raft-rs#234, openraft#1747): the word may be late, and elects past
    stickiness; also when the transfer was given up long ago."""
    bench = leader()
    renew(bench)
    bench.raft.transfer(NodeId(2))
    assert of_kind(bench.work(), TimeoutNow)
    assert not bench.raft.has_lease
    for _ in range(2 * T):
        bench.answer_heartbeat()
        beats = of_kind(bench.tick(), Heartbeat)
        assert {beat.round for beat in beats} == {0}
    assert bench.raft.is_leader
    assert bench.raft.transferee is None
    assert read(bench) == []


def test_a_late_word_of_a_transfer_makes_no_read_stale() -> None:
    """Mutant M48 on a cluster: 2 hears it long after the leader gave up, and is elected
    by 3, which has just confirmed the leader; the old one reads."""
    cluster = leased()
    cluster.transfer(1, 2)
    told = cluster.take(TimeoutNow)
    cluster.tick_all(T)
    assert cluster.raft(1).ready_for_writes
    cluster.cut([1])
    cluster.deliver(told)
    cluster.stabilize()
    assert cluster.leader().node_id == 2
    cluster.propose(2)
    cluster.stabilize()
    cluster.read(1, 1, lease=True)
    assert 1 not in cluster.servers[NodeId(1)].reads


@pytest.mark.parametrize("paused", [False, True])
def test_a_cut_off_leaders_lease_ends_before_another_leads(paused: bool) -> None:
    """Whether it ticks meanwhile or its machine stands still: its clock counts."""
    cluster = leased()
    cluster.cut([1])
    request_id = 0
    while not (cluster.raft(2).is_leader or cluster.raft(3).is_leader):
        for node_id in (2, 3) if paused else cluster.ids:
            cluster.tick(node_id)
        cluster.stabilize()
        if not paused and cluster.raft(1).is_leader:
            request_id += 1
            cluster.read(1, request_id, lease=True)
    cluster.propose(cluster.leader().node_id)
    cluster.stabilize()
    cluster.read(1, 0, lease=True)
    answer = cluster.servers[NodeId(1)].reads.get(0)
    assert answer is None or answer.rejected


def test_a_closed_connection_does_not_shorten_a_lease() -> None:
    """With leases on, evidence of a death is no reason to campaign: two resets at two
    followers would elect inside a live lease."""
    bench = Bench(leases=True)
    bench.become_follower(term=1)
    bench.raft.peer_disconnected(NodeId(2))
    replies = bench.ask_vote(term=2, last=(1, 9), sender=3, pre=True)
    assert not of_kind(replies, RequestVoteReply)[0].granted
    bench.tick(T - 1)
    assert bench.raft.leader_id == 2


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_node_that_has_just_started_gives_no_vote(pre_vote: bool) -> None:
    """It may have promised a lease before it stopped; for T, as if it had."""
    bench = Bench(leases=True)
    bench.tick(T - 1)
    replies = bench.ask_vote(term=1, pre=pre_vote)
    assert not of_kind(replies, RequestVoteReply)[0].granted
    refused = [event for event in bench.events if isinstance(event, VoteRefused)]
    assert refused[-1].reason is Refusal.JUST_STARTED
    bench = Bench(leases=True)
    bench.tick(T)
    replies = bench.ask_vote(term=1, pre=pre_vote)
    assert of_kind(replies, RequestVoteReply)[0].granted


def test_restarts_make_no_read_stale() -> None:
    """Both followers forget whom they promised a lease, and are asked at once."""
    cluster = leased()
    cluster.cut([1])
    for node_id in (2, 3):
        cluster.crash(node_id)
        cluster.restart(node_id)
    cluster.campaign(2)
    cluster.stabilize()
    assert not cluster.raft(2).is_leader
    assert cluster.raft(1).has_lease
    cluster.read(1, 1, lease=True)
    assert cluster.servers[NodeId(1)].reads[1].lease
