"""Clients ask for what makes trouble, and ask for it as a real client would."""

import random
import zlib
from collections import Counter

import pytest

from kvstore.errors import LeadershipLost, Unavailable
from kvstore.pb import kv_pb2
from kvstore.simulation.wishes import COUNTER, KEYS
from kvstore.simulation.workload import Client, Operation, Read, Workload, Write
from tests import walks
from tests.simulation.single_log import Asked, SingleLog

LOST = LeadershipLost("the reply was lost")
REFUSED = Unavailable("refused")


def client(seed: int = 1, *, depth: int = 3, has_sessions: bool = True) -> Client:
    return Client(
        random.Random(seed),
        "c1",
        operations=500,
        depth=depth,
        has_sessions=has_sessions,
    )


def commands_of(operation: Operation) -> list[kv_pb2.Command]:
    if isinstance(operation, Read):
        return []
    return list(kv_pb2.CommandBatch.FromString(operation.commands).commands)


def header_of(operation: Operation) -> kv_pb2.SessionCommands | None:
    commands = commands_of(operation)
    if commands and commands[0].HasField("session_commands"):
        return commands[0].session_commands
    return None


def next_of(it: Client, *, session: bool) -> Write:
    """Its next write, of a session or to have one; reads are answered meanwhile."""
    while True:
        operation = it.next_operation()
        assert operation is not None
        if isinstance(operation, Write) and (header_of(operation) is not None) == (
            session
        ):
            return operation
        it.failed(operation, REFUSED)


def opened(it: Client, session_id: int = 7) -> None:
    operation = next_of(it, session=False)
    assert commands_of(operation)[0].HasField("open_session")
    session = kv_pb2.SessionResult(session_id=session_id)
    it.answered(operation, [kv_pb2.Result(session=session)])


def answer_to(operation: Write, session_id: int = 7) -> list[kv_pb2.Result]:
    """Some answer to a batch of a session."""
    header, *commands = commands_of(operation)
    assert header.HasField("session_commands")
    session = kv_pb2.SessionResult(session_id=session_id)
    results = [kv_pb2.Result(session=session)]
    for command in commands:
        result = kv_pb2.Result()
        if command.HasField("put"):
            result.put.revision = 1
        elif command.HasField("txn"):
            result.txn.succeeded = True
        else:
            result.compact.revision = 1
        results.append(result)
    return results


def test_a_lost_reply_is_asked_for_again_under_its_number() -> None:
    it = client(depth=1)
    opened(it)
    first = next_of(it, session=True)
    header = header_of(first)
    assert header is not None
    for _ in range(20):
        it.failed(first, LOST)
        again = next_of(it, session=True)
        following = header_of(again)
        assert following is not None
        if following.first_number == header.first_number:
            assert commands_of(again)[1:] == commands_of(first)[1:]
            return
        first, header = again, following
    raise AssertionError("never asked for again")


def test_what_was_answered_is_acknowledged_and_never_asked_for_again() -> None:
    acknowledged = 0
    for seed in range(10):
        it = client(seed, depth=1)
        opened(it)
        answered: set[int] = set()
        while (operation := it.next_operation()) is not None:
            header = header_of(operation)
            if header is None or isinstance(operation, Read):
                it.failed(operation, REFUSED)
                continue
            numbers = range(header.first_number, header.first_number + header.count)
            assert not answered & set(numbers)
            assert header.acknowledged < header.first_number
            assert set(range(1, header.acknowledged + 1)) <= answered
            acknowledged = max(acknowledged, header.acknowledged)
            answered |= set(numbers)
            it.answered(operation, answer_to(operation))
    assert acknowledged > 20


def test_without_a_session_only_what_was_refused_is_sent_again() -> None:
    sent: Counter[bytes] = Counter()
    it = client(depth=1, has_sessions=False)
    chance = random.Random(1)
    doubtful: set[bytes] = set()
    while (operation := it.next_operation()) is not None:
        if isinstance(operation, Read):
            it.failed(operation, REFUSED)
            continue
        assert header_of(operation) is None
        assert operation.commands not in doubtful
        sent[operation.commands] += 1
        if chance.random() < 0.5:
            doubtful.add(operation.commands)
            it.failed(operation, LOST)
        else:
            it.failed(operation, REFUSED)
    assert it.is_done
    assert max(sent.values()) > 1


def test_an_expired_session_is_replaced() -> None:
    it = client(depth=1)
    opened(it)
    operation = next_of(it, session=True)
    expired = kv_pb2.Result(error=kv_pb2.Error(code="SessionExpired"))
    it.answered(operation, [expired] * operation.count)
    opened(it, 8)
    header = header_of(next_of(it, session=True))
    assert header is not None
    assert (header.session_id, header.first_number) == (8, 1)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_client_has_no_more_in_flight_than_it_may(depth: int) -> None:
    it = client(depth=depth)
    opened(it)
    operations = [it.next_operation() for _ in range(depth)]
    assert None not in operations
    assert it.next_operation() is None
    assert not it.is_done


def test_each_kind_of_trouble_is_asked_for() -> None:
    """Goal: a run of usual size has everything in it that the oracle can judge."""
    asked: Counter[str] = Counter()
    numbers: list[int] = []

    class Watched(SingleLog):
        def write(self, writes: list[Asked]) -> None:
            for it in writes:
                commands = commands_of(it.operation)
                asked.update(c.WhichOneof("command") or "" for c in commands)
                header = header_of(it.operation)
                if header is not None and header.session_id == 1:
                    numbers.append(header.first_number)
            super().write(writes)

    reached: Counter[str] = Counter()
    for seed in range(8):
        run = Watched(seed)
        run.run()
        reached += run.oracle.reached
    for kind in ("put", "delete_range", "txn", "compact", "open_session"):
        assert asked[kind] >= 10, asked
    assert asked["close_session"] >= 5
    assert asked["session_commands"] >= 200
    assert numbers != sorted(numbers)
    assert len(numbers) > len(set(numbers))
    for level in ("LINEARIZABLE", "LEASE", "FOLLOWER", "BOUNDED", "SESSION", "STALE"):
        assert reached[f"a {level} read was answered"] >= 20, reached
    for outcome in (
        "a write was answered",
        "a write failed for certain",
        "a write's outcome is unknown",
        "a repeated command was answered",
    ):
        assert reached[outcome] >= 20, reached


def test_clients_share_few_keys() -> None:
    assert len({*KEYS, COUNTER}) <= 12


def trace(seed: int) -> str:
    """Everything that the clients of a run ask for."""
    workload = Workload(random.Random(seed), clients=3, operations=100)
    lines = []
    for turn in range(2_000):
        it = workload.clients[turn % 3]
        operation = it.next_operation()
        lines.append(repr(operation))
        if operation is not None:
            it.failed(operation, LOST if turn % 2 else REFUSED)
    return str(zlib.crc32("\n".join(lines).encode()))


def test_a_seed_asks_for_the_same_under_any_hash_seed() -> None:
    assert walks.traces_under_hash_seeds(__name__, 5) == {trace(5)}
