"""Which requests are valid: every limit at its bound, and every rule."""

from collections.abc import Sequence
from itertools import permutations
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.config import RANGES
from kvstore.errors import ConfigError, InvalidRequest, RequestTooLarge
from kvstore.pb import kv_pb2
from kvstore.simulation.model import is_inside
from kvstore.state_machine.commands import (
    range_bounds,
    shown,
    validate_batch,
    validate_command,
    validate_range,
)
from kvstore.state_machine.limits import (
    KEY_BYTES_STORABLE_MAX,
    PAIR_OVERHEAD_BYTES,
    Limits,
)
from kvstore.state_machine.sessions import COMMAND_NUMBER_MAX
from tests.state_machine.model import ALL, compact, delete, op, put, step, txn

LIMITS = Limits(
    key_bytes_max=4,
    value_bytes_max=8,
    txn_operations_max=3,
    txn_depth_max=2,
    request_bytes_max=1100,
    batch_commands_max=5,
)
Compare = kv_pb2.Compare
Range = kv_pb2.Range
NO_COMPARISON = Compare(key=b"k", version=1)
NO_COMPARISON.MergeFromString(b"\x08\x09")  # result 9
EXISTS = Compare(key=b"k", result=Compare.GREATER, version=0)


def batch(*commands: kv_pb2.Command) -> kv_pb2.CommandBatch:
    return kv_pb2.CommandBatch(commands=commands)


def validate(commands: kv_pb2.CommandBatch, limits: Limits) -> None:
    validate_batch(commands, limits, size=commands.ByteSize())


def put_op(key: bytes, value: bytes = b"v") -> kv_pb2.Operation:
    return op(put(key, value))


def range_op(key: bytes, **more: int) -> kv_pb2.Operation:
    request = Range(key=key)
    for name, value in more.items():
        setattr(request, name, value)
    return op(request)


def too_large(
    command: kv_pb2.Command | kv_pb2.CommandBatch, limits: Limits = LIMITS
) -> RequestTooLarge:
    if isinstance(command, kv_pb2.Command):
        command = batch(command)
    with pytest.raises(RequestTooLarge) as caught:
        validate(command, limits)
    assert caught.value.definite
    return caught.value


def refused(command: kv_pb2.Command) -> str:
    with pytest.raises(InvalidRequest) as caught:
        validate(batch(command), LIMITS)
    assert not isinstance(caught.value, RequestTooLarge)
    assert caught.value.command_index == 0
    return str(caught.value)


# ------------------------------------------------------------------- limits

K4, K5, V8, V9 = b"k" * 4, b"k" * 5, b"v" * 8, b"v" * 9


def value_compare(value: bytes) -> kv_pb2.Compare:
    return Compare(key=b"k", value=value)


AT_AND_PAST: list[tuple[str, kv_pb2.Command, kv_pb2.Command]] = [
    ("key_bytes_max", put(K4), put(K5)),
    ("key_bytes_max", delete(K4), delete(K5)),
    ("key_bytes_max", delete(b"a", K5), delete(b"a", K5 + b"k")),
    ("key_bytes_max", delete(K5, ALL), delete(K5 + b"k", ALL)),
    ("key_bytes_max", txn([], [put_op(K4)]), txn([], [put_op(K5)])),
    ("key_bytes_max", txn([], [], [put_op(K4)]), txn([], [], [put_op(K5)])),
    ("key_bytes_max", txn([], [range_op(K4)]), txn([], [range_op(K5)])),
    ("key_bytes_max", txn([], [op(delete(K4))]), txn([], [op(delete(K5))])),
    (
        "key_bytes_max",
        txn([Compare(key=K4, version=1)]),
        txn([Compare(key=K5, version=1)]),
    ),
    ("value_bytes_max", put(b"k", V8), put(b"k", V9)),
    ("value_bytes_max", txn([], [put_op(b"k", V8)]), txn([], [put_op(b"k", V9)])),
    ("value_bytes_max", txn([value_compare(V8)]), txn([value_compare(V9)])),
    ("txn_operations_max", txn([EXISTS] * 3), txn([EXISTS] * 4)),
    (
        "txn_operations_max",
        txn([], [range_op(b"k")] * 3, [range_op(b"k")] * 3),
        txn([], [range_op(b"k")] * 4),
    ),
    (
        "txn_operations_max",
        txn([], [], [range_op(b"k")] * 3),
        txn([], [], [range_op(b"k")] * 4),
    ),
    (  # along a path: one operation outside, the nested transaction's inside
        "txn_operations_max",
        txn([], [op(txn([EXISTS] * 2))]),
        txn([], [op(txn([EXISTS] * 3))]),
    ),
    (
        "txn_depth_max",
        txn([], [op(txn([EXISTS]))]),
        txn([], [op(txn([], [op(txn())]))]),
    ),
]


@pytest.mark.parametrize(("limit", "at", "past"), AT_AND_PAST)
def test_each_limit_holds_at_its_bound_and_not_one_past(
    limit: str, at: kv_pb2.Command, past: kv_pb2.Command
) -> None:
    """Goal: bounds are inclusive, wherever they apply, and name themselves."""
    validate(batch(at), LIMITS)
    error = too_large(past)
    assert error.limit == limit
    assert error.actual == error.maximum + 1
    assert error.maximum in {getattr(LIMITS, limit), LIMITS.key_bytes_max + 1}
    assert error.command_index == 0


def test_the_batch_is_bounded_in_commands_and_bytes() -> None:
    """Goal: the limits of a whole batch blame no command of it."""
    validate(batch(*[put(b"k")] * 5), LIMITS)
    error = too_large(batch(*[put(b"k")] * 6))
    assert (error.limit, error.actual, error.maximum) == ("batch_commands_max", 6, 5)
    assert error.command_index is None

    many = batch(*[put(b"k", b"v" * 100)] * 11)
    for spare in (0, -1):
        limits = Limits(
            key_bytes_max=4,
            value_bytes_max=100,
            request_bytes_max=many.ByteSize() + spare,
        )
        if spare == 0:
            validate(many, limits)
        else:
            error = too_large(many, limits)
            assert error.limit == "request_bytes_max"
            assert error.actual == error.maximum + 1
            assert error.command_index is None


@pytest.mark.parametrize("wrong", range(4))
def test_an_error_names_its_command(wrong: int) -> None:
    """Goal: who coalesced many callers' commands knows whose was refused."""
    commands = [put(b"a"), put(b"b"), put(b"c"), put(b"d")]
    commands[wrong] = put(K5)
    assert too_large(batch(*commands)).command_index == wrong
    commands[wrong] = step()
    with pytest.raises(InvalidRequest) as caught:
        validate(batch(*commands), LIMITS)
    assert caught.value.command_index == wrong


@given(
    st.lists(
        st.builds(
            put,
            st.sampled_from([b"", b"k", K4, K5]),
            st.sampled_from([b"", V8, V9, b"v" * 300]),
            lease=st.sampled_from([0, 0, 0, 7]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_short_cut_for_puts_decides_as_the_long_way(
    commands: list[kv_pb2.Command],
) -> None:
    """Goal: lengths of values are looked at exactly if one might be too long."""

    def first_wrong() -> int | None:
        for index, command in enumerate(commands):
            try:
                validate_command(command, LIMITS)
            except InvalidRequest:
                return index
        return None

    wrong = first_wrong()
    if wrong is None:
        validate(batch(*commands), LIMITS)
        return
    with pytest.raises(InvalidRequest) as caught:
        validate(batch(*commands), LIMITS)
    assert caught.value.command_index == wrong


@pytest.mark.parametrize("name", sorted(Limits.__dataclass_fields__))
def test_a_limit_of_zero_is_refused(name: str) -> None:
    """Goal: no limit means "none"; a node with a useless one does not start."""
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: 0})


def test_limits_that_do_not_go_together_are_refused() -> None:
    """Goal: what one limit allows, another must not make impossible."""
    Limits(key_bytes_max=KEY_BYTES_STORABLE_MAX)
    with pytest.raises(ConfigError, match="key_bytes_max"):
        Limits(key_bytes_max=KEY_BYTES_STORABLE_MAX + 1)
    Limits(key_bytes_max=10, value_bytes_max=20, request_bytes_max=1054)
    with pytest.raises(ConfigError, match="request_bytes_max"):
        Limits(key_bytes_max=10, value_bytes_max=20, request_bytes_max=1053)


def test_the_setting_allows_the_keys_that_the_format_holds() -> None:
    """Goal: ``config`` may not import the state machine, so the two could part."""
    assert RANGES["key_bytes_max"] == (1, KEY_BYTES_STORABLE_MAX)


def test_no_pair_takes_more_than_the_overhead_says() -> None:
    """Goal: a response that the budget allows is not larger than announced."""
    largest = kv_pb2.KeyValue(
        key=b"k" * KEY_BYTES_STORABLE_MAX,
        value=b"v" * (3 << 20),
        create_revision=2**63 - 1,
        mod_revision=2**63 - 1,
        version=2**63 - 1,
        lease=-1,
    )
    content = len(largest.key) + len(largest.value)
    size = kv_pb2.RangeResult(kvs=[largest]).ByteSize()
    assert size <= content + PAIR_OVERHEAD_BYTES


# -------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (put(b""), "key is empty"),
        (delete(b""), "key is empty"),
        (delete(b"", ALL), "key is empty"),
        (txn([Compare(version=1)]), "key is empty"),
        (txn([], [put_op(b"")]), "key is empty"),
        (txn([], [], [op(delete(b""))]), "key is empty"),
        (txn([], [range_op(b"")]), "key is empty"),
        (put(b"k", lease=5), "lease 5 is not found"),
        (txn([], [op(put(b"k", lease=-1))]), "lease -1 is not found"),
        (compact(0), "at least 1"),
        (compact(-1), "at least 1"),
        (step(), "leader's own"),
        (kv_pb2.Command(), "no kind"),
        (txn([], [kv_pb2.Operation()]), "no kind"),
        (txn([], [op(txn([], [], [kv_pb2.Operation()]))]), "no kind"),
        (txn([Compare(key=b"k")]), "nothing to compare"),
        (txn([NO_COMPARISON]), "no such comparison"),
        (txn([], [range_op(b"k", limit=-1)]), "limit is negative"),
        (txn([], [range_op(b"k", sort_order=3)]), "no such sort order"),
        (txn([], [range_op(b"k", sort_target=5)]), "no such sort target"),
        (txn([], [range_op(b"k", count_only=1, without_count=1)]), "exclude each"),
    ],
)
def test_each_rule_is_kept(command: kv_pb2.Command, says: str) -> None:
    """Goal: whatever cannot be carried out is refused before it is replicated."""
    assert says in refused(command)


def test_an_empty_batch_is_refused() -> None:
    """Goal: an entry for nothing is a mistake of a client, not a write."""
    with pytest.raises(InvalidRequest, match="no command") as caught:
        validate(batch(), LIMITS)
    assert caught.value.command_index is None


def test_a_command_of_a_newer_version_is_refused() -> None:
    """Goal: what this node does not understand it does not propose."""
    newer = kv_pb2.Command()
    newer.MergeFromString(b"\x72\x00")  # field 14, which does not exist
    assert "no kind that this node knows" in refused(newer)


def test_a_range_is_checked_like_a_range_in_a_transaction() -> None:
    """Goal: reads by themselves obey the same limits."""
    validate_range(Range(key=K4, range_end=K5, limit=0), LIMITS)
    validate_range(Range(key=ALL, range_end=ALL), LIMITS)
    for wrong in (
        Range(),
        Range(key=K5),
        Range(key=b"k", range_end=K5 + b"k"),
        Range(key=b"k", limit=-1),
        Range(key=b"k", count_only=True, without_count=True),
    ):
        with pytest.raises(InvalidRequest):
            validate_range(wrong, LIMITS)


def test_a_range_of_a_batch_or_transaction_has_no_options_of_its_own() -> None:
    """Goal: an option that would be ignored is refused, even if it says the default."""
    request = Range(key=b"k", options=kv_pb2.ReadOptions())
    with pytest.raises(InvalidRequest, match="options"):
        validate_range(request, LIMITS)
    assert "options" in refused(txn([], [op(request)]))


# ----------------------------------------------------------------- sessions


def header(
    count: int = 1, *, session_id: int = 7, first: int = 5, acknowledged: int = 4
) -> kv_pb2.Command:
    return kv_pb2.Command(
        session_commands=kv_pb2.SessionCommands(
            session_id=session_id,
            first_number=first,
            count=count,
            acknowledged=acknowledged,
        )
    )


OPEN = kv_pb2.Command(open_session=kv_pb2.OpenSession())
CLOSE = kv_pb2.Command(close_session=kv_pb2.CloseSession(session_id=7))


@pytest.mark.parametrize(
    "commands",
    [
        [OPEN, OPEN, CLOSE],
        [header(2), put(b"k"), compact(1)],
        [header(), put(b"k"), header(first=6), delete(b"k"), put(b"k")],
        [put(b"k"), header(), txn(), CLOSE],
        [header(first=COMMAND_NUMBER_MAX), put(b"k")],
    ],
)
def test_sessions_are_opened_used_and_closed(commands: list[kv_pb2.Command]) -> None:
    validate(batch(*commands), LIMITS)


@pytest.mark.parametrize(
    ("wrong", "commands"),
    [
        (0, [header(0), put(b"k")]),
        (0, [header(session_id=0), put(b"k")]),
        (0, [header(session_id=-1), put(b"k")]),
        (0, [header(first=0, acknowledged=0), put(b"k")]),
        (0, [header(acknowledged=5), put(b"k")]),
        (0, [header(2, first=COMMAND_NUMBER_MAX), put(b"k"), put(b"k")]),
        (0, [header()]),
        (1, [put(b"k"), header(2), put(b"k")]),
        (0, [header(2**32 - 1), put(b"k")]),
        (1, [header(2), header(first=6), put(b"k")]),
        (2, [header(2), put(b"k"), OPEN]),
        (1, [header(), CLOSE]),
        (2, [header(), put(b"k"), header()]),
        (0, [kv_pb2.Command(close_session=kv_pb2.CloseSession())]),
        (0, [kv_pb2.Command(expire_sessions=kv_pb2.ExpireSessions())]),
        (1, [header(), put(K5)]),
    ],
)
def test_what_a_session_cannot_say_is_refused(
    wrong: int, commands: list[kv_pb2.Command]
) -> None:
    """Goal: above all, no header reaches into the batch joined behind its own."""
    with pytest.raises(InvalidRequest) as caught:
        validate(batch(*commands), LIMITS)
    assert caught.value.command_index == wrong


def test_range_bounds_are_those_of_etcd() -> None:
    """Goal: one key, everything from a key on, or a half-open interval."""
    assert range_bounds(b"k", b"") == (b"k", b"k\0")
    assert range_bounds(b"k", ALL) == (b"k", None)
    assert range_bounds(b"k", b"m") == (b"k", b"m")


def test_a_long_key_is_cut_in_messages() -> None:
    """Goal: an error fits into gRPC's metadata whatever the key."""
    assert shown(b"short") == "b'short'"
    assert len(shown(b"\xff" * KEY_BYTES_STORABLE_MAX)) < 300


# ------------------------------------------- one change of a key a transaction


def both(a: kv_pb2.Operation, b: kv_pb2.Operation) -> list[kv_pb2.Operation]:
    """Two transactions in one, side by side."""
    return [op(txn([], [a])), op(txn([], [], [b]))]


WIDE = Limits(txn_operations_max=4096)
CHANGED_TWICE = [
    txn([], [put_op(b"k"), put_op(b"k")]),
    txn([], [], [put_op(b"k"), put_op(b"k")]),
    txn([], [put_op(b"k"), op(delete(b"k"))]),
    txn([], [op(delete(b"k")), put_op(b"k")]),
    txn([], [op(delete(b"a", b"z")), put_op(b"k")]),
    txn([], [put_op(b"k"), op(delete(b"k", ALL))]),
    txn([], [op(delete(b"k", ALL)), put_op(b"z")]),
    txn([], [put_op(b"k"), op(txn([], [put_op(b"k")]))]),
    txn([], [put_op(b"k"), op(txn([], [], [put_op(b"k")]))]),
    txn([], [op(txn([], [], [op(delete(b"k"))])), put_op(b"k")]),
    txn([], [put_op(b"k"), op(txn([], [op(txn([], [put_op(b"k")]))]))]),
    txn([], both(put_op(b"k"), put_op(b"k"))),
    txn([], both(put_op(b"k"), op(delete(b"a", b"z")))),
    txn([], both(op(delete(b"a", b"z")), put_op(b"k"))),
    txn([], [op(txn([], [put_op(b"k"), put_op(b"k")]))]),
]
CHANGED_ONCE = [
    txn([], [put_op(b"k")], [put_op(b"k"), put_op(b"l")]),
    txn([], [put_op(b"k"), put_op(b"k\0")]),
    txn([], [op(delete(b"k")), op(delete(b"k"))]),
    txn([], [op(delete(b"a", b"m")), op(delete(b"k", b"z"))]),
    txn([], [op(delete(b"a", b"k")), put_op(b"k")]),
    txn([], [op(delete(b"l", ALL)), put_op(b"k")]),
    txn([], [op(delete(b"z", b"a")), put_op(b"k")]),
    txn([], [put_op(b"k"), range_op(b"k"), range_op(b"k")]),
    # The branches of one transaction are alternatives, nested or not.
    txn([], [op(txn([], [put_op(b"k")], [put_op(b"k")]))]),
    txn([], [op(txn([], [put_op(b"k")], [op(delete(b"a", b"z"))]))]),
    txn([], both(op(delete(b"k")), op(delete(b"k")))),
]


@pytest.mark.parametrize("command", CHANGED_TWICE)
def test_a_transaction_that_changes_a_key_twice_is_refused(
    command: kv_pb2.Command,
) -> None:
    """Goal: one revision holds at most one change of a key, on any path."""
    with pytest.raises(InvalidRequest, match=r"changes key b'\w' twice"):
        validate_command(command, WIDE)


@pytest.mark.parametrize("command", CHANGED_ONCE)
def test_a_transaction_that_changes_each_key_once_is_allowed(
    command: kv_pb2.Command,
) -> None:
    """Goal: the rule refuses nothing that is clear."""
    validate_command(command, WIDE)


UNIVERSE = [b"a", b"b", b"c", b"d"]
keys = st.sampled_from(UNIVERSE)
changes = st.recursive(
    st.one_of(
        st.builds(put_op, keys),
        st.builds(delete, keys, st.sampled_from([b"", ALL, b"b", b"d"])).map(op),
    ),
    lambda inner: st.builds(
        txn, st.just([]), st.lists(inner, max_size=3), st.lists(inner, max_size=2)
    ).map(op),
    max_leaves=6,
)


def touched(operation: kv_pb2.Operation) -> tuple[set[bytes], set[bytes]]:
    """Keys of the universe put, and deleted, on any path."""
    if operation.HasField("put"):
        return {operation.put.key}, set()
    if operation.HasField("delete_range"):
        it = operation.delete_range
        return set(), {key for key in UNIVERSE if is_inside(key, it.key, it.range_end)}
    puts, deletes = set[bytes](), set[bytes]()
    for each in (*operation.txn.success, *operation.txn.failure):
        puts |= touched(each)[0]
        deletes |= touched(each)[1]
    return puts, deletes


def changes_twice(operations: Sequence[kv_pb2.Operation]) -> bool:
    """By comparing each operation with each other one."""
    for one, other in permutations(operations, 2):
        puts, _ = touched(one)
        if puts & set().union(*touched(other)):
            return True
    return any(
        changes_twice(branch)
        for operation in operations
        if operation.HasField("txn")
        for branch in (operation.txn.success, operation.txn.failure)
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(changes, max_size=4), st.lists(changes, max_size=2))
def test_the_rule_equals_a_comparison_of_all_pairs(
    success: list[kv_pb2.Operation], failure: list[kv_pb2.Operation]
) -> None:
    """Goal: the sorted search decides what the definition says."""
    limits = Limits(txn_depth_max=50)
    command = txn([], success, failure)
    if changes_twice(success) or changes_twice(failure):
        with pytest.raises(InvalidRequest, match="twice"):
            validate_command(command, limits)
    else:
        validate_command(command, limits)


def test_a_large_transaction_is_checked_in_little_time() -> None:
    """Goal: a client must not be able to occupy a node with one request.

    Comparing 4,000 deletes with 60,000 puts one by one would take a minute.
    """
    groups = [
        op(txn([], [put_op(b"%d.%d" % (group, n)) for n in range(1000)]))
        for group in range(60)
    ]
    deletes = [op(delete(b"x%d" % n, b"y")) for n in range(1000)]
    command = txn([], [*groups, *[op(txn([], deletes)) for _ in range(4)]])
    began = monotonic()
    validate_command(command, WIDE)
    assert monotonic() - began < 5
