"""Keys and ranges as they are typed."""

import base64
import binascii
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import TypeVar

import click

from kvstore.client.keys import NO_END, span
from kvstore.pb import kv_pb2

KEY_FORMATS = ("text", "hex", "base64")
SORT_TARGETS = {
    "key": kv_pb2.Range.KEY,
    "version": kv_pb2.Range.VERSION,
    "create": kv_pb2.Range.CREATE,
    "mod": kv_pb2.Range.MOD,
    "value": kv_pb2.Range.VALUE,
}
"""What a range can be sorted by."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """``[key, range_end)`` in the protocol's form (see ``Range`` in kv.proto)."""

    key: bytes
    range_end: bytes


def key_format_option(function: Callable[..., Result]) -> Callable[..., Result]:
    """Add ``--key-format``; the function gets ``decode_key=``, text to bytes."""

    def call(*, key_format: str, **others: object) -> Result:
        def decode(text: str) -> bytes:
            return decode_key(text, key_format)

        return function(decode_key=decode, **others)

    update_wrapper(call, function)
    return click.option(
        "--key-format",
        type=click.Choice(KEY_FORMATS),
        default="text",
        show_default=True,
        help="How keys are written on this command line.",
    )(call)


def decode_key(text: str, key_format: str) -> bytes:
    """Return a key's bytes; ``text`` is taken byte for byte as the shell passed it.

    Raises:
        click.BadParameter: not hexadecimal, or not base64.
    """
    if key_format == "text":
        return os.fsencode(text)
    try:
        if key_format == "hex":
            return bytes.fromhex(text)
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise click.BadParameter(f"{text!r} is not {key_format}: {error}") from error


def prefix_range(prefix: bytes) -> KeyRange:
    """Return the range of all keys that begin with ``prefix``; empty is every key."""
    key, range_end = span(b"", b"", prefix)
    return KeyRange(key=key, range_end=range_end)


def from_key_range(key: bytes) -> KeyRange:
    """Return the range of all keys from ``key`` on."""
    return KeyRange(key=key, range_end=NO_END)


def key_range(key: bytes, range_end: bytes) -> KeyRange:
    """Return the range ``[key, range_end)``; without an end, the key alone.

    Raises:
        ValueError: the end is the protocol's "every key from there on": as a bound it
            would mean no key at all, which nobody asks for.
    """
    if range_end == NO_END:
        raise ValueError("no key sorts before a zero byte, so this range is empty")
    return KeyRange(key=key, range_end=range_end)


def choose_range(
    *,
    key: str | None,
    range_end: str | None,
    prefix: str | None,
    from_key: bool = False,
    decode: Callable[[str], bytes],
) -> KeyRange | None:
    """Return the range that the arguments name; None if they name none.

    Raises:
        click.UsageError: they name two, or one that can hold no key.
    """
    if prefix is not None:
        if key is not None or from_key:
            raise click.UsageError("--prefix stands alone, without KEY or --from-key")
        return prefix_range(decode(prefix))
    if key is None:
        if from_key:
            raise click.UsageError("--from-key needs KEY")
        return None
    if from_key:
        if range_end is not None:
            raise click.UsageError("--from-key has no end: leave RANGE_END out")
        return from_key_range(decode(key))
    end = b"" if range_end is None else decode(range_end)
    try:
        return key_range(decode(key), end)
    except ValueError as error:
        raise click.UsageError(f"{error}. To have no end, use --from-key") from error
