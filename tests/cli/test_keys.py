"""Keys and ranges as typed."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.cli.keys import KeyRange, choose_range, decode_key, prefix_range


def contains(span: KeyRange, key: bytes) -> bool:
    """What the protocol says of a range (see Range in kv.proto)."""
    if span.range_end == b"\x00":
        return key >= span.key
    if not span.range_end:
        return key == span.key
    return span.key <= key < span.range_end


@given(st.binary(max_size=4), st.binary(min_size=1, max_size=6))
def test_a_prefix_range_holds_exactly_the_keys_with_that_prefix(
    prefix: bytes, key: bytes
) -> None:
    assert contains(prefix_range(prefix), key) == key.startswith(prefix)
    assert contains(prefix_range(prefix), prefix + key)


def test_keys_are_text_hex_or_base64() -> None:
    assert decode_key("ü", "text") == "ü".encode()
    assert decode_key("00ff", "hex") == b"\x00\xff"
    assert decode_key("AP8=", "base64") == b"\x00\xff"
    for text, key_format in (("zz", "hex"), ("%", "base64"), ("AP8", "base64")):
        with pytest.raises(click.BadParameter):
            decode_key(text, key_format)


@given(st.binary().filter(lambda data: b"\x00" not in data))
def test_any_bytes_that_a_shell_can_pass_arrive_unchanged(data: bytes) -> None:
    argument = data.decode("utf-8", errors="surrogateescape")
    assert decode_key(argument, "text") == data


def choose(**arguments: str | bool | None) -> KeyRange | None:
    key, end, prefix = (arguments.get(n) for n in ("key", "range_end", "prefix"))
    assert not any(isinstance(value, bool) for value in (key, end, prefix))
    return choose_range(
        key=str(key) if key is not None else None,
        range_end=str(end) if end is not None else None,
        prefix=str(prefix) if prefix is not None else None,
        from_key=bool(arguments.get("from_key")),
        decode=str.encode,
    )


def test_the_arguments_name_one_range() -> None:
    assert choose() is None
    assert choose(key="a") == KeyRange(key=b"a", range_end=b"")
    assert choose(key="a", range_end="b") == KeyRange(key=b"a", range_end=b"b")
    assert choose(key="a", from_key=True) == KeyRange(key=b"a", range_end=b"\x00")
    assert choose(prefix="a") == KeyRange(key=b"a", range_end=b"b")
    assert choose(prefix="") == KeyRange(key=b"\x00", range_end=b"\x00")


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": "a", "prefix": "b"},
        {"prefix": "b", "from_key": True},
        {"from_key": True},
        {"key": "a", "range_end": "b", "from_key": True},
        {"key": "a", "range_end": "\0"},  # would be every key on the wire
    ],
)
def test_arguments_that_name_two_ranges_or_an_empty_one_are_refused(
    arguments: dict[str, str | bool],
) -> None:
    with pytest.raises(click.UsageError):
        choose(**arguments)
