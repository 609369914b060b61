"""Writes through a follower: passed on once, answered once, and by whom."""

from dataclasses import replace

import pytest

from kvstore.errors import (
    Busy,
    DeadlineExceeded,
    InvalidRequest,
    LeadershipLost,
    NotLeader,
    Unavailable,
)
from kvstore.pb import kv_pb2
from kvstore.replica.messages import ForwardReply, ForwardWrites
from kvstore.replica.proposals import FORWARDED_BATCHES_MAX
from kvstore.types import NodeId, Revision
from tests.replica.harness import OPTIONS, Cluster, batch, led_by, put, until


def forwards(cluster: Cluster, node_id: int) -> list[ForwardWrites]:
    return cluster.shells[NodeId(node_id)].sent(ForwardWrites)


def replies(cluster: Cluster, node_id: int) -> list[ForwardReply]:
    return cluster.shells[NodeId(node_id)].sent(ForwardReply)


def version_of(cluster: Cluster, node_id: int, key: str) -> int:
    """How often a key was written."""
    head = cluster.shells[NodeId(node_id)].state.head(key.encode())
    return 0 if head is None else head.version


def test_a_write_through_a_follower_is_passed_on_and_answered_once() -> None:
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"), put("b"))
    cluster.settle()
    assert [r.put.revision for r in cluster.results(ticket)] == [1, 2]
    assert len(forwards(cluster, 2)) == len(replies(cluster, 1)) == 1


def test_the_bytes_that_are_passed_on_are_the_clients_own() -> None:
    cluster = led_by(1)
    cluster.submit(2, put("a"))
    (message,) = forwards(cluster, 2)
    assert (message.writes, message.count) == (batch(put("a")), 1)


def test_a_write_waits_at_its_own_node_until_a_leader_is_known() -> None:
    cluster = Cluster(3)
    ticket = cluster.submit(2, put("a"))
    assert forwards(cluster, 2) == []
    cluster.elect(1)
    cluster.settle()
    assert cluster.results(ticket)


def test_not_leader_brings_a_write_back_to_its_node_for_the_next_leader() -> None:
    """Nobody has it in a log: to try again is safe, and the caller need not know."""
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"))
    (message,) = cluster.lose(ForwardWrites)
    cluster.depose(1)
    cluster.elect(3)
    cluster.tick_all()
    cluster.deliver([message])  # late: node 1 leads no more
    (reply,) = replies(cluster, 1)
    assert isinstance(reply.error, NotLeader)
    assert ticket not in cluster.answers
    cluster.settle()
    assert cluster.results(ticket)
    assert [int(m.to) for m in forwards(cluster, 2)] == [1, 3]
    assert version_of(cluster, 3, "a") == 1


def test_a_write_brought_back_fails_for_certain_if_no_leader_comes_in_time() -> None:
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"), patience_ticks=30)
    (message,) = cluster.lose(ForwardWrites)
    cluster.depose(1)
    cluster.deliver([message])
    cluster.settle()
    assert isinstance(replies(cluster, 1)[0].error, NotLeader)
    cluster.cut([2])
    until(lambda: ticket in cluster.answers, lambda: cluster.tick(2))
    assert type(cluster.error(ticket)) is Unavailable


def test_a_leader_that_refused_is_not_asked_again_before_it_leads() -> None:
    """Else a write goes to and fro as fast as the network can, for an election long."""
    cluster = led_by(1)
    cluster.submit(2, put("a"))
    (message,) = cluster.lose(ForwardWrites)
    cluster.depose(1)
    cluster.deliver([message])
    cluster.settle()
    assert cluster.replica(2).raft.leader_id == 1  # it has not heard yet
    for _ in range(3):
        cluster.poll(2)
        cluster.settle()
    assert len(forwards(cluster, 2)) == 1


def test_a_write_is_never_passed_on_twice() -> None:
    """Two nodes that each think the other leads must not send it round in circles."""
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"))
    (message,) = cluster.lose(ForwardWrites)
    cluster.shells[NodeId(1)].slow_disk = True
    cluster.submit(1, put("b"))  # its disk is busy, so that the next one waits
    cluster.deliver([message])
    assert ticket not in cluster.answers
    cluster.cut([1])
    cluster.elect(3)
    cluster.heal()
    cluster.tick_all()  # node 1 learns of node 3 with the forwarded batch still waiting
    (reply,) = replies(cluster, 1)
    assert isinstance(reply.error, NotLeader)
    assert forwards(cluster, 1) == []


def test_an_answer_from_somebody_who_was_not_asked_is_ignored() -> None:
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"))
    (message,) = forwards(cluster, 2)
    for sender in (NodeId(3), NodeId(2)):
        forged = ForwardReply(
            sender=sender,
            to=NodeId(2),
            request_id=message.request_id,
            results=b"",
            error=None,
            revision=Revision(9),
        )
        cluster.deliver([forged])
    assert ticket not in cluster.answers
    cluster.settle()
    assert cluster.answers[ticket].revision == 1


def test_a_second_answer_is_ignored() -> None:
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"))
    cluster.settle()
    (reply,) = replies(cluster, 1)
    cluster.deliver([reply])  # the harness fails a ticket that is answered twice
    assert cluster.results(ticket)


def test_an_answer_to_an_earlier_life_is_not_taken_for_a_new_write() -> None:
    """Method: the follower restarts with a write at the leader, forwards another one,
    and only then gets the answer to the first.

    Numbers that began at 1 in each life would make it acknowledge the second.
    """
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_apply = True
    cluster.submit(2, put("first"))
    cluster.settle()
    cluster.crash(2)
    cluster.start(2)
    cluster.tick(1)
    cluster.settle()  # node 2 hears who leads
    second = cluster.submit(2, put("second"))
    assert len(forwards(cluster, 2)) == 1
    cluster.lose(ForwardWrites)
    cluster.apply(1)
    cluster.settle()
    assert len(replies(cluster, 1)) == 1
    assert second not in cluster.answers


def test_a_broken_connection_leaves_the_outcome_unknown() -> None:
    """M53: the leader may have it. And its late answer changes nothing."""
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"))
    message = forwards(cluster, 2)[0]
    cluster.disconnect(2, 1)
    assert isinstance(cluster.error(ticket), LeadershipLost)
    cluster.deliver([message])
    cluster.settle()
    assert version_of(cluster, 1, "a") == 1


def test_only_writes_at_the_lost_leader_become_unknown() -> None:
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"))
    cluster.disconnect(2, 3)
    assert ticket not in cluster.answers
    cluster.settle()
    assert cluster.results(ticket)


def test_a_lost_message_ends_as_unknown_when_the_writes_patience_does() -> None:
    """The leader stays, its connection too: only time tells that nothing will come."""
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"), patience_ticks=8)
    cluster.lose(ForwardWrites)
    cluster.tick_all(7)
    assert ticket not in cluster.answers
    cluster.tick_all(1)
    assert isinstance(cluster.error(ticket), DeadlineExceeded)
    assert not cluster.error(ticket).definite


def test_the_leaders_bound_holds_for_what_is_passed_on() -> None:
    cluster = led_by(1, options=replace(OPTIONS, waiting_writes_max=2))
    cluster.shells[NodeId(1)].slow_disk = True
    cluster.submit(1, put("a"))
    cluster.submit(1, put("b"), put("c"))
    ticket = cluster.submit(2, put("d"))
    cluster.settle()
    assert isinstance(cluster.error(ticket), Busy)


def test_a_follower_bounds_what_it_has_passed_on() -> None:
    """What is beyond waits in front, within the bound of what waits."""
    cluster = led_by(1, options=replace(OPTIONS, waiting_writes_max=2))
    tickets = [cluster.submit(2, put(str(number))) for number in range(4)]
    assert len(forwards(cluster, 2)) == 2
    with pytest.raises(Busy):
        cluster.submit(2, put("4"))
    cluster.settle()
    for ticket in tickets:
        assert cluster.results(ticket)


def test_a_follower_bounds_the_batches_it_has_passed_on() -> None:
    """Each is a message of its own, and a link to a peer holds only so many."""
    cluster = led_by(1)
    number = 2 * FORWARDED_BATCHES_MAX + 1
    tickets = [cluster.submit(2, put(str(n)), poll=False) for n in range(number)]
    cluster.poll(2)
    assert len(forwards(cluster, 2)) == FORWARDED_BATCHES_MAX
    cluster.settle()
    for ticket in tickets:
        assert cluster.results(ticket)


def test_a_follower_bounds_the_bytes_it_has_passed_on() -> None:
    """Not everything that would fit in one entry leaves for the room of one batch."""
    size = len(batch(put("0")))
    options = replace(OPTIONS, waiting_write_bytes_max=3 * size)
    cluster = led_by(1, options=options)
    for count in (2, 3):
        for n in range(count):
            cluster.submit(2, put(str(n)), poll=False)
        cluster.poll(2)
    assert len(forwards(cluster, 2)) == 3


def test_a_leader_gives_a_passed_on_write_up_when_its_log_does_not_take_it() -> None:
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_disk = True
    cluster.submit(1, put("a"))
    cluster.submit(2, put("b"))
    cluster.settle()
    cluster.tick_all(OPTIONS.forwarded_patience_ticks)
    (reply,) = replies(cluster, 1)
    assert isinstance(reply.error, Unavailable)
    assert reply.error.definite


def test_a_closing_leader_says_so_to_whom_it_owes_an_answer() -> None:
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_disk = True
    in_flight = cluster.submit(2, put("a"))
    cluster.settle()
    waits = cluster.submit(2, put("b"))
    cluster.settle()
    cluster.close(1)
    cluster.settle()
    assert isinstance(cluster.error(in_flight), LeadershipLost)
    assert isinstance(cluster.error(waits), Unavailable)


def test_a_draining_leader_finishes_its_log_and_takes_nothing_new_from_peers() -> None:
    """Goal: a leader that stops in order leaves no outcome unknown anywhere."""
    cluster = led_by(1)
    leader = cluster.shells[NodeId(1)]
    leader.slow_disk = True
    in_flight = cluster.submit(2, put("a"))
    cluster.settle()
    cluster.replica(1).drain()
    late = cluster.submit(2, put("b"))
    cluster.settle()
    assert not cluster.replica(1).is_drained
    cluster.fsync(1)
    cluster.settle()
    assert cluster.replica(1).is_drained
    assert cluster.results(in_flight)
    cluster.replica(1).resign()
    cluster.poll(1)
    cluster.settle()
    assert not cluster.replica(1).raft.is_leader
    cluster.close(1)
    cluster.crash(1, notice=True)
    cluster.elect(3)
    cluster.tick_all(2)
    assert cluster.results(late)


def test_a_resigned_leader_is_sent_no_write_by_peers_that_had_none_before() -> None:
    """Method: node 2 has nothing to pass on while node 1 drains, only afterwards.

    It has not been refused anything by then, and it has not seen a connection break.
    """
    cluster = led_by(1)
    cluster.replica(1).drain()
    cluster.replica(1).resign()
    cluster.poll(1)
    cluster.settle()
    late = cluster.submit(2, put("a"))
    assert forwards(cluster, 2) == []
    cluster.close(1)
    cluster.crash(1, notice=True)
    cluster.elect(3)
    cluster.tick_all(2)
    assert cluster.results(late)


def test_only_a_leader_has_something_to_resign_from() -> None:
    cluster = led_by(1)
    cluster.replica(2).drain()
    cluster.replica(2).resign()
    cluster.poll(2)
    assert replies(cluster, 2) == []


@pytest.mark.parametrize(
    ("writes", "count"),
    [
        pytest.param(b"\x0a\xff", 1, id="no batch"),
        pytest.param(b"", 0, id="empty"),
        pytest.param(batch(put("a"), put("b")), 1, id="count too low"),
        pytest.param(batch(put("a")), 2, id="count too high"),
        pytest.param(batch(kv_pb2.Command()), 1, id="says nothing"),
        pytest.param(b"\x0a\x04\xf2\x3f\x01\x00", 1, id="of a newer version"),
    ],
)
def test_what_could_not_be_applied_is_refused_before_it_is_proposed(
    writes: bytes, count: int
) -> None:
    """One such entry would stop every member, at every start."""
    cluster = led_by(1)
    last = cluster.replica(1).raft.last_index
    message = ForwardWrites(
        sender=NodeId(2), to=NodeId(1), request_id=1, writes=writes, count=count
    )
    cluster.deliver([message])
    (reply,) = replies(cluster, 1)
    assert isinstance(reply.error, InvalidRequest)
    assert cluster.replica(1).raft.last_index == last
