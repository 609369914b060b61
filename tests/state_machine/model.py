"""Short names to write tests with."""

from collections.abc import Sequence

from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryKind
from kvstore.simulation.model import error_result
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


# ------------------------------------------------------------ comparing with the model


def error_pb(error: KVStoreError) -> kv_pb2.Error:
    return error_result(error).error


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
