"""What the checker of :mod:`kvstore.raft.invariants` remembers of each member."""

from dataclasses import dataclass, field
from typing import Protocol

from kvstore.raft.log import StableLog
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import EntryId, HardState
from kvstore.raft.node import RaftNode
from kvstore.types import LogIndex, NodeId, Term

TERM_ZERO = Term(0)
INDEX_ZERO = LogIndex(0)
NOTHING = EntryId(TERM_ZERO, INDEX_ZERO)
UNBORN = HardState(term=TERM_ZERO, vote=None)


class InvariantViolation(AssertionError):
    """The protocol is broken. The message names the invariant in words."""


class DurableView(StableLog, Protocol):
    """What would be found after a power cut now."""

    @property
    def hard_state(self) -> HardState:
        """Term and vote as last written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One node as the checker sees it; ``node`` is None while it is down."""

    node: RaftNode | None
    durable: DurableView


@dataclass(slots=True)
class Incarnation:
    """A running node as of the last check; a restart begins a new one."""

    node: RaftNode
    term: Term
    vote: NodeId | None
    configuration: Configuration
    commit_index: LogIndex = INDEX_ZERO
    applied_index: LogIndex = INDEX_ZERO
    led_term: Term | None = None
    terms: list[Term] = field(default_factory=list)
    """Of the node's whole log: ``terms[i]`` is of index ``i + 1``. What it has
    compacted is filled in from the ghost log, which it must agree with."""
    configurations: list[tuple[LogIndex, bytes]] = field(default_factory=list)
    """The configuration before the log, and each one in it."""
    checked: tuple[Configuration | None, bytes] = (None, b"")
    """A configuration that was compared with its log, and what the log has."""
    matches: dict[NodeId, LogIndex] = field(default_factory=dict)


@dataclass(slots=True)
class Promises:
    """What one member ever said that a restart must not make untrue."""

    hard_state: HardState = UNBORN
    votes: dict[Term, NodeId] = field(default_factory=dict)
    acknowledged_term: Term = TERM_ZERO
    acknowledged: EntryId = NOTHING
    handed_out_index: LogIndex = INDEX_ZERO


def require(condition: bool, what: str, *facts: object) -> None:
    """Raise a violation that says ``what`` and the facts, unless all is well."""
    if not condition:
        raise InvariantViolation(
            what + (": " + ", ".join([str(fact) for fact in facts]) if facts else "")
        )


def holds(log: StableLog, entry: EntryId) -> bool:
    """Whether a durable log holds an entry, or did before it compacted it."""
    if entry.index < log.first_index:
        return True  # compacted, so committed: the ghost log vouches for the term
    return entry.index <= log.last_index and log.term(entry.index) == entry.term
