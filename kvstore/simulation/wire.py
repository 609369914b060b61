"""Messages under way, and words for those that are meant."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from kvstore.raft.messages import AppendEntries, Heartbeat, HeartbeatReply
from kvstore.replica.messages import PeerMessage
from kvstore.types import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which messages are meant; what is None does not matter."""

    sender: NodeId | None = None
    to: NodeId | None = None
    kinds: frozenset[str] = frozenset()
    """Names of message classes; empty for all."""
    term: int | None = None
    round: int | None = None
    entry: int | None = None
    """An index that an AppendEntries must carry."""

    def matches(self, message: PeerMessage) -> bool:
        """Whether the message is meant."""
        if (
            self.sender not in (None, message.sender)
            or self.to not in (None, message.to)
            or self.term not in (None, getattr(message, "term", None))
            or (self.kinds and type(message).__name__ not in self.kinds)
        ):
            return False
        if self.round is not None and not (
            isinstance(message, Heartbeat | HeartbeatReply)
            and message.round == self.round
        ):
            return False
        return self.entry is None or (
            isinstance(message, AppendEntries)
            and any(entry.index == self.entry for entry in message.entries)
        )


@dataclass(slots=True)
class Wire:
    """Messages under way, oldest first, and what is to become of those to come."""

    messages: list[PeerMessage] = field(default_factory=list)
    gone: list[PeerMessage] = field(default_factory=list)
    """What was under way, in the order in which it arrived or was lost."""
    held: list[Selector] = field(default_factory=list)
    """What these mean arrives only when it is asked for."""
    cut: list[Selector] = field(default_factory=list)
    """What these mean is lost as soon as it is sent."""

    def find(self, selector: Selector) -> list[PeerMessage]:
        """What is under way and meant, oldest first."""
        return [message for message in self.messages if selector.matches(message)]

    def remove(self, messages: Iterable[PeerMessage]) -> None:
        """Take messages off the wire: by identity, for two may be equal."""
        taken = list(messages)
        self.gone += taken
        gone = {id(message) for message in taken}
        self.messages = [it for it in self.messages if id(it) not in gone]

    def is_cut(self, message: PeerMessage) -> bool:
        return any(selector.matches(message) for selector in self.cut)

    def is_held(self, message: PeerMessage) -> bool:
        return any(selector.matches(message) for selector in self.held)
