"""CheckQuorum (dissertation section 6.2): who cannot do its work stops leading."""

from typing import TypeGuard

import pytest

from kvstore.raft.events import (
    Event,
    StepDownReason,
    SteppedDown,
)
from kvstore.raft.messages import (
    RequestVoteReply,
)
from kvstore.raft.node import Role
from kvstore.types import NodeId
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks
E = OPTIONS.evidence_election_ticks_max


def test_a_leader_without_a_quorum_steps_down_within_t() -> None:
    """Dissertation section 6.2: it must not pretend for long."""
    bench = Bench()
    bench.become_leader()
    bench.tick(T)
    assert bench.raft.is_leader  # it heard a quorum in its first T
    bench.tick(T)
    assert bench.role() is Role.FOLLOWER
    assert SteppedDown(bench.raft.term, True, StepDownReason.QUORUM_LOST) in (
        bench.events
    )
    assert bench.raft.leader_id is None


@pytest.mark.parametrize("answer", ["heartbeat", "append"])
def test_a_leader_that_hears_a_quorum_stays(answer: str) -> None:
    """One of two peers is enough, and any answer of its counts."""
    bench = Bench()
    bench.become_leader()
    for _ in range(5):
        bench.tick(T - 1)
        if answer == "heartbeat":
            bench.answer_heartbeat(sender=3)
        else:
            bench.acknowledge(1, sender=3)
        bench.tick()
    assert bench.raft.is_leader


def test_a_leader_whose_disk_stalls_steps_down_within_t() -> None:
    """Its peers answer and could commit, but it applies nothing and answers nobody."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.servers[NodeId(1)].slow_disk = True
    cluster.propose(1)
    cluster.tick_all(T)
    assert cluster.raft(1).is_leader
    cluster.tick_all()
    assert not cluster.raft(1).is_leader
    reasons = [e.reason for e in cluster.servers[NodeId(1)].events if is_step_down(e)]
    assert reasons == [StepDownReason.DISK_STALLED]
    assert cluster.leader().commit_index == 3  # the successor was told to campaign


def is_step_down(event: Event) -> TypeGuard[SteppedDown]:
    return isinstance(event, SteppedDown)


def test_a_disk_that_is_always_busy_has_not_stalled() -> None:
    """Each tick finds a write in flight, but never the one of the tick before."""
    bench = Bench()
    bench.become_leader()
    bench.slow_disk = True
    for _ in range(3 * T):
        bench.raft.propose(b"x")
        bench.work()
        bench.raft.tick()
        bench.raft.propose(b"x")
        bench.fsync()
        bench.answer_heartbeat()
        assert bench.raft.is_persisting
    assert bench.raft.is_leader


def test_a_single_voter_leads_on_while_its_disk_stalls() -> None:
    """There is nobody to leave the lead to."""
    bench = Bench(voters=[1])
    bench.tick()
    bench.slow_disk = True
    bench.raft.propose(b"x")
    bench.work()
    bench.tick(3 * T)
    assert bench.raft.is_leader


def test_stepping_down_in_a_term_keeps_its_vote() -> None:
    """Mutant M03 (CCF#5891): a second vote in the term would be a second leader."""
    bench = Bench()
    bench.become_candidate()
    bench.heartbeat(sender=2)
    assert (bench.role(), bench.raft.vote) == (Role.FOLLOWER, 1)
    replies = bench.ask_vote(term=bench.raft.term, last=(9, 9), sender=3)
    assert not of_kind(replies, RequestVoteReply)[0].granted
