"""Nodes are alike: of states that differ in their names alone, one is enough."""

from __future__ import annotations

from kvstore.simulation.specification.model import NOBODY, Message, Node, State
from kvstore.types import NodeId

Order = tuple[int, ...]
"""Positions of nodes, as they are to stand."""


class Symmetry:
    """Names the nodes of a state after what they are."""

    def __init__(self) -> None:
        self._messages: dict[Order, dict[Message, Message]] = {}
        """Renamed, by how."""

    def renamed(self, state: State) -> State:
        """The state with its nodes in order of what they are, as far as that goes.

        Two nodes that differ only in what they have sent keep their order: a few twins
        of a state remain, and are visited too.
        """
        nodes = state.nodes
        order = tuple(sorted(range(len(nodes)), key=lambda at: _nature(at, nodes[at])))
        if order == tuple(range(len(nodes))):
            return state
        names = [NOBODY] * (len(nodes) + 1)
        for position, at in enumerate(order, 1):
            names[at + 1] = NodeId(position)
        known = self._messages.setdefault(order, {})
        for message in state.sent:
            if message not in known:
                known[message] = message._replace(
                    sender=names[message.sender], peer=names[message.peer]
                )
        return State(
            tuple(nodes[at]._replace(vote=names[nodes[at].vote]) for at in order),
            frozenset([known[message] for message in state.sent]),
            state.committed,
        )


def _nature(at: int, node: Node) -> tuple[object, ...]:
    """What a node is, whatever its name."""
    votes_for_itself = node.vote == at + 1
    return (
        node.term,
        node.role,
        node.log,
        node.commit,
        votes_for_itself,
        node.vote > 0,
    )
