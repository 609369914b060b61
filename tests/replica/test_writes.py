"""Writes at one leader: how batches form, what waits for what, what is bounded."""

from dataclasses import replace

import pytest

from kvstore.errors import Busy, ConfigError, LeadershipLost, Unavailable
from kvstore.pb import kv_pb2
from kvstore.raft.messages import AppendEntriesReply, EntryKind
from kvstore.replica.effects import Apply, Persist, Read, Send
from kvstore.replica.options import ReplicaOptions
from kvstore.types import NodeId
from tests.replica.harness import OPTIONS, Cluster, batch, commands_of, keys_of, led_by
from tests.replica.harness import put as put_command

KEYS = ("a", "b", "c", "d")


def puts(*keys: str) -> list[kv_pb2.Command]:
    return [put_command(key) for key in keys]


def entries_written(cluster: Cluster, node_id: int) -> list[list[str]]:
    """The keys in each entry of commands that a node was to write, in order."""
    return [
        keys_of(entry)
        for effect in cluster.shells[NodeId(node_id)].of_kind(Persist)
        for entry in effect.entries
        if entry.kind is EntryKind.COMMANDS
    ]


# ---------------------------------------------------------------- group commit


def test_batches_that_arrive_during_a_log_write_become_one_entry() -> None:
    """Goal: group commit without a timer. The first goes alone, the rest together."""
    cluster = led_by(1)
    leader = cluster.shells[NodeId(1)]
    leader.slow_disk = True
    tickets = [cluster.submit(1, *puts(key)) for key in KEYS]
    assert entries_written(cluster, 1) == [["a"]]
    cluster.fsync(1)
    assert entries_written(cluster, 1) == [["a"], ["b", "c", "d"]]
    cluster.fsync(1)
    cluster.settle()
    revisions = [cluster.results(ticket)[0].put.revision for ticket in tickets]
    assert revisions == [1, 2, 3, 4]


def test_batches_of_one_turn_become_one_entry() -> None:
    cluster = led_by(1)
    for key in KEYS:
        cluster.submit(1, *puts(key), poll=False)
    cluster.poll(1)
    assert entries_written(cluster, 1) == [list(KEYS)]


def test_an_entry_takes_batches_up_to_its_bound_and_one_larger_alone() -> None:
    size = len(batch(*puts("a")))
    cluster = led_by(1, options=replace(OPTIONS, entry_bytes_max=2 * size))
    cluster.shells[NodeId(1)].slow_disk = True
    cluster.submit(1, *puts("0"))
    cluster.submit(1, *puts("a"))
    cluster.submit(1, *puts("b"))
    cluster.submit(1, *puts("c"))
    cluster.submit(1, *puts("d", "e", "f"))
    for _ in range(4):
        cluster.fsync(1)
    assert entries_written(cluster, 1) == [["0"], ["a", "b"], ["c"], ["d", "e", "f"]]


def test_each_batch_of_an_entry_gets_its_own_results() -> None:
    cluster = led_by(1)
    one = cluster.submit(1, *puts("a"), poll=False)
    two = cluster.submit(1, *puts("b", "c"), poll=False)
    cluster.poll(1)
    cluster.settle()
    assert [r.put.revision for r in cluster.results(one)] == [1]
    assert [r.put.revision for r in cluster.results(two)] == [2, 3]


# ------------------------------------------------------------- order of effects


def test_appends_leave_before_the_leaders_own_write_is_done() -> None:
    """Dissertation section 10.2.1: followers write in parallel with the leader."""
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_disk = True
    ticket = cluster.submit(1, *puts("a"))
    effects = cluster.shells[NodeId(1)].effects[-2:]
    assert [type(effect) for effect in effects] == [Send, Persist]
    cluster.settle()
    # Committed by the followers' disks alone; applied once it is durable here too.
    assert cluster.replica(1).raft.commit_index == cluster.replica(1).raft.last_index
    assert ticket not in cluster.answers
    cluster.fsync(1)
    assert cluster.results(ticket)


def test_a_follower_acknowledges_after_its_write_and_never_before() -> None:
    cluster = led_by(1)
    follower = cluster.shells[NodeId(2)]
    follower.slow_disk = True
    before = len(follower.sent(AppendEntriesReply))
    cluster.submit(1, *puts("a"))
    cluster.settle()
    assert follower.writing is not None
    assert len(follower.sent(AppendEntriesReply)) == before
    cluster.fsync(2)
    assert len(follower.sent(AppendEntriesReply)) == before + 1


def test_what_is_applied_before_a_read_is_handed_out_before_it() -> None:
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_apply = True
    cluster.submit(1, *puts("a"))
    cluster.settle()
    cluster.read(1)
    cluster.settle()
    works = cluster.shells[NodeId(1)].working
    assert [type(work) for work in works] == [Apply, Read]


def test_nothing_is_answered_before_it_is_applied() -> None:
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_apply = True
    ticket = cluster.submit(1, *puts("a"))
    cluster.settle()
    assert cluster.replica(1).raft.commit_index == cluster.replica(1).raft.last_index
    assert ticket not in cluster.answers
    cluster.apply(1)
    assert cluster.results(ticket)


def test_results_are_wanted_only_where_somebody_waits() -> None:
    cluster = led_by(1)
    cluster.submit(1, *puts("a", "b"))
    cluster.settle()
    cluster.tick_all()
    groups = {
        node_id: [g for a in cluster.shells[node_id].of_kind(Apply) for g in a.groups]
        for node_id in cluster.ids
    }
    assert groups[NodeId(1)] == [(), (2,)]  # the no-op, the batch
    assert groups[NodeId(2)] == groups[NodeId(3)] == [(), ()]


# ---------------------------------------------------------------------- bounds


def waiting_cluster(**bounds: int) -> Cluster:
    """A leader whose disk is busy: what is submitted waits."""
    cluster = led_by(1, options=replace(OPTIONS, **bounds))  # type: ignore[arg-type]
    cluster.shells[NodeId(1)].slow_disk = True
    cluster.submit(1, *puts("first"))
    return cluster


def test_waiting_writes_are_bounded_by_commands() -> None:
    """Busy is definite: what was refused is not in the log afterwards."""
    cluster = waiting_cluster(waiting_writes_max=3)
    accepted = cluster.submit(1, *puts("a", "b"))
    with pytest.raises(Busy) as refused:
        cluster.submit(1, *puts("c", "d"))
    assert (refused.value.queue, refused.value.maximum) == ("waiting_writes", 3)
    assert refused.value.definite
    also = cluster.submit(1, *puts("e"))
    cluster.shells[NodeId(1)].slow_disk = False
    cluster.fsync(1)
    cluster.settle()
    assert cluster.results(accepted)
    assert cluster.results(also)
    state = cluster.shells[NodeId(1)].state
    assert [key for key, _ in state.heads(b"", None)] == [b"a", b"b", b"e", b"first"]


def test_waiting_writes_are_bounded_by_bytes() -> None:
    size = len(batch(*puts("a")))
    cluster = waiting_cluster(waiting_write_bytes_max=2 * size)
    cluster.submit(1, *puts("a"))
    cluster.submit(1, *puts("b"))
    with pytest.raises(Busy) as refused:
        cluster.submit(1, *puts("c"))
    assert refused.value.queue == "waiting_write_bytes"


def test_a_batch_beyond_the_bound_is_taken_when_nothing_else_waits() -> None:
    """Else it could never be written; its size has a bound of its own at the edge."""
    cluster = waiting_cluster(waiting_writes_max=2)
    cluster.submit(1, *puts("a", "b", "c"))
    with pytest.raises(Busy):
        cluster.submit(1, *puts("d"))


def test_a_log_that_cannot_commit_keeps_writes_waiting_within_their_bound() -> None:
    """``uncommitted_bytes_max``: past it nothing is proposed until some is applied.

    What waits keeps its order.
    """
    size = len(batch(*puts("a")))
    raft = replace(OPTIONS.raft, uncommitted_bytes_max=2 * size)
    options = replace(OPTIONS, raft=raft, waiting_writes_max=2)
    cluster = led_by(1, options=options)
    cluster.cut([1])
    tickets = [cluster.submit(1, *puts(key)) for key in KEYS]
    with pytest.raises(Busy):
        cluster.submit(1, *puts("e"))
    assert cluster.replica(1).raft.uncommitted_bytes == 2 * size
    cluster.heal()
    cluster.settle()
    revisions = [cluster.results(ticket)[0].put.revision for ticket in tickets]
    assert revisions == [1, 2, 3, 4]


@pytest.mark.parametrize("name", sorted(ReplicaOptions.__slots__))
def test_a_bound_of_nothing_is_refused(name: str) -> None:
    if name not in ("raft", "history", "log_trailing_bytes"):
        with pytest.raises(ConfigError, match=name):
            replace(OPTIONS, **{name: 0})  # type: ignore[arg-type]


# ------------------------------------------------------------------ compaction


def filled(node_id: int, size: int = 3) -> Cluster:
    """A cluster whose one key has a long history, just compacted."""
    cluster = led_by(node_id, size)
    for number in range(3_000):
        cluster.submit(node_id, put_command("k", str(number)), poll=False)
    cluster.poll(node_id)
    cluster.settle()
    compact = kv_pb2.Command(compact=kv_pb2.Compact(revision=3_000))
    cluster.submit(node_id, compact, poll=False)
    return cluster


def steps_written(cluster: Cluster, node_id: int) -> int:
    return sum(
        command.HasField("compaction_step")
        for effect in cluster.shells[NodeId(node_id)].of_kind(Persist)
        for entry in effect.entries
        for command in commands_of(entry)
    )


def test_an_idle_leader_proposes_compaction_steps_until_all_is_swept() -> None:
    cluster = filled(1)
    cluster.poll(1)
    cluster.settle()
    cluster.tick_all(2)
    for node_id in cluster.ids:
        assert not cluster.shells[node_id].state.progress.compaction_pending
    assert steps_written(cluster, 1) > 0
    assert len(set(cluster.hashes())) == 1
    # And then it falls silent.
    last = cluster.replica(1).raft.last_index
    cluster.tick_all(20)
    assert cluster.replica(1).raft.last_index == last


def test_writes_go_before_compaction_steps() -> None:
    """Every entry deletes its share; one that does only that is for an idle log."""
    cluster = filled(1)
    leader = cluster.shells[NodeId(1)]
    leader.slow_apply = True
    cluster.poll(1)
    cluster.settle()
    cluster.submit(1, *puts("a"), poll=False)
    cluster.apply(1)
    assert leader.state.progress.compaction_pending
    assert entries_written(cluster, 1)[-1] == ["a"]
    assert steps_written(cluster, 1) == 0
    leader.slow_apply = False
    cluster.settle()
    cluster.apply(1)
    assert steps_written(cluster, 1) > 0


def test_a_follower_proposes_nothing_and_a_new_leader_goes_on_sweeping() -> None:
    cluster = filled(1)
    cluster.shells[NodeId(1)].slow_apply = True  # so that it proposes no step
    cluster.poll(1)
    cluster.settle()
    cluster.tick_all(2)
    assert cluster.shells[NodeId(2)].state.progress.compaction_pending
    assert steps_written(cluster, 2) == 0
    cluster.crash(1)
    cluster.elect(2)
    cluster.tick_all(2)
    assert not cluster.shells[NodeId(3)].state.progress.compaction_pending


def test_a_restarted_leader_goes_on_sweeping() -> None:
    cluster = filled(1, size=1)
    shell = cluster.shells[NodeId(1)]
    shell.slow_apply = True
    cluster.poll(1)
    cluster.apply(1, count=1)
    assert shell.state.progress.compaction_pending
    cluster.commit_state(1)
    cluster.crash(1)
    shell.slow_apply = False
    cluster.start(1)
    cluster.tick_all(2)
    assert not shell.state.progress.compaction_pending


# ----------------------------------------------------------------- one, and end


def test_a_single_node_elects_itself_and_serves_at_once() -> None:
    cluster = Cluster(1)
    ticket = cluster.submit(1, *puts("a"))
    read = cluster.read(1)
    cluster.tick(1)
    assert cluster.results(ticket)[0].put.revision == 1
    assert cluster.answers[read].pairs == {"a": "v"}


def test_a_single_node_keeps_what_was_answered_through_a_crash() -> None:
    cluster = Cluster(1)
    ticket = cluster.submit(1, *puts("a"))
    cluster.tick(1)
    assert cluster.results(ticket)
    cluster.crash(1)  # its state was never committed
    cluster.start(1)
    read = cluster.read(1)
    cluster.tick(1)
    assert cluster.answers[read].pairs == {"a": "v"}


def test_close_fails_what_waits_for_certain_and_what_is_in_flight_as_unknown() -> None:
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_disk = True
    in_flight = cluster.submit(1, *puts("a"))
    waits = cluster.submit(1, *puts("b"))
    read = cluster.read(1, poll=False)
    cluster.close(1)
    assert isinstance(cluster.error(in_flight), LeadershipLost)
    assert not cluster.error(in_flight).definite
    for ticket in (waits, read):
        assert isinstance(cluster.error(ticket), Unavailable)
        assert cluster.error(ticket).definite


def test_a_write_applied_after_close_is_not_answered_again() -> None:
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_apply = True
    ticket = cluster.submit(1, *puts("a"))
    cluster.settle()
    cluster.close(1)
    cluster.apply(1)
    assert isinstance(cluster.error(ticket), LeadershipLost)


def test_a_write_without_a_leader_is_refused_when_its_patience_ends() -> None:
    cluster = Cluster(3)
    cluster.cut([1])
    ticket = cluster.submit(1, *puts("a"), patience_ticks=3)
    cluster.tick(1, 2)
    assert ticket not in cluster.answers
    cluster.tick(1)
    assert isinstance(cluster.error(ticket), Unavailable)
