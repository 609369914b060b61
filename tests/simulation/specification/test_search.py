"""The guards are enough, and each is needed.

The counts are what a search visited when it was last understood: a guard that grows
stricter, or an action that is never taken any more, shows in them.
"""

import os

import pytest

from kvstore.raft.messages import EntryId
from kvstore.simulation.specification import rules
from kvstore.simulation.specification.model import (
    FOLLOWER,
    Bounds,
    Node,
    State,
)
from kvstore.simulation.specification.rules import Rules
from kvstore.simulation.specification.search import Outcome, search
from kvstore.types import NodeId, Term

ONE, TWO, THREE = Term(1), Term(2), Term(3)

SAFE = {
    "two nodes": (Bounds(nodes=2, terms=2, log=2), 1693),
    "two nodes, three terms": (Bounds(nodes=2, terms=3, log=2), 20_720),
    "three nodes": (Bounds(nodes=3, terms=2, log=2, restarts=False), 25_619),
    "three nodes that restart": (Bounds(nodes=3, terms=2, log=1), 9_214),
}


@pytest.mark.parametrize(("bounds", "states"), SAFE.values(), ids=SAFE.keys())
def test_no_state_within_bounds_is_unsafe(bounds: Bounds, states: int) -> None:
    """ElectionSafety, LogMatching, LeaderCompleteness, StateMachineSafety."""
    outcome = search(bounds, symmetric=bounds.nodes > 2)
    print(outcome)
    assert outcome.violation is None
    assert outcome.states == states


@pytest.mark.slow
@pytest.mark.skipif(
    "SPECIFICATION_LONG" not in os.environ,
    reason="takes half a minute: set SPECIFICATION_LONG, as CI does",
)
def test_no_state_of_three_nodes_that_restart_is_unsafe() -> None:
    """All that three nodes can do in two terms, with one entry of a client."""
    outcome = search(Bounds(nodes=3, terms=2, log=2), symmetric=True)
    print(outcome)
    assert outcome.violation is None
    assert outcome.states == 145_997


def test_symmetry_hides_no_state() -> None:
    """Goal: to rename nodes is only to count less. Method: count by natures."""
    bounds = Bounds(nodes=2, terms=2, log=2)
    every, some = search(bounds), search(bounds, symmetric=True)
    assert every.depth == some.depth
    assert every.states / 2 <= some.states < every.states


QUIET = Bounds(nodes=3, terms=2, log=2, restarts=False)
FIGURE_8 = State(
    (
        Node(ONE, NodeId(1), FOLLOWER, (ONE,), 0),
        Node(TWO, NodeId(3), FOLLOWER, (), 0),
        Node(TWO, NodeId(3), FOLLOWER, (TWO,), 0),
    ),
    frozenset(),
    frozenset(),
)
"""1 led the first term and 3 the second, each with an entry that nobody else has."""


def broken(rule: Rules, bounds: Bounds = QUIET, start: State | None = None) -> Outcome:
    return search(bounds, rules=rule, start=start, states_max=200_000)


def test_a_node_that_votes_twice_elects_two_leaders() -> None:
    rule = Rules(may_grant=lambda _, __, last, own: rules.is_up_to_date(last, own))
    outcome = broken(rule)
    assert outcome.violation == "ElectionSafety"
    assert outcome.trace == (
        "Timeout(1)",
        "Timeout(2)",
        "GrantVote(1, 2)",
        "GrantVote(2, 1)",
        "BecomeLeader(1)",
        "BecomeLeader(2)",
    )


def test_a_node_that_forgets_its_vote_elects_two_leaders() -> None:
    """Mutant M01: what a vote is worth that is not on a disk."""
    outcome = broken(Rules(keeps_vote=False), Bounds(nodes=3, terms=1, log=1))
    assert outcome.violation == "ElectionSafety"


def test_half_of_two_nodes_is_no_quorum() -> None:
    """Mutant M07."""
    rule = Rules(may_lead=lambda halves, votes: 2 * len(votes) >= len(halves[0]))
    outcome = broken(rule, Bounds(nodes=2))
    assert outcome.violation == "ElectionSafety"


def test_a_vote_for_an_older_log_loses_what_is_committed() -> None:
    """Mutant M06, more of it."""
    rule = Rules(may_grant=lambda vote, candidate, _, __: vote in (None, candidate))
    assert broken(rule).violation == "LeaderCompleteness"


def test_an_entry_of_an_earlier_term_counted_is_an_entry_lost() -> None:
    """Mutant M11, Figure 8: from where two leaders left it, in two more terms."""
    rule = Rules(
        may_commit=lambda _, __, index, halves, matches: rules.is_quorum(
            halves, [node for node in matches if matches[node] >= index]
        )
    )
    outcome = broken(rule, Bounds(terms=4, log=1, restarts=False), FIGURE_8)
    assert outcome.violation == "LeaderCompleteness"
    assert "AdvanceCommitIndex(1, 1)" in outcome.trace


def test_a_commit_index_beyond_what_a_message_proves_is_wrong() -> None:
    """Mutant M12."""
    outcome = broken(Rules(commit_vouched_for=lambda commit, _: commit))
    assert outcome.violation == "StateMachineSafety"


def test_an_append_that_truncates_what_it_agrees_with_loses_it() -> None:
    """Mutant M14."""

    def truncates(log: rules.Log, *message: object) -> int | None:
        return None if rules.new_from(log, *message) is None else 0  # type: ignore[arg-type]

    assert broken(Rules(new_from=truncates)).violation == "LeaderCompleteness"


def test_an_append_that_builds_on_nothing_mixes_logs() -> None:
    def builds(log: rules.Log, previous: EntryId, _: object) -> int | None:
        return 0 if previous.index <= log.last_index else None

    assert broken(Rules(new_from=builds)).violation == "LogMatching"


def test_more_states_than_wanted_are_an_error() -> None:
    """A bound that is too high must not look like a search that was done."""
    with pytest.raises(MemoryError, match="more than 10 states"):
        search(QUIET, states_max=10)
