"""The guards of Raft: what must be so before a node may act. Pure, and each once.

Named after the actions of ``raft.tla``. The trace checker and the search both ask here;
quorums, log matching and changes of members are restated on purpose, and not taken from
the core that is judged by them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from kvstore.raft.messages import EntryId
from kvstore.types import LogIndex, NodeId, Term

ORIGIN = EntryId(Term(0), LogIndex(0))
"""What precedes the first entry of all."""

Halves = Sequence[Collection[NodeId]]
"""The sets of voters that each must agree: one, or two while joint."""


@dataclass(slots=True)
class Log:
    """A log as terms: an index and a term name one entry and all before it."""

    terms: Sequence[Term] = field(default_factory=list)
    """Of the entries behind :attr:`base`."""
    base: EntryId = ORIGIN
    """The last entry that a snapshot stands for."""

    @property
    def last_index(self) -> LogIndex:
        return LogIndex(self.base.index + len(self.terms))

    @property
    def last(self) -> EntryId:
        """The last entry, or what the log continues."""
        if not self.terms:
            return self.base
        return EntryId(self.terms[-1], self.last_index)

    def term(self, index: int) -> Term:
        """Of an entry from the base on."""
        position = index - self.base.index
        return self.terms[position - 1] if position else self.base.term

    def holds(self, term: int, index: int) -> bool:
        """Whether this entry is in the log, or in the snapshot that it continues."""
        if index < self.base.index:
            return True
        return index <= self.last_index and self.term(index) == term


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Who counts, by one configuration entry."""

    voters: tuple[NodeId, ...]
    outgoing: tuple[NodeId, ...] = ()
    """The old voters; only while joint."""
    learners: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()
    """Of the old voters, those that are to be learners."""
    halves: Halves = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        halves = (self.voters, self.outgoing) if self.outgoing else (self.voters,)
        object.__setattr__(self, "halves", halves)

    @classmethod
    def parse(cls, data: bytes) -> Members:
        """From the data of a configuration entry."""
        facts: Mapping[str, Sequence[NodeId]] = json.loads(data)
        return cls(
            voters=tuple(facts["voters"]),
            outgoing=tuple(facts.get("outgoing", ())),
            learners=tuple(facts.get("learners", ())),
            learners_next=tuple(facts.get("learners_next", ())),
        )

    def is_voter(self, node_id: NodeId) -> bool:
        """Whether its vote counts in either half."""
        return node_id in self.voters or node_id in self.outgoing


# ------------------------------------------------------------------------- quorums


def is_quorum(halves: Halves, nodes: Collection[NodeId]) -> bool:
    """Whether ``nodes`` are more than half of the voters, of each half."""
    return all(2 * sum(voter in nodes for voter in half) > len(half) for half in halves)


# ----------------------------------------------------------------------- elections


def is_up_to_date(candidate: EntryId, own: EntryId) -> bool:
    """Section 5.4.1: a later term wins, and in one term the longer log."""
    if candidate.term != own.term:
        return candidate.term > own.term
    return candidate.index >= own.index


def may_grant(
    vote: NodeId | None, candidate: NodeId, candidate_last: EntryId, own_last: EntryId
) -> bool:
    """HandleRequestVote, within one term: one vote, and only for a log as new."""
    return vote in (None, candidate) and is_up_to_date(candidate_last, own_last)


def may_lead(halves: Halves, votes: Collection[NodeId]) -> bool:
    """BecomeLeader: voters of the term, counted once each."""
    return is_quorum(halves, votes)


# --------------------------------------------------------------------- replication


def new_from(log: Log, previous: EntryId, terms: Sequence[Term]) -> int | None:
    """HandleAppendEntries: the position in ``terms`` from which on they are taken.

    What the log holds stays, and all behind it too; only from the first conflict, or
    from its end, does it take the message's. ``len(terms)`` if there is nothing new,
    None if the log does not hold ``previous``.
    """
    if not log.holds(previous.term, previous.index):
        return None
    for position, term in enumerate(terms):
        if not log.holds(term, previous.index + 1 + position):
            return position
    return len(terms)


def commit_vouched_for(commit_index: int, reaches: int) -> int:
    """To where an AppendEntries whose last entry is ``reaches`` may commit."""
    return min(commit_index, reaches)


def may_commit(
    log: Log, term: Term, index: int, halves: Halves, matches: Mapping[NodeId, int]
) -> bool:
    """AdvanceCommitIndex: of the leader's own term, and on the disks of a quorum.

    ``matches``: to where each node is known to hold the leader's log durably.
    """
    holders = [node for node in matches if matches[node] >= index]
    return is_own_term(log, term, index) and is_quorum(halves, holders)


def is_own_term(log: Log, term: Term, index: int) -> bool:
    """Section 5.4.2: what is of an earlier term is never committed by counting."""
    return index <= log.last_index and log.term(index) == term


# ------------------------------------------------------------------------- members


def may_succeed(before: Members, after: Members) -> bool:
    """Section 6: whether one configuration may follow another in a log.

    A joint one is left for its new half, and entered with all voters of before as its
    old half. Without either the voters stay as they are.
    """
    if before.outgoing:
        learners = {*before.learners, *before.learners_next}
        return after == Members(voters=before.voters, learners=tuple(sorted(learners)))
    if after.outgoing:
        return after.outgoing == before.voters and bool(after.voters)
    return after == before


# ------------------------------------------------------------------------ variants


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The guards that the search is run with: ours, or one of them broken."""

    may_grant: Callable[[NodeId | None, NodeId, EntryId, EntryId], bool] = may_grant
    may_lead: Callable[[Halves, Collection[NodeId]], bool] = may_lead
    new_from: Callable[[Log, EntryId, Sequence[Term]], int | None] = new_from
    commit_vouched_for: Callable[[int, int], int] = commit_vouched_for
    may_commit: Callable[[Log, Term, int, Halves, Mapping[NodeId, int]], bool] = (
        may_commit
    )
    keeps_vote: bool = True
    """A node that restarts still knows whom it voted for."""
