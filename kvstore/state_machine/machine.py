"""Apply log entries to the state: deterministic, and the only way that it changes.

Each command is a transaction of its own: what it changes makes one revision.
Same state, same entry: same changes, record by record, and same results.
"""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from kvstore.errors import CorruptionError
from kvstore.pb import kv_pb2
from kvstore.state_machine.batch import Batch
from kvstore.state_machine.commands import COMMANDS, LogEntry
from kvstore.state_machine.compaction import sweep
from kvstore.state_machine.limits import RESPONSE_BYTES_MAX
from kvstore.state_machine.sessions import SESSION_TIMEOUT_MS
from kvstore.state_machine.view import Progress, StateView


def apply(
    view: StateView,
    entry: LogEntry,
    *,
    want_results: bool,
    response_bytes_max: int = RESPONSE_BYTES_MAX,
    session_timeout_ms: int = SESSION_TIMEOUT_MS,
) -> list[kv_pb2.Result]:
    """Apply the entry that follows the last one applied.

    Returns one result a command, in order; none if nobody wants them, as on a follower.
    A command that fails has its error as its result, changes nothing, and does not
    affect the others. Past ``response_bytes_max`` each operation of a command returns
    one pair at most, and ``BATCH_RESULTS_BYTES_MAX`` bounds the results of the entry.
    Neither has an effect on the state. A command that was applied, but whose result
    does not fit, has ``OutcomeUnknown`` as its result. Entries that are no commands
    only move the progress.

    A header of a session's commands has a result, too. ``session_timeout_ms`` is what
    clients are told there; when a session expires is for the log to say.

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
        batch = Batch(
            view,
            entry,
            response_bytes_max=response_bytes_max,
            session_timeout_ms=session_timeout_ms,
        )
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
