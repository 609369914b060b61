"""A state store with some of everything in it, to be damaged."""

from pathlib import Path

import pytest

from kvstore.errors import CorruptionError
from kvstore.pb import kv_pb2
from kvstore.replica.interfaces import Identity
from kvstore.simulation.model import Model
from kvstore.state_machine.reads import read_range_at_once
from kvstore.state_machine.view import ReadView, StateView, VersionId
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.state_format import PROGRESS_KEY, head_key, version_key
from kvstore.types import Revision
from tests.state_machine.model import (
    ALL,
    apply,
    compact,
    delete,
    put,
    sweep_all,
)
from tests.storage import damage
from tests.storage.damage import OnDisk, Place

LONG = b"L" * 448
COMMANDS = [
    put(b"a", b"a1"),  # 1, swept
    put(b"b", b"b1"),  # 2, swept
    put(b"a", b"a2"),  # 3, stays though it is below the compacted revision
    delete(b"b"),  # 4, swept
    put(b"c", b"c1"),  # 5
    compact(5),
    put(b"b", b"b2"),  # 6
    put(b"a", b"a3"),  # 7
    put(b"d", b"d1"),  # 8
    delete(b"d"),  # 9, a tombstone
    put(LONG + b"x" * 100, b"x1"),  # 10
    put(LONG + b"y" * 100, b"y1"),  # 11
    put(b"a", b"a4" * 400),  # 12
    put(b"e", b"e1", lease=3),  # 13
    put(b"c", b"c2"),  # 14
]
KEYS = [b"a", b"b", b"c", b"d", b"e", LONG + b"x" * 100, LONG + b"y" * 100]
MISSING = [b"\0", b"aa", b"bb", b"cc", b"f", LONG, LONG + b"xx", b"z"]

_Range = kv_pb2.Range
_BY_KEY = [_Range(key=key) for key in (*KEYS, *MISSING)]
_PAST = [_Range(key=key, revision=n) for key in KEYS for n in (5, 6, 8, 11)]
_WIDE = [
    _Range(key=ALL, range_end=ALL, revision=revision, sort_order=order)
    for revision in (0, 5, 6, 7, 9, 12)
    for order in (_Range.ASCEND, _Range.DESCEND)
]
_NARROW = [
    _Range(key=start, range_end=end, sort_order=order)
    for start, end in ((b"b", b"d"), (b"aa", b"f"), (LONG + b"x", LONG + b"z"))
    for order in (_Range.ASCEND, _Range.DESCEND)
]
REQUESTS = [*_BY_KEY, *_PAST, *_WIDE, *_NARROW]
"""What clients may ask: together they touch every record but the progress."""


def version_at(revision: int) -> Place:
    return Place("kv", version_key(VersionId(Revision(revision), 0)))


def head_of(key: bytes) -> Place:
    return Place("heads", head_key(key))


PROGRESS = Place("meta", PROGRESS_KEY)
RECORDS = {
    "newest version": version_at(14),
    "large version": version_at(12),
    "version of the past": version_at(7),
    "version that survived compaction": version_at(3),
    "version of a long key": version_at(10),
    "head": head_of(b"c"),
    "first head": head_of(b"a"),
    "head of a tombstone": head_of(b"d"),
    "head of a long key": head_of(KEYS[-1]),
    "progress": PROGRESS,
}
"""Each kind of record, in each role."""


def fill(state: StateView) -> Model:
    """Apply everything; returns what the store then has to answer."""
    model = Model()
    for command in COMMANDS:
        apply(state, command)
        model.apply([command])
    sweep_all(state)
    return model


def create(path: Path, identity: Identity) -> Model:
    """A closed store in ``path``."""
    LMDBState.create(path, identity)
    state = LMDBState.open(path, identity)
    state.begin()
    model = fill(state)
    state.commit()
    state.close()
    return model


def expected_answers(model: Model) -> list[kv_pb2.RangeResult]:
    return [model.range(request) for request in REQUESTS]


def errors_of(
    view: ReadView, expected: list[kv_pb2.RangeResult]
) -> list[CorruptionError]:
    """Ask everything: each answer is right, or is one of the errors returned."""
    errors = []
    for request, answer in zip(REQUESTS, expected, strict=True):
        try:
            found = read_range_at_once(view, request)
        except CorruptionError as error:
            errors.append(error)
        else:
            assert found == answer, f"a wrong answer to {request}"
    return errors


def end_reading(state: LMDBState) -> None:
    """Let go of the reading transaction that the state keeps for its own thread."""
    state.begin()
    state.abort()


def stored(state: LMDBState, place: Place) -> bytes:
    """The record, as committed."""
    end_reading(state)
    return damage.get(state.environment, place)


def change(state: LMDBState, place: Place, record: bytes | None) -> None:
    """Write behind the state's back, as a lost or stray write would; None deletes."""
    end_reading(state)
    damage.change(state.environment, place, record)


def content_of(state: LMDBState, place: Place) -> bytes:
    """What a node of the tree holds: the key and, behind it, the record."""
    return place.key + stored(state, place)


def on_disk(state: LMDBState, place: Place) -> OnDisk:
    """The record in the file."""
    return OnDisk(state.environment.path, content_of(state, place))


def named(error: CorruptionError, place: Place) -> bool:
    return (error.store, error.database, error.key_hex) == (
        "state",
        place.database,
        place.key.hex(),
    )


class Damaged:
    """An open store, what it must answer, and its file."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self.model: Model = create(path, identity)
        self.expected = expected_answers(self.model)
        self.state = LMDBState.open(path, identity)

    def on_disk(self, place: Place) -> OnDisk:
        return on_disk(self.state, place)

    def reopen(self) -> LMDBState:
        self.state.close()
        self.state = LMDBState.open(self.path, self.identity)
        return self.state

    def refusal(self) -> CorruptionError:
        """Why it does not open again."""
        with pytest.raises(CorruptionError) as caught:
            self.reopen()
        return caught.value
