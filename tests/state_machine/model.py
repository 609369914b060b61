"""A deliberately dumb twin of the state machine, and short names to write tests with.

The model keeps a full copy of the store for every revision there ever was, and answers
by looking. It shares no code with what it checks.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kvstore.errors import Compacted, FutureRevision, InvalidRequest, KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryKind
from kvstore.state_machine import machine
from kvstore.state_machine.view import StateView
from kvstore.types import LogIndex, Term

Range = kv_pb2.Range
Compare = kv_pb2.Compare
ALL = b"\0"
"""As key and range end: every key."""


# ------------------------------------------------------------------- short names


def put(key: bytes, value: bytes = b"v", **more: int) -> kv_pb2.Command:
    return kv_pb2.Command(
        put=kv_pb2.Put(
            key=key,
            value=value,
            lease=more.get("lease", 0),
            prev_kv=bool(more.get("prev_kv")),
        )
    )


def delete(key: bytes, end: bytes = b"", *, prev_kv: bool = False) -> kv_pb2.Command:
    request = kv_pb2.DeleteRange(key=key, range_end=end, prev_kv=prev_kv)
    return kv_pb2.Command(delete_range=request)


def compact(revision: int) -> kv_pb2.Command:
    return kv_pb2.Command(compact=kv_pb2.Compact(revision=revision))


def step() -> kv_pb2.Command:
    return kv_pb2.Command(compaction_step=kv_pb2.CompactionStep())


def txn(
    compares: Sequence[kv_pb2.Compare] = (),
    success: Sequence[kv_pb2.Operation] = (),
    failure: Sequence[kv_pb2.Operation] = (),
) -> kv_pb2.Command:
    return kv_pb2.Command(
        txn=kv_pb2.Txn(compare=compares, success=success, failure=failure)
    )


def op(it: kv_pb2.Command | kv_pb2.Range) -> kv_pb2.Operation:
    """A command, or a range, as a step of a transaction."""
    if isinstance(it, kv_pb2.Range):
        return kv_pb2.Operation(range=it)
    match it.WhichOneof("command"):
        case "put":
            return kv_pb2.Operation(put=it.put)
        case "delete_range":
            return kv_pb2.Operation(delete_range=it.delete_range)
        case "txn":
            return kv_pb2.Operation(txn=it.txn)
        case other:
            raise ValueError(other)


def entry(index: int, commands: Sequence[kv_pb2.Command], term: int = 1) -> Entry:
    data = kv_pb2.CommandBatch(commands=commands).SerializeToString()
    return Entry(Term(term), LogIndex(index), EntryKind.COMMANDS, data)


def apply(view: StateView, *commands: kv_pb2.Command) -> list[kv_pb2.Result]:
    """Apply commands as the next entry."""
    following = entry(view.progress.index + 1, commands, max(view.progress.term, 1))
    return machine.apply(view, following, want_results=True)


def sweep_all(view: StateView) -> int:
    """Apply steps until nothing waits to be deleted; returns how many it took."""
    steps = 0
    while view.progress.compaction_pending:
        apply(view, step())
        steps += 1
    return steps


# ----------------------------------------------------------------------- the model


@dataclass(frozen=True)
class Pair:
    value: bytes
    create: int
    mod: int
    version: int
    lease: int

    def pb(self, key: bytes, *, with_value: bool = True) -> kv_pb2.KeyValue:
        return kv_pb2.KeyValue(
            key=key,
            value=self.value if with_value else b"",
            create_revision=self.create,
            mod_revision=self.mod,
            version=self.version,
            lease=self.lease,
        )


Store = dict[bytes, Pair]


@dataclass
class Change:
    """One record that a machine must keep until it is compacted."""

    revision: int
    key: bytes
    is_delete: bool


@dataclass
class Model:
    stores: list[Store] = field(default_factory=lambda: [{}])
    """By revision."""
    changes: list[Change] = field(default_factory=list)
    compact_revision: int = 0

    @property
    def revision(self) -> int:
        return len(self.stores) - 1

    def apply(self, commands: Sequence[kv_pb2.Command]) -> list[kv_pb2.Result]:
        return [self._command(command) for command in commands]

    def _command(self, command: kv_pb2.Command) -> kv_pb2.Result:
        try:
            return self._carry_out(command)
        except InvalidRequest as error:
            return kv_pb2.Result(error=error_pb(error))

    def _carry_out(self, command: kv_pb2.Command) -> kv_pb2.Result:
        result = kv_pb2.Result()
        match command.WhichOneof("command"):
            case "compact":
                self._compact(command.compact.revision)
                result.compact.revision = self.revision
            case "compaction_step":
                result.compact.revision = self.revision
            case "txn":
                branches = self._decide(command.txn, [])
                self._write([command.txn], branches, [result.txn])
            case "put":
                self._need_key(command.put.key)
                wrapped = self._write_one(kv_pb2.Operation(put=command.put))
                result.CopyFrom(wrapped)
            case "delete_range":
                self._need_key(command.delete_range.key)
                operation = kv_pb2.Operation(delete_range=command.delete_range)
                result.CopyFrom(self._write_one(operation))
            case _:
                raise InvalidRequest("nothing")
        return result

    def _compact(self, revision: int) -> None:
        if revision <= self.compact_revision:
            raise Compacted("", compact_revision=self.compact_revision)
        if revision > self.revision:
            raise FutureRevision("", current_revision=self.revision)
        self.compact_revision = revision

    def _need_key(self, key: bytes) -> None:
        if not key:
            raise InvalidRequest("empty")

    # Decide every branch on the store as it was; then write.

    def _decide(self, it: kv_pb2.Txn, branches: list[bool]) -> list[bool]:
        for compare in it.compare:
            self._need_key(compare.key)
        succeeded = all(self._holds(compare) for compare in it.compare)
        branches.append(succeeded)
        for operation in it.success if succeeded else it.failure:
            match operation.WhichOneof("operation"):
                case "txn":
                    self._decide(operation.txn, branches)
                case "range":
                    self._need_key(operation.range.key)
                    self.check_revision(operation.range.revision)
                case "put":
                    self._need_key(operation.put.key)
                case "delete_range":
                    self._need_key(operation.delete_range.key)
                case _:
                    raise InvalidRequest("nothing")
        return branches

    def _holds(self, compare: kv_pb2.Compare) -> bool:
        pair = self.stores[-1].get(compare.key)
        actual: bytes | int
        wanted: bytes | int
        match compare.WhichOneof("target"):
            case "value":
                if pair is None:
                    return False
                actual, wanted = pair.value, compare.value
            case "version":
                actual, wanted = pair.version if pair else 0, compare.version
            case "create_revision":
                actual, wanted = pair.create if pair else 0, compare.create_revision
            case "mod_revision":
                actual, wanted = pair.mod if pair else 0, compare.mod_revision
            case _:
                raise InvalidRequest("nothing")
        return {
            Compare.EQUAL: actual == wanted,
            Compare.GREATER: actual > wanted,  # type: ignore[operator]
            Compare.LESS: actual < wanted,  # type: ignore[operator]
            Compare.NOT_EQUAL: actual != wanted,
        }[compare.result]

    def _write_one(self, operation: kv_pb2.Operation) -> kv_pb2.Result:
        wrapper = kv_pb2.TxnResult()
        self._write([kv_pb2.Txn(success=[operation])], [True], [wrapper])
        return wrapper.results[0]

    def _write(
        self,
        txns: list[kv_pb2.Txn],
        branches: list[bool],
        results: list[kv_pb2.TxnResult],
    ) -> None:
        store, changes = copy.copy(self.stores[-1]), list[Change]()
        self._run(txns[0], list(branches), results[0], store, changes)
        if changes:
            self.stores.append(store)
            self.changes += changes

    def _run(
        self,
        it: kv_pb2.Txn,
        branches: list[bool],
        result: kv_pb2.TxnResult,
        store: Store,
        changes: list[Change],
    ) -> None:
        result.succeeded = branches.pop(0)
        new = self.revision + 1
        for operation in it.success if result.succeeded else it.failure:
            answer = result.results.add()
            match operation.WhichOneof("operation"):
                case "put":
                    answer.put.CopyFrom(_put(store, operation.put, new, changes))
                case "delete_range":
                    deleted = _delete(store, operation.delete_range, new, changes)
                    deleted.revision = self.revision + bool(changes)
                    answer.delete_range.CopyFrom(deleted)
                case "range":
                    at = operation.range.revision
                    seen = self.stores[at] if at > 0 else store
                    now = self.revision + bool(changes)
                    answer.range.CopyFrom(select(seen, operation.range, now))
                case "txn":
                    self._run(operation.txn, branches, answer.txn, store, changes)
                case other:
                    raise AssertionError(other)
        result.revision = self.revision + bool(changes)

    def check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise FutureRevision("", current_revision=self.revision)
        if 0 < revision < self.compact_revision:
            raise Compacted("", compact_revision=self.compact_revision)

    def range(self, request: kv_pb2.Range) -> kv_pb2.RangeResult:
        """Raises as the machine's read does."""
        self._need_key(request.key)
        self.check_revision(request.revision)
        at = request.revision if request.revision > 0 else self.revision
        return select(self.stores[at], request, self.revision)

    def kept(self) -> list[tuple[int, bytes]]:
        """(revision, key) of the records that stay when compaction has ended."""
        newest: dict[bytes, int] = {}
        for number, change in enumerate(self.changes):
            if change.revision <= self.compact_revision:
                newest[change.key] = number
        return [
            (change.revision, change.key)
            for number, change in enumerate(self.changes)
            if change.revision > self.compact_revision
            or (newest[change.key] == number and not change.is_delete)
        ]


def _put(
    store: Store, it: kv_pb2.Put, revision: int, changes: list[Change]
) -> kv_pb2.PutResult:
    result = kv_pb2.PutResult(revision=revision)
    old = store.get(it.key)
    if old is None:
        store[it.key] = Pair(it.value, revision, revision, 1, it.lease)
    else:
        if it.prev_kv:
            result.prev_kv.CopyFrom(old.pb(it.key))
        store[it.key] = replace(
            old, value=it.value, mod=revision, version=old.version + 1, lease=it.lease
        )
    changes.append(Change(revision, it.key, is_delete=False))
    return result


def _delete(
    store: Store, it: kv_pb2.DeleteRange, revision: int, changes: list[Change]
) -> kv_pb2.DeleteRangeResult:
    result = kv_pb2.DeleteRangeResult()
    for key in sorted(store):
        if not inside(key, it.key, it.range_end):
            continue
        pair = store.pop(key)
        result.deleted += 1
        if it.prev_kv:
            result.prev_kvs.append(pair.pb(key))
        changes.append(Change(revision, key, is_delete=True))
    return result


def inside(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return start <= key and (end == ALL or key < end)


def select(store: Store, request: kv_pb2.Range, revision: int) -> kv_pb2.RangeResult:
    found = [
        (key, store[key])
        for key in sorted(store)
        if inside(key, request.key, request.range_end)
    ]
    result = kv_pb2.RangeResult(revision=revision)
    if not request.without_count:
        result.count = len(found)
    if request.count_only:
        return result
    if request.sort_order or request.sort_target:
        # Stable, also when reversed: equal ones stay in key order.
        found.sort(
            key={
                Range.KEY: lambda it: it[0],
                Range.VERSION: lambda it: it[1].version,
                Range.CREATE: lambda it: it[1].create,
                Range.MOD: lambda it: it[1].mod,
                Range.VALUE: lambda it: it[1].value,
            }[request.sort_target],
            reverse=request.sort_order == Range.DESCEND,
        )
    chosen = found[: request.limit] if request.limit else found
    for key, pair in chosen:
        result.kvs.append(pair.pb(key, with_value=not request.keys_only))
    result.more = len(chosen) < len(found)
    return result


def error_pb(error: KVStoreError) -> kv_pb2.Error:
    return kv_pb2.Error(code=type(error).__name__, details=error.details())


def without_messages(results: Sequence[kv_pb2.Result]) -> list[kv_pb2.Result]:
    """Results without the wording of errors, to compare."""
    copies = []
    for result in results:
        plain = kv_pb2.Result()
        plain.CopyFrom(result)
        if plain.HasField("error"):
            plain.error.message = ""
        copies.append(plain)
    return copies
