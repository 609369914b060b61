"""What waits to be sent, by what can share a request."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from kvstore.client.consistency import ReadLevel
from kvstore.client.results import ResponseHeader
from kvstore.client.session import WriteSession
from kvstore.pb import kv_pb2

Answer = tuple[kv_pb2.Result, ResponseHeader]


@dataclass(slots=True, eq=False)
class Pending:
    """One caller's operation. It belongs to the client, never to the caller's task."""

    encoded: bytes
    """A ``CommandBatch`` or ``RangeBatch`` of one: encoded batches concatenate."""
    level: ReadLevel | None
    """Of a read. None: it is a write."""
    waiting: asyncio.Future[Answer]
    deadline: float
    left: bool = False
    """It may have reached a node, which has not answered."""
    in_doubt: bool = False
    """An earlier attempt ended with nobody knowing whether it was applied."""
    session: WriteSession | None = None
    number: int = 0
    """Of a write, in its session. 0: none yet."""
    attempts: int = 0
    cause: str = ""
    """Why the last attempt failed."""
    alone: bool = False
    """A request of its own, so that it fails or succeeds by itself."""

    @property
    def is_read(self) -> bool:
        return self.level is not None

    def forget_number(self) -> None:
        """It was certainly not applied under its number, and goes under another."""
        if self.session is not None:
            self.session.answered(self.number)
        self.session, self.number = None, 0


class Outbox:
    """Queues, in order. Those who have given up leave when they are come across."""

    def __init__(self) -> None:
        self.writes: list[Pending] = []
        """Writes without a number."""
        self.repeats: list[Pending] = []
        """Writes with one."""
        self.reads: dict[ReadLevel, list[Pending]] = {}
        self._turn = 0

    def __len__(self) -> int:
        waiting = len(self.writes) + len(self.repeats)
        return waiting + sum(map(len, self.reads.values()))

    def add(self, pending: Pending) -> None:
        """Behind the others of its kind."""
        if pending.level is not None:
            self.reads.setdefault(pending.level, []).append(pending)
        elif pending.number:
            self.repeats.append(pending)
        else:
            self.writes.append(pending)

    def turns(self) -> list[list[Pending]]:
        """The queues that are not empty, another one first each time.

        So none starves where there is room for one request at a time.
        """
        queues = [queue for queue in self._queues() if queue]
        if len(queues) < 2:
            return queues
        first = self._turn % len(queues)
        self._turn += 1
        return queues[first:] + queues[:first]

    def forget_done(self) -> None:
        """Forget those that have given up."""
        for queue in self._queues():
            queue[:] = [it for it in queue if not it.waiting.done()]
        self.reads = {level: queue for level, queue in self.reads.items() if queue}

    def take_all(self) -> list[Pending]:
        """Everything."""
        taken = [pending for queue in self._queues() for pending in queue]
        self.writes, self.repeats, self.reads = [], [], {}
        return taken

    def _queues(self) -> Iterator[list[Pending]]:
        yield self.writes
        yield self.repeats
        yield from self.reads.values()


def take(waiting: list[Pending], *, commands_max: int, bytes_max: int) -> list[Pending]:
    """Take a request's worth of operations off a queue, in order.

    Empty if all of them have given up.
    """
    group: list[Pending] = []
    size = 0
    seen = 0
    for pending in waiting:
        if pending.waiting.done():
            seen += 1
            continue
        size += len(pending.encoded)
        full = size > bytes_max or len(group) >= commands_max
        if group and (full or pending.alone):
            break
        group.append(pending)
        seen += 1
        if pending.alone:
            break
    del waiting[:seen]
    return group


def numbered(group: list[Pending]) -> tuple[bytes, list[int]]:
    """A batch of writes that have numbers, and where in it the headers are.

    Sorts the group, so that a header speaks for as many as it can.
    """
    group.sort(key=_session_and_number)
    parts: list[bytes] = []
    headers: list[int] = []
    begin = 0
    while begin < len(group):
        session, first = group[begin].session, group[begin].number
        assert session is not None
        end = begin
        while end < len(group) and _session_and_number(group[end]) == (
            session.id,
            first + end - begin,
        ):
            end += 1
        headers.append(begin + len(headers))
        parts.append(session.header(first, end - begin))
        parts += [pending.encoded for pending in group[begin:end]]
        begin = end
    return b"".join(parts), headers


def _session_and_number(pending: Pending) -> tuple[int, int]:
    assert pending.session is not None
    return pending.session.id, pending.number
