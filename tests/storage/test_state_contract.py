"""What every state must do: keys in order, whatever their length; history in order."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstore.replica.interfaces import Identity
from kvstore.state_machine.digest import state_hash
from kvstore.state_machine.limits import KEY_BYTES_STORABLE_MAX
from kvstore.state_machine.view import (
    NO_VERSION,
    Head,
    ReadView,
    StateView,
    Version,
    VersionId,
)
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.memory_state import MemoryState
from kvstore.storage.state_format import LONG_KEY_BYTES, LONG_KEY_PREFIX_BYTES, head_key
from kvstore.types import LeaseId, Revision
from tests.state_machine.model import apply, delete, put

P = b"p" * LONG_KEY_PREFIX_BYTES
LENGTHS = (1, 447, 448, 449, 479, 480, 481, 511, 512, 1024, KEY_BYTES_STORABLE_MAX)


def head(number: int) -> Head:
    return Head(VersionId(Revision(number), 0), Revision(number), 1, LeaseId(-number))


class Stage:
    """Fills a state, then shows it in each way in which it can be read."""

    def __init__(self, kind: str, path: Path, identity: Identity) -> None:
        self._kind = kind
        self._stack = ExitStack()
        self.writing: StateView
        if kind == "memory":
            self.writing = MemoryState()
            return
        LMDBState.create(path, identity)
        self._lmdb = LMDBState.open(path, identity)
        self._lmdb.begin()
        self.writing = self._lmdb

    def clear(self) -> None:
        """Back to an empty state; only while nothing was committed."""
        if self._kind == "memory":
            self.writing = MemoryState()
        else:
            self._lmdb.abort()
            self._lmdb.begin()

    def shown(self) -> ReadView:
        """The state as this kind of reader sees it."""
        if self._kind in ("memory", "lmdb, in its transaction"):
            return self.writing
        self.writing.progress = self.writing.progress
        self._lmdb.commit()
        if self._kind == "lmdb, committed":
            return self._lmdb
        return self._stack.enter_context(self._lmdb.read_view())

    def close(self) -> None:
        self._stack.close()
        if self._kind != "memory":
            self._lmdb.close()


KINDS = ["memory", "lmdb, in its transaction", "lmdb, committed", "lmdb, a snapshot"]


@pytest.fixture(params=KINDS)
def stage(
    request: pytest.FixtureRequest, tmp_path: Path, identity: Identity
) -> Iterator[Stage]:
    made = Stage(request.param, tmp_path / "state", identity)
    yield made
    made.close()


@pytest.fixture(params=KINDS[:2])
def rewritable(
    request: pytest.FixtureRequest, tmp_path: Path, identity: Identity
) -> Iterator[Stage]:
    made = Stage(request.param, tmp_path / "state", identity)
    yield made
    made.close()


# --------------------------------------------------------------------- keys


def test_keys_of_every_length_are_told_apart(stage: Stage) -> None:
    """Goal: around the lengths at which storing changes, each byte counts."""
    keys = [b"k" * length for length in LENGTHS]
    for number, key in enumerate(keys, 1):
        stage.writing.put_head(key, head(number))
    view = stage.shown()
    for number, key in enumerate(keys, 1):
        assert view.head(key) == head(number)
    for other in (b"k" * 2, b"k" * 450, b"k" * 482, b"k" * 1023, b"k" * 480 + b"x"):
        assert view.head(other) is None
    assert [key for key, _ in view.heads(b"", None)] == keys


def test_long_keys_are_in_key_order_not_in_that_of_their_digests(stage: Stage) -> None:
    """Goal: 40 keys that share 448 bytes come sorted, between shorter ones."""
    rng = random.Random(3)
    suffixes = [b"%03d" % n + b"x" * rng.randrange(30, 600) for n in range(40)]
    long = [P + suffix for suffix in suffixes]
    stored = [head_key(key) for key in long]
    assert stored != sorted(stored)
    short = [P[:-1], P, P + b"0", P + b"9" * 31, b"o", b"q"]
    keys = [*long, *short]
    rng.shuffle(keys)
    for number, key in enumerate(keys, 1):
        stage.writing.put_head(key, head(number))
    view = stage.shown()
    assert [key for key, _ in view.heads(b"", None)] == sorted(keys)
    back = [key for key, _ in view.heads(b"", None, reverse=True)]
    assert back == sorted(keys, reverse=True)
    for low, high in pairwise(sorted(keys)):
        assert [key for key, _ in view.heads(low, high)] == [low]
        assert [key for key, _ in view.heads(low, high, reverse=True)] == [low]
        between = view.heads(low + b"\0", high)
        assert list(between) == []


def test_stored_keys_fit_into_lmdb_and_never_clash() -> None:
    """Goal: only a long key is stored in LONG_KEY_BYTES; 511 is LMDB's limit."""
    for length in LENGTHS:
        stored = head_key(b"k" * length)
        assert len(stored) <= LONG_KEY_BYTES < 511
        assert (len(stored) == LONG_KEY_BYTES) == (length >= LONG_KEY_BYTES)
    assert len({head_key(P + b"%032d" % n) for n in range(1000)}) == 1000


ends = st.sampled_from(
    [b"a", b"b", P[:-1], P, P + b"\0", P + b"m", P + b"m" * 40, P + b"m" * 700, b"q"]
)
keys_drawn = st.sets(
    st.one_of(
        st.binary(min_size=1, max_size=2),
        st.builds(lambda s: P[: 448 - len(s)] + s, st.binary(min_size=1, max_size=2)),
        st.builds(
            lambda s, n: P + s * n,
            st.binary(min_size=1, max_size=2),
            st.integers(1, 40),
        ),
    ),
    max_size=12,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(keys=keys_drawn, start=st.one_of(st.just(b""), ends), end=st.none() | ends)
def test_a_range_of_heads_is_a_range_of_sorted_keys(
    rewritable: Stage, keys: set[bytes], start: bytes, end: bytes | None
) -> None:
    """Goal: any keys, any bounds, both directions: what a sorted list would give."""
    rewritable.clear()
    view = rewritable.writing
    expected = []
    for number, key in enumerate(sorted(keys), 1):
        view.put_head(key, head(number))
        if start <= key and (end is None or key < end):
            expected.append((key, head(number)))
    assert list(view.heads(start, end)) == expected
    assert list(view.heads(start, end, reverse=True)) == expected[::-1]
    for key in keys | {start or b"x", end or b"x"}:
        assert (view.head(key) is not None) == (key in keys)


def test_a_head_is_replaced_and_deleted(rewritable: Stage) -> None:
    """Goal: one head a key, whatever its length; to delete none is fine."""
    view = rewritable.writing
    for key in (b"k", P + b"k" * 100):
        view.put_head(key, head(1))
        view.put_head(key, head(2))
        assert view.head(key) == head(2)
    assert len(list(view.heads(b"", None))) == 2
    for key in (b"k", P + b"k" * 100, b"never"):
        view.delete_head(key)
        view.delete_head(key)
        assert view.head(key) is None
    assert list(view.heads(b"", None)) == []


# ------------------------------------------------------------------ history


def version(number: int, key: bytes = b"k", value: bytes = b"v") -> Version:
    return Version(
        key,
        value,
        Revision(number),
        number + 1,
        LeaseId(number - 3),
        VersionId(Revision(number * 2), number * 3),
    )


IDS = [
    VersionId(Revision(revision), position)
    for revision in (1, 2, 255, 256, 1 << 32, (1 << 62) + 1)
    for position in (0, 1, 300, 1 << 31)
]


def test_versions_are_in_order_of_history(stage: Stage) -> None:
    """Goal: by revision, then position, as numbers, from any start."""
    for number, at in enumerate(IDS):
        stage.writing.append_version(at, version(number))
    view = stage.shown()
    everything = [(at, version(number)) for number, at in enumerate(IDS)]
    assert list(view.versions(NO_VERSION)) == everything
    for number, at in enumerate(IDS):
        assert view.version(at) == version(number)
        assert list(view.versions(at)) == everything[number:]
        behind = VersionId(at.revision, at.position + 1)
        if behind not in IDS:
            assert view.version(behind) is None
            assert list(view.versions(behind)) == everything[number + 1 :]


@pytest.mark.parametrize("size", [0, 1, 2000, 64 * 1024, 64 * 1024 + 1, 3 << 20])
def test_versions_hold_values_of_every_size(stage: Stage, size: int) -> None:
    """Goal: also past a page, and past 64 KiB, where block checksums begin."""
    value = random.Random(size).randbytes(size)
    written = version(1, b"k" * 1000, value)
    stage.writing.append_version(IDS[0], written)
    view = stage.shown()
    assert view.version(IDS[0]) == written
    assert [it for _, it in view.versions(NO_VERSION)] == [written]


def test_versions_are_deleted_one_by_one(rewritable: Stage) -> None:
    """Goal: from anywhere in history; to delete none is fine."""
    view = rewritable.writing
    for number, at in enumerate(IDS):
        view.append_version(at, version(number))
    left = list(IDS)
    random.Random(1).shuffle(left)
    while left:
        view.delete_version(left.pop())
        assert [at for at, _ in view.versions(NO_VERSION)] == sorted(left)
    view.delete_version(IDS[3])


@pytest.mark.parametrize("at", [IDS[4], IDS[3], NO_VERSION])
def test_history_only_grows_at_its_end(rewritable: Stage, at: VersionId) -> None:
    """Goal: anything else is a defect of ours."""
    rewritable.writing.append_version(IDS[4], version(1))
    with pytest.raises(AssertionError):
        rewritable.writing.append_version(at, version(2))


def test_states_with_the_same_records_have_the_same_hash(
    stage: Stage,
) -> None:
    """Goal: how a state is kept does not show."""
    memory = MemoryState()
    for number in range(30):
        commands = [
            put(b"%d" % (number % 7), b"%d" % number),
            put(P + b"%040d" % number),
        ]
        if number % 5 == 4:
            commands.append(delete(b"3", b"5"))
        apply(memory, *commands)
        apply(stage.writing, *commands)
    assert state_hash(stage.shown()) == state_hash(memory)


def test_a_clone_is_independent() -> None:
    """Goal: tests that branch off a state may trust it."""
    state = MemoryState()
    apply(state, put(b"a"), put(b"b"), delete(b"a"))
    copy = state.clone()
    assert state_hash(copy) == state_hash(state)
    apply(copy, put(b"c"))
    assert state.head(b"c") is None
    assert state.progress.index == 1
