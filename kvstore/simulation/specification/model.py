"""A cluster as ``raft.tla`` has it: few nodes, all messages ever sent, and its actions.

Messages stay: one that was sent may be received at any time, often, or never, which is
loss, repetition and reordering at once. So a node may say at once all that it could say
later, and an action that counts votes or acknowledgements counts those sent. What the
trace checker adds (members that change, disks that lag, snapshots, reads) is left out:
here the disk is the log, and everybody votes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kvstore.raft.messages import EntryId
from kvstore.simulation.specification.rules import Halves, Log, Rules
from kvstore.types import LogIndex, NodeId, Term

NOBODY = NodeId(0)
FOLLOWER, CANDIDATE, LEADER = range(3)
ASK, VOTE, APPEND, ACKNOWLEDGE = range(4)


class Node(NamedTuple):
    """One node. What it counts is in what was sent."""

    term: Term
    vote: NodeId
    role: int
    log: tuple[Term, ...]
    commit: int


class Message(NamedTuple):
    """To whom it may concern. By kind:

    * ``ASK``: ``sender`` campaigns with a log that ends with the entry;
    * ``VOTE``: it votes for ``peer``;
    * ``APPEND``: the entry follows one of term ``previous``, and it has committed to
      ``commit``;
    * ``ACKNOWLEDGE``: it holds the term's log to the entry.
    """

    kind: int
    term: Term
    sender: NodeId
    peer: NodeId = NOBODY
    entry_term: Term = Term(0)
    entry_index: int = 0
    previous: Term = Term(0)
    commit: int = 0


class Committed(NamedTuple):
    """Ghost: an entry that was committed, and the term of the leader that did."""

    entry_index: int
    entry_term: Term
    by_term: Term


class State(NamedTuple):
    """Of the whole cluster."""

    nodes: tuple[Node, ...]
    sent: frozenset[Message]
    committed: frozenset[Committed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far a search goes."""

    nodes: int = 3
    terms: int = 2
    log: int = 2
    """Length up to which clients add entries. The entry that begins a term comes on
    top."""
    restarts: bool = True


Step = tuple[str, State]
"""An action with its actors, and the state after it."""


class Model:
    """The next-state relation, within bounds."""

    def __init__(self, bounds: Bounds, rules: Rules) -> None:
        self._bounds = bounds
        self._rules = rules
        self._ids = tuple(NodeId(number) for number in range(1, bounds.nodes + 1))
        self._halves: Halves = (self._ids,)

    def initial(self) -> State:
        """Nobody has done anything."""
        nobody = Node(Term(0), NOBODY, FOLLOWER, (), 0)
        return State((nobody,) * self._bounds.nodes, frozenset(), frozenset())

    def next(self, state: State) -> Iterator[Step]:
        """Every step that may be taken from a state."""
        messages = sorted(state.sent)
        terms = sorted({message.term for message in messages})
        for node_id, node in zip(self._ids, state.nodes, strict=True):
            yield from self._act(state, node_id, node)
            for term in terms:
                if term > node.term:
                    after = Node(term, NOBODY, FOLLOWER, node.log, node.commit)
                    yield f"UpdateTerm({node_id}, {term})", _with(state, node_id, after)
            for message in messages:
                if message.sender != node_id and message.term == node.term:
                    yield from self._receive(state, node_id, node, message)

    def _act(self, state: State, node_id: NodeId, node: Node) -> Iterator[Step]:
        """What a node does by itself."""
        if node.role != LEADER and node.term < self._bounds.terms:
            yield f"Timeout({node_id})", self._timeout(state, node_id, node)
        if node.role == CANDIDATE and self._rules.may_lead(
            self._halves, _votes(state, node_id, node.term)
        ):
            log = (*node.log, node.term)
            after = node._replace(role=LEADER, log=log)
            yield f"BecomeLeader({node_id})", _tell(state, node_id, after)
        if node.role == LEADER:
            if len(node.log) < self._bounds.log:
                after = node._replace(log=(*node.log, node.term))
                yield f"ClientRequest({node_id})", _tell(state, node_id, after)
            yield from self._advance(state, node_id, node)
        if self._bounds.restarts:
            vote = node.vote if self._rules.keeps_vote else NOBODY
            after = Node(node.term, vote, FOLLOWER, node.log, 0)
            if after != node:
                yield f"Restart({node_id})", _with(state, node_id, after)

    def _timeout(self, state: State, node_id: NodeId, node: Node) -> State:
        term = Term(node.term + 1)
        after = node._replace(term=term, vote=node_id, role=CANDIDATE)
        return _with(
            state,
            node_id,
            after,
            Message(ASK, term, node_id, NOBODY, *_last(node)),
            Message(VOTE, term, node_id, node_id),
        )

    def _advance(self, state: State, node_id: NodeId, node: Node) -> Iterator[Step]:
        """AdvanceCommitIndex."""
        matches = {node_id: len(node.log)}
        for message in state.sent:
            if message.kind == ACKNOWLEDGE and message.term == node.term:
                known = matches.get(message.sender, 0)
                matches[message.sender] = max(known, message.entry_index)
        log = _log(node)
        for index in range(node.commit + 1, len(node.log) + 1):
            if self._rules.may_commit(log, node.term, index, self._halves, matches):
                ghosts = {
                    Committed(at, node.log[at - 1], node.term)
                    for at in range(node.commit + 1, index + 1)
                }
                told = _tell(state, node_id, node._replace(commit=index))
                committed = state.committed | ghosts
                name = f"AdvanceCommitIndex({node_id}, {index})"
                yield name, told._replace(committed=committed)

    # ------------------------------------------------------------------ receive

    def _receive(
        self, state: State, node_id: NodeId, node: Node, message: Message
    ) -> Iterator[Step]:
        if message.kind == ASK:
            yield from self._grant(state, node_id, node, message)
        elif message.kind == APPEND and node.role != LEADER:
            yield from self._take(state, node_id, node, message)

    def _grant(
        self, state: State, node_id: NodeId, node: Node, asked: Message
    ) -> Iterator[Step]:
        """HandleRequestVote. To say it again changes nothing."""
        if node.vote == asked.sender:
            return
        vote = node.vote or None
        asked_last = EntryId(asked.entry_term, LogIndex(asked.entry_index))
        if self._rules.may_grant(vote, asked.sender, asked_last, _log(node).last):
            given = Message(VOTE, node.term, node_id, asked.sender)
            after = node._replace(vote=asked.sender)
            name = f"GrantVote({node_id}, {asked.sender})"
            yield name, _with(state, node_id, after, given)

    def _take(
        self, state: State, node_id: NodeId, node: Node, message: Message
    ) -> Iterator[Step]:
        """HandleAppendEntries."""
        rules, term, index = self._rules, message.entry_term, message.entry_index
        previous = EntryId(message.previous, LogIndex(index - 1))
        position = rules.new_from(_log(node), previous, (term,))
        if position is None:
            return
        log = node.log
        if position == 0:
            log = (*log[: index - 1], term)
        vouched = rules.commit_vouched_for(message.commit, index)
        after = node._replace(
            role=FOLLOWER, log=log, commit=max(node.commit, min(vouched, len(log)))
        )
        held = Message(ACKNOWLEDGE, node.term, node_id, NOBODY, term, index)
        if after == node and held in state.sent:
            return
        name = f"HandleAppendEntries({node_id}, {term}/{index})"
        yield name, _with(state, node_id, after, held)


def _last(node: Node) -> tuple[Term, int]:
    return (node.log[-1], len(node.log)) if node.log else (Term(0), 0)


def _log(node: Node) -> Log:
    return Log(node.log)


def _votes(state: State, candidate: NodeId, term: Term) -> list[NodeId]:
    return [
        message.sender
        for message in state.sent
        if message.kind == VOTE and message.term == term and message.peer == candidate
    ]


def _tell(state: State, node_id: NodeId, leader: Node) -> State:
    """A leader sends its whole log, entry by entry, with its commit index."""
    log = leader.log
    return _with(
        state,
        node_id,
        leader,
        *[
            Message(
                APPEND,
                leader.term,
                node_id,
                entry_term=term,
                entry_index=index,
                previous=log[index - 2] if index > 1 else Term(0),
                commit=leader.commit,
            )
            for index, term in enumerate(log, 1)
        ],
    )


def _with(state: State, node_id: NodeId, node: Node, *sent: Message) -> State:
    """One node changes. What nobody can hear any more is forgotten."""
    nodes = (*state.nodes[: node_id - 1], node, *state.nodes[node_id:])
    oldest = min(each.term for each in nodes)
    messages = state.sent.union(sent)
    if state.nodes[node_id - 1].term < oldest:
        messages = frozenset(it for it in messages if it.term >= oldest)
    return State(nodes, messages, state.committed)
