"""What each command does, in the order of a reader's questions; over every state."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from kvstore.errors import CorruptionError, NewerFormat, RequestTooLarge
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryKind
from kvstore.state_machine import machine, writes
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.limits import (
    BATCH_RESULTS_BYTES_MAX,
    KEY_BYTES_STORABLE_MAX,
    PAIR_OVERHEAD_BYTES,
    RESPONSE_BYTES_MAX,
)
from kvstore.state_machine.reads import read_range_at_once
from kvstore.state_machine.view import NO_VERSION, StateView, Version, VersionId
from kvstore.types import LogIndex, Term
from tests.state_machine.model import (
    ALL,
    apply,
    compact,
    delete,
    entry,
    op,
    put,
    step,
    txn,
)

Range = kv_pb2.Range


def pair(
    key: bytes, value: bytes, create: int, mod: int, version: int
) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(
        key=key,
        value=value,
        create_revision=create,
        mod_revision=mod,
        version=version,
    )


def get(state: StateView, key: bytes, revision: int = 0) -> kv_pb2.KeyValue | None:
    result = read_range_at_once(state, Range(key=key, revision=revision))
    return result.kvs[0] if result.kvs else None


def error_code(result: kv_pb2.Result) -> str:
    assert result.WhichOneof("result") == "error", result
    return result.error.code


# ---------------------------------------------------------------------- put


def test_a_put_creates_a_key_at_its_own_revision(state: StateView) -> None:
    """Goal: revisions start at 1; create and mod revision are that of the write."""
    (result,) = apply(state, put(b"k", b"1"))
    assert result.put == kv_pb2.PutResult(revision=1)
    assert get(state, b"k") == pair(b"k", b"1", 1, 1, 1)


def test_a_put_over_a_key_counts_its_version(state: StateView) -> None:
    """Goal: the create revision stays, the mod revision moves, also past others."""
    apply(state, put(b"k", b"1"), put(b"other"), put(b"k", b"2"))
    assert get(state, b"k") == pair(b"k", b"2", 1, 3, 2)
    apply(state, put(b"k", b""))
    assert get(state, b"k") == pair(b"k", b"", 1, 4, 3)


def test_each_command_of_an_entry_has_its_own_revision(state: StateView) -> None:
    """Goal: joining commands into entries changes no revision."""
    results = apply(state, put(b"a"), put(b"b"), delete(b"a"), put(b"a"))
    revisions = [it.put.revision or it.delete_range.revision for it in results]
    assert revisions == [1, 2, 3, 4]
    assert state.progress.revision == 4


def test_prev_kv_is_the_whole_pair_before(state: StateView) -> None:
    """Goal: also within one entry; absent if there was no pair."""
    results = apply(
        state,
        put(b"k", b"1", prev_kv=1, lease=5),
        put(b"k", b"2", prev_kv=1),
        put(b"k", b"3"),
        delete(b"k"),
        put(b"k", b"4", prev_kv=1),
    )
    assert not results[0].put.HasField("prev_kv")
    before = pair(b"k", b"1", 1, 1, 1)
    before.lease = 5
    assert results[1].put.prev_kv == before
    assert not results[2].put.HasField("prev_kv")
    assert not results[4].put.HasField("prev_kv")


def test_the_lease_is_that_of_the_last_put(state: StateView) -> None:
    """Goal: as in etcd, a put without a lease takes the key off its lease."""
    apply(state, put(b"k", lease=7))
    assert (found := get(state, b"k")) is not None
    assert found.lease == 7
    apply(state, put(b"k"))
    assert (found := get(state, b"k")) is not None
    assert found.lease == 0
    assert (old := get(state, b"k", 1)) is not None
    assert old.lease == 7


@pytest.mark.parametrize("compacted", [False, True])
def test_a_key_written_after_its_deletion_starts_anew(
    state: StateView, compacted: bool
) -> None:
    """Goal: whether or not compaction took the tombstone meanwhile."""
    apply(state, put(b"k", b"1"), put(b"k", b"2"), delete(b"k"))
    if compacted:
        apply(state, compact(3))
        assert list(state.versions(NO_VERSION)) == []
        assert list(state.heads(b"", None)) == []
    (result,) = apply(state, put(b"k", b"3", prev_kv=1))
    assert not result.put.HasField("prev_kv")
    assert get(state, b"k") == pair(b"k", b"3", 4, 4, 1)


@pytest.mark.parametrize("length", [1, 479, 480, 481, 1024, KEY_BYTES_STORABLE_MAX])
def test_a_key_of_any_storable_length_can_be_written(
    state: StateView, length: int
) -> None:
    """Goal: also around the length from which LMDB gets a digest of the key."""
    key = b"k" * length
    apply(state, put(key, b"1"), put(key, b"2"))
    assert get(state, key) == pair(key, b"2", 1, 2, 2)
    apply(state, delete(key))
    assert get(state, key) is None
    assert get(state, key, 1) == pair(key, b"1", 1, 1, 1)


@pytest.mark.parametrize("key", [b"", b"k" * (KEY_BYTES_STORABLE_MAX + 1)])
def test_a_key_that_cannot_be_stored_fails_its_command_alone(
    state: StateView, key: bytes
) -> None:
    """Goal: should one get into the log, every member does the same about it."""
    compare = kv_pb2.Compare(key=key, version=0)
    refused = [put(key), delete(key), txn([compare])]
    results = apply(state, put(b"a"), *refused, put(b"b"))
    codes = {error_code(result) for result in results[1:-1]}
    assert codes == {"RequestTooLarge" if key else "InvalidRequest"}
    if key:
        error = RequestTooLarge("", **results[1].error.details)  # type: ignore[arg-type]
        assert error.limit == "key_bytes_storable_max"
        assert error.actual == error.maximum + 1
    assert results[-1].put.revision == state.progress.revision == 2


def test_a_range_may_start_behind_a_longest_key(state: StateView) -> None:
    """Goal: a reader of pages, and a delete, can go on behind any key there is."""
    longest = b"k" * KEY_BYTES_STORABLE_MAX
    apply(state, put(longest), put(b"l"))
    behind = longest + b"\0"
    found = read_range_at_once(state, Range(key=behind, range_end=ALL))
    assert [it.key for it in found.kvs] == [b"l"]
    (in_txn,) = apply(state, txn([], [op(Range(key=behind, range_end=ALL))]))
    assert [it.key for it in in_txn.txn.results[0].range.kvs] == [b"l"]
    (result,) = apply(state, delete(behind, ALL))
    assert result.delete_range.deleted == 1
    assert get(state, longest) is not None


# ------------------------------------------------------------------- delete


def test_a_delete_of_a_range_is_one_revision(state: StateView) -> None:
    """Goal: the keys go together; end and neighbours stay."""
    apply(state, *[put(key) for key in (b"a", b"b", b"b\0", b"c", b"d")])
    (result,) = apply(state, delete(b"b", b"d"))
    assert result.delete_range == kv_pb2.DeleteRangeResult(revision=6, deleted=3)
    left = read_range_at_once(state, Range(key=ALL, range_end=ALL))
    assert [it.key for it in left.kvs] == [b"a", b"d"]
    before = read_range_at_once(state, Range(key=ALL, range_end=ALL, revision=5))
    assert before.count == 5


def test_a_delete_of_nothing_keeps_the_revision(state: StateView) -> None:
    """Goal: neither a missing key, nor an empty range, nor a second time."""
    apply(state, put(b"k"), delete(b"k"))
    deletes = [delete(b"k"), delete(b"x"), delete(b"l", ALL), delete(b"z", b"a")]
    for result in apply(state, *deletes):
        assert result.delete_range == kv_pb2.DeleteRangeResult(revision=2, deleted=0)
    assert state.progress.revision == 2
    assert len(list(state.versions(NO_VERSION))) == 2


def test_a_delete_without_an_end_takes_one_key(state: StateView) -> None:
    """Goal: not its children, and not its prefix."""
    apply(state, put(b"k"), put(b"k\0"), put(b"ka"))
    (result,) = apply(state, delete(b"k"))
    assert result.delete_range.deleted == 1


def test_deleted_pairs_are_returned_if_asked_for(state: StateView) -> None:
    """Goal: in key order, with everything that they were; none unasked."""
    apply(state, put(b"b", b"2"), put(b"a", b"1"), put(b"a", b"3"))
    (result,) = apply(state, delete(b"a", b"z", prev_kv=True))
    assert list(result.delete_range.prev_kvs) == [
        pair(b"a", b"3", 2, 3, 2),
        pair(b"b", b"2", 1, 1, 1),
    ]
    apply(state, put(b"a"))
    (result,) = apply(state, delete(b"a"))
    assert list(result.delete_range.prev_kvs) == []


@pytest.mark.parametrize("slice_keys", [1, 2, 1000])
def test_a_delete_in_slices_takes_every_key_once(
    state: StateView, monkeypatch: pytest.MonkeyPatch, slice_keys: int
) -> None:
    """Goal: tombstones written by one slice are not met by the next."""
    monkeypatch.setattr(writes, "_SLICE_KEYS", slice_keys)
    apply(state, *[put(b"%02d" % number) for number in range(7)])
    apply(state, delete(b"03"))
    (result,) = apply(state, delete(b"01", ALL))
    assert result.delete_range.deleted == 5
    at_revision = [at for at, _ in state.versions(NO_VERSION) if at.revision == 9]
    assert [at.position for at in at_revision] == [0, 1, 2, 3, 4]


def test_returned_pairs_stop_where_the_answer_is_full(state: StateView) -> None:
    """Goal: the delete is whole all the same, and its count is right."""
    apply(state, *[put(b"%d" % number, b"x" * 100) for number in range(10)])
    result = machine.apply(
        state,
        entry(2, [delete(b"0", ALL, prev_kv=True)]),
        want_results=True,
        response_bytes_max=3 * (100 + 1 + 64),
    )[0].delete_range
    assert result.deleted == 10
    assert [it.key for it in result.prev_kvs] == [b"0", b"1", b"2"]
    assert list(read_range_at_once(state, Range(key=ALL, range_end=ALL)).kvs) == []


# ------------------------------------------------------------------ entries


def test_results_of_one_entry_are_bounded_together(state: StateView) -> None:
    """Goal: previous pairs cannot fill the memory. Past the bound a command is applied,
    but its outcome must be read; later results that fit are still given."""
    size = 1 << 20
    apply(state, put(b"k", b"v" * size))
    fits = BATCH_RESULTS_BYTES_MAX // (size + 1024)
    again = put(b"k", b"v" * size, prev_kv=1)
    results = apply(state, *[again] * (fits + 3), put(b"small"))
    kinds = [result.WhichOneof("result") for result in results]
    assert kinds == ["put"] * fits + ["error"] * 3 + ["put"]
    assert {error_code(it) for it in results[fits : fits + 3]} == {"OutcomeUnknown"}
    assert state.progress.revision == fits + 5
    found = get(state, b"k")
    assert found is not None
    assert found.version == fits + 4


class Counting:
    """A view that counts how many values are read."""

    def __init__(self, state: StateView) -> None:
        self._state = state
        self.values_read = 0

    def version(self, at: VersionId) -> Version | None:
        self.values_read += 1
        return self._state.version(at)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)


def test_a_transaction_reads_no_more_than_its_answer_may_hold(
    state: StateView,
) -> None:
    """Goal: a few bytes of request must not make an answer of gigabytes. What changes
    the state is carried out all the same."""
    size = 1 << 20
    apply(state, put(b"k", b"v" * size))
    fits = BATCH_RESULTS_BYTES_MAX // size + RESPONSE_BYTES_MAX // size
    counting = Counting(state)
    reads = [op(Range(key=b"k"))] * 100
    nested = [op(txn([], reads)), op(txn([], reads)), op(put(b"changed"))]
    batch = [txn([], nested), txn([], [op(Range(key=b"changed"))])]
    results = machine.apply(
        cast("StateView", counting), entry(2, batch), want_results=True
    )
    assert error_code(results[0]) == "OutcomeUnknown"
    assert counting.values_read <= fits + 2
    assert results[1].txn.results[0].range.kvs[0].create_revision == 2
    assert counting.progress.revision == 2


def test_previous_pairs_count_in_a_transaction(state: StateView) -> None:
    """Goal: they take room in the answer like pairs that are read."""
    size = 1000
    names = [b"%d" % number for number in range(6)]
    apply(state, *[put(name, b"v" * size) for name in names])
    puts = [op(put(name, b"w", prev_kv=1)) for name in names[:3]]
    read = op(delete(b"3", ALL, prev_kv=True))
    results = machine.apply(
        state,
        entry(2, [txn([], [*puts, read])]),
        want_results=True,
        response_bytes_max=5 * (size + 1 + PAIR_OVERHEAD_BYTES) - 1,
    )[0].txn.results
    assert [it.put.prev_kv.value for it in results[:3]] == [b"v" * size] * 3
    assert len(results[3].delete_range.prev_kvs) == 1
    assert results[3].delete_range.deleted == 3


def test_a_command_that_fails_does_not_affect_the_others(state: StateView) -> None:
    """Goal: a batch is no transaction: results come one by one, in order."""
    results = apply(state, put(b"a"), compact(9), put(b"b"))
    assert [it.WhichOneof("result") for it in results] == ["put", "error", "put"]
    assert results[1].error.code == "FutureRevision"
    assert results[2].put.revision == 2


def test_entries_that_are_no_commands_only_move_the_progress(
    state: StateView,
) -> None:
    """Goal: a leader's empty entry is applied like any other, and changes no key."""
    apply(state, put(b"k"))
    nothing = Entry(Term(4), LogIndex(2), EntryKind.NOOP, b"")
    assert machine.apply(state, nothing, want_results=True) == []
    progress = state.progress
    assert (progress.index, progress.term, progress.revision) == (2, 4, 1)


def test_concatenated_batches_are_one_batch(state: StateView) -> None:
    """Goal: what clients encoded is joined as bytes, never encoded again."""
    one = kv_pb2.CommandBatch(commands=[put(b"a")]).SerializeToString()
    two = kv_pb2.CommandBatch(commands=[put(b"b"), put(b"c")]).SerializeToString()
    joined = Entry(Term(1), LogIndex(1), EntryKind.COMMANDS, one + two)
    results = machine.apply(state, joined, want_results=True)
    assert [it.put.revision for it in results] == [1, 2, 3]


def test_an_entry_out_of_turn_is_our_own_bug(state: StateView) -> None:
    """Goal: neither skipped, nor applied twice, nor of an older term."""
    apply(state, put(b"k"))
    for index, term in ((1, 1), (3, 1), (2, 0)):
        wrong = entry(index, [put(b"k")], term)
        with pytest.raises(AssertionError):
            machine.apply(state, wrong, want_results=False)
    assert state.progress.index == 1


def test_an_entry_that_is_no_batch_is_damage(state: StateView) -> None:
    """Goal: the log's checksum should have caught it; nothing is guessed."""
    broken = Entry(Term(1), LogIndex(1), EntryKind.COMMANDS, b"\xff\xff")
    with pytest.raises(CorruptionError, match="log entry 1 of term 1") as caught:
        machine.apply(state, broken, want_results=False)
    assert caught.value.store == "raft"


NEWER_COMMAND = kv_pb2.Command()
NEWER_COMMAND.MergeFromString(b"\x72\x00")  # field 14
NEWER_OPERATION = kv_pb2.Operation()
NEWER_OPERATION.MergeFromString(b"\x72\x00")
NEWER_TARGET = kv_pb2.Compare(key=b"k")
NEWER_TARGET.MergeFromString(b"\x72\x00")
NEWER_COMPARISON = kv_pb2.Compare(key=b"k", version=0)
NEWER_COMPARISON.MergeFromString(b"\x08\x09")  # result 9


@pytest.mark.parametrize(
    "command",
    [
        NEWER_COMMAND,
        txn([], [NEWER_OPERATION]),
        txn([NEWER_TARGET]),
        txn([NEWER_COMPARISON]),
    ],
)
@pytest.mark.parametrize("want_results", [False, True])
def test_what_only_a_newer_version_understands_stops_the_node(
    state: StateView, command: kv_pb2.Command, want_results: bool
) -> None:
    """Goal: to skip it would make this member's state differ from the others'."""
    with pytest.raises(NewerFormat, match="kvstore"):
        machine.apply(state, entry(1, [command]), want_results=want_results)
    assert state.progress.index == 0


@pytest.mark.parametrize(
    "command",
    [kv_pb2.Command(), txn([], [kv_pb2.Operation()]), txn([kv_pb2.Compare(key=b"k")])],
)
def test_what_says_nothing_is_refused_by_every_version(
    state: StateView, command: kv_pb2.Command
) -> None:
    """Goal: an empty alternative is an error of its command alone."""
    results = apply(state, command, put(b"k"))
    assert error_code(results[0]) == "InvalidRequest"
    assert results[1].put.revision == 1


EVERYTHING = [
    put(b"a", b"1"),
    put(b"b", prev_kv=1),
    put(b"b", prev_kv=1),
    delete(b"a", prev_kv=True),
    put(b""),
    compact(2),
    compact(1),
    step(),
    txn([], [kv_pb2.Operation(range=Range(key=ALL, range_end=ALL))]),
]


def test_the_state_does_not_depend_on_who_wants_results(
    make_state: Callable[[], StateView],
) -> None:
    """Goal: leader and follower hold the same records, however small the answers."""
    hashes = set[bytes]()
    for want_results in (True, False):
        for response_bytes_max in (1, 1 << 20):
            state = make_state()
            machine.apply(
                state,
                entry(1, EVERYTHING),
                want_results=want_results,
                response_bytes_max=response_bytes_max,
            )
            hashes.add(state_hash(state))
    assert len(hashes) == 1


def test_the_hash_tells_any_two_states_apart(
    make_state: Callable[[], StateView],
) -> None:
    """Goal: value, lease, key, history and progress all count."""
    logs = [
        [],
        [put(b"k", b"1")],
        [put(b"k", b"2")],
        [put(b"l", b"1")],
        [put(b"k", b"1", lease=1)],
        [put(b"k", b"1"), put(b"k", b"1")],
        [put(b"k", b"1"), put(b"k", b"1"), compact(2)],
        [put(b"k1")],
        [put(b"k1"), delete(b"k1")],
    ]
    hashes = set[bytes]()
    for log in logs:
        state = make_state()
        apply(state, *log)
        hashes.add(state_hash(state))
    state = make_state()
    apply(state)
    apply(state)
    hashes.add(state_hash(state))
    assert len(hashes) == len(logs) + 1


def test_results_are_encoded_for_each_group() -> None:
    results = [kv_pb2.Result(put=kv_pb2.PutResult(revision=n)) for n in range(1, 4)]
    one, two = machine.encode_groups(results, (1, 2))
    assert len(kv_pb2.ResultBatch.FromString(one).results) == 1
    assert [r.put.revision for r in kv_pb2.ResultBatch.FromString(two).results] == [
        2,
        3,
    ]
    with pytest.raises(AssertionError):
        machine.encode_groups(results, (1, 1))
