"""Transactions: conditions on the state before, and two branches of operations.

>>> from kvstore import Compare, KeyValue, Op, RangeResult, TxnResult

Take a name if nobody has it, and learn who does otherwise:

>>> outcome = store.txn(
...     compare=[Compare.absent("leader")],
...     then=[Op.put("leader", "me")],
...     otherwise=[Op.get("leader")],
... )
>>> outcome.succeeded
True

Write back what was read, unless somebody wrote in between:

>>> read = store.get("leader")
>>> store.txn(
...     compare=[Compare.mod_revision("leader", "==", read.mod_revision)],
...     then=[Op.put("leader", read.value + b"!"), Op.delete("candidate")],
... ).succeeded
True
>>> store.get("leader").value
b'me!'

A branch may hold transactions. Each result has the type of what the same method of a
client returns:

>>> outcome = store.txn(
...     then=[
...         Op.txn(
...             compare=[Compare.value("leader", "==", "me!")],
...             then=[Op.get("leader"), Op.range(prefix="lead", keys_only=True)],
...         )
...     ],
... )
>>> match outcome.results:
...     case [TxnResult(results=[KeyValue(value=value), RangeResult(count=count)])]:
...         print(value, count)
b'me!' 1
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from kvstore.client.keys import Text, span, to_bytes
from kvstore.client.results import (
    OpResult,
    ResponseHeader,
    TxnResult,
    delete_from_pb,
    pair_from_pb,
    put_from_pb,
    range_from_pb,
)
from kvstore.errors import InvalidRequest
from kvstore.pb import kv_pb2

Relation = Literal["==", "!=", "<", ">"]

SortBy = Literal["key", "version", "create_revision", "mod_revision", "value"]
"""What of a pair a range is sorted by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """A condition on one key. Make it with one of the methods.

    A key that does not exist has version, create revision and mod revision 0; no
    comparison of its value holds, not even ``!=``.
    """

    pb: kv_pb2.Compare
    """As it travels."""

    @classmethod
    def exists(cls, key: Text) -> Self:
        """The key exists."""
        return cls.version(key, ">", 0)

    @classmethod
    def absent(cls, key: Text) -> Self:
        """The key does not exist."""
        return cls.version(key, "==", 0)

    @classmethod
    def version(cls, key: Text, relation: Relation, version: int) -> Self:
        """How often the key was written since it was created."""
        result = _relation(relation)
        pb = kv_pb2.Compare(key=to_bytes(key), result=result, version=version)
        return cls(pb=pb)

    @classmethod
    def create_revision(cls, key: Text, relation: Relation, revision: int) -> Self:
        """The revision at which the key was created."""
        result = _relation(relation)
        pb = kv_pb2.Compare(key=to_bytes(key), result=result, create_revision=revision)
        return cls(pb=pb)

    @classmethod
    def mod_revision(cls, key: Text, relation: Relation, revision: int) -> Self:
        """The revision at which the key was last written."""
        result = _relation(relation)
        pb = kv_pb2.Compare(key=to_bytes(key), result=result, mod_revision=revision)
        return cls(pb=pb)

    @classmethod
    def value(cls, key: Text, relation: Relation, value: Text) -> Self:
        """The key's value, by its bytes."""
        result = _relation(relation)
        pb = kv_pb2.Compare(key=to_bytes(key), result=result, value=to_bytes(value))
        return cls(pb=pb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation of a transaction. Make it with one of the methods.

    They take what the client's methods of the same names take, and the transaction
    returns for them what those return.
    """

    pb: kv_pb2.Operation
    """As it travels."""
    one: bool = False
    """The range it travels as stands for one key: its result is a pair or None."""
    nested: "tuple[tuple[Op, ...], tuple[Op, ...]]" = ((), ())
    """Both branches, of a transaction."""

    @classmethod
    def put(cls, key: Text, value: Text, *, prev_kv: bool = False) -> Self:
        """Write a key; returns ``PutResult``."""
        put = kv_pb2.Put(key=to_bytes(key), value=to_bytes(value), prev_kv=prev_kv)
        return cls(pb=kv_pb2.Operation(put=put))

    @classmethod
    def get(cls, key: Text, *, revision: int = 0) -> Self:
        """Read a key; returns ``KeyValue``, or None if there is none."""
        wanted = kv_pb2.Range(key=to_bytes(key), revision=revision)
        return cls(pb=kv_pb2.Operation(range=wanted), one=True)

    @classmethod
    def range(
        cls,
        start: Text = b"",
        end: Text = b"",
        *,
        prefix: Text | None = None,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        without_count: bool = False,
        sort_by: SortBy = "key",
        descending: bool = False,
    ) -> Self:
        """Read [start, end) or a prefix; returns ``RangeResult``."""
        wanted = range_to_pb(
            span(start, end, prefix),
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
            without_count=without_count,
            sort_by=sort_by,
            descending=descending,
        )
        return cls(pb=kv_pb2.Operation(range=wanted))

    @classmethod
    def delete(cls, key: Text, *, prev_kv: bool = False) -> Self:
        """Delete a key; returns ``DeleteResult``."""
        return cls._delete(to_bytes(key), b"", prev_kv)

    @classmethod
    def delete_range(cls, start: Text, end: Text, *, prev_kv: bool = False) -> Self:
        """Delete [start, end), open where empty; returns ``DeleteResult``."""
        return cls._delete(*span(start, end, None), prev_kv)

    @classmethod
    def delete_prefix(cls, prefix: Text, *, prev_kv: bool = False) -> Self:
        """Delete every key with a prefix; returns ``DeleteResult``."""
        return cls._delete(*span(b"", b"", prefix), prev_kv)

    @classmethod
    def txn(
        cls,
        *,
        compare: Iterable[Compare] = (),
        then: Iterable["Op"] = (),
        otherwise: Iterable["Op"] = (),
    ) -> Self:
        """A transaction within; returns ``TxnResult``."""
        branches = tuple(then), tuple(otherwise)
        txn = txn_to_pb(compare, *branches)
        return cls(pb=kv_pb2.Operation(txn=txn), nested=branches)

    @classmethod
    def _delete(cls, key: bytes, range_end: bytes, prev_kv: bool) -> Self:
        wanted = kv_pb2.DeleteRange(key=key, range_end=range_end, prev_kv=prev_kv)
        return cls(pb=kv_pb2.Operation(delete_range=wanted))


# ------------------------------------------------------------------- messages


def range_to_pb(
    bounds: tuple[bytes, bytes],
    *,
    limit: int,
    revision: int,
    keys_only: bool,
    count_only: bool,
    without_count: bool,
    sort_by: SortBy,
    descending: bool,
) -> kv_pb2.Range:
    """Raises ``InvalidRequest`` for an unknown ``sort_by``."""
    match sort_by:
        case "key":
            target = kv_pb2.Range.KEY
        case "version":
            target = kv_pb2.Range.VERSION
        case "create_revision":
            target = kv_pb2.Range.CREATE
        case "mod_revision":
            target = kv_pb2.Range.MOD
        case "value":
            target = kv_pb2.Range.VALUE
        case _:
            raise InvalidRequest(f"a range cannot be sorted by {sort_by!r}")
    key, range_end = bounds
    return kv_pb2.Range(
        key=key,
        range_end=range_end,
        limit=limit,
        revision=revision,
        keys_only=keys_only,
        count_only=count_only,
        without_count=without_count,
        sort_order=kv_pb2.Range.DESCEND if descending else kv_pb2.Range.ASCEND,
        sort_target=target,
    )


def txn_to_pb(
    compare: Iterable[Compare], then: Iterable[Op], otherwise: Iterable[Op]
) -> kv_pb2.Txn:
    """Raises nothing: what the operations hold was checked when they were made."""
    return kv_pb2.Txn(
        compare=[condition.pb for condition in compare],
        success=[operation.pb for operation in then],
        failure=[operation.pb for operation in otherwise],
    )


def txn_from_pb(
    result: kv_pb2.TxnResult,
    then: Sequence[Op],
    otherwise: Sequence[Op],
    header: ResponseHeader,
) -> TxnResult:
    """The result of a transaction of these branches."""
    ran = then if result.succeeded else otherwise
    return TxnResult(
        succeeded=result.succeeded,
        results=tuple(
            _op_from_pb(answer, operation, header)
            for answer, operation in zip(result.results, ran, strict=True)
        ),
        revision=result.revision,
        header=header,
    )


def _op_from_pb(
    answer: kv_pb2.Result, operation: Op, header: ResponseHeader
) -> OpResult:
    match operation.pb.WhichOneof("operation"):
        case "put":
            return put_from_pb(answer.put, header)
        case "delete_range":
            return delete_from_pb(answer.delete_range, header)
        case "txn":
            return txn_from_pb(answer.txn, *operation.nested, header)
        case _ if operation.one:
            return pair_from_pb(answer.range.kvs[0]) if answer.range.kvs else None
        case _:
            return range_from_pb(answer.range, header)


def _relation(relation: Relation) -> kv_pb2.Compare.Result:
    match relation:
        case "==":
            return kv_pb2.Compare.EQUAL
        case "!=":
            return kv_pb2.Compare.NOT_EQUAL
        case "<":
            return kv_pb2.Compare.LESS
        case ">":
            return kv_pb2.Compare.GREATER
        case _:
            raise InvalidRequest(f"no such comparison: {relation!r}")
