"""The machine does what a dumb model of it does, over every state."""

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstore.errors import Compacted, InvalidRequest
from kvstore.pb import kv_pb2
from kvstore.simulation.model import Model
from kvstore.state_machine import compaction, machine, reads, writes
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.reads import read_range, read_range_at_once
from kvstore.state_machine.view import NO_VERSION, StateView
from kvstore.storage.memory_state import MemoryState
from tests.state_machine.model import (
    apply,
    entry,
    error_pb,
    step,
    sweep_all,
    without_messages,
)
from tests.state_machine.strategies import (
    batches,
    ranges,
    relative_command,
    relative_range,
)

small_steps = (
    patch.object(compaction, "COMPACTION_RECORDS_PER_ENTRY", 2),
    patch.multiple(reads, SLICE_RECORDS=2, _SLICE_RECORDS_MIN=1),
    patch.object(writes, "_SLICE_KEYS", 2),
)
"""With few keys, bounded steps end early only if they are very small."""
thorough = settings(
    max_examples=150,
    deadline=None,
    # States are made inside the test; the fixture only knows how.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
steps = st.lists(st.one_of(batches, batches, ranges), min_size=6, max_size=24)


def check_read(state: StateView, model: Model, request: kv_pb2.Range) -> None:
    assert outcome(partial(read_range_at_once, state), request) == outcome(
        model.range, request
    )


def outcome(
    read: Callable[[kv_pb2.Range], kv_pb2.RangeResult], request: kv_pb2.Range
) -> object:
    """What a read returns, or how it fails."""
    try:
        return read(request)
    except InvalidRequest as error:
        return type(error), error.details()


def check_kept(state: StateView, model: Model) -> None:
    """Exactly the records are left that the model says are needed."""
    kept = model.kept()
    versions = list(state.versions(NO_VERSION))
    assert [(at.revision, version.key) for at, version in versions] == kept
    newest = {version.key: at for at, version in versions}
    heads = dict(state.heads(b"", None))
    assert {key: head.at for key, head in heads.items()} == newest
    assert list(heads) == sorted(heads)


@small_steps[0]
@small_steps[1]
@small_steps[2]
@thorough
@given(steps=steps)
def test_machine_equals_the_model(
    make_state: Callable[[], StateView], steps: list[object]
) -> None:
    """Goal: results, reads at every revision and surviving records are the model's."""
    state, model = make_state(), Model()
    for it in steps:
        if isinstance(it, kv_pb2.Range):
            check_read(state, model, relative_range(it, model.revision))
            continue
        assert isinstance(it, list)
        batch = [relative_command(command, model.revision) for command in it]
        results = apply(state, *batch)
        assert without_messages(results) == model.apply(batch)
        assert state.progress.revision == model.revision
        assert state.progress.compact_revision == model.compact_revision
    sweep_all(state)
    check_kept(state, model)
    for revision in range(model.revision + 2):
        everything = kv_pb2.Range(key=b"\0", range_end=b"\0", revision=revision)
        check_read(state, model, everything)


@small_steps[0]
@thorough
@given(log=st.lists(batches, min_size=1, max_size=10))
def test_replicas_are_alike_record_by_record(
    make_state: Callable[[], StateView], log: list[list[kv_pb2.Command]]
) -> None:
    """Goal: who waits for results, and where records are kept, changes no record."""
    leader, follower = make_state(), MemoryState()
    for index, batch in enumerate(log, 1):
        newest = leader.progress.revision
        it = entry(index, [relative_command(command, newest) for command in batch])
        results = machine.apply(leader, it, want_results=True)
        assert len(results) == len(batch)
        assert machine.apply(follower, it, want_results=False) == []
        assert state_hash(leader) == state_hash(follower)


@small_steps[0]
@small_steps[1]
@thorough
@given(
    before=st.lists(batches, max_size=6),
    between=st.lists(batches, max_size=6),
    request=ranges,
)
def test_a_read_in_slices_sees_one_revision(
    make_state: Callable[[], StateView],
    before: list[list[kv_pb2.Command]],
    between: list[list[kv_pb2.Command]],
    request: kv_pb2.Range,
) -> None:
    """Goal: entries applied between the slices of a read do not show in it.

    Unless they compact what it reads: then it fails with ``Compacted``, or it had read
    all that it needed.
    """
    state, model = make_state(), Model()
    for batch in before:
        apply(state, *batch)
        model.apply(batch)
    request = relative_range(request, model.revision)
    try:
        expected = model.range(request)
    except InvalidRequest:
        return
    at = request.revision if request.revision > 0 else model.revision
    reading = read_range(state, request)
    result = None
    while result is None:
        try:
            next(reading)
        except StopIteration as end:
            result = end.value
        except Compacted:
            assert model.compact_revision > at
            return
        batch = between.pop() if between else [step()]
        batch = [relative_command(command, model.revision) for command in batch]
        apply(state, *batch)
        model.apply(batch)
    assert result == expected


def test_an_error_travels_by_name_and_fields() -> None:
    """Goal: what the model compares is what clients get."""
    assert error_pb(Compacted("", compact_revision=3)).details == {
        "compact_revision": "3"
    }
