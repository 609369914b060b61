"""Apply log entries to the state: deterministic, and the only way that it changes.

Each command is a transaction of its own: what it changes makes one revision.
Same state, same entry: same changes, record by record, and same results.
"""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from kvstore.errors import (
    Compacted,
    CorruptionError,
    FutureRevision,
    InvalidRequest,
    OutcomeUnknown,
)
from kvstore.pb import kv_pb2
from kvstore.state_machine.commands import (
    COMMANDS,
    LogEntry,
    check_key_storable,
    check_start_storable,
    error_to_pb,
    refuse_unset,
)
from kvstore.state_machine.compaction import sweep
from kvstore.state_machine.limits import (
    BATCH_RESULTS_BYTES_MAX,
    KEY_BYTES_STORABLE_MAX,
    RESPONSE_BYTES_MAX,
)
from kvstore.state_machine.reads import Budget
from kvstore.state_machine.transactions import apply_delete, apply_txn
from kvstore.state_machine.view import Progress, StateView, VersionId
from kvstore.state_machine.writes import fill_pair, put_key
from kvstore.types import LeaseId, Revision


def apply(
    view: StateView,
    entry: LogEntry,
    *,
    want_results: bool,
    response_bytes_max: int = RESPONSE_BYTES_MAX,
) -> list[kv_pb2.Result]:
    """Apply the entry that follows the last one applied.

    Returns one result a command, in order; none if nobody wants them, as on a follower.
    A command that fails has its error as its result, changes nothing, and does not
    affect the others. Past ``response_bytes_max`` each operation of a command returns
    one pair at most, and ``BATCH_RESULTS_BYTES_MAX`` bounds the results of the entry.
    Neither has an effect on the state. A command that was applied, but whose result
    does not fit, has ``OutcomeUnknown`` as its result. Entries that are no commands
    only move the progress.

    Raises:
        CorruptionError: a record that a command needs is damaged, or the entry is.
        NewerFormat: the entry holds what only a newer kvstore understands.
            After either, give up the view's transaction and stop applying.
    """
    progress = view.progress
    assert entry.index == progress.index + 1, (entry.index, progress.index)
    assert entry.term >= progress.term, (entry.term, progress.term)
    cursor, compact_revision = progress.compaction_cursor, progress.compact_revision
    revision = progress.revision
    results: list[kv_pb2.Result] = []
    if entry.kind == COMMANDS:
        batch = _Batch(view, revision, compact_revision, response_bytes_max)
        batch.run(_decode(entry), results if want_results else None)
        revision, compact_revision = batch.revision, batch.compact_revision
    if cursor.revision <= compact_revision:
        cursor = sweep(view, cursor, compact_revision)
    view.progress = Progress(
        index=entry.index,
        term=entry.term,
        revision=revision,
        compact_revision=compact_revision,
        compaction_cursor=cursor,
    )
    return results


def encode_groups(
    results: Sequence[kv_pb2.Result], groups: Sequence[int]
) -> list[bytes]:
    """An encoded ``ResultBatch`` for each group of consecutive results.

    An entry holds the commands of several callers, and each hears of its own.
    ``groups`` says how many are whose, and adds up to all of them.
    """
    encoded: list[bytes] = []
    start = 0
    for count in groups:
        batch = kv_pb2.ResultBatch(results=results[start : start + count])
        encoded.append(batch.SerializeToString())
        start += count
    assert start == len(results), (start, len(results))
    return encoded


def _decode(entry: LogEntry) -> Sequence[kv_pb2.Command]:
    try:
        return kv_pb2.CommandBatch.FromString(entry.data).commands
    except DecodeError as error:
        raise CorruptionError(
            f"log entry {entry.index} of term {entry.term} is no batch of commands",
            store="raft",
        ) from error


class _Batch:
    """The commands of one entry, and where the store stands among them."""

    __slots__ = (
        "_response_bytes_max",
        "_results_bytes",
        "_view",
        "compact_revision",
        "revision",
    )

    def __init__(
        self,
        view: StateView,
        revision: Revision,
        compact_revision: Revision,
        response_bytes_max: int,
    ) -> None:
        self._view = view
        self._response_bytes_max = response_bytes_max
        self._results_bytes = 0
        self.revision = revision
        self.compact_revision = compact_revision

    def run(
        self, commands: Sequence[kv_pb2.Command], results: list[kv_pb2.Result] | None
    ) -> None:
        """Carry out every command. Plain puts, the most frequent, stay in this loop."""
        view, new_result = self._view, kv_pb2.Result
        for command in commands:
            result = None if results is None else new_result()
            if results is not None and result is not None:
                results.append(result)
            if command.HasField("put"):
                put = command.put
                key = put.key
                if 0 < len(key) <= KEY_BYTES_STORABLE_MAX:
                    revision = Revision(self.revision + 1)
                    at = VersionId(revision, 0)
                    head = put_key(view, at, key, put.value, LeaseId(put.lease))
                    self.revision = revision
                    if result is not None:
                        result.put.revision = revision
                        if put.prev_kv and head is not None and head.create_revision:
                            fill_pair(result.put.prev_kv, view, key, head)
                            self._bound(result)
                    continue
            try:
                self._run_one(command, result)
            except InvalidRequest as error:
                # Refused before anything was changed or answered.
                if result is not None:
                    result.error.CopyFrom(error_to_pb(error))

    def _bound(self, result: kv_pb2.Result) -> None:
        """Give up a result, not the command, past the bound of the whole batch."""
        self._results_bytes += result.ByteSize()
        if self._results_bytes > BATCH_RESULTS_BYTES_MAX:
            self._results_bytes -= result.ByteSize()
            _give_up(result)

    def _run_one(self, command: kv_pb2.Command, result: kv_pb2.Result | None) -> None:
        budget = Budget(
            self._response_bytes_max,
            overdraft_max=BATCH_RESULTS_BYTES_MAX - self._results_bytes,
        )
        match command.WhichOneof("command"):
            case "put":
                check_key_storable(command.put.key)
            case "delete_range":
                self._delete(command.delete_range, result, budget)
            case "txn":
                self.revision = apply_txn(
                    self._view,
                    command.txn,
                    revision=self.revision,
                    compact_revision=self.compact_revision,
                    result=None if result is None else result.txn,
                    budget=budget,
                )
            case "compact":
                self._compact(Revision(command.compact.revision))
                if result is not None:
                    result.compact.revision = self.revision
            case "compaction_step":
                # Every entry takes its share of the sweep; this one does only that.
                if result is not None:
                    result.compact.revision = self.revision
            case _:
                refuse_unset(command, "a command")
        if result is not None:
            if budget.is_overdrawn:
                _give_up(result)
            else:
                self._bound(result)

    def _delete(
        self,
        request: kv_pb2.DeleteRange,
        result: kv_pb2.Result | None,
        budget: Budget,
    ) -> None:
        check_start_storable(request.key, request.range_end)
        deleted = apply_delete(
            self._view,
            request,
            revision=Revision(self.revision + 1),
            position=0,
            result=None if result is None else result.delete_range,
            budget=budget,
        )
        self.revision = Revision(self.revision + (deleted > 0))
        if result is not None:
            result.delete_range.revision = self.revision

    def _compact(self, wanted: Revision) -> None:
        if wanted <= self.compact_revision:
            raise Compacted(
                f"revision {wanted} was compacted already: "
                f"history starts at {self.compact_revision}",
                compact_revision=self.compact_revision,
            )
        if wanted > self.revision:
            raise FutureRevision(
                f"revision {wanted} is in the future: the store is at {self.revision}",
                current_revision=self.revision,
            )
        self.compact_revision = wanted


def _give_up(result: kv_pb2.Result) -> None:
    """Answer for a command that was applied, and whose result is too large to hold."""
    error = OutcomeUnknown(
        "applied, but the results of its batch pass "
        f"{BATCH_RESULTS_BYTES_MAX} bytes: read what it did"
    )
    result.Clear()
    result.error.CopyFrom(error_to_pb(error))
