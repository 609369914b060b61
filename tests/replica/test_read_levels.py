"""Each read is served at the level that it asks for, and says which one it got."""

from dataclasses import replace

import pytest

from kvstore.errors import Behind, Unavailable
from kvstore.pb import kv_pb2
from kvstore.raft.membership import SetLeases
from kvstore.replica.effects import Read
from tests.replica.harness import OPTIONS, Cluster, led_by, put

STALE = kv_pb2.ReadOptions(consistency=kv_pb2.STALE)
LEASE = kv_pb2.ReadOptions(consistency=kv_pb2.LEASE)
TIMEOUT_MS = 10 * OPTIONS.raft.election_timeout_ticks


def bounded(ms: int) -> kv_pb2.ReadOptions:
    return kv_pb2.ReadOptions(consistency=kv_pb2.BOUNDED, staleness_ms_max=ms)


def session(revision: int) -> kv_pb2.ReadOptions:
    return kv_pb2.ReadOptions(consistency=kv_pb2.SESSION, revision_min=revision)


def last_read(cluster: Cluster, node_id: int) -> Read:
    return cluster.shells[cluster.ids[node_id - 1]].of_kind(Read)[-1]


def leased() -> Cluster:
    """Node 1 leads a cluster with leases on, and has just renewed its own."""
    raft = replace(OPTIONS.raft, lease_ms=TIMEOUT_MS // 2)
    cluster = led_by(1, options=replace(OPTIONS, raft=raft))
    cluster.change(1, SetLeases(True))
    cluster.settle()
    cluster.tick_all(2)
    assert cluster.replica(1).raft.has_lease
    return cluster


def test_a_stale_read_is_served_at_once_by_whoever_is_asked() -> None:
    cluster = led_by(1)
    cluster.submit(1, put("a"))
    cluster.settle()
    cluster.tick_all(1)
    cluster.cut([3])
    cluster.submit(1, put("b"))
    cluster.settle()
    read = cluster.read(3, STALE)
    assert set(cluster.answers[read].pairs) == {"a"}
    effect = last_read(cluster, 3)
    assert (effect.consistency, effect.fresh_ms) == (kv_pb2.STALE, None)


def test_a_linearizable_read_of_a_follower_says_that_a_follower_served_it() -> None:
    cluster = led_by(1)
    cluster.read(1)
    cluster.settle()
    assert last_read(cluster, 1).consistency == kv_pb2.LINEARIZABLE
    cluster.read(2)
    cluster.settle()
    assert last_read(cluster, 2).consistency == kv_pb2.FOLLOWER


def test_a_bounded_read_costs_a_round_only_when_the_last_one_is_too_old() -> None:
    cluster = led_by(1)
    cluster.pass_time(1_000)
    first = cluster.read(2, bounded(100))
    assert first not in cluster.answers
    cluster.settle()
    assert last_read(cluster, 2).consistency == kv_pb2.FOLLOWER
    cluster.pass_time(40)
    second = cluster.read(2, bounded(100))
    assert second in cluster.answers
    effect = last_read(cluster, 2)
    assert (effect.consistency, effect.fresh_ms) == (kv_pb2.BOUNDED, 1_000)
    cluster.pass_time(61)
    third = cluster.read(2, bounded(100))
    assert third not in cluster.answers
    cluster.settle()
    assert third in cluster.answers


def test_a_bound_is_counted_from_before_the_question_left() -> None:
    """A round that took long proves nothing of the time that it took."""
    cluster = led_by(1)
    cluster.pass_time(1_000)
    cluster.read(2, bounded(100))
    cluster.pass_time(90)
    cluster.settle()
    cluster.pass_time(11)
    assert cluster.read(2, bounded(100)) not in cluster.answers


def test_a_node_behind_a_deposed_leader_does_not_pass_for_fresh() -> None:
    """rqlite#1672: it hears its leader all the time, and the leader is one no more."""
    cluster = led_by(1, 5)
    cluster.pass_time(1_000)
    cluster.read(2, bounded(100))
    cluster.settle()
    cluster.cut([1, 2])
    for _ in range(5):
        cluster.pass_time(50)
        cluster.tick(1)
        cluster.tick(2)
        cluster.settle()
    assert cluster.replica(2).raft.leader_id == 1
    assert cluster.read(2, bounded(100)) not in cluster.answers


def test_a_node_that_grows_old_asks_ahead_of_the_next_bounded_read() -> None:
    """So that reads in a row never wait."""
    cluster = led_by(1)
    cluster.pass_time(1_000)
    cluster.read(2, bounded(100))
    cluster.settle()
    for _ in range(10):
        cluster.pass_time(60)
        assert cluster.read(2, bounded(100)) in cluster.answers
        cluster.settle()


def test_a_session_read_waits_for_what_its_client_saw_elsewhere() -> None:
    cluster = led_by(1)
    cluster.cut([3])
    write = cluster.submit(1, put("a"))
    cluster.settle()
    revision = cluster.results(write)[0].put.revision
    read = cluster.read(3, session(revision))
    assert read not in cluster.answers
    cluster.heal()
    cluster.tick_all(2)
    assert set(cluster.answers[read].pairs) == {"a"}
    assert last_read(cluster, 3).consistency == kv_pb2.SESSION


def test_a_session_read_that_waited_in_vain_says_how_far_the_node_is() -> None:
    cluster = led_by(1)
    cluster.submit(1, put("a"))
    cluster.settle()
    read = cluster.read(3, session(9), patience_ticks=3)
    cluster.tick_all(3)
    error = cluster.error(read)
    assert isinstance(error, Behind)
    assert error.revision == 1


def test_a_session_read_needs_no_leader() -> None:
    cluster = led_by(1)
    cluster.submit(1, put("a"))
    cluster.settle()
    cluster.tick_all(1)
    cluster.crash(1)
    cluster.crash(2)
    assert set(cluster.answers[cluster.read(3, session(1))].pairs) == {"a"}


def test_a_leader_with_a_lease_asks_nobody() -> None:
    cluster = leased()
    read = cluster.read(1, LEASE)
    assert read in cluster.answers
    assert last_read(cluster, 1).consistency == kv_pb2.LEASE


def test_a_lease_ends_by_the_clock_and_not_by_ticks() -> None:
    """A process that stood still has ticks to make up for; the clock went on."""
    cluster = leased()
    cluster.pass_time(TIMEOUT_MS)
    read = cluster.read(1, LEASE)
    assert read not in cluster.answers
    cluster.settle()
    assert last_read(cluster, 1).consistency == kv_pb2.LINEARIZABLE


def test_without_leases_a_lease_read_is_linearizable_and_says_so() -> None:
    cluster = led_by(1)
    cluster.tick_all(2)
    cluster.read(1, LEASE)
    cluster.settle()
    assert last_read(cluster, 1).consistency == kv_pb2.LINEARIZABLE


@pytest.mark.parametrize("options", [LEASE, bounded(50)])
def test_weaker_levels_that_need_a_leader_fail_without_one(
    options: kv_pb2.ReadOptions,
) -> None:
    cluster = led_by(1)
    cluster.cut([3])
    read = cluster.read(3, options, patience_ticks=4)
    for _ in range(4):
        cluster.tick(3)
    assert isinstance(cluster.error(read), Unavailable)
