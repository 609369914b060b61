"""What tests of stores share: whose they are, what is in them, and patience."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from kvstore.raft.messages import Entry, EntryKind
from kvstore.replica.interfaces import Identity
from kvstore.types import ClusterId, LogIndex, NodeId, Term
from tests.storage.state_store import Damaged


@pytest.fixture
def identity() -> Identity:
    return Identity(cluster_id=ClusterId(bytes(range(16))), node_id=NodeId(7))


@pytest.fixture
def make_entries() -> Callable[..., list[Entry]]:
    """``make_entries(first, last, term, size=…)``; content tells index and term."""

    def make(first: int, last: int, term: int = 1, *, size: int = 20) -> list[Entry]:
        return [
            Entry(
                Term(term),
                LogIndex(index),
                EntryKind.COMMANDS,
                (b"%d.%d;" % (index, term)).ljust(size, b"x"),
            )
            for index in range(first, last + 1)
        ]

    return make


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """``wait_until(condition)``: fails the test after ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline, pause = monotonic() + 10, Event()
        while not condition():
            assert monotonic() < deadline, "waited ten seconds in vain"
            pause.wait(0.002)

    return wait


@pytest.fixture
def damaged(tmp_path: Path, identity: Identity) -> Iterator[Damaged]:
    made = Damaged(tmp_path / "state", identity)
    yield made
    made.state.close()
