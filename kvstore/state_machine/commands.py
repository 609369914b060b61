"""The commands that clients send and nodes replicate: which are valid, and how an
answer says that one was not.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from kvstore.errors import (
    InvalidRequest,
    KVStoreError,
    NewerFormat,
    RequestTooLarge,
)
from kvstore.pb import kv_pb2
from kvstore.state_machine.limits import KEY_BYTES_STORABLE_MAX, Limits
from kvstore.state_machine.sessions import COMMAND_NUMBER_MAX
from kvstore.types import LogIndex, Term

COMMANDS = 1
"""``EntryKind.COMMANDS`` of ``kvstore/raft``, which this package does not see."""

FROM_KEY_ON = b"\0"
"""A ``range_end`` that stands for every key from ``key`` on, as in etcd."""


class LogEntry(Protocol):
    """What the state machine needs of a log entry."""

    @property
    def term(self) -> Term: ...
    @property
    def index(self) -> LogIndex: ...
    @property
    def kind(self) -> int: ...
    @property
    def data(self) -> bytes: ...


# ------------------------------------------------------------------ meaning


def range_bounds(key: bytes, range_end: bytes) -> tuple[bytes, bytes | None]:
    """The keys that a request names, as ``[start, end)``; ``end`` None is unbounded."""
    if not range_end:
        return key, key + b"\0"
    if range_end == FROM_KEY_ON:
        return key, None
    return key, range_end


def shown(key: bytes) -> str:
    """A key for a message, cut if it is long."""
    return repr(key) if len(key) <= 64 else f"{key[:64]!r}… ({len(key)} bytes)"


def error_to_pb(error: KVStoreError) -> kv_pb2.Error:
    """An error of the tree in ``kvstore/errors.py``, as it travels."""
    return kv_pb2.Error(
        code=type(error).__name__, message=str(error), details=error.details()
    )


def check_key_storable(key: bytes) -> None:
    """Raises ``InvalidRequest`` for a key that no state could hold."""
    if not key:
        raise InvalidRequest("the key is empty")
    if len(key) > KEY_BYTES_STORABLE_MAX:
        raise RequestTooLarge(
            f"the key has {len(key)} bytes; {KEY_BYTES_STORABLE_MAX} can be stored",
            limit="key_bytes_storable_max",
            actual=len(key),
            maximum=KEY_BYTES_STORABLE_MAX,
        )


def check_start_storable(key: bytes, range_end: bytes) -> None:
    """As :func:`check_key_storable`, for the first key of a range.

    A range may start behind a longest key, one byte longer: to go on there is how a
    reader pages through the store.
    """
    if not (range_end and len(key) == KEY_BYTES_STORABLE_MAX + 1):
        check_key_storable(key)


def check_numbered(command: kv_pb2.Command) -> None:
    """Raises ``InvalidRequest`` for what cannot be a command of a session."""
    kind = command.WhichOneof("command")
    if kind in _SESSION_COMMANDS:
        raise InvalidRequest(f"a command of a session cannot be {kind}")


_SESSION_COMMANDS = frozenset(
    {"open_session", "session_commands", "close_session", "expire_sessions"}
)


def refuse_unset(message: Message, what: str) -> NoReturn:
    """Refuse a message of which no known alternative is set.

    Raises:
        InvalidRequest: it has none, as every version of kvstore sees.
        NewerFormat: it has one that a newer version knows. To go on without knowing
            what it says would make the members differ.
    """
    if len(UnknownFieldSet(message)):
        raise NewerFormat(
            f"{what} says something that this kvstore does not know: run the version "
            "that proposed it, or a newer one"
        )
    raise InvalidRequest(f"{what} says nothing: none of its alternatives is set")


# --------------------------------------------------------------- validation


def validate_batch(batch: kv_pb2.CommandBatch, limits: Limits, *, size: int) -> None:
    """Check what a client sent, before it is proposed. About 0.5 µs for a plain put.

    ``size``: bytes of the batch as it came. They are what is stored, and may say one
    thing many times. A header of a session counts as a command, too.

    Raises:
        InvalidRequest: also ``RequestTooLarge``. ``command_index`` says which command;
            None is the batch as a whole. Definite: nothing of the batch was applied.
    """
    _check_maximum("request_bytes_max", "the batch", size, limits.request_bytes_max)
    commands = batch.commands
    count = len(commands)
    if not count:
        raise InvalidRequest("the batch has no command")
    _check_maximum("batch_commands_max", "the batch", count, limits.batch_commands_max)
    # No value can be longer than the batch: then lengths of values need no look.
    values_fit = size <= limits.value_bytes_max
    key_bytes_max = limits.key_bytes_max
    session_ends = 0  # up to here, commands belong to the header before them
    for index, command in enumerate(commands):
        if values_fit and command.HasField("put"):
            put = command.put
            if 0 < len(put.key) <= key_bytes_max and not put.lease:
                continue
        try:
            validate_command(command, limits)
            if command.WhichOneof("command") in _SESSION_COMMANDS:
                if index < session_ends:
                    check_numbered(command)
                session_ends = index + 1 + command.session_commands.count
                _check_covered(session_ends, count)
        except InvalidRequest as error:
            error.command_index = index
            raise


def validate_command(command: kv_pb2.Command, limits: Limits) -> None:
    """Check one command of a client.

    Raises:
        InvalidRequest: it breaks a rule; ``RequestTooLarge``: it passes a limit.
            Definite.
    """
    match command.WhichOneof("command"):
        case "put":
            _validate_put(command.put, limits)
        case "delete_range":
            _validate_span(command.delete_range, limits)
        case "txn":
            _validate_txn(command.txn, limits, operations_before=0, depth=1)
            _changes(command.txn.success)
            _changes(command.txn.failure)
        case "compact":
            if command.compact.revision <= 0:
                raise InvalidRequest("compact: the revision must be at least 1")
        case "open_session":
            pass
        case "session_commands":
            _validate_session_commands(command.session_commands)
        case "close_session":
            _validate_session_id(command.close_session.session_id)
        case "compaction_step":
            raise InvalidRequest("a compaction step is the leader's own command")
        case "expire_sessions":
            raise InvalidRequest("to expire sessions is the leader's own command")
        case _:
            raise InvalidRequest("the command is of no kind that this node knows")


def validate_range(request: kv_pb2.Range, limits: Limits) -> None:
    """Check one read of a batch or a transaction.

    A unary read may say how it is to be confirmed: take its ``options`` out first.

    Raises:
        InvalidRequest: it breaks a rule; ``RequestTooLarge``: it passes a limit.
            Definite.
    """
    _validate_span(request, limits)
    if request.HasField("options"):
        raise InvalidRequest(
            "range: options are for a call of its own; a batch has one for all of its "
            "ranges, and a transaction needs none"
        )
    if request.limit < 0:
        raise InvalidRequest(f"range: the limit is negative: {request.limit}")
    if request.count_only and request.without_count:
        raise InvalidRequest("range: count_only and without_count exclude each other")
    if request.sort_order not in _SORT_ORDERS:
        raise InvalidRequest(f"range: no such sort order: {request.sort_order}")
    if request.sort_target not in _SORT_TARGETS:
        raise InvalidRequest(f"range: no such sort target: {request.sort_target}")


_SORT_ORDERS = frozenset(kv_pb2.Range.SortOrder.values())
_SORT_TARGETS = frozenset(kv_pb2.Range.SortTarget.values())
_COMPARISONS = frozenset(kv_pb2.Compare.Result.values())


def _check_maximum(limit: str, what: str, actual: int, maximum: int) -> None:
    if actual > maximum:
        raise RequestTooLarge(
            f"{what}: {actual} is over {limit} ({maximum})",
            limit=limit,
            actual=actual,
            maximum=maximum,
        )


def _validate_key(key: bytes, limits: Limits) -> None:
    if not key:
        raise InvalidRequest("the key is empty")
    _check_maximum("key_bytes_max", "the key", len(key), limits.key_bytes_max)


def _validate_span(request: kv_pb2.Range | kv_pb2.DeleteRange, limits: Limits) -> None:
    if not request.range_end:
        _validate_key(request.key, limits)
        return
    if not request.key:
        raise InvalidRequest("the key is empty")
    # The end of a prefix range is never longer than the prefix, and the key after a
    # longest key, where a range may start or end, is one byte longer.
    maximum = limits.key_bytes_max + 1
    _check_maximum("key_bytes_max", "the range's start", len(request.key), maximum)
    _check_maximum("key_bytes_max", "the range's end", len(request.range_end), maximum)


def _validate_put(put: kv_pb2.Put, limits: Limits) -> None:
    _validate_key(put.key, limits)
    _check_maximum(
        "value_bytes_max", "the value", len(put.value), limits.value_bytes_max
    )
    if put.lease:
        # To take it and never expire the key would be worse.
        raise InvalidRequest(
            f"lease {put.lease} is not found: leases are not served yet"
        )


def _validate_session_id(session_id: int) -> None:
    if session_id <= 0:
        raise InvalidRequest(f"no session has id {session_id}: open one first")


def _validate_session_commands(header: kv_pb2.SessionCommands) -> None:
    _validate_session_id(header.session_id)
    if not header.count:
        raise InvalidRequest("a session's header must speak for 1 command or more")
    if not header.first_number:
        raise InvalidRequest("numbers of a session's commands start at 1")
    if header.first_number + header.count - 1 > COMMAND_NUMBER_MAX:
        raise InvalidRequest(
            f"numbers of a session's commands end at {COMMAND_NUMBER_MAX}: open a new "
            "session"
        )
    if header.acknowledged >= header.first_number:
        raise InvalidRequest(
            f"command {header.first_number} cannot be sent: its client has "
            f"acknowledged the answers up to {header.acknowledged}"
        )


def _check_covered(session_ends: int, commands: int) -> None:
    # Batches are joined: a header must not reach into those behind its own.
    if session_ends > commands:
        raise InvalidRequest(
            f"a session's header speaks for {session_ends - commands} more commands "
            "than follow it in the batch"
        )


def _validate_txn(
    txn: kv_pb2.Txn, limits: Limits, *, operations_before: int, depth: int
) -> None:
    """``operations_before``: of the transactions around this one."""
    _check_maximum(
        "txn_depth_max", "the transaction's depth", depth, limits.txn_depth_max
    )
    widest = max(len(txn.compare), len(txn.success), len(txn.failure))
    operations = operations_before + widest
    _check_maximum(
        "txn_operations_max", "the transaction", operations, limits.txn_operations_max
    )
    for compare in txn.compare:
        _validate_key(compare.key, limits)
        if compare.result not in _COMPARISONS:
            raise InvalidRequest(f"compare: no such comparison: {compare.result}")
        if compare.WhichOneof("target") is None:
            raise InvalidRequest("compare: nothing to compare with")
        value_bytes = len(compare.value)
        _check_maximum(
            "value_bytes_max", "compare", value_bytes, limits.value_bytes_max
        )
    for operation in (*txn.success, *txn.failure):
        match operation.WhichOneof("operation"):
            case "put":
                _validate_put(operation.put, limits)
            case "range":
                validate_range(operation.range, limits)
            case "delete_range":
                _validate_span(operation.delete_range, limits)
            case "txn":
                _validate_txn(
                    operation.txn,
                    limits,
                    operations_before=operations,
                    depth=depth + 1,
                )
            case _:
                raise InvalidRequest("an operation is of no kind that this node knows")


# -------------------------------------------------- one change of a key a transaction

_KeyRange = tuple[bytes, bytes | None]
_Changes = tuple[list[bytes], list[_KeyRange]]
"""Keys put, and ranges deleted, on any path."""


def _changes(operations: Sequence[kv_pb2.Operation]) -> _Changes:
    """What operations change; raises ``InvalidRequest`` if one key twice on a path.

    etcd's rule (``checkIntervals`` in its ``server/etcdserver/api/v3rpc/key.go``), but
    applied to sibling transactions in both directions. Two deletes may overlap: the
    second finds nothing. The branches of one transaction are alternatives.

    O(n log n) for each level of nesting: a client chooses what is in here.
    """
    puts: dict[bytes, int] = {}  # by which of the operations
    deletes: list[tuple[int, _KeyRange]] = []
    for number, operation in enumerate(operations):
        keys, ranges = _changes_of(operation)
        for key in keys:
            if puts.setdefault(key, number) != number:
                _refuse_twice(key)
        deletes += [(number, each) for each in ranges]
    if puts and deletes:
        _refuse_put_and_deleted(puts, deletes)
    return list(puts), [each for _, each in deletes]


def _changes_of(operation: kv_pb2.Operation) -> _Changes:
    match operation.WhichOneof("operation"):
        case "put":
            return [operation.put.key], []
        case "delete_range":
            request = operation.delete_range
            return [], [range_bounds(request.key, request.range_end)]
        case "txn":
            then = _changes(operation.txn.success)
            otherwise = _changes(operation.txn.failure)
            return then[0] + otherwise[0], then[1] + otherwise[1]
        case _:
            return [], []


def _refuse_put_and_deleted(
    puts: Mapping[bytes, int], deletes: Sequence[tuple[int, _KeyRange]]
) -> None:
    """Refuse a key that one operation puts, and another one deletes."""
    keys = sorted(puts)
    # For each key, where the next one is that another operation puts.
    next_other = [len(keys)] * len(keys)
    for place in range(len(keys) - 2, -1, -1):
        same = puts[keys[place]] == puts[keys[place + 1]]
        next_other[place] = next_other[place + 1] if same else place + 1
    for number, (start, end) in deletes:
        first = bisect_left(keys, start)
        behind = len(keys) if end is None else bisect_left(keys, end)
        if first < behind and puts[keys[first]] == number:
            first = next_other[first]
        if first < behind:
            _refuse_twice(keys[first])


def _refuse_twice(key: bytes) -> NoReturn:
    raise InvalidRequest(f"the transaction changes key {shown(key)} twice")
