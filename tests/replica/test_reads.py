"""Linearizable reads: confirmed, then released behind what they must see."""

from kvstore.errors import Unavailable
from kvstore.raft.messages import (
    AppendEntries,
    Heartbeat,
    HeartbeatReply,
    ReadIndexReply,
    ReadIndexRequest,
)
from kvstore.replica.effects import Read
from kvstore.types import NodeId
from tests.replica.harness import OPTIONS, Cluster, led_by, put, until


def test_a_read_at_the_leader_waits_for_a_quorum_to_confirm_it() -> None:
    cluster = led_by(1)
    read = cluster.read(1)
    assert cluster.shells[NodeId(1)].of_kind(Read) == []
    cluster.settle()
    assert cluster.answers[read].pairs == {}


def test_a_read_through_a_follower_sees_what_was_answered_before() -> None:
    """Even if the follower has not heard yet that it is committed."""
    cluster = led_by(1)
    cluster.cut([3])
    write = cluster.submit(1, put("a"))
    cluster.settle()
    assert cluster.results(write)
    cluster.heal()
    held = cluster.lose(to=3)
    read = cluster.read(3)
    cluster.settle()
    cluster.deliver(held)
    cluster.tick_all(3)
    assert cluster.answers[read].pairs == {"a": "v"}


def test_a_read_is_released_once_its_index_was_handed_out_for_apply() -> None:
    """M47: confirmed is not enough. Here the follower lacks the entry on disk."""
    cluster = led_by(1)
    follower = cluster.shells[NodeId(3)]
    follower.slow_disk = True
    cluster.submit(1, put("a"))
    cluster.settle()
    read = cluster.read(3)
    cluster.settle()
    assert cluster.shells[NodeId(1)].sent(ReadIndexReply)
    cluster.tick_all(3)
    assert follower.of_kind(Read) == []
    cluster.fsync(3)
    cluster.settle()
    assert cluster.answers[read].pairs == {"a": "v"}


def test_a_read_waits_behind_a_slow_apply() -> None:
    """M47 in the shell: the order of effects is what makes the read see the write."""
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_apply = True
    cluster.submit(1, put("a"))
    cluster.settle()
    read = cluster.read(1)
    cluster.settle()
    assert read not in cluster.answers
    cluster.apply(1)
    assert cluster.answers[read].pairs == {"a": "v"}


def test_reads_of_one_turn_share_a_round() -> None:
    cluster = led_by(1)
    sent = len(cluster.shells[NodeId(1)].sent(Heartbeat))
    reads = [cluster.read(1, poll=False) for _ in range(100)]
    cluster.poll(1)
    assert len(cluster.shells[NodeId(1)].sent(Heartbeat)) - sent == 2  # one a peer
    cluster.settle()
    assert all(read in cluster.answers for read in reads)
    assert len(cluster.shells[NodeId(1)].of_kind(Read)) == 1


def test_a_read_that_comes_during_a_round_waits_for_the_next() -> None:
    """The answers under way may have been given before it came."""
    cluster = led_by(1)
    cluster.read(1)
    for peer in (2, 3):
        cluster.deliver_from(NodeId(1), NodeId(peer))
    late = cluster.read(1)
    for peer in (2, 3):
        cluster.deliver_from(NodeId(peer), NodeId(1), count=1)
    assert late not in cluster.answers
    cluster.settle()
    assert late in cluster.answers


def test_a_deposed_leader_that_does_not_know_it_answers_no_read() -> None:
    """M44: isolate the leader, write elsewhere, ask the old one."""
    cluster = led_by(1)
    cluster.cut([1])
    cluster.elect(2)
    cluster.submit(2, put("a"))
    cluster.settle()
    assert cluster.replica(1).raft.is_leader
    read = cluster.read(1)
    cluster.tick(1, 2)
    assert read not in cluster.answers
    cluster.heal()
    cluster.tick_all(3)
    assert cluster.answers[read].pairs == {"a": "v"}


def test_a_read_whose_confirmation_is_lost_is_asked_for_again() -> None:
    cluster = led_by(1)
    read = cluster.read(3)
    cluster.deliver_from(NodeId(3), NodeId(1))
    cluster.deliver(cluster.lose(Heartbeat))
    cluster.deliver(cluster.lose(HeartbeatReply))
    assert len(cluster.lose(ReadIndexReply)) == 1
    cluster.tick_all(OPTIONS.read_retry_ticks - 1)
    assert read not in cluster.answers
    cluster.tick_all(2)
    assert read in cluster.answers


def test_a_refused_read_is_asked_for_again_a_tick_later_and_not_at_once() -> None:
    """Else it goes to and fro between a follower and its deposed leader."""
    cluster = led_by(1)
    cluster.depose(1)
    assert cluster.replica(2).raft.leader_id == 1  # it has not heard yet
    read = cluster.read(2)
    cluster.settle()
    asked = cluster.shells[NodeId(2)].sent(ReadIndexRequest)
    assert len(asked) == 1
    cluster.poll(2)
    cluster.tick(2)
    cluster.settle()
    assert len(cluster.shells[NodeId(2)].sent(ReadIndexRequest)) == 2
    cluster.elect(3)
    cluster.tick_all(2)
    assert read in cluster.answers


def test_a_read_outlives_a_leader_change() -> None:
    cluster = led_by(1)
    cluster.cut([1])
    read = cluster.read(3)
    cluster.elect(2)
    cluster.tick_all(3)
    assert read in cluster.answers


def test_a_read_that_nobody_confirms_expires_for_certain() -> None:
    cluster = led_by(1)
    cluster.cut([3])
    read = cluster.read(3, patience_ticks=4)
    cluster.tick(3, 3)
    assert read not in cluster.answers
    cluster.tick(3)
    assert isinstance(cluster.error(read), Unavailable)
    assert cluster.error(read).retryable
    # And what is confirmed too late finds nobody.
    cluster.heal()
    cluster.tick_all(12)
    assert cluster.shells[NodeId(3)].of_kind(Read) == []


def test_a_confirmed_read_expires_while_its_index_is_not_applied() -> None:
    cluster = led_by(1)
    cluster.shells[NodeId(3)].slow_disk = True
    cluster.submit(1, put("a"))
    cluster.settle()
    read = cluster.read(3, patience_ticks=4)
    cluster.settle()
    cluster.tick_all(4)
    assert isinstance(cluster.error(read), Unavailable)
    cluster.fsync(3)
    cluster.settle()
    assert cluster.shells[NodeId(3)].of_kind(Read) == []


def test_a_new_leader_confirms_no_read_before_it_committed_an_entry_of_its_own() -> (
    None
):
    """M45: until then it does not know how far the log is committed."""
    cluster = led_by(1)
    write = cluster.submit(1, put("a"))
    cluster.deliver(cluster.lose(sender=1))
    cluster.deliver(cluster.lose(to=1))
    assert cluster.results(write)  # and only node 1 knows
    cluster.crash(1, notice=True)
    new = cluster.replica(2).raft
    new.campaign()
    cluster.poll(2)
    until(lambda: new.is_leader, lambda: exchange_one(cluster))
    cluster.lose(AppendEntries)
    read = cluster.read(2)
    cluster.tick(2)
    cluster.deliver(cluster.lose(Heartbeat))
    cluster.deliver(cluster.lose(HeartbeatReply))
    assert read not in cluster.answers
    cluster.tick_all(3)
    assert cluster.answers[read].pairs == {"a": "v"}


def exchange_one(cluster: Cluster) -> None:
    """One message each way between nodes 2 and 3."""
    for sender, to in ((2, 3), (3, 2)):
        cluster.deliver_from(NodeId(sender), NodeId(to), count=1)
