"""The JSON form of a transaction, and of its result.

::

    {"compare": [{"key": "a", "target": "version", "result": "==", "value": 1}],
     "then":    [{"put": {"key": "a", "value": "new"}}, {"get": {"key": "b"}}],
     "else":    [{"delete": {"prefix": "tmp/"}}, {"txn": {...}}]}

A key or value is text, or ``{"base64": "..."}``; what ``--json`` prints can be pasted
back. A field that is not known is an error: a misspelt ``"esle"`` must not be a
transaction without an alternative.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping

from kvstore.cli.keys import (
    SORT_TARGETS,
    KeyRange,
    from_key_range,
    key_range,
    prefix_range,
)
from kvstore.pb import kv_pb2

INT64_MAX = 2**63 - 1

_COMPARISONS = {
    "==": kv_pb2.Compare.EQUAL,
    "!=": kv_pb2.Compare.NOT_EQUAL,
    ">": kv_pb2.Compare.GREATER,
    "<": kv_pb2.Compare.LESS,
}
_COMPARE_TARGETS = {
    "version": "version",
    "create": "create_revision",
    "mod": "mod_revision",
    "value": "value",
}


class TxnFormatError(ValueError):
    """The text is not a transaction. The message says where and why."""


def parse_txn(text: str | bytes) -> kv_pb2.Txn:
    """Read a transaction.

    Raises:
        TxnFormatError: not JSON, or not this form.
    """
    try:
        document: object = json.loads(text, object_pairs_hook=_object_without_repeats)
        return _parse_txn(_Fields.of(document, "the transaction"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TxnFormatError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise TxnFormatError("nested too deep") from error


class _Fields:
    """A JSON object being read: every field must be asked for, and names its place."""

    __slots__ = ("_left", "where")

    def __init__(self, fields: Mapping[str, object], where: str) -> None:
        self._left = dict(fields)
        self.where = where

    @classmethod
    def of(cls, value: object, where: str) -> "_Fields":
        if not isinstance(value, Mapping):
            raise TxnFormatError(f"{where} must be an object, in braces")
        return cls(value, where)

    def has(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> object:
        if name not in self._left:
            raise TxnFormatError(f"{self.where} lacks {name!r}")
        return self._left.pop(name)

    def data(self, name: str) -> bytes:
        return _data(self.take(name), f"{self.where}: {name!r}")

    def integer(self, name: str, default: int | None = None) -> int:
        value = (
            self._left.pop(name, default) if default is not None else self.take(name)
        )
        # True is an int to Python.
        if not isinstance(value, int) or isinstance(value, bool):
            raise TxnFormatError(f"{self.where}: {name!r} must be a whole number")
        if not 0 <= value <= INT64_MAX:
            raise TxnFormatError(f"{self.where}: {name!r} must be 0 to {INT64_MAX}")
        return value

    def flag(self, name: str) -> bool:
        value = self._left.pop(name, False)
        if not isinstance(value, bool):
            raise TxnFormatError(f"{self.where}: {name!r} must be true or false")
        return value

    def choice(
        self, name: str, choices: Mapping[str, object], default: str = ""
    ) -> str:
        value = self._left.pop(name, default) if default else self.take(name)
        if not isinstance(value, str) or value not in choices:
            known = ", ".join(choices)
            raise TxnFormatError(f"{self.where}: {name!r} must be one of {known}")
        return value

    def objects(self, name: str) -> "Iterator[_Fields]":
        items = self._left.pop(name, [])
        if not isinstance(items, list):
            raise TxnFormatError(f"{self.where}: {name!r} must be a list, in brackets")
        for number, item in enumerate(items):
            yield _Fields.of(item, f"{name}[{number}] of {self.where}")

    def range(self) -> KeyRange:
        """``key``, with ``range_end`` or ``from_key``; or ``prefix``."""
        if self.has("prefix"):
            if self.has("key"):
                raise TxnFormatError(f"{self.where}: 'prefix' stands without 'key'")
            return prefix_range(self.data("prefix"))
        key = self.data("key")
        if self.flag("from_key"):
            if self.has("range_end"):
                raise TxnFormatError(f"{self.where}: 'from_key' has no 'range_end'")
            return from_key_range(key)
        end = self.data("range_end") if self.has("range_end") else b""
        try:
            return key_range(key, end)
        except ValueError as error:
            hint = "to have no end, use 'from_key'"
            raise TxnFormatError(f"{self.where}: {error}; {hint}") from error

    def end(self) -> None:
        """Every field was asked for."""
        if self._left:
            names = ", ".join(repr(name) for name in self._left)
            raise TxnFormatError(f"{self.where} has unknown fields: {names}")


def _object_without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise TxnFormatError("an object names a field twice: " + ", ".join(fields))
    return fields


def _data(value: object, where: str) -> bytes:
    if isinstance(value, str):
        return _encode(value, where)
    if not isinstance(value, Mapping) or not value or set(value) - {"base64", "text"}:
        raise TxnFormatError(f'{where} must be text, or {{"base64": "..."}}')
    found = set()
    if "base64" in value:
        try:
            found.add(base64.b64decode(value["base64"], validate=True))
        except (TypeError, ValueError, binascii.Error) as error:
            raise TxnFormatError(f"{where} is not base64: {error}") from error
    if "text" in value:
        if not isinstance(value["text"], str):
            raise TxnFormatError(f"{where}: 'text' must be text")
        found.add(_encode(value["text"], where))
    if len(found) != 1:
        raise TxnFormatError(f"{where}: 'text' and 'base64' differ")
    return found.pop()


def _encode(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        # JSON can name half a surrogate pair.
        raise TxnFormatError(f"{where} is not Unicode text; use base64") from error


def _parse_txn(fields: _Fields) -> kv_pb2.Txn:
    txn = kv_pb2.Txn(
        compare=[_parse_compare(item) for item in fields.objects("compare")],
        success=[_parse_operation(item) for item in fields.objects("then")],
        failure=[_parse_operation(item) for item in fields.objects("else")],
    )
    fields.end()
    return txn


def _parse_compare(fields: _Fields) -> kv_pb2.Compare:
    target = fields.choice("target", _COMPARE_TARGETS)
    compare = kv_pb2.Compare(
        key=fields.data("key"),
        result=_COMPARISONS[fields.choice("result", _COMPARISONS, "==")],
    )
    field = _COMPARE_TARGETS[target]
    setattr(
        compare,
        field,
        fields.data("value") if field == "value" else fields.integer("value"),
    )
    fields.end()
    return compare


def _parse_operation(fields: _Fields) -> kv_pb2.Operation:
    parsers: dict[str, Callable[[_Fields], kv_pb2.Operation]] = {
        "put": _parse_put,
        "get": _parse_get,
        "delete": _parse_delete,
        "txn": lambda body: kv_pb2.Operation(txn=_parse_txn(body)),
    }
    names = [name for name in parsers if fields.has(name)]
    if len(names) != 1:
        raise TxnFormatError(f"{fields.where} must be one of {', '.join(parsers)}")
    (name,) = names
    body = _Fields.of(fields.take(name), f"{name} in {fields.where}")
    fields.end()
    operation = parsers[name](body)
    body.end()
    return operation


def _parse_put(body: _Fields) -> kv_pb2.Operation:
    put = kv_pb2.Put(
        key=body.data("key"), value=body.data("value"), prev_kv=body.flag("prev_kv")
    )
    return kv_pb2.Operation(put=put)


def _parse_delete(body: _Fields) -> kv_pb2.Operation:
    span = body.range()
    delete = kv_pb2.DeleteRange(
        key=span.key, range_end=span.range_end, prev_kv=body.flag("prev_kv")
    )
    return kv_pb2.Operation(delete_range=delete)


def _parse_get(body: _Fields) -> kv_pb2.Operation:
    span = body.range()
    order = kv_pb2.Range.NONE
    target = kv_pb2.Range.KEY
    if body.has("sort_by") or body.has("descending"):
        target = SORT_TARGETS[body.choice("sort_by", SORT_TARGETS, "key")]
        descending = body.flag("descending")
        order = kv_pb2.Range.DESCEND if descending else kv_pb2.Range.ASCEND
    request = kv_pb2.Range(
        key=span.key,
        range_end=span.range_end,
        limit=body.integer("limit", 0),
        revision=body.integer("revision", 0),
        sort_order=order,
        sort_target=target,
        keys_only=body.flag("keys_only"),
        count_only=body.flag("count_only"),
    )
    return kv_pb2.Operation(range=request)
