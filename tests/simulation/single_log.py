"""The smallest system that serves a workload: one log, one state, and lost replies."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kvstore.errors import InvalidRequest, KVStoreError, OutcomeUnknown, Unavailable
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryKind
from kvstore.simulation.oracle import Oracle
from kvstore.simulation.workload import Client, Operation, Read, Workload, Write
from kvstore.state_machine import machine
from kvstore.state_machine.commands import error_to_pb, validate_batch
from kvstore.state_machine.limits import Limits
from kvstore.state_machine.machine import encode_groups
from kvstore.state_machine.reads import read_range_at_once
from kvstore.storage.memory_state import MemoryState
from kvstore.types import LogIndex, Term

STRONG = (kv_pb2.LINEARIZABLE, kv_pb2.LEASE, kv_pb2.FOLLOWER)
EVERYTHING = kv_pb2.Range(key=b"\0", range_end=b"\0")


@dataclass(slots=True)
class Asked:
    """One operation that has left its client."""

    ticket: int
    client: Client
    operation: Operation
    is_over: bool = False
    """The client waits no more; the write may be carried out yet."""


def read_all(
    state: MemoryState, ranges: tuple[kv_pb2.Range, ...]
) -> list[kv_pb2.Result]:
    """As a node serves them."""
    results = []
    for request in ranges:
        try:
            found = kv_pb2.Result(range=read_range_at_once(state, request))
        except InvalidRequest as error:
            found = kv_pb2.Result(error=error_to_pb(error))
        results.append(found)
    return results


class SingleLog:
    """A workload, a log that is committed as it is written, and an oracle that watches.

    What it does honestly in methods of their own, so that a test can replace one.
    """

    def __init__(self, seed: int, *, clients: int = 4, operations: int = 60) -> None:
        self.random = random.Random(seed)
        self.oracle = Oracle()
        self.workload = Workload(self.random, clients=clients, operations=operations)
        self.state = MemoryState()
        self.past: list[MemoryState] = [self.state.clone()]
        self.waiting: list[Asked] = []
        self.due: list[Callable[[], None]] = []
        self.term = Term(1)
        self._tickets = 0

    def run(self) -> None:
        """Until everybody has what it wants."""
        while not self.workload.is_done:
            self.step()
        while self.waiting or self.due:
            self.step()
        self.finish()

    def step(self) -> None:
        """Something happens."""
        self.oracle.now_us += self.random.randrange(50_000)
        actions = (self.ask, self.ask, self.commit, self.answer, self.answer, self.own)
        self.random.choice(actions)()

    def finish(self) -> None:
        """As a run ends."""
        (found,) = read_all(self.state, (EVERYTHING,))
        revision = self.state.progress.revision
        self.oracle.finish(found.range.kvs, revision=revision)
        low, high = self.workload.counter_bounds()
        counter = [pair.value for pair in found.range.kvs if pair.key == b"n"]
        assert low <= int((counter or [b"0"])[0].split()[0]) <= high

    # ---------------------------------------------------------------- what happens

    def ask(self) -> None:
        client = self.random.choice(self.workload.clients)
        operation = client.next_operation()
        if operation is None:
            return
        self._tickets += 1
        asked = Asked(self._tickets, client, operation)
        if isinstance(operation, Read):
            self.oracle.read_asked(asked.ticket, operation.ranges, operation.options)
        else:
            batch = kv_pb2.CommandBatch.FromString(operation.commands)
            validate_batch(batch, Limits(), size=len(operation.commands))
            self.oracle.write_asked(
                asked.ticket, operation.commands, count=operation.count
            )
        self.waiting.append(asked)

    def commit(self) -> None:
        """Some of what waits is written to the log, or read, or lost."""
        taken = [
            self.waiting.pop(self.random.randrange(len(self.waiting)))
            for _ in range(min(len(self.waiting), self.random.choice([1, 2, 4])))
        ]
        writes = []
        for asked in taken:
            if isinstance(asked.operation, Read):
                self.due.append(partial(self.serve, asked, asked.operation))
            elif not asked.is_over and self.random.random() < 0.1:
                self.fail(asked, Unavailable("refused"))
            elif not asked.is_over and self.random.random() < 0.1:
                # Lost on the way there, or only late.
                self.fail(asked, OutcomeUnknown("late"))
                if self.random.random() < 0.5:
                    self.waiting.append(asked)
            else:
                writes.append(asked)
        if writes:
            self.write(writes)

    def write(self, writes: list[Asked]) -> None:
        operations = [it.operation for it in writes if isinstance(it.operation, Write)]
        results = self.append(b"".join([it.commands for it in operations]))
        replies = encode_groups(results, [it.count for it in operations])
        for asked, reply in zip(writes, replies, strict=True):
            if asked.is_over:
                continue
            if self.random.random() < 0.1:
                self.fail(asked, OutcomeUnknown("the reply was lost"))
            else:
                self.due.append(partial(self.respond, asked, reply))

    def append(self, data: bytes) -> list[kv_pb2.Result]:
        """One more entry, committed and applied."""
        entry = Entry(
            self.term,
            LogIndex(self.oracle.committed_index + 1),
            EntryKind.COMMANDS,
            data,
        )
        self.oracle.committed(entry)
        return self.apply(entry)

    def apply(self, entry: Entry) -> list[kv_pb2.Result]:
        results = machine.apply(self.state, entry, want_results=True)
        self.past.append(self.state.clone())
        return results

    def own(self) -> None:
        """What a leader does by itself, now and then."""
        if self.random.random() > 0.1:
            return
        command = kv_pb2.Command(compaction_step=kv_pb2.CompactionStep())
        activity = self.state.sessions.activity()
        if activity and self.random.random() < 0.3:
            it = self.random.choice(list(activity))
            # Void for one that was active since, and in another term.
            late, later = self.random.choice([(0, 0), (0, 0), (1, 0), (0, 1)])
            gone = kv_pb2.SessionActivity(session_id=it, index=activity[it] - late)
            expire = kv_pb2.ExpireSessions(sessions=[gone], term=self.term)
            self.term = Term(self.term + later)
            command = kv_pb2.Command(expire_sessions=expire)
        self.append(kv_pb2.CommandBatch(commands=[command]).SerializeToString())

    def answer(self) -> None:
        """Answers overtake each other."""
        if self.due:
            self.due.pop(self.random.randrange(len(self.due)))()

    def respond(self, asked: Asked, reply: bytes) -> None:
        asked.is_over = True
        self.oracle.write_answered(asked.ticket, reply)
        results = kv_pb2.ResultBatch.FromString(reply).results
        asked.client.answered(asked.operation, results)

    def fail(self, asked: Asked, error: KVStoreError) -> None:
        asked.is_over = True
        if isinstance(asked.operation, Read):
            self.oracle.read_failed(asked.ticket, error)
        else:
            self.oracle.write_failed(asked.ticket, error)
        asked.client.failed(asked.operation, error)

    def serve(self, asked: Asked, read: Read) -> None:
        asked.is_over = True
        state = self.state_for(read)
        results = read_all(state, read.ranges)
        level = read.options.consistency
        if level in STRONG:
            level = self.random.choice([kv_pb2.LINEARIZABLE, kv_pb2.FOLLOWER])
        self.oracle.read_answered(
            asked.ticket,
            results,
            revision=state.progress.revision,
            consistency=level,
        )
        asked.client.answered(read, results)

    def state_for(self, read: Read) -> MemoryState:
        """The newest, or an older one where that is good enough."""
        match read.options.consistency:
            case kv_pb2.STALE:
                return self.random.choice(self.past)
            case kv_pb2.SESSION:
                least = read.options.revision_min
                fit = [it for it in self.past if it.progress.revision >= least]
                return self.random.choice(fit)
            case _:
                return self.state
