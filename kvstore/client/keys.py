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


def prefix_end(prefix: bytes) -> bytes:
    r"""The ``range_end`` that covers every key with ``prefix``.

    >>> prefix_end(b"users/"), prefix_end(b"a\xff"), prefix_end(b"")
    (b'users0', b'b', b'\x00')
    """
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else NO_END


def span(start: Text, end: Text, prefix: Text | None) -> tuple[bytes, bytes]:
    r"""``key`` and ``range_end`` of a request for [start, end), or for a prefix.

    An empty side is open: nothing at all is every key.

    >>> span("a", "c", None), span("", "c", None), span("a", "", None)
    ((b'a', b'c'), (b'\x00', b'c'), (b'a', b'\x00'))
    >>> span("", "", "users/")
    (b'users/', b'users0')

    Raises:
        InvalidRequest: a prefix and a bound together. Definite: nothing was sent.
    """
    if prefix is None:
        return to_bytes(start) or FIRST_KEY, to_bytes(end) or NO_END
    if start or end:
        raise InvalidRequest("give a prefix, or bounds, not both")
    return to_bytes(prefix) or FIRST_KEY, prefix_end(to_bytes(prefix))
