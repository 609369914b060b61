"""Snapshots and compaction: who needs one, what it replaces, and when it counts."""

import pytest

from kvstore.errors import CorruptionError
from kvstore.raft.events import SnapshotAccepted, SnapshotIgnored
from kvstore.raft.membership import NOBODY, Configuration, Remove
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    EntryId,
    Heartbeat,
    InstallSnapshot,
    Message,
    RequestVote,
    RequestVoteReply,
    Snapshot,
)
from kvstore.raft.node import Role
from kvstore.raft.progress import PeerState
from kvstore.types import LogIndex, NodeId, Term
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, entry_id, founded, log_terms, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks
THREE = NodeId(3)


def behind() -> Bench:
    """A leader whose log begins behind 4; 3 holds nothing and has just said so."""
    bench = Bench(terms=(1, 1, 1))
    bench.become_leader(commit=False)
    bench.acknowledge(4, sender=2)
    bench.compact(4)
    bench.reject(3, (0, 0), sender=3)
    return bench


def state(bench: Bench) -> PeerState:
    return bench.raft.progress[THREE].state


def waiting(bench: Bench) -> list[int]:
    """Peers that need a snapshot."""
    return [int(peer) for peer in bench.raft.snapshot_peers]


def appends(messages: list[Message]) -> list[tuple[int, int]]:
    """To 3: what each builds upon, and how many entries it brings."""
    return [
        (int(m.previous.index), len(m.entries))
        for m in of_kind(messages, AppendEntries)
        if m.to == 3
    ]


# ----------------------------------------------------------------- the leader


def test_a_peer_that_lacks_what_is_compacted_needs_a_snapshot() -> None:
    """etcd's TestSendingSnapshotSetPendingSnapshot and TestProvideSnap,
    ``slow_follower_after_compaction``: a probe finds out."""
    bench = behind()
    assert state(bench) is PeerState.SNAPSHOT
    assert waiting(bench) == [3]
    assert bench.raft.snapshot_at(LogIndex(4)) == Snapshot(
        last=entry_id(2, 4), configuration=founded([1, 2, 3]).encode()
    )


def test_a_dead_peer_is_sent_no_snapshot() -> None:
    """etcd's TestIgnoreProvidingSnap: only one that was heard of late."""
    bench = Bench(terms=(1, 1, 1))
    bench.become_leader(commit=False)
    bench.acknowledge(4, sender=2)
    bench.compact(4)
    bench.raft.peer_disconnected(THREE)
    bench.work()
    assert state(bench) is PeerState.PROBE
    assert waiting(bench) == []
    bench.answer_heartbeat(sender=3)
    assert waiting(bench) == [3]


def test_nothing_is_appended_to_a_peer_that_awaits_a_snapshot() -> None:
    """etcd's TestPendingSnapshotPauseReplication."""
    bench = behind()
    bench.raft.propose(b"x")
    assert appends(bench.work()) == []
    assert appends(bench.answer_heartbeat(sender=3)) == []
    assert {m.to for m in of_kind(bench.tick(), Heartbeat)} == {2, 3}


def test_a_failed_transfer_is_begun_again_once_the_peer_is_heard() -> None:
    """etcd's TestSnapshotFailure."""
    bench = behind()
    bench.raft.snapshot_ended(THREE, LogIndex(0))
    assert bench.work() == []
    assert (state(bench), bench.raft.progress[THREE].next_index) == (PeerState.PROBE, 1)
    assert waiting(bench) == []
    bench.answer_heartbeat(sender=3)
    assert waiting(bench) == [3]


def test_a_transfer_that_ended_well_is_probed_behind_once() -> None:
    """etcd's TestSnapshotSucceed: the peer may hold it by now, or still be writing."""
    bench = behind()
    bench.raft.snapshot_ended(THREE, LogIndex(4))
    assert appends(bench.work()) == []
    assert appends(bench.answer_heartbeat(sender=3)) == [(4, 0)]
    assert appends(bench.tick()) == []
    bench.acknowledge(4, sender=3)
    assert state(bench) is PeerState.REPLICATE


def test_an_acknowledgement_ends_the_wait_for_a_snapshot() -> None:
    """etcd's TestSnapshotAbort, ``snapshot_succeed_via_app_resp`` and ``..._behind``:
    the peer holds what the log continues, however it came by it."""
    bench = behind()
    bench.raft.propose(b"x")
    bench.work()
    bench.acknowledge(3, sender=3)  # something, but the log begins behind 4
    assert state(bench) is PeerState.SNAPSHOT
    assert appends(bench.acknowledge(4, sender=3)) == [(4, 1)]
    assert state(bench) is PeerState.REPLICATE
    assert waiting(bench) == []


def test_a_closed_connection_does_not_end_a_transfer() -> None:
    """It may be taken up where it broke; whoever carries it says when it is over."""
    bench = behind()
    bench.raft.peer_disconnected(THREE)
    assert waiting(bench) == [3]


def test_compaction_during_a_transfer_costs_another_snapshot_and_no_more() -> None:
    """cockroach#8639: the shell should not, but the core does not depend on it."""
    bench = behind()
    for index in (5, 6):
        bench.raft.propose(b"x")
        bench.work()
        bench.acknowledge(index, sender=2)
    bench.compact(6)
    bench.raft.snapshot_ended(THREE, LogIndex(4))
    bench.acknowledge(4, sender=3)
    bench.answer_heartbeat(sender=3)
    assert waiting(bench) == [3]


def test_a_snapshot_is_taken_only_of_what_the_log_knows() -> None:
    """Its term and configuration are the log's to tell."""
    bench = behind()
    for index in (3, 5):
        with pytest.raises(LookupError):
            bench.raft.snapshot_at(LogIndex(index))


# --------------------------------------------------------------- the follower


def test_a_snapshot_replaces_log_and_configuration() -> None:
    """etcd's TestRestore, TestRestoreFromSnapMsg: log, commit index and members are
    those of the snapshot, and it is acknowledged once it is installed."""
    bench = Bench(terms=(1,))
    bench.slow_disk = True
    sent = bench.install((2, 9), founded([1, 2, 5]), term=2)
    assert sent == []
    assert bench.writing is not None
    assert bench.writing.snapshot is not None
    bench.fsync()
    (reply,) = of_kind(bench.work(), AppendEntriesReply)
    assert (reply.rejected, reply.index) == (False, 9)
    raft = bench.raft
    assert (raft.commit_index, raft.applied_index, raft.last_index) == (9, 9, 9)
    assert raft.log.floor == entry_id(2, 9)
    assert raft.configuration == founded([1, 2, 5])
    assert (bench.disk.first_index, bench.disk.hard_state.term) == (10, 2)


@pytest.mark.parametrize(
    ("before", "after", "campaigns"),
    [
        (founded([2, 3], learners=[1]), founded([1, 2, 3]), True),
        (founded([1, 2, 3]), founded([2, 3], learners=[1]), False),
        (NOBODY, founded([2, 3], learners=[1]), False),
        (NOBODY, founded([1, 2, 3]), True),
    ],
)
def test_a_snapshot_makes_a_member_what_it_is(
    before: Configuration, after: Configuration, campaigns: bool
) -> None:
    """etcd's TestRestoreWithLearner, TestRestoreVoterToLearner,
    TestRestoreLearnerPromotion and TestLearnerReceiveSnapshot."""
    bench = Bench(configuration=before)
    bench.install((1, 5), after, term=1)
    assert bench.raft.configuration == after
    bench.tick(2 * T)
    assert (bench.role() is Role.PRE_CANDIDATE) is campaigns


@pytest.mark.parametrize("last", [(1, 1), (1, 2)])
def test_an_old_snapshot_takes_nothing_away(last: tuple[int, int]) -> None:
    """Mutant M31 (camunda#6092), etcd's TestRestoreIgnoreSnapshot: it is answered with
    what is committed here, so that the leader goes on from there."""
    bench = Bench(terms=(1, 1, 1))
    bench.append(previous=(1, 3), commit=2, term=1)
    (reply,) = of_kind(bench.install(last), AppendEntriesReply)
    assert (reply.rejected, reply.index) == (False, 2)
    assert log_terms(bench.raft) == [1, 1, 1]
    assert bench.events[-1] == SnapshotIgnored(Term(1), entry_id(*last))


def test_a_snapshot_that_the_log_contains_only_commits() -> None:
    """etcd's TestRestoreIgnoreSnapshot, its second half: the log has the entry, so it
    has all before it; what follows stays, acknowledged or not."""
    bench = Bench(terms=(1, 1, 1))
    bench.install((1, 2), term=1)
    assert bench.raft.commit_index == 2
    assert log_terms(bench.raft) == [1, 1, 1]
    assert len(bench.applied) == 2


def test_a_snapshot_leaves_nothing_of_a_conflicting_log() -> None:
    """Mutant M30 (hashicorp#704, openraft 674e78aa): the log is longer, but its entry
    at the snapshot's index is another; what follows would be taken for the leader's."""
    bench = Bench(terms=(1, 1, 1, 1, 1), term=2)
    bench.install((2, 3))
    assert bench.raft.last_index == 3
    assert bench.disk.terms() == []
    (reply,) = of_kind(bench.append([2], previous=(2, 3)), AppendEntriesReply)
    assert (reply.rejected, reply.index) == (False, 4)
    assert log_terms(bench.raft) == [2]


def test_a_snapshot_takes_back_an_uncommitted_configuration() -> None:
    """Mutant M36 (scylla#9551, openraft#1808): what the log said of the members went
    with the log."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([1])
    cluster.change(1, Remove(NodeId(3)))
    cluster.take(sender=1)
    cluster.depose(1)
    cluster.elect(2)
    for _ in range(3):
        cluster.propose(2)
    cluster.stabilize()
    cluster.compact(2)
    assert cluster.raft(1).configuration.is_joint
    cluster.heal()
    cluster.tick_all(3)
    assert cluster.servers[NodeId(1)].installed == 1
    assert [c.is_joint for c in cluster.configurations()] == [False] * 3
    assert cluster.commits() == [5, 5, 5]


def test_a_snapshot_of_an_earlier_term_is_refused() -> None:
    """With ours, as any append of a leader that was."""
    bench = Bench(term=5)
    (reply,) = of_kind(bench.install((2, 9), term=4), AppendEntriesReply)
    assert (reply.rejected, reply.term) == (True, 5)
    assert bench.raft.last_index == 0


def test_a_snapshot_comes_from_the_leader() -> None:
    """It is heard, and followed."""
    bench = Bench(term=1)
    bench.raft.campaign()
    bench.install((2, 9), term=2, sender=3)
    assert (bench.role(), bench.raft.leader_id) == (Role.FOLLOWER, 3)
    assert SnapshotAccepted(Term(2), entry_id(2, 9)) in bench.events


# ---------------------------------------------------------- while it is installed


def installing() -> Bench:
    """The write that installs (2, 9) is in flight; term 2 is durable already."""
    bench = Bench(terms=(1,), term=2)
    bench.slow_disk = True
    bench.install((2, 9), term=2)
    return bench


def test_nothing_is_promised_before_a_snapshot_is_installed() -> None:
    """Neither a vote, nor an acknowledgement of what follows it: after a crash the log
    would still be the old one."""
    bench = installing()
    assert bench.append([2, 2], previous=(2, 9), term=2) == []
    assert bench.heartbeat(sender=2) == []
    bench.fsync()
    replies = of_kind(bench.work(), AppendEntriesReply)
    assert [reply.index for reply in replies] == [9]
    bench.fsync()
    replies = of_kind(bench.work(), AppendEntriesReply)
    assert [reply.index for reply in replies] == [11]


def test_what_follows_a_snapshot_is_applied_after_it() -> None:
    """Mutant M35 (openraft eed681d5): its state must be there first."""
    bench = installing()
    bench.append([2], previous=(2, 9), term=2, commit=10)
    assert bench.raft.commit_index == 10
    assert bench.applied == []
    assert bench.raft.applied_index == 0
    bench.fsync()
    bench.work()
    assert bench.raft.applied_index == 9
    bench.fsync()
    bench.work()
    assert [int(entry.index) for entry in bench.applied] == [10]


def test_a_node_does_not_campaign_before_its_snapshot_is_installed() -> None:
    """It would boast of a log that it may lose."""
    bench = installing()
    assert of_kind(bench.tick(3 * T), RequestVote) == []
    bench.raft.campaign()
    assert of_kind(bench.work(), RequestVote) == []
    assert bench.time_out_now(last=9) == []
    bench.fsync()
    bench.raft.campaign()
    assert len(of_kind(bench.work(), RequestVote)) == 2


def test_a_vote_given_meanwhile_waits_for_the_snapshot() -> None:
    """By the log that is to be: the candidate must hold all that was committed."""
    bench = installing()
    bench.tick(T)
    refused = of_kind(bench.ask_vote(term=3, last=(1, 20)), RequestVoteReply)
    assert [reply.granted for reply in refused] == [False]
    assert bench.ask_vote(term=3, last=(2, 9), sender=3) == []
    bench.fsync()
    assert of_kind(bench.work(), RequestVoteReply) == []
    bench.fsync()
    (reply,) = of_kind(bench.work(), RequestVoteReply)
    assert reply.granted


def test_a_snapshot_waits_for_the_write_before_it() -> None:
    """Whose acknowledgement still leaves: these entries were durable."""
    bench = Bench()
    bench.slow_disk = True
    bench.append([2, 2], term=2)
    bench.install((2, 9))
    assert bench.writing is not None
    assert bench.writing.snapshot is None
    bench.fsync()
    replies = of_kind(bench.work(), AppendEntriesReply)
    assert [reply.index for reply in replies] == [2]
    bench.fsync()
    replies = of_kind(bench.work(), AppendEntriesReply)
    assert [reply.index for reply in replies] == [9]


def test_a_newer_snapshot_can_follow_at_once() -> None:
    """While the first is being installed."""
    bench = installing()
    bench.install((2, 20))
    bench.fsync()
    replies = of_kind(bench.work(), AppendEntriesReply)
    assert [reply.index for reply in replies] == [9]
    assert bench.raft.applied_index == 9
    bench.fsync()
    replies = of_kind(bench.work(), AppendEntriesReply)
    assert [reply.index for reply in replies] == [20]
    assert (bench.raft.applied_index, bench.disk.base) == (20, entry_id(2, 20))


@pytest.mark.parametrize("written", [False, True])
def test_a_crash_during_an_install_loses_nothing(written: bool) -> None:
    """Before its write the old log is there, after it the snapshot; either goes on."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([3])
    for _ in range(5):
        cluster.propose(1)
    cluster.stabilize()
    cluster.compact(1)
    server = cluster.servers[THREE]
    server.slow_disk = True
    cluster.heal()
    while server.writing is None or server.writing.snapshot is None:
        cluster.tick_all()
    if written:
        cluster.write_then_crash(3)
    else:
        cluster.crash(3)
    server.slow_disk = False
    cluster.restart(3)
    assert cluster.raft(3).last_index == (6 if written else 1)
    cluster.tick_all(4)
    assert cluster.commits() == [6, 6, 6]
    assert server.state == cluster.servers[NodeId(1)].state


# --------------------------------------------------------------------- restarts


def test_a_node_restarts_from_a_snapshot_and_what_follows() -> None:
    """etcd's TestRawNodeRestartFromSnapshot and TestNodeRestartFromSnapshot: nothing is
    handed out that the state holds already."""
    bench = Bench(base=(1, 5), terms=(1, 2), configuration=founded([1, 2, 3]))
    assert (bench.raft.commit_index, bench.raft.applied_index) == (5, 5)
    assert (bench.raft.last_index, bench.raft.log.first_index) == (7, 6)
    assert not bench.raft.has_ready()
    bench.append(previous=(2, 7), commit=7, term=2)
    assert [int(entry.index) for entry in bench.applied] == [6, 7]


def test_a_state_behind_the_log_is_refused() -> None:
    """What lies between is nowhere."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.propose(1)
    cluster.stabilize()
    cluster.compact(1)
    cluster.crash(1)
    cluster.servers[NodeId(1)].durable_state = 1
    with pytest.raises(CorruptionError, match="begins at 3"):
        cluster.restart(1)


def test_a_slow_node_is_restored() -> None:
    """etcd's TestSlowNodeRestore, and M33's kin: it can lead then."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([3])
    for _ in range(50):
        cluster.propose(1)
        cluster.stabilize()
    cluster.compact(1)
    cluster.compact(2, 40)
    cluster.heal()
    cluster.propose(1)
    cluster.tick_all(3)
    assert cluster.commits() == [52, 52, 52]
    cluster.transfer(1, 3)
    cluster.stabilize()
    cluster.tick_all()
    assert cluster.leader().node_id == 3
    assert cluster.logs()[1] != cluster.logs()[2]  # each has compacted its own part
    states = [server.state for server in cluster.servers.values()]
    assert states[0] == states[1] == states[2]


def test_appends_that_reach_below_the_floor_are_understood() -> None:
    """What was compacted is committed, so both logs agree on it: a late append, or a
    leader that knows no better, changes nothing and is acknowledged."""
    bench = Bench(base=(1, 5), terms=(1,), term=1)
    (reply,) = of_kind(bench.append([1, 1, 1], previous=(1, 2)), AppendEntriesReply)
    assert (reply.rejected, reply.index) == (False, 5)
    (reply,) = of_kind(
        bench.append([1, 1, 1, 1, 2], previous=(1, 2), term=2), AppendEntriesReply
    )
    assert (reply.rejected, reply.index) == (False, 7)
    assert log_terms(bench.raft) == [1, 2]


def test_a_snapshot_names_its_entry_for_ever() -> None:
    """One delivered twice is ignored the second time."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([3])
    cluster.propose(1)
    cluster.stabilize()
    cluster.compact(1)
    cluster.heal()
    cluster.tick(1)
    sent: list[Message] = []
    while not sent:
        cluster.carry(cluster.wire.pop(0))
        sent = cluster.take(InstallSnapshot)
    cluster.deliver(sent * 2)
    cluster.tick_all(2)
    assert cluster.servers[THREE].installed == 1
    last = EntryId(cluster.raft(1).term, LogIndex(2))
    events = cluster.servers[THREE].events
    assert SnapshotIgnored(cluster.raft(1).term, last) in events
