"""What the checker remembers: the abstract state of each node, and what it was told."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvstore.raft.invariants import InvariantViolation
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import Entry, EntryId, EntryKind, HardState, Message
from kvstore.raft.node import RaftNode, Role
from kvstore.raft.observed import DurableView
from kvstore.simulation.specification.rules import ORIGIN, Log, Members
from kvstore.types import LogIndex, NodeId, Term


class SpecificationViolation(InvariantViolation):
    """A step that the specification does not allow: its action, and the guard."""


def require(allowed: bool, action: str, guard: str, *facts: object) -> None:
    """Raise a violation that names action and guard, unless the step is allowed."""
    if not allowed:
        told = ": " + ", ".join([str(fact) for fact in facts]) if facts else ""
        raise SpecificationViolation(f"{action}: {guard}{told}")


@dataclass(slots=True)
class Round:
    """One question of a leader's: who still follows?"""

    sent_at: int
    answered: set[NodeId] = field(default_factory=set)


@dataclass(slots=True)
class Lead:
    """One node's lead of one term. It outlives it: messages may leave later."""

    leader: NodeId
    term: Term
    first_index: LogIndex
    """Of the entry that begins the term."""
    commit_index: LogIndex
    acknowledged: dict[NodeId, LogIndex] = field(default_factory=dict)
    """The highest index of the term's acknowledgements that reached the leader."""
    matches: dict[NodeId, LogIndex] = field(default_factory=dict)
    """What the core made of them."""
    rounds: dict[int, Round] = field(default_factory=dict)
    """Open ones."""
    confirmed_at: int = 0
    """When the newest round left that a quorum answered: what was asked before it may
    be answered."""
    reads: dict[tuple[NodeId, int], tuple[int, LogIndex]] = field(default_factory=dict)
    """Of a follower's read: when it first came, and the commit index then."""

    @property
    def has_committed(self) -> bool:
        """Whether an entry of its own term is committed."""
        return self.commit_index >= self.first_index


@dataclass(slots=True)
class Life:
    """A running node, as of its last step."""

    node: RaftNode
    durable: DurableView
    term: Term
    vote: NodeId | None
    role: Role
    log: Log
    floor: LogIndex
    """The last index that the node's log does not hold any more. A compaction leaves
    :attr:`log` as it is."""
    members: list[tuple[LogIndex, Members]]
    """The configuration before the log, and each one in it."""
    commit_index: LogIndex
    input: Message | None = None
    """What it was handed since its last step."""
    compared: tuple[Configuration | None, Members | None] = (None, None)
    """Its belief of who the members are, when it was last seen to be right."""
    lead: Lead | None = None
    """The last term that it led."""
    pre_votes: set[NodeId] = field(default_factory=set)
    votes: set[NodeId] = field(default_factory=set)
    hard_states: list[HardState] = field(default_factory=list)
    """Term and vote as they came to be; the first is durable."""
    replaced: set[EntryId] = field(default_factory=set)
    """Entries that its log held once: a write under way may still bring them."""
    vouched: dict[Term, dict[LogIndex, Term]] = field(default_factory=dict)
    """The last entry of each AppendEntries or snapshot that fitted its log: what it may
    acknowledge, once it is durable."""
    pre_votable: dict[NodeId, Term] = field(default_factory=dict)
    """The highest term that it may promise a vote in."""
    heard: set[tuple[Term, int]] = field(default_factory=set)
    """Terms and rounds of heartbeats."""
    told_to_campaign: set[Term] = field(default_factory=set)
    """Terms whose leader handed over."""
    forwarded: dict[int, int] = field(default_factory=dict)
    """Reads that it asked its leader to confirm: when the question left."""
    confirmed: list[tuple[int, LogIndex]] = field(default_factory=list)
    """When the question left, and the index that the leader gave."""

    @property
    def node_id(self) -> NodeId:
        return self.node.node_id

    @property
    def current(self) -> Members:
        """The last configuration in the log, committed or not."""
        return self.members[-1][1]

    def members_at(self, index: LogIndex) -> Members:
        """The configuration as of an entry."""
        held = [it for at, it in self.members[1:] if at <= index]
        return held[-1] if held else self.members[0][1]


@dataclass(slots=True)
class Disk:
    """What of a member was last seen to be durable."""

    hard_state: HardState
    last: EntryId


Content = tuple[Term, EntryKind, bytes]
"""Of an entry: the term of the one before, and what it is."""


@dataclass(slots=True)
class Ledger:
    """What is known of the cluster as a whole."""

    contents: dict[tuple[int, int], Content] = field(default_factory=dict)
    """By term and index: what that names, for ever."""
    leads: dict[Term, Lead] = field(default_factory=dict)
    now: int = 0
    """Counts whatever happens: an order of events."""

    def entered(self, entry: Entry, previous: Term, action: str) -> None:
        """An entry is new in some log: it must be what its name stands for."""
        content = (previous, entry.kind, entry.data)
        known = self.contents.setdefault((entry.term, entry.index), content)
        require(
            known is content or known == content,
            *(action, "an index and a term name one entry and one past"),
            *(entry.term, entry.index),
        )


def is_durable(durable: DurableView, term: int, index: int) -> bool:
    """Whether an entry is on the disk, or in the state that replaced it there."""
    if index < durable.first_index:
        return True
    return index <= durable.last_index and durable.term(LogIndex(index)) == term


def last_durable(durable: DurableView) -> EntryId:
    """The last entry on the disk, or what its log continues."""
    last = durable.last_index
    return EntryId(durable.term(last), last) if last else ORIGIN
