"""A store in this process behind the commands: the real state machine, no network."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner, Result

from kvstore.cli import store as store_module
from kvstore.cli.main import cli
from kvstore.cli.options import Connection
from kvstore.client.consistency import ReadLevel
from kvstore.client.results import ResponseHeader
from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryKind
from kvstore.rpc.errors import error_from_pb
from kvstore.state_machine.commands import validate_command, validate_range
from kvstore.state_machine.limits import Limits
from kvstore.state_machine.machine import apply
from kvstore.state_machine.reads import read_range_at_once
from kvstore.storage.memory_state import MemoryState
from kvstore.types import LogIndex, Term


class LocalStore:
    """What a cluster of one would answer, applied at once."""

    def __init__(self) -> None:
        self._state = MemoryState()
        self.response_bytes_max = 1 << 20
        self.ranges_asked = 0
        self.levels_asked: list[ReadLevel] = []
        self.fails_with: KVStoreError | None = None

    async def put(self, request: kv_pb2.Put) -> kv_pb2.PutResult:
        return self._apply(kv_pb2.Command(put=request)).put

    async def delete_range(
        self, request: kv_pb2.DeleteRange
    ) -> kv_pb2.DeleteRangeResult:
        return self._apply(kv_pb2.Command(delete_range=request)).delete_range

    async def txn(self, request: kv_pb2.Txn) -> kv_pb2.TxnResult:
        return self._apply(kv_pb2.Command(txn=request)).txn

    async def compact(self, request: kv_pb2.Compact) -> kv_pb2.CompactResult:
        return self._apply(kv_pb2.Command(compact=request)).compact

    async def read(
        self, request: kv_pb2.Range, level: ReadLevel
    ) -> tuple[kv_pb2.RangeResult, ResponseHeader]:
        self._fail()
        self.ranges_asked += 1
        self.levels_asked.append(level)
        validate_range(request, Limits())
        result = read_range_at_once(
            self._state, request, response_bytes_max=self.response_bytes_max
        )
        header = ResponseHeader(
            cluster_id=b"\x1a" * 16,
            node_id=2,
            term=7,
            revision=result.revision,
            epoch=1,
            consistency=level.consistency,
            staleness_ms=140 if level.staleness_ms else None,
        )
        return result, header

    def _apply(self, command: kv_pb2.Command) -> kv_pb2.Result:
        self._fail()
        validate_command(command, Limits())
        entry = Entry(
            Term(1),
            LogIndex(self._state.progress.index + 1),
            EntryKind.COMMANDS,
            kv_pb2.CommandBatch(commands=[command]).SerializeToString(),
        )
        (result,) = apply(self._state, entry, want_results=True)
        if result.HasField("error"):
            raise error_from_pb(result.error)
        return result

    def _fail(self) -> None:
        if self.fails_with is not None:
            raise self.fails_with


@pytest.fixture
def local_store(monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """The store that ``kvstore`` talks to in this test."""
    store = LocalStore()

    @asynccontextmanager
    async def open_store(_: Connection) -> AsyncIterator[LocalStore]:
        yield store

    monkeypatch.setattr(store_module, "open_store", open_store)
    return store


Kvstore = Callable[..., Result]


@pytest.fixture
def kvstore(local_store: LocalStore) -> Kvstore:
    """Run ``kvstore`` with arguments (and ``stdin=``) against the local store."""

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        return CliRunner().invoke(cli, arguments, input=stdin)

    return run
