"""What members say to each other about consensus: one union, matched with ``match``.

Plain ``slots`` dataclasses, not frozen: the hot path builds many, and a frozen one of
eight fields costs seven times as much to build. Nobody changes one after it was sent.
"""

from dataclasses import dataclass
from enum import IntEnum

from kvstore.types import LogIndex, NodeId, Term


class EntryKind(IntEnum):
    """What ``Entry.data`` is. Values are stored and sent: never renumber."""

    NOOP = 0
    """A leader's first entry in its term (Raft dissertation section 6.4)."""
    COMMANDS = 1
    """An encoded ``CommandBatch``."""
    CONFIGURATION = 2
    """An encoded :class:`~kvstore.raft.membership.Configuration`, whole. It holds from
    the moment that the entry is in a log (dissertation section 4.1)."""


@dataclass(slots=True)
class Entry:
    """One log entry: a batch of commands, or the leader's no-op."""

    term: Term
    index: LogIndex
    kind: EntryKind
    data: bytes


@dataclass(frozen=True, slots=True, order=True)
class EntryId:
    """Names an entry for ever. Ordered as section 5.4.1 compares logs: term first."""

    term: Term
    index: LogIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class HardState:
    """What must be on disk before any vote or acknowledgement leaves (Figure 2)."""

    term: Term
    vote: NodeId | None


@dataclass(slots=True, kw_only=True)
class RequestVote:
    """Section 5.2; with ``pre_vote``, dissertation section 9.6: nothing persisted."""

    sender: NodeId
    to: NodeId
    term: Term
    """The term campaigned for: with ``pre_vote``, the sender's term plus one."""
    last_log: EntryId
    pre_vote: bool
    transfer: bool = False
    """The leader asked for this campaign: its being alive is no reason to refuse
    (dissertation section 4.2.3)."""


@dataclass(slots=True, kw_only=True)
class RequestVoteReply:
    """Counted once for each sender: it names a voter, not a vote."""

    sender: NodeId
    to: NodeId
    term: Term
    """Granted pre-vote: the term asked for. Anything else: the sender's own term."""
    granted: bool
    pre_vote: bool


@dataclass(slots=True, kw_only=True)
class AppendEntries:
    """Replicates entries, or with none of them probes where two logs agree."""

    sender: NodeId
    to: NodeId
    term: Term
    previous: EntryId
    entries: tuple[Entry, ...]
    commit_index: LogIndex


@dataclass(slots=True, kw_only=True)
class AppendEntriesReply:
    """Sent once the entries are on the receiver's disk."""

    sender: NodeId
    to: NodeId
    term: Term
    index: LogIndex
    """Accepted: previous index plus entries sent, never more (a stale tail may lie
    behind). Rejected: the previous index of the rejected message."""
    rejected: bool
    hint: EntryId | None
    """Rejected: the largest index, and its term, at which the logs may still agree. A
    hint is never a match (CCF#5325)."""


@dataclass(slots=True, kw_only=True)
class Heartbeat:
    """Keeps followers from campaigning, and asks who still follows."""

    sender: NodeId
    to: NodeId
    term: Term
    commit_index: LogIndex
    """At most what the receiver is known to hold (match index)."""
    round: int
    """ReadIndex round that an answer confirms; 0 is none. Unique for the life of the
    process and never reused (etcd-io/raft#397)."""


@dataclass(slots=True, kw_only=True)
class HeartbeatReply:
    """Says that the sender follows the leader of ``term``."""

    sender: NodeId
    to: NodeId
    term: Term
    round: int


@dataclass(slots=True, kw_only=True)
class ReadIndexRequest:
    """A follower asks its leader to confirm a read (dissertation section 6.4)."""

    sender: NodeId
    to: NodeId
    term: Term
    request_id: int


@dataclass(slots=True, kw_only=True)
class ReadIndexReply:
    """The leader's answer: ``index`` holds if the read was not ``rejected``."""

    sender: NodeId
    to: NodeId
    term: Term
    request_id: int
    index: LogIndex
    rejected: bool


@dataclass(slots=True, kw_only=True)
class TimeoutNow:
    """The leader hands over: campaign at once (dissertation section 3.10)."""

    sender: NodeId
    to: NodeId
    term: Term
    last_index: LogIndex
    """Of the leader's log. A receiver that does not hold it could not win."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a state is the outcome of; the state itself is storage's."""

    last: EntryId
    """The last entry whose effects it contains."""
    configuration: bytes
    """Encoded configuration as of that entry."""


@dataclass(slots=True, kw_only=True)
class InstallSnapshot:
    """Section 7: replaces what a follower lacks and the leader's log no longer holds.

    A shell sends the state on a way of its own, and steps this message at the receiver
    once all of it is there. The core answers with an ``AppendEntriesReply``.
    """

    sender: NodeId
    to: NodeId
    term: Term
    snapshot: Snapshot


Message = (
    RequestVote
    | RequestVoteReply
    | AppendEntries
    | AppendEntriesReply
    | Heartbeat
    | HeartbeatReply
    | ReadIndexRequest
    | ReadIndexReply
    | TimeoutNow
    | InstallSnapshot
)
