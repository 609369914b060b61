"""Nothing is said before what it speaks for is durable (dissertation section 3.8)."""

import pytest

from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
)
from kvstore.raft.node import Role
from kvstore.types import NodeId
from tests.raft.cluster import Cluster
from tests.raft.pieces import log_terms, of_kind
from tests.raft.workbench import Bench


def slow(**values: object) -> Bench:
    bench = Bench(**values)  # type: ignore[arg-type]
    bench.slow_disk = True
    return bench


def flush(bench: Bench) -> list[object]:
    """The write in flight is done; what leaves then."""
    bench.fsync()
    return list(bench.work())


def test_a_vote_leaves_after_it_is_durable() -> None:
    """Mutant M01 (PySyncObj#84): or a crash lets the node vote again."""
    bench = slow()
    assert bench.ask_vote(term=1) == []
    (reply,) = flush(bench)
    assert isinstance(reply, RequestVoteReply)
    assert reply.granted
    assert (bench.disk.hard_state.term, bench.disk.hard_state.vote) == (1, 2)


def test_a_repeated_request_does_not_get_the_vote_out_earlier() -> None:
    """The kin of mutant M19: a duplicate needs no write of its own, but must wait."""
    bench = slow()
    bench.ask_vote(term=1)
    assert bench.ask_vote(term=1) == []
    assert len(flush(bench)) == 2


def test_refusals_and_pre_votes_leave_at_once() -> None:
    """They bind nobody."""
    bench = slow(terms=(1,))
    bench.heartbeat(term=2)
    assert bench.writing is not None
    assert len(bench.ask_vote(term=1, sender=3)) == 1
    assert len(bench.append([2], previous=(2, 5))) == 1


def test_a_request_for_votes_leaves_after_its_log_is_durable() -> None:
    """A candidate that loses what it boasted of could win by a vote given to it."""
    bench = slow()
    bench.append([1], term=1)
    bench.raft.campaign()
    requests = of_kind(bench.work(), RequestVote)
    assert {request.pre_vote for request in requests} == {True}
    assert bench.answer_vote(sender=2, pre=True) == []
    (first,) = flush(bench)  # the entry; now term and vote are written
    assert isinstance(first, AppendEntriesReply)
    assert [type(message) for message in flush(bench)] == [RequestVote] * 2


def test_a_request_for_votes_is_not_sent_after_the_candidacy() -> None:
    """It waited for a write; meanwhile the term's leader was heard."""
    bench = slow()
    bench.raft.campaign()
    bench.answer_vote(sender=2, pre=True)
    bench.raft.campaign()
    bench.answer_vote(sender=2, pre=True)
    assert bench.raft.term == 2
    bench.heartbeat()
    flush(bench)
    assert not [m for m in flush(bench) if isinstance(m, RequestVote)]


@pytest.mark.parametrize("others", [2, 3])
def test_a_candidate_counts_its_own_vote_once_it_is_durable(others: int) -> None:
    """It is a vote like any other; and nobody leads a term that is not durable, even
    if the others' votes come in before the caller says so."""
    bench = slow(voters=range(1, 6))
    bench.raft.campaign()
    for sender in (2, 3):
        bench.answer_vote(sender=sender, pre=True)
    for sender in (2, 3, 4)[:others]:
        bench.answer_vote(sender=sender)
    assert bench.role() is Role.CANDIDATE
    bench.fsync()
    assert bench.role() is Role.LEADER


def test_an_acknowledgement_leaves_after_its_entries_are_durable() -> None:
    """Mutant M18 (NATS 2.12.1)."""
    bench = slow()
    assert bench.append([1, 1], term=1) == []
    (reply,) = flush(bench)
    assert isinstance(reply, AppendEntriesReply)
    assert reply.index == 2


def test_a_repeated_append_waits_for_the_same_write() -> None:
    """Mutant M19 (yugabyte#32875): it brings nothing new to write, but what it would
    acknowledge is not durable yet."""
    bench = slow()
    bench.append([1, 1], term=1)
    assert bench.append([1, 1], term=1) == []
    assert bench.append(previous=(1, 2), term=1) == []
    assert [reply.index for reply in of_kind(bench.work(), AppendEntriesReply)] == []
    replies = flush(bench)
    assert len(replies) == 3


def test_what_is_durable_is_acknowledged_during_a_write() -> None:
    """The write in flight concerns other entries."""
    bench = slow()
    bench.append([1], term=1)
    flush(bench)
    bench.append([1], previous=(1, 1), term=1)
    assert bench.writing is not None
    (reply,) = bench.append([1], term=1)
    assert isinstance(reply, AppendEntriesReply)
    assert reply.index == 1


def test_durable_entries_are_not_acknowledged_in_a_term_that_is_not() -> None:
    """Mutant M19's other half: after a crash in the old term, its leader could replace
    what was acknowledged in the new one."""
    bench = slow(terms=(1, 1))
    assert bench.append(previous=(1, 2), term=2) == []
    assert bench.heartbeat(term=2) == []
    assert [type(message) for message in flush(bench)] == [
        AppendEntriesReply,
        HeartbeatReply,
    ]


def test_entries_that_come_during_a_write_are_the_next_batch() -> None:
    """One write in flight; what accumulates is written and acknowledged together."""
    bench = slow()
    bench.append([1], term=1)
    bench.append([1], previous=(1, 1))
    bench.append([1], previous=(1, 2))
    assert bench.writing is not None
    assert len(bench.writing.entries) == 1
    (first,) = flush(bench)
    assert isinstance(first, AppendEntriesReply)
    assert first.index == 1
    assert bench.writing is not None
    assert len(bench.writing.entries) == 2
    replies = flush(bench)
    assert len(replies) == 2


def test_an_acknowledgement_of_an_earlier_term_is_never_sent_late() -> None:
    """It waits for a write; a new leader replaces the entries meanwhile; the write of
    the new ones must not let the old acknowledgement out."""
    bench = slow()
    bench.append([1], term=1)
    bench.append([1], previous=(1, 1), term=1)
    bench.append([3], previous=(1, 1), term=3, sender=3)
    flush(bench)
    replies = flush(bench)
    assert [
        (reply.to, reply.term, reply.index) for reply in of_kind_replies(replies)
    ] == [(3, 3, 2)]
    assert bench.disk.terms() == log_terms(bench.raft) == [1, 3]


def of_kind_replies(messages: list[object]) -> list[AppendEntriesReply]:
    return [m for m in messages if isinstance(m, AppendEntriesReply)]


def test_an_overwritten_write_is_not_counted() -> None:
    """Mutant M21, the schedule of etcd's ``append_aba_race``: an index is written,
    replaced while the write is in flight, and only then reported durable."""
    bench = slow()
    bench.append([1, 1], term=1)
    assert bench.append([2, 2], term=2, sender=3) == []
    assert flush(bench) != []  # the first write's own acknowledgement, of term 1
    assert bench.raft.log.stable_index == 0
    replies = of_kind_replies(flush(bench))
    assert [(reply.term, reply.index) for reply in replies] == [(2, 2)]


def test_a_leader_does_not_count_its_own_unwritten_entry() -> None:
    """Mutant M20 (etcd#14370)."""
    bench = Bench()
    bench.become_leader()
    bench.slow_disk = True
    bench.raft.propose(b"x")
    bench.work()
    assert bench.raft.commit_index == 1
    bench.acknowledge(2)
    assert bench.raft.commit_index == 1
    bench.fsync()
    assert bench.raft.commit_index == 2


def test_a_quorum_of_followers_commits_before_the_leader_has_written() -> None:
    """Dissertation section 10.2.1: even then it is safe; but the leader applies only
    what is durable with it too."""
    bench = Bench()
    bench.become_leader()
    bench.slow_disk = True
    bench.raft.propose(b"x")
    bench.work()
    bench.acknowledge(2, sender=2)
    bench.acknowledge(2, sender=3)
    assert bench.raft.commit_index == 2
    assert len(bench.applied) == 1
    bench.fsync()
    bench.work()
    assert len(bench.applied) == 2


def test_a_deposed_leaders_write_counts_for_nothing() -> None:
    """etcd's LeaderMsgAppSelfAckAfterTermChange."""
    bench = Bench()
    bench.become_leader()
    bench.slow_disk = True
    bench.raft.propose(b"x")
    bench.work()
    bench.heartbeat(term=2)
    bench.fsync()
    bench.work()
    assert bench.raft.commit_index == 1


def test_a_follower_applies_only_what_is_durable_here() -> None:
    """A state ahead of its own log could not be explained after a crash."""
    bench = slow()
    bench.append([1, 1], term=1, commit=2)
    assert bench.raft.commit_index == 2
    assert bench.applied == []
    bench.fsync()
    bench.work()
    assert len(bench.applied) == 2


def test_one_write_is_in_flight_at_a_time() -> None:
    """What leads to another waits, while messages and reads do not."""
    bench = Bench()
    bench.become_leader()
    bench.slow_disk = True
    bench.raft.propose(b"x")
    bench.work()
    bench.raft.propose(b"y")
    assert len(of_kind(bench.work(), AppendEntries)) == 2
    assert bench.writing is not None
    assert [entry.data for entry in bench.writing.entries] == [b"x"]
    assert not bench.raft.has_ready()
    bench.fsync()
    bench.work()
    assert bench.writing is not None
    assert [entry.data for entry in bench.writing.entries] == [b"y"]


def test_a_wrong_write_reported_is_a_bug() -> None:
    """The caller owes exactly one answer to each write."""
    bench = slow()
    bench.ask_vote(term=1)
    assert bench.writing is not None
    with pytest.raises(AssertionError):
        bench.raft.persisted(type(bench.writing.number)(bench.writing.number + 1))


def test_a_ready_number_is_never_used_twice() -> None:
    """It names a write."""
    cluster = Cluster()
    cluster.elect(1)
    numbers = []
    for _ in range(3):
        cluster.raft(1).propose(b"x")
        ready = cluster.raft(1).ready()
        numbers.append(ready.number)
        cluster.servers[NodeId(1)].disk.append(ready.hard_state, ready.entries)
        cluster.raft(1).persisted(ready.number)
    assert len(set(numbers)) == 3


def test_a_power_cut_loses_only_what_was_never_acknowledged() -> None:
    """All crash with writes in flight; what was committed is there afterwards."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.propose(1, b"kept")
    cluster.stabilize()
    for server in cluster.servers.values():
        server.slow_disk = True
    cluster.propose(1, b"lost")
    cluster.stabilize()
    for node_id in cluster.ids:
        cluster.crash(node_id)
    for node_id in cluster.ids:
        cluster.servers[node_id].slow_disk = False
        cluster.restart(node_id)
    cluster.elect(2)
    cluster.tick_all()
    for node_id in cluster.ids:
        data = [entry.data for entry in cluster.servers[node_id].state]
        assert data == [b"", b"kept", b""]
