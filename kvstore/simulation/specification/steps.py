"""Next, one node at a time: the steps that change what a node is.

:func:`check_step` knows the state before, the state after, and at most one message in
between. It finds the actions that lead from one to the other, or the guard that forbids
it. A node may always do less: ignore a message, refuse a vote, step down. What it does
must be allowed.
"""

from __future__ import annotations

from kvstore.raft.node import Role
from kvstore.simulation.specification.following import check_following
from kvstore.simulation.specification.leading import check_leading
from kvstore.simulation.specification.roles import check_role
from kvstore.simulation.specification.rules import Members
from kvstore.simulation.specification.state import Ledger, Life, require


def check_step(life: Life, ledger: Ledger) -> None:
    """Check one step of a running node, and take over its state.

    Raises:
        SpecificationViolation: the specification has no such step.
    """
    node, message = life.node, life.input
    deposed = message is not None and message.term > life.term
    led = life.role is Role.LEADER and not deposed
    if node.term != life.term or node.vote != life.vote or node.role is not life.role:
        check_role(life, ledger)
    if led or life.role is Role.LEADER:
        check_leading(life, ledger)
    else:
        check_following(life, ledger)
    if node.log.floor.index != life.floor:
        _check_compaction(life)
    _check_configuration(life)
    life.input = None


def _check_compaction(life: Life) -> None:
    """Compact: the state stands for what it has applied."""
    node, floor = life.node, life.node.log.floor
    require(
        life.floor < floor.index <= min(life.commit_index, node.applied_index)
        and life.log.holds(floor.term, floor.index),
        *("Compact", "only what was applied is forgotten", node.node_id, floor),
        *(life.commit_index, node.applied_index),
    )
    life.floor = floor.index


def _check_configuration(life: Life) -> None:
    """Who the members are is what the log says last, committed or not."""
    believed, current = life.node.configuration, life.current
    if life.compared[0] is believed and life.compared[1] is current:
        return
    found = Members(
        voters=believed.voters,
        outgoing=believed.outgoing,
        learners=believed.learners,
        learners_next=believed.learners_next,
    )
    require(
        found == current,
        *("ChangeMembers", "the members are those of the log's last configuration"),
        *(life.node_id, found, current),
    )
    life.compared = (believed, current)
