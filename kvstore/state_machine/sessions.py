"""Sessions: a command that is sent again is carried out once, and answered alike.

Raft dissertation, section 6.3. A client opens a session and numbers its commands within
it. The table remembers the replies of those that were applied, until the client says
that it has them (``acknowledged``). Numbers may arrive in any order and with gaps: a
client keeps many commands under way, and sends again those that a lost connection took.

The table is part of the state: the same on every member at the same log index, stored
with the progress and in every snapshot. Nothing in here knows the time. When a session
was silent for too long is the leader's to say, in an ``ExpireSessions`` entry; it is
void for a session that was active since.

Bounds. They decide what is refused, so members must agree on them: to change one is to
make replicas differ.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple, Self

from kvstore.errors import Busy, InvalidRequest, SessionExpired
from kvstore.types import LogIndex, Revision

SESSIONS_MAX = 10_000
"""Sessions open at a time, in the whole cluster. Past it ``OpenSession`` is refused
with ``Busy``."""

SESSION_BYTES_MAX = 16 * 1024 * 1024
"""Replies kept of one session, in bytes as :data:`RUN_BYTES` counts them: some 80,000
small ones, more than a client has under way. Once reached, its commands are refused
with ``Busy`` until it acknowledges some; so the last one kept may pass it."""

SESSIONS_BYTES_MAX = 128 * 1024 * 1024
"""The same of all sessions together."""

REPLY_BYTES_MAX = 4096
"""A longer reply is not kept, only that there was one: a repetition is answered with
``OutcomeUnknown``. Large ones have pairs in them, which can be read again."""

RUN_BYTES = 160
"""What keeping a reply counts for, beside its bytes: about what it takes in memory. Of
plain puts that follow each other with nothing between, one run is kept for all."""

COMMAND_NUMBER_MAX = (1 << 63) - 1
"""The last number that a command of a session can have."""

SESSION_TIMEOUT_MS = 600_000
"""Default for how long a session may be silent before the leader expires it. Longer
than clients retry, and than an election takes; what an idle session costs is memory."""

TOO_LARGE = b""
"""In place of a reply that is not kept. No encoded result is empty."""


class Run(NamedTuple):
    """Replies of commands with numbers that follow each other."""

    first: int
    """Number of the first."""
    length: int
    revision: Revision
    """Plain puts: revision of the first; each following one is one higher. Otherwise 0,
    and ``length`` is 1."""
    reply: bytes
    """The encoded ``Result``, or :data:`TOO_LARGE`; unused for puts."""

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        return RUN_BYTES + len(self.reply)


class Session:
    """What is remembered of one client. Only its table changes it."""

    __slots__ = (
        "_firsts",
        "acknowledged",
        "id",
        "last_index",
        "newest",
        "runs",
        "size",
    )

    def __init__(self, session_id: int, last_index: LogIndex) -> None:
        self.id = session_id
        self.last_index = last_index
        """Log index of the last entry with a command of it, or that opened it."""
        self.acknowledged = 0
        """The client has the answers up to this number. Forgotten here."""
        self.newest = 0
        """No higher number was applied."""
        self.runs: list[Run] = []
        """Kept replies, in order of number; they do not overlap."""
        self.size = 0
        """Bytes that its replies count for."""
        self._firsts: list[int] = []

    @classmethod
    def load(
        cls,
        session_id: int,
        *,
        last_index: LogIndex,
        acknowledged: int,
        runs: list[Run],
    ) -> Self:
        """One as it was stored."""
        session = cls(session_id, last_index)
        session.acknowledged = acknowledged
        session.runs = runs
        session._firsts = [run.first for run in runs]
        session.size = sum(run.size for run in runs)
        last = runs[-1].first + runs[-1].length - 1 if runs else 0
        session.newest = max(acknowledged, last)
        return session

    def clone(self) -> "Session":
        """An independent copy. O(replies)."""
        return Session.load(
            self.id,
            last_index=self.last_index,
            acknowledged=self.acknowledged,
            runs=self.runs.copy(),
        )

    def reply(self, number: int) -> Revision | bytes | None:
        """How the command was answered: a plain put's revision, or an encoded result.

        None: it was not applied yet. O(log replies).

        Raises:
            InvalidRequest: the client said that it has the answer. Definite: not
                applied *again*.
        """
        if number <= self.acknowledged:
            raise InvalidRequest(
                f"command {number} of session {self.id} was acknowledged by its own "
                f"client, with all up to {self.acknowledged}: its result is forgotten"
            )
        place = bisect_right(self._firsts, number) - 1
        if place < 0:
            return None
        run = self.runs[place]
        offset = number - run.first
        if offset >= run.length:
            return None
        return Revision(run.revision + offset) if run.revision else run.reply

    def add(self, run: Run) -> int:
        """Keep replies that are not there yet; returns how many bytes that adds."""
        place = bisect_right(self._firsts, run.first)
        self.newest = max(self.newest, run.first + run.length - 1)
        if run.revision and place:
            before = self.runs[place - 1]
            if (
                before.revision
                and before.first + before.length == run.first
                and before.revision + before.length == run.revision
            ):
                self.runs[place - 1] = before._replace(
                    length=before.length + run.length
                )
                return 0
        self._firsts.insert(place, run.first)
        self.runs.insert(place, run)
        self.size += run.size
        return run.size

    def acknowledge(self, number: int) -> int:
        """Forget replies up to a number; returns how many bytes that frees."""
        if number <= self.acknowledged:
            return 0
        self.acknowledged = number
        self.newest = max(self.newest, number)
        place = bisect_right(self._firsts, number)
        if not place:
            return 0
        last = self.runs[place - 1]
        behind = last.first + last.length
        if behind > number + 1:
            # The end of a run of puts is still needed.
            place -= 1
            skipped = number + 1 - last.first
            self.runs[place] = Run(
                number + 1, behind - number - 1, Revision(last.revision + skipped), b""
            )
            self._firsts[place] = number + 1
        freed = sum(run.size for run in self.runs[:place])
        del self.runs[:place], self._firsts[:place]
        self.size -= freed
        return freed


class TableSummary(NamedTuple):
    """A few numbers that tell a table from what it was earlier.

    Stored with the progress, away from the sessions: a page of these that fell back to
    an older state then shows.
    """

    last_id: int
    """Of the session that was opened last, open still or not."""
    sessions: int
    index_sum: int
    """Of the ``last_index`` of all, modulo 2**64. A change of a session raises its."""


EMPTY_SUMMARY = TableSummary(0, 0, 0)


class SessionTable:
    """All open sessions, and which of them changed since that was last asked.

    Ids count up from 1 and are never given twice.
    """

    __slots__ = ("_changed", "_index_sum", "_sessions", "last_id", "size")

    def __init__(self) -> None:
        self.last_id = 0
        """Of the session that was opened last, open still or not."""
        self.size = 0
        """Bytes that the replies of all sessions count for."""
        self._sessions: dict[int, Session] = {}
        self._index_sum = 0
        self._changed: set[int] = set()

    @classmethod
    def load(cls, last_id: int, sessions: Iterator[Session]) -> Self:
        """One as it was stored. ``sessions`` come in order of id."""
        table = cls()
        table.last_id = last_id
        for session in sessions:
            table._sessions[session.id] = session
            table._index_sum += session.last_index
            table.size += session.size
        return table

    def clone(self) -> Self:
        """An independent copy, unchanged so far. O(replies)."""
        return self.load(self.last_id, (session.clone() for session in self))

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """In order of id."""
        return iter(self._sessions.values())

    def get(self, session_id: int) -> Session | None:
        return self._sessions.get(session_id)

    @property
    def summary(self) -> TableSummary:
        return TableSummary(self.last_id, len(self), self._index_sum & _U64)

    def activity(self) -> dict[int, LogIndex]:
        """Session id to the log index of the last entry with a command of it.

        For the leader, which measures how long each index stands still. O(sessions).
        """
        return {session.id: session.last_index for session in self}

    def take_changed(self) -> set[int]:
        """Ids of sessions that were opened, changed or closed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    # ------------------------------------------------------------------ changes

    def open(self, index: LogIndex) -> Session:
        """A new session, in the entry at ``index``.

        Raises:
            Busy: ``SESSIONS_MAX`` are open. Definite.
        """
        if len(self) >= SESSIONS_MAX:
            raise Busy(
                f"{SESSIONS_MAX} sessions are open: close some, or wait until silent "
                "ones expire",
                queue="sessions",
                maximum=SESSIONS_MAX,
            )
        self.last_id += 1
        session = Session(self.last_id, index)
        self._sessions[session.id] = session
        self._index_sum += index
        self._changed.add(session.id)
        return session

    def use(
        self,
        session_id: int,
        *,
        index: LogIndex,
        first_number: int,
        count: int,
        acknowledged: int,
    ) -> Session:
        """The session whose ``count`` commands follow in the entry at ``index``.

        Raises:
            SessionExpired: no such session is open. Definite.
            InvalidRequest: a number passes ``COMMAND_NUMBER_MAX``. Definite.
        """
        session = self._open_session(session_id)
        if max(first_number + count - 1, acknowledged) > COMMAND_NUMBER_MAX:
            raise InvalidRequest(
                f"numbers of commands end at {COMMAND_NUMBER_MAX}: open a new session"
            )
        self._index_sum += index - session.last_index
        session.last_index = index
        self.size -= session.acknowledge(acknowledged)
        self._changed.add(session_id)
        return session

    def close(self, session_id: int) -> None:
        """Forget a session.

        Raises:
            SessionExpired: no such session is open. Definite.
        """
        session = self._open_session(session_id)
        del self._sessions[session_id]
        self._index_sum -= session.last_index
        self.size -= session.size
        self._changed.add(session_id)

    def expire(self, session_id: int, last_index: LogIndex) -> None:
        """Forget a session, unless it is gone or was active since ``last_index``."""
        session = self._sessions.get(session_id)
        if session is not None and session.last_index == last_index:
            self.close(session_id)

    def has_room(self, session: Session) -> bool:
        """Whether one more reply of the session can be kept."""
        return session.size < SESSION_BYTES_MAX and self.size < SESSIONS_BYTES_MAX

    def check_room(self, session: Session) -> None:
        """Raises ``Busy`` (definite) unless one more reply can be kept."""
        if self.has_room(session):
            return
        if session.size >= SESSION_BYTES_MAX:
            raise Busy(
                f"session {session.id} has {SESSION_BYTES_MAX} bytes of replies that "
                "its client did not acknowledge",
                queue="session_bytes",
                maximum=SESSION_BYTES_MAX,
            )
        raise Busy(
            f"all sessions together have {SESSIONS_BYTES_MAX} bytes of replies that "
            "their clients did not acknowledge",
            queue="sessions_bytes",
            maximum=SESSIONS_BYTES_MAX,
        )

    def keep_puts(
        self, session: Session, first: int, count: int, revision: Revision
    ) -> None:
        """Plain puts, one revision each from ``revision`` on, were applied.

        The session is one that :meth:`use` returned for this entry, and none of the
        numbers was applied before; so for :meth:`keep`.
        """
        self.size += session.add(Run(first, count, revision, b""))

    def keep(self, session: Session, number: int, reply: bytes) -> None:
        """A command was applied; ``reply`` is its encoded result, or ``TOO_LARGE``."""
        self.size += session.add(Run(number, 1, _NO_REVISION, reply))

    def _open_session(self, session_id: int) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionExpired(
                f"session {session_id} is not open: it was silent for too long, or "
                "closed; open a new one"
            )
        return session


_U64 = (1 << 64) - 1
_NO_REVISION = Revision(0)
