"""Random commands over few keys, so that they meet each other."""

from hypothesis import strategies as st

from kvstore.pb import kv_pb2
from tests.state_machine.model import (
    ALL,
    compact,
    delete,
    op,
    put,
    step,
    txn,
)

PREFIX = b"p" * 448
"""Keys that share it are stored out of order in LMDB (see ``state_format.py``)."""
KEYS = [
    b"\0",
    b"a",
    b"a\0",
    b"ab",
    b"b",
    PREFIX[:-1],
    PREFIX,
    PREFIX + b"a",
    PREFIX + b"m" * 32,
    PREFIX + b"n" * 600,
    PREFIX + b"z",
    PREFIX + b"z" * 31,
    b"q",
    b"\xff",
]
# Mostly few keys, so that each has a history.
keys = st.one_of(st.sampled_from(KEYS[1:4]), st.sampled_from(KEYS))
values = st.sampled_from([b"", b"1", b"2", b"x" * 300])
ends = st.sampled_from([b"", ALL, *KEYS[1:], PREFIX + b"z" * 40])

puts = st.builds(put, keys, values, lease=st.integers(0, 2), prev_kv=st.integers(0, 1))
deletes = st.builds(delete, keys, ends, prev_kv=st.booleans())
ranges = st.builds(
    kv_pb2.Range,
    key=keys,
    range_end=ends,
    limit=st.sampled_from([0, 0, 1, 2, 3]),
    revision=st.integers(-1, 6),
    sort_order=st.integers(0, 2),
    sort_target=st.integers(0, 4),
    keys_only=st.booleans(),
    count_only=st.sampled_from([False, False, False, True]),
    without_count=st.booleans(),
)
small = st.integers(0, 5)
compares = st.one_of(
    st.builds(kv_pb2.Compare, result=st.integers(0, 3), key=keys, version=small),
    st.builds(
        kv_pb2.Compare, result=st.integers(0, 3), key=keys, create_revision=small
    ),
    st.builds(kv_pb2.Compare, result=st.integers(0, 3), key=keys, mod_revision=small),
    st.builds(kv_pb2.Compare, result=st.integers(0, 3), key=keys, value=values),
)


def txns(depth: int = 2) -> st.SearchStrategy[kv_pb2.Command]:
    operations = st.one_of(puts.map(op), deletes.map(op), ranges.map(op))
    if depth > 1:
        operations = st.one_of(operations, txns(depth - 1).map(op))
    branch = st.lists(operations, max_size=4)
    return st.builds(txn, st.lists(compares, max_size=2), branch, branch)


commands = st.one_of(
    puts,
    puts,
    puts,
    deletes,
    txns(),
    txns(),
    st.builds(compact, st.integers(-1, 6)),
    st.builds(step),
    st.just(put(b"")),
    st.just(kv_pb2.Command()),
)
batches = st.lists(commands, min_size=1, max_size=4)


def relative(revision: int, newest: int) -> int:
    """A drawn revision counts back from the newest: 1 is the newest, 0 the one to come.

    So that most are readable and few are compacted, however long the history is.
    """
    return max(newest + 1 - revision, 0)


def relative_command(command: kv_pb2.Command, newest: int) -> kv_pb2.Command:
    """A drawn command with its revisions made :func:`relative`."""
    result = kv_pb2.Command()
    result.CopyFrom(command)
    if result.HasField("compact"):
        result.compact.revision = relative(result.compact.revision, newest)
    elif result.HasField("txn"):
        for operation in (*result.txn.success, *result.txn.failure):
            if operation.HasField("range") and operation.range.revision > 0:
                revision = operation.range.revision
                operation.range.revision = relative(revision, newest)
    return result


def relative_range(request: kv_pb2.Range, newest: int) -> kv_pb2.Range:
    """A drawn range with its revision made :func:`relative`; 0 is the newest still."""
    result = kv_pb2.Range()
    result.CopyFrom(request)
    if result.revision > 0:
        result.revision = relative(result.revision, newest)
    return result
