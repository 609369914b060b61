"""Members come and go, the lead moves, snapshots travel: what callers are told."""

from dataclasses import replace

import pytest

from kvstore.errors import (
    ChangePending,
    DeadlineExceeded,
    LeadershipLost,
    MembershipRefused,
    NotLeader,
    Unavailable,
)
from kvstore.pb import kv_pb2
from kvstore.raft.membership import AddLearner, MemberInfo, Promote, Remove
from kvstore.raft.messages import InstallSnapshot, TimeoutNow
from kvstore.replica.effects import CompactLog, SendSnapshot, SyncState
from kvstore.types import Incarnation, LogIndex, NodeId, Ticket
from tests.replica.harness import OPTIONS, Cluster, led_by, put, until

T = OPTIONS.raft.election_timeout_ticks
FOUR = NodeId(4)
SMALL_LOG = replace(OPTIONS, log_bytes_max=4_000, log_trailing_bytes=0)


def added(cluster: Cluster, *, promotable: bool = True) -> int:
    """Node 4 joins; the ticket of the change."""
    cluster.join(4)
    info = MemberInfo("127.0.0.1:7004", promotable=promotable)
    return cluster.change(1, AddLearner(FOUR, info))


def fill(cluster: Cluster, count: int = 40) -> None:
    for number in range(count):
        cluster.submit(1, put(f"k{number}", "v" * 200))
    cluster.settle()


def test_a_change_is_answered_once_it_is_committed_and_not_joint() -> None:
    cluster = led_by(1)
    ticket = added(cluster)
    assert ticket not in cluster.answers
    cluster.settle()
    assert cluster.results(ticket) == []
    assert cluster.replica(1).raft.configuration.learners == (4,)


def test_a_learner_becomes_a_voter_by_itself_once_it_has_caught_up() -> None:
    cluster = led_by(1)
    cluster.submit(1, put("a"))
    added(cluster)
    cluster.settle()
    cluster.tick_all(2)
    assert cluster.replica(4).raft.configuration.voters == (1, 2, 3, 4)
    assert len(set(cluster.hashes())) == 1


def test_a_learner_only_stays_one() -> None:
    cluster = led_by(1)
    added(cluster, promotable=False)
    cluster.settle()
    cluster.tick_all(2 * T)
    assert cluster.replica(1).raft.configuration.learners == (4,)


def test_a_change_is_refused_while_another_is_under_way() -> None:
    cluster = led_by(1)
    cluster.cut([1])
    added(cluster)
    with pytest.raises(ChangePending):
        cluster.change(1, Remove(NodeId(2)))


def test_a_change_at_a_follower_names_the_leader() -> None:
    cluster = led_by(1)
    with pytest.raises(NotLeader) as raised:
        cluster.change(2, Remove(NodeId(3)))
    assert raised.value.leader_id == 1


def test_a_change_whose_leader_is_deposed_is_of_unknown_outcome() -> None:
    cluster = led_by(1)
    cluster.cut([1])
    ticket = added(cluster)
    cluster.elect(2)
    cluster.heal()
    cluster.lose(sender=1)
    cluster.tick_all(2)
    assert isinstance(cluster.error(ticket), LeadershipLost)


def test_a_change_that_takes_longer_than_its_caller_goes_on() -> None:
    cluster = led_by(1)
    cluster.cut([1])
    cluster.join(4)
    raft = cluster.replica(1)
    raft.change_members(Ticket(99), [Remove(NodeId(3))], patience_ticks=1)
    cluster.asked[99] = NodeId(1)
    cluster.poll(1)
    cluster.tick(1)
    assert isinstance(cluster.error(99), DeadlineExceeded)
    cluster.heal()
    cluster.settle()
    assert cluster.replica(1).raft.configuration.voters == (1, 2)


def test_a_lagging_learner_is_not_promoted_yet() -> None:
    cluster = led_by(1)
    added(cluster, promotable=False)
    cluster.settle()
    cluster.crash(4)
    fill(cluster, OPTIONS.raft.promotion_lag_entries_max + 1)
    with pytest.raises(ChangePending, match="lags"):
        cluster.change(1, Promote(FOUR))


def test_a_removed_follower_is_told_and_leaves() -> None:
    cluster = led_by(1)
    ticket = cluster.change(1, Remove(NodeId(3)))
    cluster.settle()
    cluster.tick_all(2)
    assert cluster.results(ticket) == []
    assert cluster.shells[NodeId(3)].has_left
    assert not cluster.shells[NodeId(2)].has_left


def test_a_removed_leader_answers_leaves_and_is_followed_at_once() -> None:
    cluster = led_by(1)
    ticket = cluster.change(1, Remove(NodeId(1)))
    cluster.settle()
    assert cluster.results(ticket) == []
    assert cluster.shells[NodeId(1)].has_left
    assert cluster.leader() in (2, 3)


def test_the_last_voter_stays() -> None:
    cluster = led_by(1, 1)
    with pytest.raises(MembershipRefused, match="last voter"):
        cluster.change(1, Remove(NodeId(1)))


def test_what_becomes_known_of_a_member_is_recorded_once() -> None:
    cluster = led_by(1)
    for _ in range(3):
        cluster.replica(1).identified(NodeId(2), Incarnation(77))
        cluster.replica(1).identified(NodeId(3), Incarnation(88))
        cluster.tick_all(2 * OPTIONS.chore_interval_ticks)
    members = cluster.replica(3).raft.configuration.members
    assert (members[NodeId(2)].incarnation, members[NodeId(3)].incarnation) == (77, 88)
    index = cluster.replica(1).raft.configuration_index
    cluster.replica(1).identified(NodeId(2), Incarnation(99))
    cluster.tick_all(2 * OPTIONS.chore_interval_ticks)
    assert cluster.replica(1).raft.configuration_index == index


# -------------------------------------------------------------------- transfer


def test_a_transfer_is_answered_once_the_other_leads() -> None:
    cluster = led_by(1)
    cluster.tick_all(2)
    ticket = cluster.transfer(1, 3)
    assert ticket not in cluster.answers
    cluster.settle()
    assert cluster.results(ticket) == []
    assert cluster.leader() == 3


def test_writes_wait_out_a_transfer_and_reach_the_next_leader() -> None:
    cluster = led_by(1)
    cluster.tick_all(2)
    cluster.cut([1])
    cluster.transfer(1, 3)
    write = cluster.submit(1, put("a"))
    cluster.tick(1)
    assert write not in cluster.answers
    cluster.heal()
    cluster.settle()
    assert cluster.leader() == 3
    assert cluster.results(write)[0].put.revision == 1


def test_a_transfer_that_does_not_happen_is_given_up_and_writes_go_on() -> None:
    cluster = led_by(1)
    cluster.tick_all(2)
    ticket = cluster.transfer(1, 3)
    write = cluster.submit(1, put("a"))
    for _ in range(T):
        cluster.lose(TimeoutNow)
        cluster.tick(1)
        cluster.settle()
    # Told, and perhaps only late: nobody can say that it will not lead.
    assert isinstance(cluster.error(ticket), DeadlineExceeded)
    assert cluster.leader() == 1
    cluster.settle()
    assert cluster.results(write)[0].put.revision == 1


def test_a_transfer_to_the_leader_itself_is_done_at_once() -> None:
    cluster = led_by(1)
    ticket = cluster.transfer(1, 1)
    assert cluster.results(ticket) == []
    assert cluster.leader() == 1


def test_a_transfer_that_another_won_says_who_leads() -> None:
    cluster = led_by(1)
    cluster.tick_all(2)
    ticket = cluster.transfer(1, 3)
    cluster.lose(TimeoutNow)
    cluster.elect(2)
    error = cluster.error(ticket)
    assert isinstance(error, Unavailable)
    assert "node 2 leads" in str(error)


def test_a_leader_that_is_to_stay_gives_up_a_handover_that_was_not_told() -> None:
    cluster = led_by(1)
    cluster.tick_all(2)
    cluster.cut([1])
    cluster.submit(1, put("a"))
    cluster.transfer(1, 3)
    assert cluster.replica(1).raft.transferee == 3
    ticket = cluster.transfer(1, 1)
    assert cluster.results(ticket) == []
    assert cluster.replica(1).raft.transferee is None
    assert cluster.replica(1).raft.ready_for_writes


def test_a_leader_cannot_stay_once_another_was_told() -> None:
    cluster = led_by(1)
    cluster.tick_all(2)
    cluster.transfer(1, 3)
    with pytest.raises(ChangePending):
        cluster.transfer(1, 1)


def test_the_leaders_own_commands_wait_out_a_handover() -> None:
    """An idle log whose compaction is forgotten would stay as large as it is."""
    cluster = led_by(1)
    cluster.tick_all(2)
    for _ in range(3):
        cluster.submit(1, put("k"))
    cluster.settle()
    cluster.submit(1, kv_pb2.Command(compact=kv_pb2.Compact(revision=3)))
    cluster.settle()
    cluster.transfer(1, 3)
    cluster.lose(TimeoutNow)
    cluster.replica(1).sessions_reported({})
    cluster.replica(1)._writes.compaction_pending = True
    cluster.poll(1)
    before = cluster.replica(1).raft.last_index
    for _ in range(2 * T):
        cluster.lose(TimeoutNow)
        cluster.tick_all(1)
    assert cluster.leader() == 1
    assert cluster.replica(1).raft.last_index > before


def test_an_only_voter_cannot_hand_over() -> None:
    cluster = led_by(1, 1)
    with pytest.raises(Unavailable):
        cluster.transfer(1, None)


# ------------------------------------------------------- compaction, snapshots


def test_a_log_past_its_bound_is_cut_behind_the_durable_state() -> None:
    cluster = led_by(1, options=SMALL_LOG)
    fill(cluster)
    shell = cluster.shells[NodeId(1)]
    assert shell.of_kind(SyncState)
    assert shell.of_kind(CompactLog)
    assert shell.log.first_index > 1
    assert shell.log.first_index - 1 <= shell.durable_state.progress.index
    assert shell.log.size_bytes <= SMALL_LOG.log_bytes_max


def test_a_cut_log_starts_again_where_it_was_cut() -> None:
    cluster = led_by(1, options=SMALL_LOG)
    fill(cluster)
    cluster.crash(1)
    cluster.start(1)
    cluster.elect(2)
    write = cluster.submit(2, put("z"))
    cluster.settle()
    assert cluster.results(write)
    cluster.tick_all(1)
    assert len(set(cluster.hashes())) == 1


def test_a_node_that_lacks_what_was_cut_gets_a_snapshot() -> None:
    cluster = led_by(1, options=SMALL_LOG)
    cluster.crash(3)
    fill(cluster)
    cluster.start(3)
    cluster.tick_all(3)
    assert cluster.shells[NodeId(1)].of_kind(SendSnapshot)
    assert cluster.shells[NodeId(3)].log.first_index > 1
    assert len(set(cluster.hashes())) == 1
    assert not cluster.replica(1).raft.snapshot_peers


def test_a_lost_snapshot_is_sent_again() -> None:
    cluster = led_by(1, options=SMALL_LOG)
    cluster.crash(3)
    fill(cluster)
    cluster.start(3)
    leader, other = NodeId(1), NodeId(3)

    def exchange() -> None:
        cluster.tick(1)
        cluster.deliver_from(leader, other)
        cluster.deliver_from(other, leader)

    until(lambda: bool(cluster.shells[leader].of_kind(SendSnapshot)), exchange)
    assert cluster.lose(InstallSnapshot)
    cluster.replica(1).snapshot_ended(other, LogIndex(0))
    cluster.tick_all(4)
    assert len(cluster.shells[NodeId(1)].of_kind(SendSnapshot)) == 2
    assert len(set(cluster.hashes())) == 1


def test_an_empty_learner_catches_up_by_a_snapshot_and_is_promoted() -> None:
    cluster = led_by(1, options=SMALL_LOG)
    fill(cluster)
    added(cluster)
    cluster.settle()
    cluster.tick_all(5)
    assert cluster.replica(1).raft.configuration.voters == (1, 2, 3, 4)
    assert len(set(cluster.hashes())) == 1


def test_writes_that_a_snapshot_covers_are_of_unknown_outcome() -> None:
    """A deposed leader cannot tell whether they are in the state that it was sent."""
    cluster = led_by(1, options=SMALL_LOG)
    cluster.cut([1])
    write = cluster.submit(1, put("mine"))
    cluster.elect(2)
    for number in range(40):
        cluster.submit(2, put(f"k{number}", "v" * 200))
        cluster.settle()
    cluster.lose(sender=1)
    cluster.lose(to=1)
    cluster.heal()
    cluster.tick_all(3)
    assert isinstance(cluster.error(write), LeadershipLost)
    assert len(set(cluster.hashes())) == 1
