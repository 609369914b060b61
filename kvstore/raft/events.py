"""What happened inside the core, as values: for logs, metrics, scripts and tests.

The core logs nothing. Whoever drives it drains these and knows which node they are of.
"""

from dataclasses import dataclass
from enum import Enum

from kvstore.raft.membership import Configuration
from kvstore.raft.messages import EntryId
from kvstore.raft.progress import PeerEvent, PeerState
from kvstore.types import LogIndex, NodeId, Term


class CampaignReason(Enum):
    """Why a node asks for votes."""

    TIMEOUT = "no leader was heard for an election timeout"
    LEADER_DISCONNECTED = "the leader's connection closed"
    REQUESTED = "it was told to"
    HANDED_OVER = "the leader handed over to it"


class StepDownReason(Enum):
    """Why a leader or candidate became a follower."""

    HIGHER_TERM = "a message of a higher term"
    LEADER_FOUND = "a leader of its own term"
    ELECTION_LOST = "a quorum refused its vote"
    QUORUM_LOST = "no quorum was heard for an election timeout"
    RESIGNED = "it was told to stop leading"
    REMOVED = "it is a voter no longer"
    DISK_STALLED = "its disk did not finish a write for an election timeout"


class Refusal(Enum):
    """Why a vote was not given."""

    LEADER_ALIVE = "a leader was heard within an election timeout"
    TERM_STALE = "the campaign's term is over"
    VOTE_GIVEN = "this node voted for another in the term, or knows its leader"
    LOG_BEHIND = "the candidate's log is behind this node's"
    JUST_STARTED = "this node may have promised a lease before it restarted"


@dataclass(frozen=True, slots=True)
class BecamePreCandidate:
    """It asks whether it could win ``term + 1``; ``term`` is still its own."""

    term: Term
    reason: CampaignReason


@dataclass(frozen=True, slots=True)
class BecameCandidate:
    """It opened ``term`` and asks for votes."""

    term: Term
    reason: CampaignReason | None = None
    """None: it had won the pre-vote, which says why."""


@dataclass(frozen=True, slots=True)
class Elected:
    """It leads ``term``."""

    term: Term
    last_index: LogIndex
    """Of the log before the term's no-op."""


@dataclass(frozen=True, slots=True)
class SteppedDown:
    """A leader or candidate follows again."""

    term: Term
    """The term that it becomes a follower in."""
    was_leader: bool
    reason: StepDownReason


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """It knows another leader of the term, or none."""

    term: Term
    leader_id: NodeId | None


@dataclass(frozen=True, slots=True)
class LeaderSuspected:
    """Its connection closed: stickiness does not protect it until it is heard."""

    term: Term
    leader_id: NodeId


@dataclass(frozen=True, slots=True)
class Voted:
    """It gave a vote; a real one leaves once it is durable."""

    term: Term
    candidate_id: NodeId
    pre_vote: bool


@dataclass(frozen=True, slots=True)
class VoteRefused:
    """It refused a vote."""

    term: Term
    """That was campaigned for."""
    candidate_id: NodeId
    pre_vote: bool
    reason: Refusal


@dataclass(frozen=True, slots=True)
class Committed:
    """The commit index rose."""

    term: Term
    """Of the node, not of the entry."""
    index: LogIndex


@dataclass(frozen=True, slots=True)
class EntriesReplaced:
    """Uncommitted entries gave way to a leader's."""

    term: Term
    first_index: LogIndex
    last_index: LogIndex


@dataclass(frozen=True, slots=True)
class PeerStateChanged:
    """A leader sends to a peer in another way."""

    term: Term
    peer_id: NodeId
    state: PeerState
    cause: PeerEvent


@dataclass(frozen=True, slots=True)
class ConfigurationChanged:
    """Another configuration is the last in the log, perhaps not committed yet."""

    term: Term
    index: LogIndex
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class HandoverStarted:
    """The leader takes no proposals until ``to`` leads, or time is up."""

    term: Term
    to: NodeId


@dataclass(frozen=True, slots=True)
class HandoverEnded:
    """The leader still leads, and takes proposals again."""

    term: Term
    to: NodeId


@dataclass(frozen=True, slots=True)
class SnapshotAccepted:
    """A leader's snapshot replaces the log here."""

    term: Term
    last: EntryId


@dataclass(frozen=True, slots=True)
class SnapshotIgnored:
    """A leader's snapshot holds nothing that the log here lacks."""

    term: Term
    last: EntryId


@dataclass(frozen=True, slots=True)
class ReadsConfirmed:
    """A quorum answered a read round."""

    term: Term
    round: int
    index: LogIndex
    count: int


@dataclass(frozen=True, slots=True)
class ReadsRejected:
    """Reads of this node cannot be confirmed."""

    term: Term
    count: int


Event = (
    BecamePreCandidate
    | BecameCandidate
    | Elected
    | SteppedDown
    | LeaderChanged
    | LeaderSuspected
    | Voted
    | VoteRefused
    | Committed
    | EntriesReplaced
    | PeerStateChanged
    | ConfigurationChanged
    | HandoverStarted
    | HandoverEnded
    | SnapshotAccepted
    | SnapshotIgnored
    | ReadsConfirmed
    | ReadsRejected
)
