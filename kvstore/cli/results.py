"""Results of operations as JSON, and pairs as table rows.

In JSON a key or value is ``{"text": …, "base64": …}``, the text only if it is UTF-8,
and numbers are the protocol's. The forms are part of the command's interface: fields
may be added, none renamed.
"""

from collections.abc import Iterable

from kvstore.cli.output import (
    Cell,
    Column,
    Json,
    bytes_json,
    human_bytes,
    plural,
    print_table,
    printable,
)
from kvstore.pb import kv_pb2

_VALUE_CHARACTERS_MAX = 60
_KEY_CHARACTERS_MAX = 200

_COLUMNS = (
    Column(title="KEY"),
    Column(title="VALUE"),
    Column(title="SIZE", right=True),
    Column(title="VERSION", right=True),
    Column(title="CREATED", right=True),
    Column(title="MODIFIED", right=True),
)


def pair_json(pair: kv_pb2.KeyValue, *, keys_only: bool = False) -> dict[str, Json]:
    """Return one pair; ``create_revision`` and the like are its metadata."""
    value = {} if keys_only else {"value": bytes_json(pair.value)}
    return {
        "key": bytes_json(pair.key),
        **value,
        "create_revision": pair.create_revision,
        "mod_revision": pair.mod_revision,
        "version": pair.version,
        "lease": pair.lease,
    }


def put_json(result: kv_pb2.PutResult) -> dict[str, Json]:
    """Return what a put did; ``prev_kv`` is there if it was asked for and existed."""
    fields: dict[str, Json] = {"revision": result.revision}
    if result.HasField("prev_kv"):
        fields["prev_kv"] = pair_json(result.prev_kv)
    return fields


def delete_json(result: kv_pb2.DeleteRangeResult) -> dict[str, Json]:
    """Return what a delete did."""
    return {
        "revision": result.revision,
        "deleted": result.deleted,
        "prev_kvs": [pair_json(pair) for pair in result.prev_kvs],
    }


def range_json(result: kv_pb2.RangeResult) -> dict[str, Json]:
    """Return a whole range, as a transaction's get does."""
    return {
        "revision": result.revision,
        "count": result.count,
        "more": result.more,
        "kvs": [pair_json(pair) for pair in result.kvs],
    }


def txn_json(result: kv_pb2.TxnResult) -> dict[str, Json]:
    """Return which branch ran, and what each operation of it did, in order."""
    return {
        "succeeded": result.succeeded,
        "revision": result.revision,
        "results": [_result_json(each) for each in result.results],
    }


def txn_lines(result: kv_pb2.TxnResult, indent: str = "") -> list[str]:
    """Return a transaction's result in words, one line an operation and a pair."""
    branch = "held: `then` ran" if result.succeeded else "did not hold: `else` ran"
    lines = [f"{indent}The conditions {branch} (revision {result.revision})."]
    for number, each in enumerate(result.results, start=1):
        head = f"{indent}{number}. "
        match each.WhichOneof("result"):
            case "put":
                lines.append(f"{head}put")
                if each.put.HasField("prev_kv"):
                    lines.append(f"{indent}   before: {_pair_line(each.put.prev_kv)}")
            case "delete_range":
                deleted = plural(each.delete_range.deleted, "key")
                lines.append(f"{head}delete: {deleted}")
                lines += [
                    f"{indent}   before: {_pair_line(pair)}"
                    for pair in each.delete_range.prev_kvs
                ]
            case "range":
                found = plural(each.range.count, "key")
                lines.append(f"{head}get: {found}")
                lines += [f"{indent}   {_pair_line(pair)}" for pair in each.range.kvs]
                if each.range.more:
                    lines.append(f"{indent}   (there are more)")
            case "txn":
                lines.append(f"{head}txn")
                lines += txn_lines(each.txn, f"{indent}   ")
            case other:
                raise AssertionError(other)
    return lines


def print_pairs(
    pairs: Iterable[kv_pb2.KeyValue], *, keys_only: bool = False, header: bool = True
) -> None:
    """Print pairs as a table: printable text, long values cut."""
    columns = [
        column
        for column in _COLUMNS
        if not (keys_only and column.title in {"VALUE", "SIZE"})
    ]
    print_table(columns, (_row(pair, keys_only) for pair in pairs), header=header)


def _row(pair: kv_pb2.KeyValue, keys_only: bool) -> list[Cell | str]:
    value = printable(pair.value, characters_max=_VALUE_CHARACTERS_MAX)
    key = printable(pair.key, characters_max=_KEY_CHARACTERS_MAX)
    return [
        Cell(text=key, style="bold"),
        *([] if keys_only else [value, human_bytes(len(pair.value))]),
        str(pair.version),
        str(pair.create_revision),
        str(pair.mod_revision),
    ]


def _pair_line(pair: kv_pb2.KeyValue) -> str:
    key = printable(pair.key, characters_max=_KEY_CHARACTERS_MAX)
    value = printable(pair.value, characters_max=_VALUE_CHARACTERS_MAX)
    return f"{key} = {value}"


def _result_json(result: kv_pb2.Result) -> dict[str, Json]:
    match result.WhichOneof("result"):
        case "put":
            return {"put": put_json(result.put)}
        case "delete_range":
            return {"delete": delete_json(result.delete_range)}
        case "range":
            return {"get": range_json(result.range)}
        case "txn":
            return {"txn": txn_json(result.txn)}
        case other:
            # A transaction that fails fails whole; the client raised its error.
            raise AssertionError(other)
