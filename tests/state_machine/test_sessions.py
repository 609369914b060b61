"""Sessions: applied once, answered alike, the same on every member, and bounded."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstore.errors import Busy, SessionExpired
from kvstore.pb import kv_pb2
from kvstore.simulation.model import Model
from kvstore.state_machine import machine, sessions
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.sessions import (
    COMMAND_NUMBER_MAX,
    REPLY_BYTES_MAX,
    RUN_BYTES,
    SESSION_TIMEOUT_MS,
    SessionTable,
)
from kvstore.state_machine.view import StateView
from kvstore.storage.memory_state import MemoryState
from kvstore.types import LogIndex, Revision
from tests.state_machine.model import (
    ALL,
    apply,
    compact,
    delete,
    entry,
    op,
    put,
    txn,
    without_messages,
)
from tests.state_machine.strategies import commands as any_command
from tests.state_machine.strategies import relative_command

MakeState = Callable[[], StateView]
OPEN = kv_pb2.Command(open_session=kv_pb2.OpenSession())


def of(
    session_id: int, first: int, *commands: kv_pb2.Command, acknowledged: int = 0
) -> list[kv_pb2.Command]:
    """Commands of a session, behind their header."""
    header = kv_pb2.SessionCommands(
        session_id=session_id,
        first_number=first,
        count=len(commands),
        acknowledged=acknowledged,
    )
    return [kv_pb2.Command(session_commands=header), *commands]


def close(session_id: int) -> kv_pb2.Command:
    return kv_pb2.Command(close_session=kv_pb2.CloseSession(session_id=session_id))


def expire(activity: dict[int, LogIndex], term: int = 1) -> kv_pb2.Command:
    return kv_pb2.Command(
        expire_sessions=kv_pb2.ExpireSessions(
            sessions=[
                kv_pb2.SessionActivity(session_id=it, index=index)
                for it, index in activity.items()
            ],
            term=term,
        )
    )


def opened(state: StateView) -> int:
    (result,) = apply(state, OPEN)
    assert result.session.timeout_ms == SESSION_TIMEOUT_MS
    return result.session.session_id


def send(
    state: StateView,
    session_id: int,
    first: int,
    *commands: kv_pb2.Command,
    acknowledged: int = 0,
) -> list[kv_pb2.Result]:
    """Results of a session's commands, without the header's."""
    batch = of(session_id, first, *commands, acknowledged=acknowledged)
    header, *results = apply(state, *batch)
    assert header.session.session_id == session_id
    assert len(results) == len(commands)
    return results


def codes(results: Sequence[kv_pb2.Result]) -> list[str]:
    return [result.error.code for result in results]


def revisions(results: Sequence[kv_pb2.Result]) -> list[int]:
    assert codes(results) == [""] * len(results)
    return [result.put.revision for result in results]


# ------------------------------------------------------------- once, and alike


def test_a_repeated_put_is_applied_once(state: StateView) -> None:
    """Goal: the same revision is answered, whatever happened in between."""
    it = opened(state)
    assert revisions(send(state, it, 1, put(b"a"), put(b"b"))) == [1, 2]
    apply(state, put(b"a", b"other"))
    assert revisions(send(state, it, 1, put(b"a"), put(b"b"))) == [1, 2]
    assert state.progress.revision == 3


def test_numbers_may_come_in_any_order_with_gaps(state: StateView) -> None:
    """Goal: what is below the newest number and was not applied is applied."""
    it = opened(state)
    assert revisions(send(state, it, 10, put(b"a"))) == [1]
    assert revisions(send(state, it, 5, put(b"b"))) == [2]
    assert revisions(send(state, it, 4, *[put(b"c")] * 8)) == [3, 2, 4, 5, 6, 7, 1, 8]
    assert revisions(send(state, it, 4, *[put(b"c")] * 8)) == [3, 2, 4, 5, 6, 7, 1, 8]


def test_the_same_number_in_two_sessions_is_two_commands(state: StateView) -> None:
    one, other = opened(state), opened(state)
    assert one != other
    assert revisions(send(state, one, 1, put(b"a"))) == [1]
    assert revisions(send(state, other, 1, put(b"a"))) == [2]


@pytest.mark.parametrize(
    "command",
    [
        put(b"a", b"new", prev_kv=1),
        put(b"nothing", prev_kv=1),
        delete(b"a", prev_kv=True),
        delete(b"a", ALL),
        compact(1),
        txn([], [op(kv_pb2.Range(key=b"a")), op(put(b"a", b"2", prev_kv=1))]),
        txn([kv_pb2.Compare(key=b"a", version=7)], [op(put(b"a"))]),
    ],
)
def test_any_result_is_given_again(state: StateView, command: kv_pb2.Command) -> None:
    """Goal: pairs and all, after what they were read from changed."""
    it = opened(state)
    apply(state, put(b"a", b"1"))
    first = send(state, it, 1, command)
    apply(state, put(b"a", b"3"), delete(b"b", ALL), compact(2))
    before = state.progress.revision
    assert send(state, it, 1, command) == first
    assert codes(first) == [""]
    assert state.progress.revision == before


def test_an_error_is_a_result_like_any_other(state: StateView) -> None:
    """Goal: a command that was refused is refused again, though it could succeed."""
    it = opened(state)
    results = send(state, it, 1, compact(1), put(b""))
    assert codes(results) == ["FutureRevision", "InvalidRequest"]
    apply(state, put(b"a"))
    assert send(state, it, 1, compact(1), put(b"")) == results
    assert state.progress.compact_revision == 0


# ---------------------------------------------------------------- acknowledging


def test_what_was_acknowledged_is_forgotten_and_refused(state: StateView) -> None:
    """Goal: definite, and not a reply: nothing is carried out or kept for it."""
    it = opened(state)
    send(state, it, 1, *[put(b"a")] * 5)
    session = state.sessions.get(it)
    assert session is not None
    assert revisions(send(state, it, 6, put(b"a"), acknowledged=3)) == [6]
    assert session.acknowledged == 3
    results = send(state, it, 3, put(b"x"), put(b"x"))
    assert codes(results) == ["InvalidRequest", ""]
    assert results[1].put.revision == 4
    assert [run[:3] for run in session.runs] == [(4, 3, 4)]
    assert state.progress.revision == 6


def test_acknowledging_frees_what_replies_took(state: StateView) -> None:
    it = opened(state)
    send(state, it, 1, put(b"a"), delete(b"a"), put(b"a"), put(b"a"), delete(b"a"))
    session = state.sessions.get(it)
    assert session is not None
    assert session.size == state.sessions.size > 4 * RUN_BYTES
    send(state, it, 9, put(b"b"), acknowledged=8)
    assert session.size == state.sessions.size == RUN_BYTES
    # An older header, overtaken, takes nothing back.
    send(state, it, 10, put(b"b"), acknowledged=2)
    assert session.acknowledged == 8


def test_a_number_may_be_acknowledged_without_being_applied(state: StateView) -> None:
    """Goal: a client that gave a command up says so; it cannot be applied later."""
    it = opened(state)
    send(state, it, 8, put(b"a"), acknowledged=7)
    assert codes(send(state, it, 7, put(b"late"))) == ["InvalidRequest"]
    assert state.progress.revision == 1


# ------------------------------------------------------------ the life of sessions


def test_a_session_that_is_not_open_is_answered_expired(state: StateView) -> None:
    """Goal: header and each command, nothing is applied, the others go on."""
    results = apply(state, *of(7, 1, put(b"a"), put(b"b")), put(b"c"))
    assert codes(results) == ["SessionExpired"] * 3 + [""]
    assert results[3].put.revision == 1


def test_ids_are_never_given_twice(state: StateView) -> None:
    """Goal: a late command of a closed session cannot meet a new one of its id."""
    first = opened(state)
    results = apply(state, OPEN, close(first + 1), OPEN, close(first + 2), close(first))
    assert codes(results) == [""] * 5
    assert len(state.sessions) == 0
    assert opened(state) == first + 3


def test_a_closed_session_carries_out_nothing_more(state: StateView) -> None:
    it = opened(state)
    (result,) = apply(state, close(it))
    assert result.session.session_id == it
    assert codes(apply(state, close(it))) == ["SessionExpired"]
    assert codes(apply(state, *of(it, 1, put(b"a")))) == ["SessionExpired"] * 2
    assert state.progress.revision == 0


def test_a_silent_session_expires(state: StateView) -> None:
    it = opened(state)
    (result,) = apply(state, expire(state.sessions.activity()))
    assert not result.HasField("error")
    assert state.sessions.get(it) is None


def test_an_expiry_is_void_for_a_session_that_was_active_since(
    state: StateView,
) -> None:
    """Goal: any command counts, a repeated one too; the others of it expire."""
    silent, active = opened(state), opened(state)
    send(state, active, 1, put(b"a"))
    measured = state.sessions.activity()
    send(state, active, 1, put(b"a"))
    apply(state, expire(measured))
    assert set(state.sessions.activity()) == {active}
    assert silent != active


def test_an_expiry_of_another_term_is_void(state: StateView) -> None:
    """Goal: a leader's measure counts only while it leads."""
    it = opened(state)
    apply(state, expire(state.sessions.activity(), term=2))
    assert state.sessions.get(it) is not None


def test_activity_is_the_entry_that_was_active_last(state: StateView) -> None:
    it = opened(state)
    assert state.sessions.activity() == {it: state.progress.index}
    apply(state, put(b"a"))
    send(state, it, 1, put(b"a"))
    assert state.sessions.activity() == {it: state.progress.index}


# ------------------------------------------------------------------------ bounds


def test_too_many_sessions_are_refused(
    state: StateView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 3)
    first = opened(state)
    results = apply(state, OPEN, OPEN, OPEN)
    assert codes(results) == ["", "", "Busy"]
    assert results[2].error.details["queue"] == "sessions"
    apply(state, close(first))
    assert opened(state) == first + 3


@pytest.mark.parametrize("bound", ["SESSION_BYTES_MAX", "SESSIONS_BYTES_MAX"])
def test_a_command_without_room_for_its_reply_is_not_applied(
    state: StateView, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Goal: definite, and not kept: it is applied once there is room."""
    monkeypatch.setattr(sessions, bound, 3 * RUN_BYTES)
    it = opened(state)
    big = op(put(b"big", b"x"))
    results = send(state, it, 1, *[txn([], [big])] * 4, put(b"a"), put(b"a", prev_kv=1))
    assert codes(results) == ["", "", "", "Busy", "Busy", "Busy"]
    assert state.progress.revision == 3
    again = send(state, it, 1, txn([], [big]), acknowledged=0)
    assert again == results[:1]
    results = send(state, it, 5, put(b"a"), acknowledged=3)
    assert revisions(results) == [4]


def test_puts_in_a_row_take_the_room_of_one(state: StateView) -> None:
    it = opened(state)
    for start in range(0, 1000, 100):
        send(state, it, start + 1, *[put(b"a")] * 100)
    assert state.sessions.size == RUN_BYTES
    assert revisions(send(state, it, 777, put(b"a"))) == [777]


def test_a_large_reply_is_not_kept(state: StateView) -> None:
    """Goal: the first answer is whole, the second says that nobody knows."""
    it = opened(state)
    apply(state, put(b"a", b"x" * REPLY_BYTES_MAX))
    commands = (put(b"a", b"y", prev_kv=1), delete(b"a", prev_kv=True))
    results = send(state, it, 1, *commands)
    assert len(results[0].put.prev_kv.value) == REPLY_BYTES_MAX
    assert results[1].delete_range.prev_kvs[0].value == b"y"
    again = send(state, it, 1, *commands)
    assert codes(again) == ["OutcomeUnknown", ""]
    assert again[1] == results[1]
    assert state.progress.revision == 3


@pytest.mark.parametrize("value_bytes", [10, 1000, 1900, 2100, 4000, 5000])
@pytest.mark.parametrize("response_bytes_max", [1, 2000, 4096, 4500, 6000, 1 << 22])
def test_what_is_kept_does_not_depend_on_who_answers(
    value_bytes: int, response_bytes_max: int
) -> None:
    """Goal: a member's bound on responses, and whether anybody waits, change no state.

    Pairs that would fill an answer to just under, at, and over what is kept.
    """
    leader, follower = MemoryState(), MemoryState()
    everything = op(kv_pb2.Range(key=ALL, range_end=ALL))
    first_two = op(kv_pb2.Range(key=ALL, range_end=ALL, limit=2))
    batch = [
        put(b"a", b"x" * value_bytes),
        put(b"b", b"x" * value_bytes),
        put(b"c", b"x"),
        *of(
            1,
            1,
            txn([], [everything]),
            txn([], [first_two, op(put(b"d"))]),
            txn([], [everything, everything]),
            put(b"a", b"", prev_kv=1),
            delete(b"b", ALL, prev_kv=True),
        ),
    ]
    for index, commands in enumerate([[OPEN], batch, batch[3:]], 1):
        it = entry(index, commands)
        machine.apply(
            leader, it, want_results=True, response_bytes_max=response_bytes_max
        )
        assert machine.apply(follower, it, want_results=False) == []
        assert state_hash(leader) == state_hash(follower)


# ------------------------------------------------- what no client can send, applied


def test_a_header_may_speak_for_more_than_there_is(state: StateView) -> None:
    it = opened(state)
    header = kv_pb2.SessionCommands(session_id=it, first_number=1, count=2**32 - 1)
    results = apply(state, kv_pb2.Command(session_commands=header), put(b"a"))
    assert codes(results) == ["", ""]


def test_a_command_about_sessions_is_no_command_of_a_session(state: StateView) -> None:
    it = opened(state)
    header = of(it, 1, put(b"a"))[0]
    inner = [OPEN, header, close(it), expire(state.sessions.activity())]
    results = send(state, it, 1, *inner, put(b"b"))
    assert codes(results) == ["InvalidRequest"] * 4 + [""]
    assert len(state.sessions) == 1
    assert send(state, it, 1, *inner, put(b"b")) == results


@pytest.mark.parametrize(
    ("first", "acknowledged"),
    [(COMMAND_NUMBER_MAX, 0), (2**64 - 1, 0), (1, 2**64 - 1)],
)
def test_numbers_that_cannot_be_stored_are_refused(
    state: StateView, first: int, acknowledged: int
) -> None:
    it = opened(state)
    batch = of(it, first, put(b"a"), put(b"b"), acknowledged=acknowledged)
    assert codes(apply(state, *batch)) == ["InvalidRequest"] * 3
    assert state.progress.revision == 0


def test_number_zero_was_never_asked_for(state: StateView) -> None:
    it = opened(state)
    assert codes(send(state, it, 0, put(b"a"), put(b"b"))) == ["InvalidRequest", ""]


# ----------------------------------------------------------------- against a model


@dataclass
class SessionModel:
    """Each (session, number) at most once, all replies in a dictionary for ever."""

    store: Model = field(default_factory=Model)
    replies: dict[tuple[int, int], kv_pb2.Result] = field(default_factory=dict)
    acknowledged: dict[int, int] = field(default_factory=dict)

    def send(
        self, it: int, first: int, acknowledged: int, commands: list[kv_pb2.Command]
    ) -> list[kv_pb2.Result]:
        """The results, without the header's."""
        forgotten = max(self.acknowledged[it], acknowledged)
        self.acknowledged[it] = forgotten
        results = []
        for number, command in enumerate(commands, first):
            if number <= forgotten:
                error = kv_pb2.Error(code="InvalidRequest")
                results.append(kv_pb2.Result(error=error))
                continue
            if (it, number) not in self.replies:
                (self.replies[it, number],) = self.store.apply([command])
            results.append(self.replies[it, number])
        return results


@st.composite
def sendings(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    """(session, first number, how many, acknowledged) of few, so that they meet."""
    return draw(
        st.lists(
            st.tuples(
                st.integers(1, 3),
                st.integers(1, 20),
                st.integers(1, 6),
                st.sampled_from([0, 0, 0, 1, 3, 6, 10]),
            ),
            min_size=5,
            max_size=30,
        )
    )


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    sendings=sendings(),
    what=st.lists(any_command, min_size=60, max_size=60),
    others=st.lists(any_command, max_size=30),
)
def test_sessions_equal_the_model(
    make_state: MakeState,
    sendings: list[tuple[int, int, int, int]],
    what: list[kv_pb2.Command],
    others: list[kv_pb2.Command],
) -> None:
    """Goal: duplicates, in any order and mixed with new ones, change nothing.

    Method: three sessions draw ranges of numbers that overlap; a number always stands
    for the same command. A follower that nobody asks for results must stay alike.
    """
    state, follower, model = make_state(), MemoryState(), SessionModel()
    opening = [OPEN] * 3
    apply(state, *opening)
    machine.apply(follower, entry(1, opening), want_results=False)
    model.acknowledged = dict.fromkeys((1, 2, 3), 0)
    given_once: dict[tuple[int, int], kv_pb2.Command] = {}
    for place, (it, first, count, acknowledged) in enumerate(sendings):
        newest = state.progress.revision
        commands = [
            given_once.setdefault(
                (it, n), relative_command(what[(it - 1) * 20 + n % 20], newest)
            )
            for n in range(first, first + count)
        ]
        plain = [relative_command(each, newest) for each in others[place : place + 1]]
        batch = [*plain, *of(it, first, *commands, acknowledged=acknowledged)]
        expected = model.store.apply(plain)
        expected += model.send(it, first, acknowledged, commands)
        next_entry = entry(state.progress.index + 1, batch)
        results = machine.apply(state, next_entry, want_results=True)
        del results[len(plain)]  # the header's
        assert without_messages(results) == expected
        machine.apply(follower, next_entry, want_results=False)
        assert state_hash(follower) == state_hash(state)
    check_whole(state.sessions)


def check_whole(table: SessionTable) -> None:
    """What the table counts up as it goes is what there is."""
    assert table.size == sum(session.size for session in table)
    index_sum = sum(table.activity().values())
    assert table.summary == (table.last_id, len(table), index_sum)
    for session in table:
        assert session.size == sum(run.size for run in session.runs)
        behind = session.acknowledged
        for run in session.runs:
            assert run.first > behind
            behind = run.first + run.length - 1
        assert session.newest >= behind


def test_a_long_life_of_many_sessions_is_whole() -> None:
    """Goal: the sums hold, and clones are alike and independent, in 3000 random steps.

    It ends with what it must have met: expiries, closings, full tables.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    table = SessionTable()
    gone: set[int] = set()
    kinds = set[str]()
    for index in range(1, 3000):
        ids = list(table.activity())
        it = rng.choice([*ids, 0])
        try:
            kinds.add(_random_step(table, rng, it, LogIndex(index)))
        except SessionExpired:
            kinds.add("expired")
            assert it == 0
        except Busy:  # pragma: no cover
            raise AssertionError("the bounds are far away") from None
        gone |= set(ids) - set(table.activity())
        assert not gone & set(table.activity())
        if index % 100 == 0:
            check_whole(table)
            copy = table.clone()
            assert [(s.id, s.runs) for s in copy] == [(s.id, s.runs) for s in table]
            assert copy.summary == table.summary
            assert copy.size == table.size
            copy.open(LogIndex(index))
            assert copy.summary != table.summary
    assert kinds == {"open", "close", "expire", "use", "expired"}


def _random_step(table: SessionTable, rng: random.Random, it: int, at: LogIndex) -> str:
    kind = rng.choice(["open", "use", "use", "use", "use", "use", "close", "expire"])
    match kind:
        case "open":
            table.open(at)
        case "close" if rng.random() < 0.3:
            table.close(it)
        case "expire":
            table.expire(it, LogIndex(at - rng.randrange(5)))
        case _:
            kind = "use"
            first = rng.randrange(1, 200)
            session = table.use(
                it,
                index=at,
                first_number=first,
                count=3,
                acknowledged=rng.choice([0, 0, first - 1]),
            )
            for number in range(first, first + 3):
                if number > session.acknowledged and session.reply(number) is None:
                    if rng.random() < 0.7:
                        revision = Revision(10 * at + number)
                        table.keep_puts(session, number, 1, revision)
                    else:
                        table.keep(session, number, b"r" * rng.randrange(9))
    return kind
