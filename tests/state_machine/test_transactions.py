"""Transactions: compare, then one branch, at one revision, or nothing at all."""

import operator
from collections.abc import Callable

import pytest

from kvstore.pb import kv_pb2
from kvstore.state_machine import machine
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.reads import read_range_at_once
from kvstore.state_machine.view import NO_VERSION, StateView
from tests.state_machine.model import (
    ALL,
    apply,
    compact,
    delete,
    entry,
    op,
    put,
    txn,
)

Compare = kv_pb2.Compare
Range = kv_pb2.Range
TRUE = Compare(key=b"never written", version=0)
FALSE = Compare(key=b"never written", version=1)


def put_op(key: bytes, value: bytes = b"v", **more: int) -> kv_pb2.Operation:
    return op(put(key, value, **more))


def get_op(key: bytes, **more: int) -> kv_pb2.Operation:
    request = Range(key=key)
    for name, value in more.items():
        setattr(request, name, value)
    return op(request)


ALL_OP = op(Range(key=ALL, range_end=ALL))


def run(state: StateView, command: kv_pb2.Command) -> kv_pb2.TxnResult:
    (result,) = apply(state, command)
    assert result.WhichOneof("result") == "txn", result
    return result.txn


def holds(state: StateView, compare: kv_pb2.Compare) -> bool:
    return run(state, txn([compare])).succeeded


def keys(result: kv_pb2.RangeResult) -> list[bytes]:
    return [pair.key for pair in result.kvs]


# ------------------------------------------------------------------ compare

MEANS: dict[kv_pb2.Compare.Result, Callable[[int, int], bool]] = {
    Compare.EQUAL: operator.eq,
    Compare.GREATER: operator.gt,
    Compare.LESS: operator.lt,
    Compare.NOT_EQUAL: operator.ne,
}


@pytest.mark.parametrize("result", list(MEANS))
def test_numbers_are_compared_as_asked(
    state: StateView, result: kv_pb2.Compare.Result
) -> None:
    """Goal: each comparison with each number, below, at and above the actual one.

    The key is created at revision 2 and written for the third time at revision 5.
    """
    apply(state, put(b"x"), put(b"k"), put(b"k"), put(b"x"), put(b"k"))
    for target, actual in (
        ("version", 3),
        ("create_revision", 2),
        ("mod_revision", 5),
    ):
        for wanted in (-1, actual - 1, actual, actual + 1):
            compare = Compare(key=b"k", result=result)
            setattr(compare, target, wanted)
            assert holds(state, compare) == MEANS[result](actual, wanted), compare


@pytest.mark.parametrize("result", list(MEANS))
@pytest.mark.parametrize("missing", ["never written", "deleted", "compacted away"])
def test_a_missing_key_has_zeros_and_no_value(
    state: StateView, result: kv_pb2.Compare.Result, missing: str
) -> None:
    """Goal: as in etcd: every comparison of a missing value is false, NOT_EQUAL too."""
    if missing != "never written":
        apply(state, put(b"k"), put(b"k"), delete(b"k"))
    if missing == "compacted away":
        apply(state, compact(3))
    for wanted in (-1, 0, 1):
        for target in ("version", "create_revision", "mod_revision"):
            compare = Compare(key=b"k", result=result)
            setattr(compare, target, wanted)
            assert holds(state, compare) == MEANS[result](0, wanted), compare
    for value in (b"", b"v"):
        assert not holds(state, Compare(key=b"k", result=result, value=value))


@pytest.mark.parametrize("result", list(MEANS))
def test_values_are_compared_as_bytes(
    state: StateView, result: kv_pb2.Compare.Result
) -> None:
    """Goal: lexicographic and unsigned; a prefix is less; empty is a value."""
    values = [b"", b"\0", b"a", b"a\0", b"b", b"\x7f", b"\x80", b"\xff"]
    for actual in values:
        apply(state, put(b"k", actual))
        for wanted in values:
            compare = Compare(key=b"k", result=result, value=wanted)
            order = values.index(actual), values.index(wanted)
            assert holds(state, compare) == MEANS[result](*order), (actual, wanted)


def test_all_comparisons_must_hold(state: StateView) -> None:
    """Goal: a conjunction; an empty one is true."""
    assert run(state, txn([])).succeeded
    assert run(state, txn([TRUE, TRUE])).succeeded
    for compares in ([FALSE, TRUE], [TRUE, FALSE], [FALSE, FALSE]):
        assert not run(state, txn(compares)).succeeded


def test_create_if_absent_succeeds_once(state: StateView) -> None:
    """Goal: the idiom that everybody uses, also again after a delete."""
    create = txn(
        [Compare(key=b"k", create_revision=0)], [put_op(b"k", b"mine")], [get_op(b"k")]
    )
    assert run(state, create).succeeded
    second = run(state, create)
    assert not second.succeeded
    assert second.results[0].range.kvs[0].value == b"mine"
    apply(state, delete(b"k"))
    assert run(state, create).succeeded


def test_compare_and_swap_by_mod_revision_notices_any_write(state: StateView) -> None:
    """Goal: a write of the same value is a write; ABA is seen."""
    apply(state, put(b"k", b"1"), put(b"k", b"2"), put(b"k", b"1"))
    for revision, succeeds in ((1, False), (2, False), (3, True)):
        swap = txn([Compare(key=b"k", mod_revision=revision)], [put_op(b"k", b"x")])
        assert run(state, swap).succeeded == succeeds


# ------------------------------------------------------------------ effects


def test_all_changes_of_a_transaction_share_one_revision(state: StateView) -> None:
    """Goal: puts, deletes and nested ones; positions tell them apart."""
    apply(state, put(b"a"), put(b"b"), put(b"c"))
    nested = op(txn([], [put_op(b"y"), op(delete(b"c"))]))
    result = run(
        state, txn([], [put_op(b"x"), op(delete(b"a", b"c")), nested, put_op(b"z")])
    )
    assert result.revision == 4
    assert state.progress.revision == 4
    changes = [
        (at.position, version.key)
        for at, version in state.versions(NO_VERSION)
        if at.revision == 4
    ]
    written = [b"x", b"a", b"b", b"y", b"c", b"z"]
    assert changes == list(enumerate(written))


def test_a_transaction_that_changes_nothing_keeps_the_revision(
    state: StateView,
) -> None:
    """Goal: reads, deletes of nothing, empty branches."""
    apply(state, put(b"k"))
    for command in (
        txn(),
        txn([TRUE], [], [put_op(b"x")]),
        txn([FALSE], [put_op(b"x")]),
        txn([], [get_op(b"k"), op(delete(b"x")), op(delete(b"x", ALL))]),
        txn([], [op(txn([FALSE], [put_op(b"x")], [ALL_OP]))]),
    ):
        assert run(state, command).revision == 1
    assert state.progress.revision == 1


def test_operations_see_the_effects_of_those_before_them(state: StateView) -> None:
    """Goal: reads and deletes inside see what was written inside, in order."""
    apply(state, put(b"a", b"old"))
    result = run(
        state,
        txn(
            [],
            [
                ALL_OP,
                put_op(b"b", b"new"),
                ALL_OP,
                op(delete(b"a")),
                ALL_OP,
                op(delete(b"b", b"c", prev_kv=True)),
                ALL_OP,
            ],
        ),
    )
    ranges = [it.range for it in result.results if it.HasField("range")]
    assert [keys(it) for it in ranges] == [[b"a"], [b"a", b"b"], [b"b"], []]
    assert [it.count for it in ranges] == [1, 2, 1, 0]
    # The revision as each sees it: the one being written, once there is a change.
    assert [it.revision for it in ranges] == [1, 2, 2, 2]
    created = ranges[1].kvs[1]
    assert (created.create_revision, created.mod_revision, created.version) == (2, 2, 1)
    assert result.results[5].delete_range.prev_kvs[0] == created


def test_prev_kv_inside_is_what_was_there_just_before(state: StateView) -> None:
    """Goal: the pair from before the transaction, for each key changes once."""
    apply(state, put(b"k", b"1"))
    result = run(
        state, txn([], [put_op(b"k", b"2", prev_kv=1), put_op(b"l", prev_kv=1)])
    )
    assert result.results[0].put.prev_kv.value == b"1"
    assert result.results[0].put.revision == 2
    assert not result.results[1].put.HasField("prev_kv")


def test_a_deleted_key_written_in_a_later_branch_of_the_log_is_new(
    state: StateView,
) -> None:
    """Goal: delete and recreation in two transactions of one entry."""
    apply(state, put(b"k"), put(b"k"))
    apply(state, txn([], [op(delete(b"k"))]), txn([], [put_op(b"k", b"2")]))
    (pair,) = read_range_at_once(state, Range(key=b"k")).kvs
    assert (pair.create_revision, pair.mod_revision, pair.version) == (4, 4, 1)


def test_the_past_can_be_read_inside(state: StateView) -> None:
    """Goal: an old revision shows neither later writes nor those of the transaction."""
    apply(state, put(b"k", b"1"), put(b"k", b"2"))
    result = run(
        state,
        txn([], [put_op(b"k", b"3"), get_op(b"k", revision=1), get_op(b"k")]),
    )
    old, new = result.results[1].range, result.results[2].range
    assert (old.kvs[0].value, old.revision) == (b"1", 3)
    assert new.kvs[0].value == b"3"


# ------------------------------------------------------------------- nested


def test_nested_branches_are_decided_before_anything_is_written(
    state: StateView,
) -> None:
    """Goal: as in etcd, all comparisons are of the state before the transaction."""
    absent = Compare(key=b"k", version=0)
    result = run(
        state,
        txn(
            [absent],
            [
                put_op(b"k"),
                op(txn([absent], [put_op(b"saw nothing")], [put_op(b"saw it")])),
            ],
        ),
    )
    assert result.results[1].txn.succeeded
    assert keys(read_range_at_once(state, Range(key=b"s", range_end=b"t"))) == [
        b"saw nothing"
    ]


def test_each_nested_transaction_takes_its_own_branch(state: StateView) -> None:
    """Goal: side by side and in depth, every combination; untaken ones do not count."""
    for outer in (TRUE, FALSE):
        for left in (TRUE, FALSE):
            for deep in (TRUE, FALSE):
                inner = op(
                    txn(
                        [left],
                        [op(txn([deep], [put_op(b"LT")], [put_op(b"LF")]))],
                        [op(txn([deep], [put_op(b"RT")], [put_op(b"RF")]))],
                    )
                )
                untaken = op(txn([FALSE], [put_op(b"never")], [put_op(b"other")]))
                result = run(
                    state,
                    txn([outer], [inner, untaken], [untaken, inner]),
                )
                assert result.succeeded == (outer is TRUE)
                taken = result.results[0 if outer is TRUE else 1].txn
                other = result.results[1 if outer is TRUE else 0].txn
                assert taken.succeeded == (left is TRUE)
                assert taken.results[0].txn.succeeded == (deep is TRUE)
                assert not other.succeeded
                wanted = (b"L" if left is TRUE else b"R") + (
                    b"T" if deep is TRUE else b"F"
                )
                found = read_range_at_once(state, Range(key=b"A", range_end=b"Z"))
                newest = max(found.kvs, key=lambda pair: pair.mod_revision)
                assert newest.key == wanted
    assert not read_range_at_once(state, Range(key=b"never")).kvs


def test_results_have_the_shape_of_the_branch_taken(state: StateView) -> None:
    """Goal: one result an operation, in order, of its kind; nested ones in place."""
    apply(state, put(b"k"))
    inner = op(txn([FALSE], [], [get_op(b"k"), op(delete(b"k"))]))
    result = run(state, txn([], [put_op(b"a"), inner, get_op(b"k"), put_op(b"b")]))
    kinds = [it.WhichOneof("result") for it in result.results]
    assert kinds == ["put", "txn", "range", "put"]
    nested = result.results[1].txn
    assert [it.WhichOneof("result") for it in nested.results] == [
        "range",
        "delete_range",
    ]
    assert nested.revision == 2
    assert nested.results[1].delete_range.deleted == 1
    assert result.results[2].range.count == 0


# ------------------------------------------------------------ all or nothing

BAD = {
    "FutureRevision": get_op(b"k", revision=99),
    "Compacted": get_op(b"k", revision=1),
    "InvalidRequest": get_op(b""),
}
PLACES: dict[str, Callable[[kv_pb2.Operation], kv_pb2.Command]] = {
    "first": lambda bad: txn([], [bad, put_op(b"x")]),
    "last": lambda bad: txn([], [put_op(b"x"), op(delete(b"k")), bad]),
    "failure": lambda bad: txn([FALSE], [], [put_op(b"x"), bad]),
    "nested": lambda bad: txn([], [put_op(b"x"), op(txn([], [put_op(b"y"), bad]))]),
    "deep": lambda bad: txn([], [put_op(b"x"), op(txn([], [op(txn([], [bad]))]))]),
}


@pytest.mark.parametrize("code", list(BAD))
@pytest.mark.parametrize("place", list(PLACES))
def test_a_transaction_that_fails_changes_nothing(
    make_state: Callable[[], StateView], code: str, place: str
) -> None:
    """Goal: whichever operation is refused, wherever; the state is as without it."""
    before = [put(b"k"), put(b"k"), put(b"k"), compact(3)]
    state = make_state()
    apply(state, *before)
    (result,) = apply(state, PLACES[place](BAD[code]))
    assert result.error.code == code
    hash_after = state_hash(state)
    state = make_state()
    apply(state, *before)
    apply(state)
    assert state_hash(state) == hash_after


def test_an_untaken_branch_cannot_fail(state: StateView) -> None:
    """Goal: what is not carried out is not judged."""
    bad = BAD["FutureRevision"]
    assert run(state, txn([TRUE], [], [bad])).succeeded
    assert not run(state, txn([FALSE], [op(txn([], [bad]))])).succeeded


def test_refusal_does_not_depend_on_which_comparison_fails_first(
    state: StateView,
) -> None:
    """Goal: an impossible key is refused though another comparison is false."""
    results = apply(
        state, txn([FALSE, Compare(version=1)]), txn([Compare(version=1), FALSE])
    )
    assert [it.error.code for it in results] == ["InvalidRequest"] * 2


def test_a_compaction_earlier_in_the_entry_counts(state: StateView) -> None:
    """Goal: what the entry gave up cannot be read by its later transactions."""
    results = apply(
        state,
        put(b"k"),
        put(b"k"),
        txn([], [get_op(b"k", revision=1)]),
        compact(2),
        txn([], [get_op(b"k", revision=1)]),
        txn([], [get_op(b"k", revision=2)]),
    )
    assert results[2].txn.results[0].range.count == 1
    assert results[4].error.code == "Compacted"
    assert dict(results[4].error.details) == {"compact_revision": "2"}
    assert results[5].txn.results[0].range.count == 1


# ------------------------------------------------------------------ answers


def test_the_ranges_of_a_transaction_share_one_answer(state: StateView) -> None:
    """Goal: together they keep to the bound; each returns at least one pair."""
    apply(state, *[put(b"%d" % n, b"x" * 100) for n in range(10)])
    (result,) = machine.apply(
        state,
        entry(2, [txn([], [ALL_OP, ALL_OP, op(delete(b"0", ALL, prev_kv=True))])]),
        want_results=True,
        response_bytes_max=4 * (100 + 1 + 64),
    )
    first, second, deleted = result.txn.results
    assert (len(first.range.kvs), first.range.more, first.range.count) == (4, True, 10)
    assert (len(second.range.kvs), second.range.more) == (1, True)
    assert (len(deleted.delete_range.prev_kvs), deleted.delete_range.deleted) == (1, 10)


def test_a_range_inside_has_every_option(state: StateView) -> None:
    """Goal: the same code as a read by itself."""
    apply(state, *[put(b"%d" % n, b"x") for n in range(5)])
    request = Range(
        key=b"1",
        range_end=ALL,
        limit=2,
        sort_order=Range.DESCEND,
        sort_target=Range.MOD,
        keys_only=True,
    )
    found = run(state, txn([], [op(request)])).results[0].range
    assert found == read_range_at_once(state, request)
    assert keys(found) == [b"4", b"3"]


@pytest.mark.parametrize("want_results", [False, True])
def test_a_read_in_a_transaction_nobody_waits_for_costs_nothing(
    state: StateView, want_results: bool
) -> None:
    """Goal: a follower does not read what it will not send."""
    apply(state, *[put(b"%d" % n) for n in range(5)])
    asked: list[bytes] = []

    class Watched:
        """The state, with an ear on reads."""

        def __getattr__(self, name: str) -> object:
            if name == "heads":
                asked.append(name.encode())
            return getattr(state, name)

    command = txn([], [ALL_OP, ALL_OP])
    watched: StateView = Watched()  # type: ignore[assignment]
    machine.apply(watched, entry(2, [command]), want_results=want_results)
    assert len(asked) == (2 if want_results else 0)
