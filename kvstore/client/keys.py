"""Keys and spans of keys, from what people write to what travels."""

from kvstore.errors import InvalidRequest

Text = bytes | str
"""A key or a value. Text is UTF-8."""

FIRST_KEY = b"\0"
"""No key sorts before it: a key has at least one byte."""

NO_END = b"\0"
"""The ``range_end`` on the wire that covers every key from ``key`` on (as in etcd)."""


def to_bytes(text: Text) -> bytes:
    """Text is UTF-8."""
    return text.encode() if isinstance(text, str) else text


NOTHING = (b"\1", b"\1")
"""``key`` and ``range_end`` of a range that holds no key."""


def bounds(start: Text, end: Text, prefix: Text | None) -> tuple[bytes, bytes]:
    r"""The keys meant, as ``start <= key < end``. An empty side is open.

    >>> bounds("a", "c", None), bounds("", "", "users/"), bounds("", "", b"a\xff")
    ((b'a', b'c'), (b'users/', b'users0'), (b'a\xff', b'b'))
    >>> bounds("", "", b"\xff")
    (b'\xff', b'')

    Raises:
        InvalidRequest: a prefix and a bound together. Definite: nothing was sent.
    """
    if prefix is None:
        return to_bytes(start), to_bytes(end)
    if start or end:
        raise InvalidRequest("give a prefix, or bounds, not both")
    first = to_bytes(prefix)
    stem = first.rstrip(b"\xff")
    return first, stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


def span(start: Text, end: Text, prefix: Text | None) -> tuple[bytes, bytes]:
    r"""``key`` and ``range_end`` of a request for the keys that :func:`bounds` means.

    >>> span("a", "c", None), span("", "c", None), span("a", "", None)
    ((b'a', b'c'), (b'\x00', b'c'), (b'a', b'\x00'))

    Raises:
        InvalidRequest: as :func:`bounds`.
    """
    first, beyond = bounds(start, end, prefix)
    if beyond == NO_END:  # as a bound, it is below every key but itself
        return NOTHING
    return first or FIRST_KEY, beyond or NO_END
