"""The one contract between the Raft core and whoever drives it."""

from dataclasses import dataclass

from kvstore.raft.messages import Entry, HardState, Message, Snapshot
from kvstore.types import LogIndex, ReadyNumber


@dataclass(slots=True, kw_only=True)
class ReadState:
    """A read is confirmed: serve it from a state applied to ``index`` or beyond."""

    request_id: int
    index: LogIndex
    rejected: bool = False
    """The read could not be confirmed (no leader, or it changed); ``index`` is void."""
    lease: bool = False
    """The leader's lease confirmed it, not a quorum."""


@dataclass(slots=True, kw_only=True)
class Ready:
    """Work the caller owes the core.

    At most one ``Ready`` that must be persisted (``must_persist``) is outstanding:
    until its ``persisted(number)`` arrives, later ones carry only messages, committed
    entries and read states.
    """

    number: ReadyNumber
    """Acknowledged by ``persisted(number)`` if ``must_persist``."""
    hard_state: HardState | None
    snapshot: Snapshot | None
    """Install first: its state becomes the state, and the log begins behind it."""
    entries: tuple[Entry, ...]
    """Append and fsync. The first one's index may lie below the stored last index: what
    is stored from there on is replaced."""
    messages: tuple[Message, ...]
    """May leave at once."""
    messages_after_persist: tuple[Message, ...]
    """Votes and acknowledgements: never before the fsync."""
    committed_entries: tuple[Entry, ...]
    """Apply in order. Only entries that are durable here: a state store that ran ahead
    of its own log could not be explained after a crash."""
    read_states: tuple[ReadState, ...]

    @property
    def must_persist(self) -> bool:
        return (
            self.hard_state is not None
            or bool(self.entries)
            or self.snapshot is not None
        )
