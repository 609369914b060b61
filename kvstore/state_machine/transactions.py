"""Transactions: compare, then do one branch, as one change at one revision.

Two passes. The first decides every branch, nested ones too, from the state before the
transaction (as etcd's ``compareToPath`` does), and finds every reason to refuse. The
second carries out and cannot fail, so that a transaction that fails changes nothing.
Operations see the effects of those before them.
"""

from collections.abc import Iterator, Sequence

from kvstore.errors import InvalidRequest, NewerFormat
from kvstore.pb import kv_pb2
from kvstore.state_machine.commands import (
    check_key_storable,
    check_start_storable,
    range_bounds,
    refuse_unset,
)
from kvstore.state_machine.reads import (
    Budget,
    check_readable,
    exhaust,
    pair_bytes,
    scan,
)
from kvstore.state_machine.view import ReadView, StateView, VersionId
from kvstore.state_machine.writes import (
    delete_keys,
    fill_pair,
    put_key,
    stored_version,
)
from kvstore.types import LeaseId, Revision


def apply_txn(
    view: StateView,
    txn: kv_pb2.Txn,
    *,
    revision: Revision,
    compact_revision: Revision,
    result: kv_pb2.TxnResult | None,
    budget: Budget,
) -> Revision:
    """Carry out a transaction; returns the revision of the store after it.

    ``result`` None: nobody waits for it, so nothing is read that changes nothing. Nor
    is it once the budget is overdrawn: the result is not whole then.

    Raises:
        InvalidRequest: ``Compacted``, ``FutureRevision``, or something that cannot be
            stored. Definite: nothing was changed.
        CorruptionError, NewerFormat: this node cannot go on; the view's transaction
            must be given up.
    """
    branches: list[bool] = []
    _plan(view, txn, branches, revision, compact_revision)
    execution = _Execution(view, revision, iter(branches), budget)
    try:
        execution.run(txn, result)
    except InvalidRequest as error:
        raise AssertionError("a planned transaction was refused half-way") from error
    return execution.store_revision


# ---------------------------------------------------------------- first pass


def _plan(
    view: ReadView,
    txn: kv_pb2.Txn,
    branches: list[bool],
    revision: Revision,
    compact_revision: Revision,
) -> None:
    """Append the branch taken, then those of transactions nested in it, in order."""
    # No short cut: what is refused must not depend on which comparison fails first.
    outcomes = [_holds(view, compare) for compare in txn.compare]
    succeeded = all(outcomes)
    branches.append(succeeded)
    for operation in txn.success if succeeded else txn.failure:
        match operation.WhichOneof("operation"):
            case "put":
                check_key_storable(operation.put.key)
            case "delete_range":
                deleted = operation.delete_range
                check_start_storable(deleted.key, deleted.range_end)
            case "range":
                check_start_storable(operation.range.key, operation.range.range_end)
                check_readable(
                    operation.range.revision,
                    revision=revision,
                    compact_revision=compact_revision,
                )
            case "txn":
                _plan(view, operation.txn, branches, revision, compact_revision)
            case _:
                refuse_unset(operation, "an operation")


def _holds(view: ReadView, compare: kv_pb2.Compare) -> bool:
    check_key_storable(compare.key)
    head = view.head(compare.key)
    exists = head is not None and head.create_revision > 0
    match compare.WhichOneof("target"):
        case "value":
            if head is None or not exists:
                return False
            actual = stored_version(view, head.at, compare.key).value
            order = (actual > compare.value) - (actual < compare.value)
        case "version":
            number = head.version if head is not None else 0
            order = _order(number, compare.version)
        case "create_revision":
            number = head.create_revision if head is not None else 0
            order = _order(number, compare.create_revision)
        case "mod_revision":
            number = head.at.revision if head is not None and exists else 0
            order = _order(number, compare.mod_revision)
        case _:
            refuse_unset(compare, "a comparison")
    match compare.result:
        case kv_pb2.Compare.EQUAL:
            return order == 0
        case kv_pb2.Compare.GREATER:
            return order > 0
        case kv_pb2.Compare.LESS:
            return order < 0
        case kv_pb2.Compare.NOT_EQUAL:
            return order != 0
        case result:
            raise NewerFormat(f"comparison {result} is not known to this kvstore")


def _order(actual: int, wanted: int) -> int:
    return (actual > wanted) - (actual < wanted)


# --------------------------------------------------------------- second pass


class _Execution:
    """Carries out the branches decided on. All changes share one revision."""

    __slots__ = ("_branches", "_budget", "_changes", "_revision", "_view")

    def __init__(
        self,
        view: StateView,
        revision: Revision,
        branches: Iterator[bool],
        budget: Budget,
    ) -> None:
        self._view = view
        self._revision = revision
        self._branches = branches
        self._budget = budget
        self._changes = 0

    @property
    def store_revision(self) -> Revision:
        """The revision of the store as this transaction sees it."""
        return Revision(self._revision + (self._changes > 0))

    def run(self, txn: kv_pb2.Txn, result: kv_pb2.TxnResult | None) -> None:
        succeeded = next(self._branches)
        operations: Sequence[kv_pb2.Operation]
        operations = txn.success if succeeded else txn.failure
        if result is not None:
            result.succeeded = succeeded
        for operation in operations:
            if self._budget.is_overdrawn:
                result = None
            answer = None if result is None else result.results.add()
            match operation.WhichOneof("operation"):
                case "put":
                    self._put(operation.put, answer)
                case "delete_range":
                    self._delete(operation.delete_range, answer)
                case "range":
                    if answer is not None:
                        self._range(operation.range, answer.range)
                case "txn":
                    self.run(operation.txn, None if answer is None else answer.txn)
                case _:
                    raise AssertionError("planned operations are of a known kind")
        if result is not None:
            result.revision = self.store_revision

    def _put(self, put: kv_pb2.Put, answer: kv_pb2.Result | None) -> None:
        at = VersionId(Revision(self._revision + 1), self._changes)
        head = put_key(self._view, at, put.key, put.value, LeaseId(put.lease))
        self._changes += 1
        if answer is not None:
            answer.put.revision = at.revision
            if put.prev_kv and head is not None and head.create_revision:
                pair = fill_pair(answer.put.prev_kv, self._view, put.key, head)
                self._budget.bytes_left -= pair_bytes(pair)

    def _delete(
        self, request: kv_pb2.DeleteRange, answer: kv_pb2.Result | None
    ) -> None:
        deleted = apply_delete(
            self._view,
            request,
            revision=Revision(self._revision + 1),
            position=self._changes,
            result=None if answer is None else answer.delete_range,
            budget=self._budget,
        )
        self._changes += deleted
        if answer is not None:
            answer.delete_range.revision = self.store_revision

    def _range(self, request: kv_pb2.Range, answer: kv_pb2.RangeResult) -> None:
        newest = self.store_revision
        answer.revision = newest
        exhaust(scan(self._view, request, answer, newest, self._budget))


def apply_delete(
    view: StateView,
    request: kv_pb2.DeleteRange,
    *,
    revision: Revision,
    position: int,
    result: kv_pb2.DeleteRangeResult | None,
    budget: Budget,
) -> int:
    """Delete a range; returns how many pairs there were.

    The previous pairs asked for stop where the answer is full: ``deleted`` counts more
    than there are ``prev_kvs`` then. At least one is returned.
    """
    start, end = range_bounds(request.key, request.range_end)
    deleted = 0
    wanted = result is not None and request.prev_kv
    for key, head in delete_keys(
        view, start=start, end=end, revision=revision, position=position
    ):
        deleted += 1
        if wanted and result is not None:
            pair = fill_pair(kv_pb2.KeyValue(), view, key, head)
            size = pair_bytes(pair)
            wanted = deleted == 1 or size <= budget.bytes_left
            if wanted:
                result.prev_kvs.append(pair)
                budget.bytes_left -= size
            else:
                budget.has_cut = True
    if result is not None:
        result.deleted = deleted
    return deleted
