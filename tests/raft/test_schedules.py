"""Exact schedules of bugs that other implementations had, on a whole cluster.

Each is one that random faults reach late or never. The invariants run after each step:
a core with the bug fails in the step where the harm is done.
"""

from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    RequestVote,
    RequestVoteReply,
)
from kvstore.raft.node import Role
from kvstore.raft.options import RaftOptions
from kvstore.types import NodeId
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, log_terms, of_kind

T = OPTIONS.election_timeout_ticks


def win_by_vote_of_2(cluster: Cluster, candidate: int) -> None:
    """Only 2 hears the candidate, which may first learn 2's higher term from it."""
    for _ in range(2):
        cluster.campaign(candidate)
        for _ in range(2):
            cluster.deliver(cluster.take(RequestVote, to=2))
            cluster.deliver(cluster.take(RequestVoteReply))
        if cluster.raft(candidate).is_leader:
            return
    raise AssertionError(cluster.raft(candidate).role)


def test_an_entry_of_an_earlier_term_is_not_committed_by_counting() -> None:
    """Mutant M11, Figure 8. 1 leads term 2, logs a alone and crashes; 3 wins term 3 and
    logs b alone; 1 returns, wins term 4 and ships a to 2, but not its no-op; then 3
    returns, wins by 2's vote and replaces a. Had 1 counted a, a committed entry were
    lost."""
    one_entry = RaftOptions(
        election_timeout_ticks=T, heartbeat_interval_ticks=1, append_bytes_max=1
    )
    cluster = Cluster(logs=[(1,), (1,), (1,)], options=one_entry)
    cluster.cut([1], [3])
    win_by_vote_of_2(cluster, 1)
    assert cluster.raft(1).term == 2
    cluster.propose(1, b"aa")
    cluster.take()
    cluster.crash(1)

    win_by_vote_of_2(cluster, 3)
    assert cluster.raft(3).term == 3
    cluster.take()
    cluster.crash(3)

    cluster.restart(1)
    win_by_vote_of_2(cluster, 1)
    assert cluster.raft(1).term == 4
    while cluster.raft(2).last_index < 3:
        first, *_ = cluster.take(AppendEntries, to=2)  # what follows it is lost
        cluster.deliver([first])
        cluster.deliver(cluster.take(AppendEntriesReply))
    assert log_terms(cluster.raft(1)) == [1, 2, 2, 4]
    assert log_terms(cluster.raft(2)) == [1, 2, 2]
    assert cluster.raft(1).progress[NodeId(2)].match_index == 3
    assert cluster.raft(1).commit_index == 0
    cluster.crash(1)

    cluster.restart(3)
    cluster.heal()
    cluster.take()
    cluster.disconnect(2, 1)
    win_by_vote_of_2(cluster, 3)
    cluster.stabilize()
    cluster.restart(1)
    cluster.tick_all(3)
    assert cluster.logs() == [[1, 3, 5]] * 3
    assert cluster.commits() == [3, 3, 3]


def test_a_candidate_that_steps_down_in_its_term_does_not_vote_again() -> None:
    """Mutant M03 (CCF#5891), never found in 330 random seeds elsewhere: 1, 2 and 3
    campaign in one term; 4 and 5 elect 2; an append of 2's that does not match makes 1
    step down; 3's late request must not get a second vote of 1's."""
    cluster = Cluster(5, logs=[(1,), (1, 1), (1,), (1,), (1,)])
    for node_id in (1, 2, 3):
        cluster.campaign(node_id)
    asked = cluster.take(RequestVote)
    cluster.deliver(m for m in asked if m.to in (4, 5))
    cluster.deliver(cluster.take(RequestVoteReply))
    requests = cluster.take(RequestVote)
    assert {m.sender for m in requests} == {1, 2, 3}
    assert {cluster.raft(node_id).term for node_id in (1, 2, 3)} == {2}
    cluster.deliver(m for m in requests if m.sender == 2 and m.to in (4, 5))
    cluster.deliver(cluster.take(RequestVoteReply))
    assert cluster.raft(2).is_leader
    cluster.deliver(cluster.take(AppendEntries, to=1))
    assert cluster.raft(1).role is Role.FOLLOWER
    assert cluster.raft(1).vote == 1
    late = [m for m in requests if m.sender == 3 and m.to == 1]
    assert len(late) == 1
    cluster.deliver(late)
    (reply,) = of_kind(cluster.take(RequestVoteReply, to=3), RequestVoteReply)
    assert not reply.granted
    cluster.stabilize()
    assert cluster.raft(2).is_leader


def test_a_voter_that_forgot_its_unwritten_vote_had_not_given_it() -> None:
    """Mutant M01 (PySyncObj#84): the voter crashes before its fsync, and another
    candidate of the term asks."""
    cluster = Cluster(5)
    for node_id in (1, 2):
        cluster.campaign(node_id)
    for _ in range(2):
        cluster.deliver(cluster.take(RequestVote, where=lambda m: m.to > 2)[:6])
        cluster.deliver(cluster.take(RequestVoteReply))
        if cluster.raft(1).term == cluster.raft(2).term == 1:
            break
    cluster.servers[NodeId(3)].slow_disk = True
    requests = cluster.take(RequestVote)
    cluster.deliver(m for m in requests if (m.sender, m.to) in {(1, 3), (1, 4)})
    cluster.crash(3)
    cluster.servers[NodeId(3)].slow_disk = False
    cluster.restart(3)
    cluster.deliver(m for m in requests if (m.sender, m.to) in {(2, 3), (2, 5)})
    cluster.deliver(cluster.take(RequestVoteReply))
    leaders = [i for i in (1, 2) if cluster.raft(i).is_leader]
    assert leaders == [2]


def test_a_candidate_that_lost_what_it_boasted_of_is_not_elected() -> None:
    """A request for votes tells of an entry that its sender has not written; the sender
    crashes and returns without it; the vote for the first request comes late. The entry
    may be committed by then. So the request waits for the disk."""
    cluster = Cluster(logs=[(1,), (1,), (1,)])
    cluster.elect(1)
    cluster.servers[NodeId(3)].slow_disk = True
    cluster.propose(1, b"x")
    cluster.stabilize()  # committed by 1 and 2; 3 has it in memory only
    assert log_terms(cluster.raft(3)) == [1, 2, 2]
    cluster.disconnect(2, 1)
    cluster.crash(1)
    cluster.campaign(3)
    cluster.stabilize()
    assert cluster.raft(3).role is Role.CANDIDATE
    assert cluster.take(RequestVote) == []
    cluster.crash(3)
    cluster.servers[NodeId(3)].slow_disk = False
    cluster.restart(3)
    cluster.campaign(3)
    cluster.stabilize()
    assert not cluster.raft(3).is_leader
    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.raft(2).is_leader
    cluster.restart(1)
    cluster.tick_all(2)
    assert cluster.commits() == [4, 4, 4]


def test_a_leader_that_crashes_with_an_unwritten_entry_had_not_committed_it() -> None:
    """Mutant M20 (etcd#14370): one follower's acknowledgement and a leader's entry in
    memory are no majority."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.servers[NodeId(1)].slow_disk = True
    cluster.cut([1], [3])
    cluster.propose(1, b"x")
    cluster.stabilize()
    assert cluster.raft(1).commit_index == 1
    cluster.crash(1)
    cluster.crash(2)
    cluster.servers[NodeId(1)].slow_disk = False
    cluster.restart(1)
    cluster.heal()
    cluster.disconnect(3, 1)
    cluster.campaign(3)
    cluster.stabilize()
    assert cluster.raft(3).is_leader
    assert log_terms(cluster.raft(3)) == [1, 2]


def test_what_newer_leaders_wrote_wins_over_older_longer_logs() -> None:
    """etcd's LeaderElectionOverwriteNewerLogs: votes, not lengths, decide."""
    cluster = Cluster(5, logs=[(1,), (1,), (2,), (), ()], terms=[2, 2, 2, 2, 2])
    cluster.cut([3])
    cluster.campaign(1)
    cluster.stabilize()
    assert cluster.raft(1).is_leader
    cluster.heal()
    cluster.tick_all(3)
    assert cluster.logs() == [[1, 3]] * 5


def test_duplicated_appends_during_a_slow_write_survive_a_power_cut() -> None:
    """Mutant M19 (yugabyte#32875) on a cluster: retransmit, slow fsync, kill."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([1], [3])
    cluster.servers[NodeId(2)].slow_disk = True
    cluster.propose(1, b"x")
    appends = cluster.take(AppendEntries, to=2)
    cluster.deliver(appends * 3)
    cluster.stabilize()
    assert cluster.raft(1).commit_index == 1
    cluster.crash(2)
    cluster.servers[NodeId(2)].slow_disk = False
    cluster.restart(2)
    cluster.tick_all(2)
    assert cluster.raft(1).commit_index == 2
