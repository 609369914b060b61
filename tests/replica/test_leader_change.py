"""Writes whose leader changed under them: who is told what, and when."""

from kvstore.errors import LeadershipLost, ProposalDropped
from kvstore.replica.messages import ForwardReply
from kvstore.types import NodeId
from tests.replica.harness import OPTIONS, Cluster, led_by, put

ORPHAN = OPTIONS.orphan_ticks


def cut_off_with_a_write(*, replicated: bool = False) -> tuple[Cluster, int]:
    """Node 1 has a write in its log, steps down in its term, and hears nobody.

    ``replicated``: the others have the entry too, though node 1 does not know.
    """
    cluster = led_by(1)
    ticket = cluster.submit(1, put("a"))
    if replicated:
        cluster.deliver(cluster.lose(sender=1))
    cluster.lose()
    cluster.cut([1])
    cluster.depose(1)
    return cluster, ticket


def test_a_write_in_flight_is_awaited_before_its_outcome_is_called_unknown() -> None:
    """Most such writes are decided within an election: it pays to wait."""
    cluster, ticket = cut_off_with_a_write()
    cluster.tick(1, ORPHAN - 1)
    assert ticket not in cluster.answers
    cluster.tick(1)
    assert isinstance(cluster.error(ticket), LeadershipLost)
    assert not cluster.error(ticket).definite


def test_an_unknown_outcome_is_never_called_a_failure() -> None:
    """M53: the write is told to be unknown, and turns out to be applied."""
    cluster, ticket = cut_off_with_a_write(replicated=True)
    cluster.tick(1, ORPHAN)
    assert not cluster.error(ticket).definite
    cluster.elect(2)
    cluster.heal()
    cluster.tick_all(3)
    for node_id in cluster.ids:
        assert cluster.shells[node_id].state.head(b"a") is not None


def test_an_overwritten_write_was_definitely_not_applied() -> None:
    cluster, ticket = cut_off_with_a_write()
    cluster.elect(2)
    cluster.submit(2, put("b"))
    cluster.settle()
    cluster.heal()
    cluster.tick_all(2)
    assert isinstance(cluster.error(ticket), ProposalDropped)
    assert cluster.error(ticket).definite
    assert cluster.shells[NodeId(1)].state.head(b"a") is None


def test_a_write_behind_an_overwritten_one_was_not_applied_either() -> None:
    """Method: two entries are lost, and one entry of the next term is committed.

    It takes the index of the first. Terms never fall along a log, so the second, of an
    earlier term, cannot follow it, in this log or any other.
    """
    cluster = led_by(1)
    tickets = [cluster.submit(1, put("a")), cluster.submit(1, put("b"))]
    last = cluster.replica(1).raft.last_index
    cluster.lose()
    cluster.cut([1])
    cluster.depose(1)
    cluster.elect(2)  # its no-op takes the index of the first
    cluster.heal()
    cluster.tick_all(2)
    assert cluster.replica(1).raft.last_index == last - 1
    for ticket in tickets:
        assert isinstance(cluster.error(ticket), ProposalDropped)


def test_a_write_in_front_of_an_entry_of_a_later_term_keeps_its_place() -> None:
    """The new leader has it, and its own entry commits both."""
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_apply = True
    tickets = [cluster.submit(1, put("a")), cluster.submit(1, put("b"))]
    cluster.deliver(cluster.lose(sender=1))
    cluster.lose()
    cluster.elect(2)
    cluster.tick_all()
    cluster.apply(1)
    assert [cluster.results(t)[0].put.revision for t in tickets] == [1, 2]


def test_a_result_belongs_to_the_entry_and_not_to_its_index() -> None:
    """M54: another leader's entry is committed where ours stood.

    Goal: our caller is not given the results of somebody else's write.
    """
    cluster, ticket = cut_off_with_a_write()
    index = cluster.replica(1).raft.last_index
    cluster.elect(2)  # its no-op takes the index
    other = cluster.submit(2, put("b"), put("c"))
    cluster.settle()
    assert cluster.replica(2).raft.last_index > index
    cluster.heal()
    cluster.tick_all(2)
    assert cluster.answers[ticket].results is None
    assert len(cluster.results(other)) == 2


def test_a_write_that_a_later_leader_commits_is_still_answered() -> None:
    cluster, ticket = cut_off_with_a_write(replicated=True)
    cluster.elect(2)
    cluster.heal()
    cluster.tick_all(2)
    assert cluster.replica(1).raft.leader_id == 2
    assert cluster.results(ticket)[0].put.revision == 1


def test_a_write_that_its_own_leader_commits_in_a_later_term_is_answered() -> None:
    cluster, ticket = cut_off_with_a_write()
    cluster.heal()
    cluster.elect(1)
    cluster.settle()
    assert cluster.results(ticket)[0].put.revision == 1


def test_a_leaders_own_writes_are_no_orphans_of_the_change_before() -> None:
    cluster, _ = cut_off_with_a_write()
    cluster.heal()
    cluster.elect(1)
    cluster.shells[NodeId(1)].slow_disk = True
    new = cluster.submit(1, put("b"))
    cluster.tick_all(2 * ORPHAN)
    assert new not in cluster.answers
    cluster.fsync(1)
    assert cluster.results(new)


def test_a_write_waiting_for_the_log_outlives_the_leader_change() -> None:
    """It never left: nothing about it is unknown, and the next leader gets it."""
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_disk = True
    cluster.submit(1, put("a"))
    waits = cluster.submit(1, put("b"))
    cluster.lose()
    cluster.cut([1])
    cluster.depose(1)
    cluster.shells[NodeId(1)].slow_disk = False
    cluster.fsync(1)
    cluster.elect(2)
    cluster.heal()
    cluster.tick_all(3)
    assert cluster.results(waits)[0].put.revision == 1


def test_a_forwarded_write_of_a_lost_leader_becomes_unknown_at_its_origin() -> None:
    cluster = led_by(1)
    ticket = cluster.submit(2, put("a"))
    cluster.cut([1])
    cluster.elect(3)
    cluster.tick_all(ORPHAN - 1)
    assert ticket not in cluster.answers
    cluster.tick_all(2)
    assert isinstance(cluster.error(ticket), LeadershipLost)


def test_a_deposed_leader_still_answers_what_was_forwarded_to_it() -> None:
    cluster = led_by(1)
    cluster.shells[NodeId(1)].slow_apply = True
    ticket = cluster.submit(2, put("a"))
    cluster.settle()
    cluster.elect(3)
    cluster.apply(1)
    cluster.settle()
    assert cluster.results(ticket)[0].put.revision == 1
    (reply,) = cluster.shells[NodeId(1)].sent(ForwardReply)
    assert reply.error is None


def test_each_replica_has_the_same_state_after_an_overwrite() -> None:
    cluster, _ = cut_off_with_a_write()
    cluster.elect(2)
    cluster.submit(2, put("b"))
    cluster.settle()
    cluster.heal()
    cluster.tick_all(3)
    assert len(set(cluster.hashes())) == 1
