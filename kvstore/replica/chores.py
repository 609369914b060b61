"""What a leader proposes of its own accord: sessions that end, history that goes.

Made anew with each lead: a new leader grants every session its whole time again, for it
cannot know when its predecessor heard of it last. Nobody's clock is read when an entry
is applied (design of leases and sessions: time reaches the state only as entries).
"""

from collections.abc import Mapping

from kvstore.pb import kv_pb2
from kvstore.state_machine.history import History, HistoryPolicy
from kvstore.types import LogIndex, Revision, Term

COMPACTION_STEP = kv_pb2.CommandBatch(
    commands=[kv_pb2.Command(compaction_step=kv_pb2.CompactionStep())]
).SerializeToString()

EXPIRED_AT_ONCE_MAX = 256
"""Sessions in one entry: a storm of expiries must not hold up what clients write."""


class Chores:
    """Of one lead."""

    def __init__(
        self, term: Term, *, history: HistoryPolicy, session_timeout_ticks: int
    ) -> None:
        self._term = term
        self._history = History(history)
        self._session_timeout_ticks = session_timeout_ticks
        self._seen: dict[int, tuple[LogIndex, int]] = {}

    def observe_sessions(
        self, tick: int, activity: Mapping[int, LogIndex]
    ) -> bytes | None:
        """When each session was active last; the command to end those that are not.

        It is void for a session that becomes active before it is applied, and in any
        other term than this lead's (etcd#15247: a deposed leader's expiry).
        """
        seen = self._seen
        expired: list[kv_pb2.SessionActivity] = []
        for session_id in [known for known in seen if known not in activity]:
            del seen[session_id]
        for session_id, index in activity.items():
            before = seen.get(session_id)
            if before is None or before[0] != index:
                seen[session_id] = (index, tick)
            elif (
                tick - before[1] >= self._session_timeout_ticks
                and len(expired) < EXPIRED_AT_ONCE_MAX
            ):
                expired.append(
                    kv_pb2.SessionActivity(session_id=session_id, index=index)
                )
        if not expired:
            return None
        command = kv_pb2.ExpireSessions(sessions=expired, term=self._term)
        return _batch(kv_pb2.Command(expire_sessions=command))

    def observe_history(
        self, now_ms: int, *, revision: Revision, compact_revision: Revision
    ) -> bytes | None:
        """The command to give up the history that nobody wants to keep."""
        wanted = self._history.observe(
            now_ms / 1_000, revision=revision, compact_revision=compact_revision
        )
        if wanted is None:
            return None
        return _batch(kv_pb2.Command(compact=kv_pb2.Compact(revision=wanted)))


def _batch(command: kv_pb2.Command) -> bytes:
    return kv_pb2.CommandBatch(commands=[command]).SerializeToString()
