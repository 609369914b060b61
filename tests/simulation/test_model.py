"""The twin of the state machine that simulations judge by agrees with the real one.

Ranges, transactions, compaction and the records that stay are compared in
``tests/state_machine/test_model.py``, sessions and whole logs here.
"""

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstore.pb import kv_pb2
from kvstore.simulation import model as twin
from kvstore.simulation.model import Model, is_same
from kvstore.state_machine import machine, sessions
from kvstore.state_machine.limits import PAIR_OVERHEAD_BYTES
from kvstore.storage.memory_state import MemoryState
from kvstore.types import LogIndex, Term
from tests.state_machine.model import ALL, delete, entry, op, put, step, txn
from tests.state_machine.strategies import commands as any_command
from tests.state_machine.strategies import relative_command

OPEN = kv_pb2.Command(open_session=kv_pb2.OpenSession())
ACTIONS = ("plain", "own", "own", "own", "own", "open", "close", "expire")


class Pair:
    """A machine and the model, fed alike."""

    def __init__(self) -> None:
        self.state, self.model = MemoryState(), Model()
        self.seen: Counter[str] = Counter()

    def apply(self, *commands: kv_pb2.Command, term: int = 1) -> list[kv_pb2.Result]:
        """Results of both, which are one."""
        it = entry(self.state.progress.index + 1, commands, term)
        results = machine.apply(self.state, it, want_results=True)
        expected = self.model.apply(commands, index=it.index, term=it.term)
        assert len(results) == len(expected)
        for result, wanted in zip(results, expected, strict=True):
            assert is_same(result, wanted), (result, wanted)
            self.seen[result.error.code] += 1
        progress = self.state.progress
        assert progress.revision == self.model.revision
        assert progress.compact_revision == self.model.compact_revision
        return results


def header(
    session_id: int, first: int, count: int, acknowledged: int = 0
) -> kv_pb2.Command:
    return kv_pb2.Command(
        session_commands=kv_pb2.SessionCommands(
            session_id=session_id,
            first_number=first,
            count=count,
            acknowledged=acknowledged,
        )
    )


def close(session_id: int) -> kv_pb2.Command:
    return kv_pb2.Command(close_session=kv_pb2.CloseSession(session_id=session_id))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    what=st.lists(any_command, min_size=60, max_size=60),
)
def test_sessions_of_the_model_are_those_of_the_machine(
    seed: int, what: list[kv_pb2.Command]
) -> None:
    """Goal: results are the same whatever is opened, repeated, closed or expired.

    Method: entries of plain commands and of up to three sessions, with overlapping
    numbers, in any order; a number stands for one command always.
    """
    walk(Pair(), random.Random(seed), what)


def walk(pair: Pair, chance: random.Random, what: list[kv_pb2.Command]) -> Pair:
    numbered: dict[tuple[int, int], kv_pb2.Command] = {}
    for _ in range(40):
        batch: list[kv_pb2.Command] = []
        term = max(1, pair.state.progress.term)
        for _ in range(chance.choice([1, 1, 2, 3])):
            newest = pair.state.progress.revision
            ids = [*pair.state.sessions.activity(), 99]
            it = chance.choice(ids)
            match chance.choice(ACTIONS):
                case "plain":
                    batch.append(relative_command(chance.choice(what), newest))
                case "own":
                    first, count = chance.randrange(1, 20), chance.choice([1, 1, 3])
                    batch.append(header(it, first, count, chance.choice([0, 0, 0, 5])))
                    for n in range(first, first + count):
                        command = relative_command(chance.choice(what), newest)
                        batch.append(numbered.setdefault((it, n), command))
                case "open" if len(ids) < 4:
                    batch.append(OPEN)
                case "close" if chance.random() < 0.2:
                    batch.append(close(it))
                case "expire" if chance.random() < 0.5:
                    batch.append(expiry(pair, chance, term))
                    term += chance.choice([0, 0, 1])
                case _:
                    batch.append(step())
        pair.apply(*batch, term=term)
    return pair


def expiry(pair: Pair, chance: random.Random, term: int) -> kv_pb2.Command:
    activity = pair.state.sessions.activity().items()
    gone = [
        kv_pb2.SessionActivity(session_id=it, index=index - chance.choice([0, 0, 1]))
        for it, index in activity
    ]
    command = kv_pb2.ExpireSessions(sessions=gone, term=term)
    return kv_pb2.Command(expire_sessions=command)


def test_the_walks_reach_what_they_are_for() -> None:
    """Goal: the test above compares answers of each kind, not refusals alone."""
    seen: Counter[str] = Counter()
    plain = [put(b"a"), put(b"b", prev_kv=1), delete(b"a"), put(b""), OPEN]
    plain += [txn([], [op(put(b"c")), op(kv_pb2.Range(key=ALL, range_end=ALL))])]
    for seed in range(20):
        pair = walk(Pair(), random.Random(seed), plain)
        seen += pair.seen
        seen["repeated"] += pair.model.repeated
    for outcome in ("", "InvalidRequest", "SessionExpired", "repeated"):
        assert seen[outcome] >= 50, seen


@pytest.mark.parametrize("value_bytes", [0, 20, 1000, 1985, 1986, 4000, 4090, 5000])
def test_a_reply_is_too_large_for_both_or_for_none(value_bytes: int) -> None:
    """Goal: the twin forgets the replies that the machine forgets."""
    pair = Pair()
    everything = op(kv_pb2.Range(key=ALL, range_end=ALL))
    commands = [
        put(b"a", prev_kv=1),
        txn([], [op(put(b"c", prev_kv=1)), everything]),
        txn([], [op(txn([], [everything])), everything]),
        delete(b"a", ALL, prev_kv=True),
    ]
    pair.apply(OPEN, *[put(bytes([key]), b"x" * value_bytes) for key in b"ab"])
    for number, command in enumerate(commands, 1):
        for _ in range(2):
            pair.apply(header(1, number, 1), command)
    assert pair.model.repeated == len(commands)


def test_many_small_pairs_count_for_more_than_they_take() -> None:
    pair = Pair()
    pair.apply(OPEN, *[put(b"%d" % number, b"") for number in range(70)])
    every = 4096 // (PAIR_OVERHEAD_BYTES + 2)
    for number, limit in enumerate(range(every - 2, every + 3), 1):
        everything = op(kv_pb2.Range(key=ALL, range_end=ALL, limit=limit))
        for _ in range(2):
            pair.apply(header(1, number, 1), txn([], [everything]))
    assert pair.seen["OutcomeUnknown"] > 0
    assert pair.model.repeated > pair.seen["OutcomeUnknown"]


def test_an_expiry_counts_in_its_own_term_and_for_the_silent_alone() -> None:
    pair = Pair()
    pair.apply(OPEN, OPEN)
    pair.apply(header(2, 1, 1), put(b"a"))
    gone = [kv_pb2.SessionActivity(session_id=it, index=1) for it in (1, 2)]
    expire = kv_pb2.ExpireSessions(sessions=gone, term=1)
    for term in (2, 1):
        pair.state, pair.model = MemoryState(), Model()
        pair.apply(OPEN, OPEN)
        pair.apply(header(2, 1, 1), put(b"a"))
        pair.apply(kv_pb2.Command(expire_sessions=expire), term=term)
        results = pair.apply(header(1, 1, 0), header(2, 2, 0), term=term)
        codes = [result.error.code for result in results]
        assert codes == ["SessionExpired" if term == 1 else "", ""]


def test_constants_are_those_of_the_machine() -> None:
    """Goal: the twin has its own, so that a change there is a decision here, too."""
    assert twin.REPLY_BYTES_MAX == sessions.REPLY_BYTES_MAX
    assert twin.SESSION_TIMEOUT_MS == sessions.SESSION_TIMEOUT_MS
    assert twin._PAIR_BYTES == PAIR_OVERHEAD_BYTES
    assert twin._NUMBER_MAX == sessions.COMMAND_NUMBER_MAX


def test_an_answer_in_other_words_is_the_same() -> None:
    first = kv_pb2.Result(error=kv_pb2.Error(code="Busy", message="one"))
    second = kv_pb2.Result(error=kv_pb2.Error(code="Busy", message="two"))
    other = kv_pb2.Result(error=kv_pb2.Error(code="Busy", details={"maximum": "1"}))
    assert is_same(first, second)
    assert not is_same(first, other)
    assert not is_same(first, kv_pb2.Result())
    assert not is_same(kv_pb2.Result(), first)
    assert Model().apply([], index=LogIndex(1), term=Term(1)) == []
