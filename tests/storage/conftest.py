"""Stores to damage, and the tools to damage them."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from kvstore.raft.messages import Entry, EntryKind
from kvstore.replica.interfaces import Identity
from kvstore.types import ClusterId, LogIndex, NodeId, Term


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
def flip_on_disk() -> Callable[[Path, bytes], None]:
    """``flip_on_disk(environment path, bytes)``: flips the last bit of those bytes.

    In every place that holds them, for pages that LMDB has freed keep copies; and in
    the file as it is, so that an environment which has it mapped sees it too.
    """

    def flip(path: Path, wanted: bytes) -> None:
        data = path / "data.mdb"
        content = data.read_bytes()
        place = content.find(wanted)
        assert place >= 0, "the bytes to damage are not in the file"
        with data.open("r+b") as file:
            while place >= 0:
                file.seek(place + len(wanted) - 1)
                file.write(bytes([wanted[-1] ^ 1]))
                place = content.find(wanted, place + 1)

    return flip


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """``wait_until(condition)``: fails the test after ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline, pause = monotonic() + 10, Event()
        while not condition():
            assert monotonic() < deadline, "waited ten seconds in vain"
            pause.wait(0.002)

    return wait
