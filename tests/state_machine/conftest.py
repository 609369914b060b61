"""The state machine is tested over every state there is."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kvstore.replica.interfaces import Identity
from kvstore.state_machine.view import StateView
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.memory_state import MemoryState
from kvstore.types import ClusterId, NodeId

IDENTITY = Identity(cluster_id=ClusterId(bytes(16)), node_id=NodeId(1))


@pytest.fixture(params=["memory", "lmdb"])
def make_state(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], StateView]]:
    """Makes an empty state, ready to be written; the one made before is gone then."""
    if request.param == "memory":
        yield MemoryState
        return
    path = tmp_path / "state"
    LMDBState.create(path, IDENTITY)
    with closing(LMDBState.open(path, IDENTITY)) as state:

        def make() -> StateView:
            # Nothing is ever committed, so to abort is to start over.
            if state.in_transaction:
                state.abort()
            state.begin()
            return state

        yield make


@pytest.fixture
def state(make_state: Callable[[], StateView]) -> StateView:
    return make_state()
