"""Clients of a simulated cluster: what they send, when, and how often.

A :class:`Client` is a small state machine, like the real one: it numbers its writes in
a session, sends again under the same number what it had no answer to, and says which
answers it has. Whoever moves it decides when it is asked for its next operation, which
node that goes to, and what becomes of it.

Every batch differs from all others in its bytes, but for those that are sent again and
those that open a session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.simulation.wishes import Wishes

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One sending of a batch."""

    number: int
    """Unique among the operations of its client."""
    commands: bytes
    """Encoded ``CommandBatch``."""
    count: int
    """Commands in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Ranges to be read at one moment."""

    number: int
    ranges: tuple[kv_pb2.Range, ...]
    options: kv_pb2.ReadOptions


Operation = Write | Read


class _Kind(Enum):
    READ = "read"
    WRITE = "write"
    OPEN = "open"
    CLOSE = "close"


@dataclass(slots=True, eq=False)
class _Job:
    """Something to be done once, however often it is sent."""

    kind: _Kind
    commands: tuple[kv_pb2.Command, ...] = ()
    ranges: tuple[kv_pb2.Range, ...] = ()
    session: _Session | None = None
    first: int = 0
    """The number of its first command, in its session."""
    adds: bool = False
    """It adds one to the counter, if nobody else does meanwhile."""
    in_flight: int = 0
    in_doubt: bool = False
    """It may have been carried out."""
    is_over: bool = False


@dataclass(slots=True, eq=False)
class _Session:
    """The numbers of one open session."""

    id: int
    newest: int = 0
    acknowledged: int = 0
    answered: list[int] = field(default_factory=list)
    """Above ``acknowledged``."""
    is_lost: bool = False

    def settle(self, first: int, count: int) -> None:
        """Nobody waits for these any more."""
        self.answered += range(first, first + count)
        while self.acknowledged + 1 in self.answered:
            self.acknowledged += 1
            self.answered.remove(self.acknowledged)


class Client:
    """One client: a few operations in flight, and what it learned from answers.

    Of what it has in flight nothing precedes another; what it asks for after an answer
    comes after what was answered.
    """

    def __init__(
        self,
        chance: random.Random,
        name: str,
        *,
        operations: int,
        depth: int,
        has_sessions: bool,
    ) -> None:
        """``operations``: how many to think of, repetitions not counted; ``depth``: how
        many may be in flight. Without sessions it sends again only what certainly was
        not carried out.
        """
        assert operations >= 0
        assert depth > 0
        self.name = name
        self._chance = chance
        self._wishes = Wishes(chance, name)
        self._left = operations
        self._depth = depth
        self._has_sessions = has_sessions
        self._session: _Session | None = None
        self._last_number = 0
        self._open: dict[int, _Job] = {}
        self._again: list[_Job] = []
        """To be sent, now or later: after a failure, or held back at first."""
        self._doubts = 0
        """Additions to the counter that may have happened, and are given up."""

    # ----------------------------------------------------------------- operations

    @property
    def is_done(self) -> bool:
        """It wants nothing any more, and has all its answers."""
        wants_goodbye = self._session is not None and not self._session.is_lost
        return not (self._left or self._open or self._again or wants_goodbye)

    @property
    def additions(self) -> int:
        """Additions to the counter that it knows to have happened."""
        return self._wishes.additions

    @property
    def doubtful_additions(self) -> int:
        """Additions to the counter that may have happened, or may yet."""
        waiting = dict.fromkeys([*self._open.values(), *self._again])
        return self._doubts + sum(job.adds and not job.is_over for job in waiting)

    def stop(self) -> None:
        """Think of nothing more; what was begun goes on."""
        self._left = 0

    def next_operation(self) -> Operation | None:
        """What it asks for now. None: it waits for answers, or is done."""
        chance = self._chance
        if len(self._open) >= self._depth:
            return None
        if self._again and (not self._left or chance.random() < 0.6):
            place = chance.randrange(len(self._again))
            return self._send(self._again.pop(place))
        if not self._left:
            return self._say_goodbye()
        if self._session is not None and chance.random() < 0.05:
            impatient = [
                job
                for job in self._open.values()
                if job.session is self._session and job.first
            ]
            if impatient:
                return self._send(chance.choice(impatient))
        self._left -= 1
        if chance.random() < 0.35:
            return self._send(self._read())
        if not self._has_sessions:
            return self._send(self._write())
        if self._session is None or self._session.is_lost:
            return self._open_session()
        if chance.random() < 0.01:
            # With writes in flight: of them, what was not carried out never is.
            return self._close_session(self._session)
        job = self._number(self._write(), self._session)
        if chance.random() < 0.1:
            # What follows overtakes it.
            self._again.append(job)
            job = self._number(self._write(), self._session)
        return self._send(job)

    def answered(self, operation: Operation, results: Sequence[kv_pb2.Result]) -> None:
        """A node answered; one result a command, or a range."""
        job = self._take(operation)
        self._wishes.hear(results)
        if job.is_over:
            return
        if job.kind is _Kind.OPEN:
            job.is_over = True
            if self._session is None and results[0].HasField("session"):
                self._session = _Session(results[0].session.session_id)
            return
        if job.session is not None and results[0].error.code == "SessionExpired":
            job.session.is_lost = True
            if self._session is job.session:
                self._session = None
            self._give_up(job)
            return
        if job.kind is _Kind.READ:
            for request, result in zip(job.ranges, results, strict=True):
                self._wishes.learn_range(request, result)
        elif job.kind is _Kind.WRITE:
            own = results[1:] if job.first else results
            for command, result in zip(job.commands, own, strict=True):
                self._wishes.learn(command, result)
        self._end(job)

    def failed(self, operation: Operation, error: KVStoreError) -> None:
        """It ended without results. A lost answer, too: as of an unknown outcome."""
        job = self._take(operation)
        job.in_doubt = job.in_doubt or not error.definite
        if job.is_over:
            return
        is_lost = job.session is not None and job.session.is_lost
        if job.kind in (_Kind.READ, _Kind.OPEN) or is_lost:
            self._give_up(job)
        elif job in self._again or (job.in_flight and self._chance.random() < 0.7):
            return
        elif job.session is not None:
            if self._chance.random() < 0.05:
                self._give_up(job)
            else:
                self._again.append(job)
        elif not job.in_doubt and self._chance.random() < 0.7:
            self._again.append(job)
        else:
            self._give_up(job)

    def _read(self) -> _Job:
        return _Job(_Kind.READ, ranges=tuple(self._wishes.ranges()))

    def _write(self) -> _Job:
        wish = self._wishes.write()
        return _Job(_Kind.WRITE, wish.commands, adds=wish.adds)

    def _take(self, operation: Operation) -> _Job:
        job = self._open.pop(operation.number)
        job.in_flight -= 1
        return job

    def _end(self, job: _Job) -> None:
        """Its outcome is known, or nobody waits for it."""
        job.is_over = True
        if job in self._again:
            self._again.remove(job)
        if job.session is not None and job.first:
            job.session.settle(job.first, len(job.commands))

    def _give_up(self, job: _Job) -> None:
        self._doubts += job.adds and (job.in_doubt or job.in_flight > 0)
        self._end(job)

    # ------------------------------------------------------------------- sessions

    def _number(self, job: _Job, session: _Session) -> _Job:
        """Give its commands the next numbers."""
        job.session, job.first = session, session.newest + 1
        session.newest += len(job.commands)
        return job

    def _open_session(self) -> Operation | None:
        if any(job.kind is _Kind.OPEN for job in self._open.values()):
            return self._send(self._read())
        self._session = None
        command = kv_pb2.Command(open_session=kv_pb2.OpenSession())
        return self._send(_Job(_Kind.OPEN, (command,)))

    def _close_session(self, session: _Session) -> Operation:
        session.is_lost, self._session = True, None
        for job in self._again[:]:
            if job.session is session:
                self._give_up(job)
        command = kv_pb2.Command(
            close_session=kv_pb2.CloseSession(session_id=session.id)
        )
        return self._send(_Job(_Kind.CLOSE, (command,)))

    def _say_goodbye(self) -> Operation | None:
        if self._open or self._session is None:
            return None
        return self._close_session(self._session)

    def _send(self, job: _Job) -> Operation:
        self._last_number += 1
        self._open[self._last_number] = job
        job.in_flight += 1
        if job.kind is _Kind.READ:
            return Read(
                number=self._last_number,
                ranges=job.ranges,
                options=self._wishes.options(),
            )
        batch = kv_pb2.CommandBatch()
        if job.session is not None:
            header = batch.commands.add().session_commands
            header.session_id = job.session.id
            header.first_number = job.first
            header.count = len(job.commands)
            # It may have given up what it sends again.
            header.acknowledged = min(job.session.acknowledged, job.first - 1)
        batch.commands.extend(job.commands)
        return Write(
            number=self._last_number,
            commands=batch.SerializeToString(),
            count=len(batch.commands),
        )


class Workload:
    """All clients of one run."""

    def __init__(
        self, chance: random.Random, *, clients: int, operations: int, depth: int = 3
    ) -> None:
        """``operations``: of each client; ``depth``: in flight at once, at most."""
        self.clients = tuple(
            Client(
                chance,
                f"c{number}",
                operations=operations,
                depth=chance.randrange(1, depth + 1),
                has_sessions=chance.random() < 0.75,
            )
            for number in range(1, clients + 1)
        )

    @property
    def is_done(self) -> bool:
        """Nobody wants anything any more."""
        return all(client.is_done for client in self.clients)

    def stop(self) -> None:
        """Have nobody think of anything more; what was begun goes on."""
        for client in self.clients:
            client.stop()

    def counter_bounds(self) -> tuple[int, int]:
        """What the counter may hold, lowest and highest: each addition counts once.

        Needs neither model nor log, so it checks those as well.
        """
        known = sum(client.additions for client in self.clients)
        return known, known + sum(it.doubtful_additions for it in self.clients)
