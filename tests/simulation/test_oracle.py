"""The oracle believes what is true, and nothing else.

Honest systems: one log, and clusters of replicas with every fault that the walks of
``tests/replica`` know. Liars: the same, with one lie each, which must be noticed.
"""

from collections import Counter
from contextlib import AbstractContextManager

import pytest

from kvstore.errors import Busy, KVStoreError, OutcomeUnknown, Unavailable
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryKind
from kvstore.raft.observed import InvariantViolation
from kvstore.replica.effects import Apply, Effect
from kvstore.replica.effects import Read as ReadEffect
from kvstore.replica.options import ReplicaOptions
from kvstore.simulation.oracle import Oracle
from kvstore.simulation.wishes import COUNTER
from kvstore.simulation.workload import Client, Operation, Read, Workload, Write
from kvstore.state_machine import machine
from kvstore.storage.memory_state import MemoryState
from kvstore.types import LogIndex, NodeId, Term, Ticket
from tests import walks
from tests.replica.harness import Answer, Cluster, Shell, until
from tests.replica.test_random_walk import EVENTS, Walk
from tests.simulation.single_log import EVERYTHING, SingleLog, read_all
from tests.state_machine.model import compact, put

UNKNOWN = OutcomeUnknown("the reply was lost")


# ------------------------------------------------------------------ honest systems


@pytest.mark.parametrize("seed", walks.seeds("ORACLE_SEEDS", "0:40"))
def test_one_log_is_believed(seed: int) -> None:
    SingleLog(seed).run()


class JudgedCluster(Cluster):
    """Replicas whose clients have an oracle."""

    def __init__(self, size: int, *, options: ReplicaOptions, seed: int) -> None:
        self.oracle = Oracle()
        self.operations: dict[int, tuple[Client, Operation]] = {}
        """By ticket, as long as somebody waits."""
        super().__init__(size, options=options, seed=seed)

    def ask(self, node_id: NodeId, client: Client, patience_ticks: int) -> None:
        """A client turns to a node with what it wants next, if anything."""
        operation = client.next_operation()
        if operation is None:
            return
        self._last_ticket += 1
        ticket, replica = Ticket(self._last_ticket), self.replica(node_id)
        self.operations[ticket] = client, operation
        try:
            if isinstance(operation, Read):
                self.oracle.read_asked(ticket, operation.ranges, operation.options)
                replica.read(ticket, operation.options, patience_ticks=patience_ticks)
            else:
                writes, count = operation.commands, operation.count
                self.oracle.write_asked(ticket, writes, count=count)
                replica.submit(
                    ticket, writes, count=count, patience_ticks=patience_ticks
                )
        except Busy as error:
            self._failed(ticket, error)
        else:
            self._accepted(ticket, node_id)
            self.poll(node_id)

    def pass_time(self, ms: int) -> None:
        super().pass_time(ms)
        self.oracle.now_us = self.now_ms * 1_000

    def crash(
        self, node_id: int, *, notice: bool = False, written: bool = False
    ) -> None:
        owed = [ticket for ticket, node in self.asked.items() if node == node_id]
        super().crash(node_id, notice=notice, written=written)
        for ticket in owed:
            self._failed(ticket, UNKNOWN)

    def _carry_out(self, shell: Shell, effects: list[Effect]) -> None:
        for effect in effects:
            for entry in effect.entries if isinstance(effect, Apply) else ():
                if entry.index == self.oracle.committed_index + 1:
                    self.oracle.committed(entry)
        super()._carry_out(shell, effects)

    def _serve(self, shell: Shell, work: ReadEffect) -> None:
        assert shell.state.progress.index >= work.index
        for ticket in work.tickets:
            _, operation = self.operations[ticket]
            assert isinstance(operation, Read)
            results = read_all(shell.state, operation.ranges)
            revision = shell.state.progress.revision
            self.oracle.read_answered(
                ticket,
                results,
                revision=revision,
                consistency=work.consistency,
                fresh_us=None if work.fresh_ms is None else work.fresh_ms * 1_000,
            )
            self._answer(shell, ticket, Answer(results=results, revision=revision))

    def _answer(self, shell: Shell, ticket: Ticket, answer: Answer) -> None:
        super()._answer(shell, ticket, answer)
        if answer.error is not None:
            self._failed(ticket, answer.error)
            return
        client, operation = self.operations.pop(ticket)
        results = answer.results or []
        if isinstance(operation, Write):
            reply = kv_pb2.ResultBatch(results=results).SerializeToString()
            self.oracle.write_answered(ticket, reply)
        client.answered(operation, results)

    def _failed(self, ticket: int, error: KVStoreError) -> None:
        client, operation = self.operations.pop(ticket)
        if isinstance(operation, Read):
            self.oracle.read_failed(ticket, error)
        else:
            self.oracle.write_failed(ticket, error)
        client.failed(operation, error)


class JudgedWalk(Walk):
    """The faults of the walk, and clients that contend."""

    cluster: JudgedCluster

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.weights |= {"write": 10, "read": 5}
        size = len(self.cluster.ids)
        self.cluster = JudgedCluster(size, options=self.options, seed=seed)
        self.workload = Workload(self.random, clients=4, operations=150)

    def write(self) -> None:
        client = self.random.choice(self.workload.clients)
        if (node_id := self.running()) is not None:
            self.cluster.ask(node_id, client, self.patience_ticks)

    def read(self) -> None:
        self.write()

    def compact(self) -> None:
        self.write()

    def tick(self) -> None:
        self.cluster.pass_time(self.random.choice([0, 3, 20]))
        super().tick()

    def check(self) -> None:
        """All goes on until everybody has what it wants; then all is the same."""
        while not self.workload.is_done:
            self.write()
            until(self.is_quiet, self.cluster.tick_all)
        for node_id in self.cluster.ids:
            state = self.cluster.shells[node_id].state
            (found,) = read_all(state, (EVERYTHING,))
            revision = state.progress.revision
            self.cluster.oracle.finish(found.range.kvs, revision=revision)
        low, high = self.workload.counter_bounds()
        counter = [pair.value for pair in found.range.kvs if pair.key == COUNTER]
        assert low <= int((counter or [b"0"])[0].split()[0]) <= high
        self.reached += self.cluster.oracle.reached
        self.reached["commands repeated"] += self.cluster.oracle.model.repeated


def judged_walk(seed: int) -> JudgedWalk:
    walk = JudgedWalk(seed)
    walk.run(EVENTS)
    walk.recover()
    walk.check()
    return walk


@pytest.mark.parametrize("seed", walks.seeds("ORACLE_WALK_SEEDS", "0:8"))
def test_replicas_are_believed(seed: int) -> None:
    judged_walk(seed)


def test_the_walks_reach_what_the_oracle_judges() -> None:
    """Goal: the test above is not clean because nothing happened."""
    reached: Counter[str] = Counter()
    for seed in range(8):
        reached += judged_walk(seed).reached
    for what in (
        "a write was answered",
        "a write failed for certain",
        "a write's outcome is unknown",
        "a repeated command was answered",
        "a read failed",
        "a LINEARIZABLE read was answered",
        "a FOLLOWER read was answered",
        "a BOUNDED read was answered",
        "a SESSION read was answered",
        "a STALE read was answered",
        "commands repeated",
        "crash",
    ):
        assert reached[what] >= 5, reached


# ---------------------------------------------------------------- one lie at a time


class Bench:
    """An oracle, a machine that applies what is committed, and short names."""

    def __init__(self, *, clock_rate_min: float = 1.0) -> None:
        self.oracle = Oracle(clock_rate_min=clock_rate_min)
        self.state = MemoryState()
        self._last_ticket = 0

    def ask(self, *commands: kv_pb2.Command) -> tuple[int, bytes]:
        self._last_ticket += 1
        batch = kv_pb2.CommandBatch(commands=commands).SerializeToString()
        self.oracle.write_asked(self._last_ticket, batch, count=len(commands))
        return self._last_ticket, batch

    def commit(self, data: bytes, kind: EntryKind = EntryKind.COMMANDS) -> bytes:
        """One more entry; returns its encoded results."""
        index = LogIndex(self.state.progress.index + 1)
        entry = Entry(Term(1), index, kind, data)
        self.oracle.committed(entry)
        results = machine.apply(self.state, entry, want_results=True)
        return kv_pb2.ResultBatch(results=results).SerializeToString()

    def write(self, *commands: kv_pb2.Command, answer: bool = True) -> int:
        """Ask, commit and answer; the revision that it led to."""
        ticket, batch = self.ask(*commands)
        reply = self.commit(batch)
        if answer:
            self.oracle.write_answered(ticket, reply)
        return self.state.progress.revision

    def read(
        self,
        level: kv_pb2.Consistency = kv_pb2.LINEARIZABLE,
        *,
        request: kv_pb2.Range = EVERYTHING,
        **options: int,
    ) -> int:
        """A read begins; its ticket."""
        self._last_ticket += 1
        asked = kv_pb2.ReadOptions(consistency=level, **options)
        self.oracle.read_asked(self._last_ticket, (request,), asked)
        return self._last_ticket

    def serve(
        self,
        ticket: int,
        state: MemoryState | None = None,
        level: kv_pb2.Consistency = kv_pb2.LINEARIZABLE,
        *,
        request: kv_pb2.Range = EVERYTHING,
        fresh_us: int | None = None,
    ) -> None:
        state = state or self.state
        self.oracle.read_answered(
            ticket,
            read_all(state, (request,)),
            revision=state.progress.revision,
            consistency=level,
            fresh_us=fresh_us,
        )


def violation(name: str, says: str = "") -> AbstractContextManager[object]:
    return pytest.raises(InvariantViolation, match=rf"{says}.*\({name}\)")


def test_a_read_sees_what_was_acknowledged_before_it_began() -> None:
    bench = Bench()
    bench.write(put(b"a"))
    before = bench.state.clone()
    early = bench.read()
    bench.write(put(b"b"))
    bench.serve(early, before)
    with violation("LIN", "misses what was acknowledged"):
        bench.serve(bench.read(), before)


def test_a_read_sees_what_another_read_saw() -> None:
    """Goal: also if the write itself was never answered."""
    bench = Bench()
    bench.write(put(b"a"))
    before = bench.state.clone()
    bench.write(put(b"b"), answer=False)
    bench.serve(bench.read(), before)
    bench.serve(bench.read(kv_pb2.STALE), level=kv_pb2.STALE)
    with violation("LIN", "misses what was acknowledged"):
        bench.serve(bench.read(), before)


@pytest.mark.parametrize("level", [kv_pb2.LEASE, kv_pb2.FOLLOWER])
def test_each_strong_level_is_linearizable(level: kv_pb2.Consistency) -> None:
    bench = Bench()
    before = bench.state.clone()
    bench.write(put(b"a"))
    with violation("LIN", "misses what was acknowledged"):
        bench.serve(bench.read(level), before, level)


def test_a_weak_read_that_says_that_it_is_strong_is_held_to_it() -> None:
    bench = Bench()
    before = bench.state.clone()
    bench.write(put(b"a"))
    bench.serve(bench.read(kv_pb2.STALE), before, kv_pb2.STALE)
    with violation("LIN", "misses what was acknowledged"):
        bench.serve(bench.read(kv_pb2.STALE), before, kv_pb2.FOLLOWER)


WEAKER = [
    (kv_pb2.LINEARIZABLE, kv_pb2.LEASE),
    (kv_pb2.FOLLOWER, kv_pb2.LEASE),
    (kv_pb2.LINEARIZABLE, kv_pb2.STALE),
    (kv_pb2.LEASE, kv_pb2.BOUNDED),
    (kv_pb2.BOUNDED, kv_pb2.STALE),
    (kv_pb2.SESSION, kv_pb2.STALE),
]


@pytest.mark.parametrize(("asked", "stated"), WEAKER)
def test_a_read_is_confirmed_as_it_was_asked(
    asked: kv_pb2.Consistency, stated: kv_pb2.Consistency
) -> None:
    bench = Bench()
    bench.serve(bench.read(asked), level=kv_pb2.FOLLOWER)
    with violation("LIN", "confirmed by less"):
        bench.serve(bench.read(asked), level=stated)


def test_a_session_read_sees_what_its_client_saw() -> None:
    bench = Bench()
    before = bench.state.clone()
    seen = bench.write(put(b"a"))
    bench.serve(bench.read(kv_pb2.SESSION, revision_min=0), before, kv_pb2.SESSION)
    with violation("LIN", "misses what its client has seen"):
        bench.serve(
            bench.read(kv_pb2.SESSION, revision_min=seen), before, kv_pb2.SESSION
        )


@pytest.mark.parametrize(("rate", "late_us"), [(1.0, 12_000), (0.5, 23_000)])
def test_a_bounded_read_misses_the_last_moments_alone(
    rate: float, late_us: int
) -> None:
    """Goal: as far as the slowest clock can tell, and a millisecond of rounding."""
    bench = Bench(clock_rate_min=rate)
    before = bench.state.clone()
    bench.write(put(b"a"))
    bench.oracle.now_us = late_us - 1_500
    level = kv_pb2.BOUNDED
    bench.serve(bench.read(level, staleness_ms_max=10), before, level)
    bench.oracle.now_us = late_us
    with violation("LIN", "misses what was acknowledged"):
        bench.serve(bench.read(level, staleness_ms_max=10), before, level)


def test_a_read_has_all_that_it_says_to_have() -> None:
    bench = Bench()
    before = bench.state.clone()
    bench.oracle.now_us = 5_000
    bench.write(put(b"a"))
    level = kv_pb2.STALE
    bench.serve(bench.read(level), before, level, fresh_us=5_000)
    with violation("LIN", "misses what was acknowledged"):
        bench.serve(bench.read(level), before, level, fresh_us=5_001)


def test_a_read_sees_no_state_within_an_entry() -> None:
    bench = Bench()
    ticket, batch = bench.ask(put(b"a"), put(b"b"))
    half = bench.state.clone()
    bench.oracle.write_answered(ticket, bench.commit(batch))
    data = kv_pb2.CommandBatch(commands=[put(b"a")]).SerializeToString()
    entry = Entry(Term(1), LogIndex(1), EntryKind.COMMANDS, data)
    machine.apply(half, entry, want_results=False)
    with violation("LIN", "never was"):
        bench.serve(bench.read(kv_pb2.STALE), half, kv_pb2.STALE)


def test_history_is_read_as_it_was_until_it_is_compacted() -> None:
    """Goal: a compaction has no revision; a state is known by what history is left."""
    bench = Bench()
    bench.write(put(b"a", b"1"))
    bench.write(put(b"a", b"2"))
    before = bench.state.clone()
    past = kv_pb2.Range(key=b"a", revision=1)
    early = bench.read(request=past)
    bench.write(compact(2))
    bench.serve(bench.read(request=past), request=past)
    bench.serve(early, before, request=past)
    with violation("LIN", "does not show what was there"):
        bench.serve(bench.read(request=past), before, request=past)


def test_a_range_may_fail_without_saying_anything() -> None:
    bench = Bench()
    bench.write(put(b"a"))
    for code, is_fine in (("CorruptionError", True), ("Compacted", False)):
        refusal = kv_pb2.Result(error=kv_pb2.Error(code=code))
        ticket = bench.read()
        if is_fine:
            bench.oracle.read_answered(
                ticket, [refusal], revision=1, consistency=kv_pb2.LINEARIZABLE
            )
            continue
        with violation("LIN", "does not show"):
            bench.oracle.read_answered(
                ticket, [refusal], revision=1, consistency=kv_pb2.LINEARIZABLE
            )


def test_an_answer_before_the_commit_is_a_lie() -> None:
    bench = Bench()
    ticket, _ = bench.ask(put(b"a"))
    results = [kv_pb2.Result(put=kv_pb2.PutResult(revision=1))]
    reply = kv_pb2.ResultBatch(results=results).SerializeToString()
    with violation("DUR"):
        bench.oracle.write_answered(ticket, reply)


def test_what_is_said_to_have_failed_must_not_be_there_before_or_after() -> None:
    refused = Unavailable("refused")
    bench = Bench()
    ticket, batch = bench.ask(put(b"a"))
    bench.oracle.write_failed(ticket, refused)
    with violation("UNK"):
        bench.commit(batch)
    bench = Bench()
    ticket, batch = bench.ask(put(b"a"))
    bench.commit(batch)
    with violation("UNK"):
        bench.oracle.write_failed(ticket, refused)


def test_what_was_refused_may_be_sent_again() -> None:
    """Goal: the same bytes, once refused, once carried out."""
    bench = Bench()
    ticket, _ = bench.ask(put(b"a"))
    bench.oracle.write_failed(ticket, Unavailable("refused"))
    bench.write(put(b"a"))
    with violation("UNK"):
        bench.commit(bench.ask(put(b"a"))[1] * 2)


def test_an_unknown_outcome_may_be_either_but_not_twice() -> None:
    bench = Bench()
    lost, _ = bench.ask(put(b"a"))
    bench.oracle.write_failed(lost, UNKNOWN)
    ticket, batch = bench.ask(put(b"b"))
    bench.oracle.write_failed(ticket, UNKNOWN)
    bench.commit(batch)
    with violation("LIN", "more often than it was sent"):
        bench.commit(batch)


def test_one_command_of_a_session_has_one_answer() -> None:
    bench = Bench()
    bench.write(kv_pb2.Command(open_session=kv_pb2.OpenSession()))
    header = kv_pb2.SessionCommands(session_id=1, first_number=1, count=1)
    batch = kv_pb2.Command(session_commands=header), put(b"a")
    bench.write(*batch)
    bench.write(*batch)
    ticket, data = bench.ask(*batch)
    reply = kv_pb2.ResultBatch.FromString(bench.commit(data))
    reply.results[1].put.revision += 1
    with violation("SES"):
        bench.oracle.write_answered(ticket, reply.SerializeToString())


def test_each_of_those_who_opened_a_session_has_its_own() -> None:
    """Goal: batches of the same bytes are told apart by what they came to."""
    bench = Bench()
    one, data = bench.ask(kv_pb2.Command(open_session=kv_pb2.OpenSession()))
    two, _ = bench.ask(kv_pb2.Command(open_session=kv_pb2.OpenSession()))
    replies = [bench.commit(data), bench.commit(data)]
    bench.oracle.write_answered(one, replies[1])
    with violation("LIN"):
        bench.oracle.write_answered(two, replies[1])


def test_one_place_in_the_log_answers_one_sending() -> None:
    bench = Bench()
    one, data = bench.ask(put(b"a"))
    two, _ = bench.ask(put(b"a"))
    reply = bench.commit(data)
    bench.oracle.write_answered(one, reply)
    with violation("DUR"):
        bench.oracle.write_answered(two, reply)


def test_an_old_place_does_not_answer_a_new_request() -> None:
    """Goal: a write that begins after another's end comes after it."""
    bench = Bench()
    _, data = bench.ask(put(b"a"))
    reply = bench.commit(data)
    late, _ = bench.ask(put(b"a"))
    with violation("DUR"):
        bench.oracle.write_answered(late, reply)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_command_has_one_result(count: int) -> None:
    bench = Bench()
    ticket, data = bench.ask(put(b"a"), put(b"b"))
    results = kv_pb2.ResultBatch.FromString(bench.commit(data)).results
    reply = kv_pb2.ResultBatch(results=(list(results) * 2)[:count])
    with violation("LIN", "not what the command came to"):
        bench.oracle.write_answered(ticket, reply.SerializeToString())


def test_nobody_is_answered_twice() -> None:
    bench = Bench()
    ticket, data = bench.ask(put(b"a"))
    reply = bench.commit(data)
    bench.oracle.write_answered(ticket, reply)
    with violation("LIN", "twice"):
        bench.oracle.write_answered(ticket, reply)
    with violation("LIN", "twice"):
        bench.oracle.write_failed(ticket, UNKNOWN)
    ticket = bench.read()
    bench.serve(ticket)
    with violation("LIN", "twice"):
        bench.serve(ticket)
    with violation("LIN", "twice"):
        bench.oracle.read_failed(ticket, Unavailable("late"))


OWN = [
    (kv_pb2.Command(compaction_step=kv_pb2.CompactionStep()),),
    (kv_pb2.Command(expire_sessions=kv_pb2.ExpireSessions()),),
    (kv_pb2.Command(compact=kv_pb2.Compact(revision=1)),),
]
NOT_OWN = [
    (put(b"a"),),
    (kv_pb2.Command(open_session=kv_pb2.OpenSession()),),
    (*OWN[0], *OWN[1]),
]


@pytest.mark.parametrize("commands", OWN)
def test_a_leader_may_do_its_chores(commands: tuple[kv_pb2.Command, ...]) -> None:
    bench = Bench()
    bench.write(put(b"a"))
    bench.commit(kv_pb2.CommandBatch(commands=commands).SerializeToString())
    bench.commit(b"", EntryKind.NOOP)
    assert bench.oracle.committed_index == 3


@pytest.mark.parametrize("commands", NOT_OWN)
def test_what_nobody_asked_for_is_not_committed(
    commands: tuple[kv_pb2.Command, ...],
) -> None:
    bench = Bench()
    _, data = bench.ask(put(b"b"))
    with violation("LIN", "nobody asked for"):
        bench.commit(kv_pb2.CommandBatch(commands=commands).SerializeToString())
    bench = Bench()
    _, data = bench.ask(put(b"b"))
    own = kv_pb2.CommandBatch(commands=OWN[0]).SerializeToString()
    with violation("LIN", "nobody asked for"):
        bench.commit(data + own)


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\xff", b"\x0a\x05ab", b"\x12\x00"])
def test_what_is_no_batch_is_not_committed(data: bytes) -> None:
    bench = Bench()
    _, batch = bench.ask(put(b"b"))
    for damaged in (data, batch[:-1], batch + data):
        oracle = Oracle()
        oracle.write_asked(1, batch, count=1)
        entry = Entry(Term(1), LogIndex(1), EntryKind.COMMANDS, damaged)
        with violation("LIN", "nobody asked for"):
            oracle.committed(entry)


def test_long_batches_are_found_in_their_entry() -> None:
    """Goal: lengths of one, two and three bytes."""
    bench = Bench()
    data = b""
    for size in (1, 126, 127, 128, 20_000, 1):
        _, batch = bench.ask(put(b"a" * 7, b"%d" % len(data) + b"x" * size))
        data += batch
    bench.commit(data)
    assert bench.oracle.model.revision == 6


@pytest.mark.parametrize("order", [1, -1])
def test_a_batch_that_begins_with_another_cannot_be_judged(order: int) -> None:
    oracle = Oracle()
    batches = [
        kv_pb2.CommandBatch(commands=[put(b"a")] * count).SerializeToString()
        for count in (1, 2)
    ]
    counts = [1, 2][::order]
    first, second = batches[::order]
    oracle.write_asked(1, first, count=counts[0])
    with pytest.raises(AssertionError):
        oracle.write_asked(2, second, count=counts[1])


def test_each_member_holds_in_the_end_what_the_log_came_to() -> None:
    bench = Bench()
    bench.write(put(b"a"))
    bench.write(put(b"b"))
    pairs = list(read_all(bench.state, (EVERYTHING,))[0].range.kvs)
    bench.oracle.finish(pairs, revision=2)
    bench.oracle.finish(pairs[::-1], revision=2)
    with violation("DUR"):
        bench.oracle.finish(pairs[:1], revision=2)
    with violation("DUR"):
        bench.oracle.finish(pairs, revision=1)
