"""The client's half of sessions: a write is carried out once, however often it is sent.

Raft dissertation, section 6.3. A write gets a number when it first leaves, and keeps it
when it is sent again. The nodes carry a number out once, and answer it alike each time.
"""

import asyncio
import contextlib
from collections.abc import Callable

from kvstore.client.transport import Transport
from kvstore.errors import Busy, Closed, KVStoreError, OutcomeUnknown
from kvstore.pb import kv_pb2
from kvstore.rpc.errors import error_from_pb

OPEN_S_MAX = 5.0
"""An unanswered request for a session is repeated after this long at the latest."""
CLOSE_S_MAX = 0.1
"""How long a closing client waits for its session to be closed."""
_ON_ITS_WAY_S_MAX = 0.1
_OPEN = kv_pb2.CommandBatch(
    commands=[kv_pb2.Command(open_session=kv_pb2.OpenSession())]
).SerializeToString()


class WriteSession:
    """The numbers of one open session."""

    __slots__ = (
        "_answered",
        "acknowledged",
        "active_s",
        "cluster_id",
        "id",
        "newest",
        "timeout_s",
    )

    def __init__(
        self,
        session_id: int,
        *,
        timeout_s: float,
        active_s: float,
        cluster_id: bytes = b"",
    ) -> None:
        self.id = session_id
        self.timeout_s = timeout_s
        self.active_s = active_s
        """When the newest request that was answered left, by the loop's clock. The
        nodes heard of the session no earlier than that."""
        self.cluster_id = cluster_id
        self.newest = 0
        """The last number given out."""
        self.acknowledged = 0
        """Nobody waits for an answer to this number or a lower one."""
        self._answered: set[int] = set()

    @property
    def open_numbers(self) -> int:
        """From the lowest that is not answered to the newest."""
        return self.newest - self.acknowledged

    def take(self, count: int) -> int:
        """Give out numbers that follow each other; returns the first."""
        first = self.newest + 1
        self.newest += count
        return first

    def answered(self, number: int) -> None:
        """Whoever waited for that number waits no more.

        He may have given up while his write is still on its way. Once the nodes are
        told, they refuse it if it comes: late, but never a second time.
        """
        answered = self._answered
        if number != self.acknowledged + 1:
            answered.add(number)
            return
        self.acknowledged = number
        while answered and self.acknowledged + 1 in answered:
            self.acknowledged += 1
            answered.remove(self.acknowledged)

    def is_stale(self, now: float) -> bool:
        """Whether it may be about to expire, and nothing of it is under way."""
        idle_s = now - self.active_s
        waited_for = self.newest - self.acknowledged - len(self._answered)
        return idle_s > self.timeout_s / 2 and not waited_for

    def header(self, first: int, count: int) -> bytes:
        """What goes before the commands of these numbers in their batch."""
        batch = kv_pb2.CommandBatch()
        header = batch.commands.add().session_commands
        header.session_id = self.id
        header.first_number = first
        header.count = count
        header.acknowledged = self.acknowledged
        return batch.SerializeToString()


class Sessions:
    """The session of a client: opened when a write needs one, replaced when it is idle.

    ``flush`` is called when a write may leave, or another attempt to open is due;
    ``fail`` when there will be no session; ``backoff_s`` says how long to pause.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        flush: Callable[[], None],
        fail: Callable[[KVStoreError], None],
        backoff_s: Callable[[int], float],
    ) -> None:
        self._transport = transport
        self._flush = flush
        self._fail = fail
        self._backoff_s = backoff_s
        self._current: WriteSession | None = None
        self._attempt = 0
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self.trouble = ""
        """Why there is none yet, for people."""

    def usable(self, now: float) -> WriteSession | None:
        """The session, if there is one that will not expire under a write."""
        session = self._current
        if session is None:
            return None
        if session.is_stale(now) or not self.is_reached(session):
            self._current = None
            self._say_goodbye(session)
        return self._current

    def is_reached(self, session: WriteSession | None) -> bool:
        """Whether the node that is connected to is of the session's cluster.

        A restored cluster begins with a copy of old sessions, and may give their ids to
        other clients. It has another id, and members that were started anew.
        """
        here = self._transport.cluster_id
        known = session is not None and session.cluster_id and here
        return not known or session is None or session.cluster_id == here

    def open(self, patience_s: float) -> None:
        """Ask for one, unless that is under way. The transport is ready.

        Repeated freely: a session that nobody heard of is never used, and expires.
        """
        if self._timer is not None:
            return
        self.trouble = self.trouble or "no session yet"
        loop = asyncio.get_running_loop()
        wait_s = min(patience_s, OPEN_S_MAX)
        self._attempt += 1
        attempt = self._attempt
        self._timer = loop.call_later(wait_s, self._again, attempt)
        node_s = wait_s - min(_ON_ITS_WAY_S_MAX, wait_s / 10)
        request = kv_pb2.OperateRequest(
            writes=_OPEN, timeout_ms=max(1, int(node_s * 1_000))
        )
        asked_s = loop.time()
        self._transport.send(
            request,
            lambda response, error: self._opened(attempt, asked_s, response, error),
        )

    def lost(self, session: WriteSession | None) -> None:
        """The nodes know nothing of it any more."""
        if self._current is session:
            self._current = None

    async def close(self) -> None:
        """Say goodbye if there is a session, and wait a little for the answer."""
        if self._timer is not None:
            self._timer.cancel()
        session, self._current = self._current, None
        if session is None:
            return
        heard = asyncio.Event()
        if not self._say_goodbye(session, heard.set):
            return
        with contextlib.suppress(TimeoutError):  # it expires by itself
            async with asyncio.timeout(CLOSE_S_MAX):
                await heard.wait()

    def _opened(
        self,
        attempt: int,
        asked_s: float,
        response: kv_pb2.OperateResponse | None,
        error: KVStoreError | None,
    ) -> bool:
        """Returns whether another node should be asked from now on."""
        if response is not None:
            opened, error = _session_of(response, asked_s)
            if opened is not None:
                # Even if it comes late: it serves as well as another.
                self._adopt(opened)
                return False
        assert error is not None
        if attempt != self._attempt or self._current is not None:
            return False
        self.trouble = f"no session: {error}"
        if self._timer is not None:
            self._timer.cancel()
        elsewhere = isinstance(error, Closed) and self._transport.recovers
        if error.definite and not error.retryable and not elsewhere:
            self._timer = None
            self._fail(error)
            return False
        self._failures += 1
        pause_s = self._backoff_s(self._failures)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(pause_s, self._again, attempt)
        return not isinstance(error, Busy)

    def _adopt(self, opened: WriteSession) -> None:
        if self._current is not None:
            self._say_goodbye(opened)
            return
        self._current = opened
        self._failures = 0
        self.trouble = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush()

    def _again(self, attempt: int) -> None:
        if attempt == self._attempt:
            self._timer = None
            self._flush()  # opens again if anybody still waits

    def _say_goodbye(
        self, session: WriteSession, heard: Callable[[], None] = lambda: None
    ) -> bool:
        """Best effort: it expires by itself, too. Returns whether it was said."""
        if not (self._transport.ready and self.is_reached(session)):
            return False
        close = kv_pb2.CloseSession(session_id=session.id)
        batch = kv_pb2.CommandBatch(commands=[kv_pb2.Command(close_session=close)])

        def done(_: kv_pb2.OperateResponse | None, __: KVStoreError | None) -> bool:
            heard()
            return False

        request = kv_pb2.OperateRequest(
            writes=batch.SerializeToString(), timeout_ms=int(OPEN_S_MAX * 1_000)
        )
        self._transport.send(request, done)
        return True


def _session_of(
    response: kv_pb2.OperateResponse, asked_s: float
) -> tuple[WriteSession | None, KVStoreError | None]:
    if response.HasField("error"):
        return None, error_from_pb(response.error)
    results = response.results.results
    if len(results) != 1:
        return None, OutcomeUnknown(f"{len(results)} results to one command")
    if results[0].HasField("error"):
        return None, error_from_pb(results[0].error)
    opened = results[0].session
    session = WriteSession(
        opened.session_id,
        timeout_s=opened.timeout_ms / 1_000,
        active_s=asked_s,
        cluster_id=response.header.cluster_id,
    )
    return session, None
