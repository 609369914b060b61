"""While a leader is lost: what waits, how long, and what is not sent to the dead."""

import random

from kvstore.errors import Unavailable
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Heartbeat
from kvstore.replica.effects import Effect, Fail, Send
from kvstore.replica.messages import ForwardWrites
from kvstore.replica.options import ReplicaOptions
from kvstore.replica.replica import Replica
from kvstore.storage.memory_log import MemoryLog
from kvstore.types import LogIndex, NodeId, Revision, Term, Ticket
from tests.raft.pieces import OPTIONS, founded

PATIENCE_TICKS = 10
LONG_TICKS = 1_000


def replica() -> Replica:
    return Replica(
        node_id=NodeId(1),
        log=MemoryLog(configuration=founded([1, 2, 3])),
        applied_index=LogIndex(0),
        revision=Revision(0),
        compact_revision=Revision(0),
        compaction_pending=False,
        options=ReplicaOptions(raft=OPTIONS, leaderless_patience_ticks=PATIENCE_TICKS),
        random=random.Random(1),
    )


def run(subject: Replica, ticks: int) -> list[Effect]:
    effects: list[Effect] = []
    for _ in range(ticks):
        subject.tick()
        effects += subject.poll()
    return effects


def refused(effects: list[Effect]) -> list[int]:
    """Tickets that failed for certain."""
    failures = [effect for effect in effects if isinstance(effect, Fail)]
    assert all(isinstance(failure.error, Unavailable) for failure in failures)
    return sorted(int(failure.ticket) for failure in failures)


def hear_a_leader(subject: Replica) -> None:
    subject.receive(
        [
            Heartbeat(
                sender=NodeId(2),
                to=NodeId(1),
                term=Term(1),
                commit_index=LogIndex(0),
                round=0,
            )
        ]
    )


def test_a_node_without_a_leader_refuses_what_waits_for_one() -> None:
    """Goal: long before the client's patience ends, for it may reach a majority."""
    subject = replica()
    subject.submit(Ticket(1), b"w", count=1, patience_ticks=LONG_TICKS)
    subject.read(Ticket(2), kv_pb2.ReadOptions(), patience_ticks=LONG_TICKS)
    assert refused(run(subject, PATIENCE_TICKS - 1)) == []
    assert refused(run(subject, 1)) == [1, 2]
    # And what comes later at once, while that lasts.
    subject.submit(Ticket(3), b"w", count=1, patience_ticks=LONG_TICKS)
    assert refused(run(subject, 1)) == [3]


def test_a_leader_that_is_heard_ends_the_impatience() -> None:
    subject = replica()
    run(subject, PATIENCE_TICKS - 1)
    hear_a_leader(subject)
    subject.poll()
    subject.read(Ticket(1), kv_pb2.ReadOptions(), patience_ticks=LONG_TICKS)
    assert refused(run(subject, 2)) == []


def forwards(effects: list[Effect]) -> list[int]:
    """Whom writes were passed to."""
    return [
        int(message.to)
        for effect in effects
        if isinstance(effect, Send)
        for message in effect.messages
        if isinstance(message, ForwardWrites)
    ]


def test_no_write_is_passed_to_a_leader_whose_connection_broke() -> None:
    """Goal: its outcome would be unknown; it waits for a leader that can be heard."""
    subject = replica()
    hear_a_leader(subject)
    subject.poll()
    subject.peer_disconnected(NodeId(2))
    subject.submit(Ticket(1), b"w", count=1, patience_ticks=LONG_TICKS)
    assert forwards(subject.poll()) == []
    hear_a_leader(subject)
    assert forwards(subject.poll()) == [2]
