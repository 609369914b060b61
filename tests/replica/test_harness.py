"""What the harness would notice, were a replica to do it."""

import pytest

from kvstore.raft.invariants import InvariantViolation
from kvstore.raft.messages import Entry, EntryId, EntryKind, RequestVote
from kvstore.replica.effects import Apply, Effect, Send
from kvstore.storage.memory_log import MemoryLog
from kvstore.types import LogIndex, NodeId, Term
from tests.replica.harness import led_by

TERM = Term(7)
UNDURABLE = Send(
    (
        RequestVote(
            sender=NodeId(1),
            to=NodeId(2),
            term=TERM,
            last_log=EntryId(Term(0), LogIndex(0)),
            pre_vote=False,
        ),
    )
)
UNCOMMITTED = Apply((Entry(TERM, LogIndex(2), EntryKind.COMMANDS, b""),), ((),))


@pytest.mark.parametrize(
    ("effect", "what"),
    [
        (UNDURABLE, "a vote left before it was durable"),
        (UNCOMMITTED, "an entry was applied that is not committed"),
    ],
)
def test_an_effect_that_breaks_an_invariant_is_noticed(
    effect: Effect, what: str
) -> None:
    """Goal: the checks behind every test of a cluster can fail."""
    cluster = led_by(1)
    with pytest.raises(InvariantViolation, match=what):
        cluster._carry_out(cluster.shells[NodeId(1)], [effect])


def test_a_promise_that_a_restart_breaks_is_noticed() -> None:
    """Goal: as above, of a disk that lost what was durable."""
    cluster = led_by(1)
    cluster.crash(2)
    cluster.shells[NodeId(2)].log = MemoryLog()
    with pytest.raises(InvariantViolation, match="a durable term fell"):
        cluster.start(2)
