"""What a replica asks of its shell: one union, carried out in the order given."""

from dataclasses import dataclass

from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, HardState, Snapshot
from kvstore.replica.messages import PeerMessage
from kvstore.types import LogIndex, NodeId, ReadyNumber, Revision, Ticket


@dataclass(slots=True)
class Persist:
    """Append and fsync, then answer ``persisted(number)``. Never two at a time.

    With a ``snapshot``: first install the state that was staged for it, and begin the
    log anew behind it; then answer ``installed`` before ``persisted``.
    """

    number: ReadyNumber
    hard_state: HardState | None
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None = None


@dataclass(slots=True)
class Send:
    """Hand messages to the network. Each may be lost, late or doubled."""

    messages: tuple[PeerMessage, ...]


@dataclass(slots=True)
class Apply:
    """Apply in order, then answer ``applied(...)``.

    ``groups`` has, for each entry, the number of commands of each waiting ticket: the
    shell answers one encoded ``ResultBatch`` a group. No groups, no results wanted.
    """

    entries: tuple[Entry, ...]
    groups: tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Read:
    """Serve reads from the state as it is after every ``Apply`` emitted before."""

    tickets: tuple[Ticket, ...]
    index: LogIndex
    """The state must have been applied at least up to here."""
    consistency: kv_pb2.Consistency
    """How it was confirmed."""
    fresh_ms: int | None
    """By the replica's clock: what was acknowledged before is in the state. None: of
    what others acknowledged nothing is known."""


@dataclass(slots=True)
class Respond:
    """A write was applied."""

    ticket: Ticket
    results: bytes
    """Encoded ``ResultBatch``."""
    revision: Revision


@dataclass(slots=True)
class Fail:
    """A request ended without a result; the error says whether that is definite."""

    ticket: Ticket
    error: KVStoreError


@dataclass(slots=True)
class Done:
    """A change of the members, or of the lead, is done."""

    ticket: Ticket


@dataclass(slots=True)
class SendSnapshot:
    """A peer needs the state: send it until told to stop, taking it up where it broke.

    Hold the log (``hold_log``) from before it is made, and say ``snapshot_ended``.
    """

    peer: NodeId


@dataclass(slots=True)
class StopSnapshot:
    """The peer needs none any more, or this node does not lead."""

    peer: NodeId


@dataclass(slots=True)
class SyncState:
    """Make the state durable as it is now, then answer ``state_synced``."""


@dataclass(slots=True)
class CompactLog:
    """Forget log entries up to ``index``; nothing asks for them any more."""

    index: LogIndex


@dataclass(slots=True)
class ReportSessions:
    """Answer ``sessions_reported`` with when each client session was active last."""


@dataclass(slots=True)
class Leave:
    """This node was removed from its cluster: stop."""


Effect = (
    Persist
    | Send
    | Apply
    | Read
    | Respond
    | Fail
    | Done
    | SendSnapshot
    | StopSnapshot
    | SyncState
    | CompactLog
    | ReportSessions
    | Leave
)
