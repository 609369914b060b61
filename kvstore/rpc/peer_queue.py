"""What waits for the stream to one peer, and what is lost when that is too much.

Each kind has room of its own: log entries that pile up behind a slow peer cost no
client its answer. Everything but small messages keeps one order.
"""

from collections import deque
from enum import IntEnum


class _Kind(IntEnum):
    """Of what is large."""

    APPEND = 0
    WRITES = 1
    REPLY = 2


class PeerQueue:
    """Encoded messages of one link, bounded by kind."""

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_frame_bytes_max",
        "_large",
        "_messages",
        "_messages_max",
        "_small",
        "dropped",
    )

    def __init__(
        self, *, messages_max: int, bytes_max: int, frame_bytes_max: int
    ) -> None:
        """``messages_max`` and ``bytes_max`` bound each kind; see ``PeerOptions``."""
        self.dropped = 0
        """Messages lost so far, of all kinds."""
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._frame_bytes_max = frame_bytes_max
        self._small: deque[bytes] = deque()
        self._large: deque[tuple[_Kind, bytes]] = deque()
        self._messages = [0] * len(_Kind)
        self._bytes = [0] * len(_Kind)

    def add_small(self, message: bytes) -> None:
        """Votes, heartbeats, acknowledgements: past the bound the oldest are lost."""
        if len(self._small) >= self._messages_max:
            self._small.popleft()
            self.dropped += 1
        self._small.append(message)

    def add_append(self, message: bytes) -> None:
        """``AppendEntries``: past the bound all that wait are lost.

        After a gap the follower rejects whatever was sent behind it, so no gap may
        hide in what is sent: the core probes and starts again.
        """
        if not self._has_room(_Kind.APPEND, message):
            self._drop_appends()
        self._add(_Kind.APPEND, message)

    def add_writes(self, message: bytes) -> bool:
        """``ForwardWrites``: False, and not taken, past the bound."""
        if not self._has_room(_Kind.WRITES, message):
            return False
        self._add(_Kind.WRITES, message)
        return True

    def add_reply(self, message: bytes) -> None:
        """``ForwardReply``: lost past the bound, which is one of messages only.

        An answer that is lost leaves an applied write of unknown outcome. The peer has
        fewer writes open than there is room for, and what they came to, however much
        it is, exists already: to let go of it would gain little.
        """
        if self._messages[_Kind.REPLY] >= self._messages_max:
            self.dropped += 1
        else:
            self._add(_Kind.REPLY, message)

    def next_frame(self) -> bytes:
        """Everything small, and what of the large fits. Empty if nothing waits."""
        parts = list(self._small)
        self._small.clear()
        frame_bytes_max = room = self._frame_bytes_max
        large = self._large
        while large and (room == frame_bytes_max or len(large[0][1]) < room):
            kind, message = large.popleft()
            size = len(message)
            self._messages[kind] -= 1
            self._bytes[kind] -= size
            room -= size
            parts.append(message)
        return b"".join(parts)

    def clear(self) -> None:
        """Lose everything."""
        self.dropped += len(self._small) + len(self._large)
        self._small.clear()
        self._large.clear()
        self._messages = [0] * len(_Kind)
        self._bytes = [0] * len(_Kind)

    def _has_room(self, kind: _Kind, message: bytes) -> bool:
        """One that is larger than the bound may wait alone."""
        messages = self._messages[kind]
        return not messages or (
            messages < self._messages_max
            and self._bytes[kind] + len(message) <= self._bytes_max
        )

    def _add(self, kind: _Kind, message: bytes) -> None:
        self._large.append((kind, message))
        self._messages[kind] += 1
        self._bytes[kind] += len(message)

    def _drop_appends(self) -> None:
        self.dropped += self._messages[_Kind.APPEND]
        kept = [waits for waits in self._large if waits[0] is not _Kind.APPEND]
        self._large = deque(kept)
        self._messages[_Kind.APPEND] = self._bytes[_Kind.APPEND] = 0
