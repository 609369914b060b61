"""Breadth first through all that the guards allow, within bounds.

It shows that the guards are enough: no state that they lead to is unsafe. And that each
is needed: with one of them broken, it finds the shortest way to harm.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kvstore.simulation.specification.model import (
    APPEND,
    LEADER,
    Bounds,
    Model,
    State,
)
from kvstore.simulation.specification.rules import Rules
from kvstore.simulation.specification.symmetry import Symmetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search saw."""

    states: int
    """Different ones."""
    steps: int
    depth: int
    """Of the last state, in steps from the first."""
    violation: str | None = None
    """The invariant that does not hold, if the search ended with one."""
    trace: tuple[str, ...] = ()
    """The shortest way there."""


def search(
    bounds: Bounds,
    *,
    rules: Rules | None = None,
    start: State | None = None,
    symmetric: bool = False,
    states_max: int = 10_000_000,
) -> Outcome:
    """Visit every state within ``bounds``, or until one is unsafe.

    O(states x messages), and all states are kept. ``start``: another than the empty
    cluster. ``symmetric``: of states that differ in the names of nodes alone, visit
    few; a trace then renames them as it goes.

    Raises:
        MemoryError: there are more than ``states_max`` states.
    """
    model = Model(bounds, rules or Rules())
    symmetry = Symmetry()
    first = start or model.initial()
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    depths = {first: 0}
    waiting = deque([first])
    steps = depth = 0
    while waiting:
        state = waiting.popleft()
        depth = depths.pop(state)
        for name, reached in model.next(state):
            steps += 1
            after = symmetry.renamed(reached) if symmetric else reached
            if after in came_from:
                continue
            came_from[after] = (state, name)
            if (violation := unsafe(after)) is not None:
                return Outcome(
                    states=len(came_from),
                    steps=steps,
                    depth=depth + 1,
                    violation=violation,
                    trace=_trace(came_from, after),
                )
            if len(came_from) > states_max:
                raise MemoryError(f"more than {states_max} states within {bounds}")
            depths[after] = depth + 1
            waiting.append(after)
    return Outcome(states=len(came_from), steps=steps, depth=depth)


def _trace(
    came_from: dict[State, tuple[State, str] | None], state: State
) -> tuple[str, ...]:
    names: list[str] = []
    while (step := came_from[state]) is not None:
        state, name = step
        names.append(name)
    return tuple(reversed(names))


# ---------------------------------------------------------------------- invariants


def unsafe(state: State) -> str | None:
    """The invariant of the paper's Figure 3 that does not hold in a state."""
    if not _election_safety(state):
        return "ElectionSafety"
    if not _log_matching(state):
        return "LogMatching"
    if not _leader_completeness(state):
        return "LeaderCompleteness"
    if not _state_machine_safety(state):
        return "StateMachineSafety"
    return None


def _election_safety(state: State) -> bool:
    """At most one leader a term, ever: each has sent the entry that begins its term."""
    leaders = {
        (message.term, message.sender)
        for message in state.sent
        if message.kind == APPEND
    }
    return len(leaders) == len({term for term, _ in leaders})


def _log_matching(state: State) -> bool:
    """Logs with a common entry are equal up to it."""
    logs = [node.log for node in state.nodes]
    for position, log in enumerate(logs):
        for other in logs[position + 1 :]:
            common = [
                at for at, (a, b) in enumerate(zip(log, other, strict=False)) if a == b
            ]
            if common and log[: common[-1]] != other[: common[-1]]:
                return False
    return True


def _leader_completeness(state: State) -> bool:
    """What was committed in earlier terms is in every leader's log."""
    return all(
        entry.by_term >= node.term
        or node.log[entry.entry_index - 1 : entry.entry_index] == (entry.entry_term,)
        for node in state.nodes
        if node.role == LEADER
        for entry in state.committed
    )


def _state_machine_safety(state: State) -> bool:
    """Nobody applies what is not committed, and of each index there is one entry."""
    committed = {(entry.entry_index, entry.entry_term) for entry in state.committed}
    return len(committed) == len({index for index, _ in committed}) and all(
        (index, term) in committed
        for node in state.nodes
        for index, term in enumerate(node.log[: node.commit], 1)
    )
