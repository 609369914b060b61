"""What a replica asks of its shell: one union, carried out in the order given."""

from dataclasses import dataclass

from kvstore.errors import KVStoreError
from kvstore.raft.messages import Entry, HardState
from kvstore.replica.messages import PeerMessage
from kvstore.types import LogIndex, ReadyNumber, Revision, Ticket


@dataclass(slots=True)
class Persist:
    """Append and fsync, then answer ``persisted(number)``. Never two at a time."""

    number: ReadyNumber
    hard_state: HardState | None
    entries: tuple[Entry, ...]


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


Effect = Persist | Send | Apply | Read | Respond | Fail
