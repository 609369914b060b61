"""Rendering: units, escapes, JSON of bytes, tables."""

import json

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kvstore.cli.output import (
    Cell,
    Column,
    bytes_json,
    human_bytes,
    human_duration,
    plural,
    print_json,
    printable,
    render_table,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (3 * 2**30, "3.0 GiB"),
        (2**60, "1024.0 PiB"),
    ],
)
def test_bytes_are_shown_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.0000123, "12.3 µs"),
        (0.0123, "12.3 ms"),
        (0.99999, "1.0 s"),
        (59.96, "1m 0s"),
        (75, "1m 15s"),
        (3599.9, "1h 0m"),
        (90_000, "1d 1h"),
        (-2, "-2.0 s"),
    ],
)
def test_durations_are_shown_in_two_units_at_most(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_numbers_and_words_agree() -> None:
    assert plural(1, "key") == "1 key"
    assert plural(2_000, "entry", "entries") == "2,000 entries"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        ("grüße 値".encode(), "grüße 値"),
        (b"\x1b[2J\n", r"\x1b[2J\n"),
        (b"\xff\x00", r"\xff\x00"),
        (rb"\n", r"\\n"),
        ("\u202e".encode(), r"\u202e"),
    ],
)
def test_what_could_drive_a_terminal_is_escaped(data: bytes, text: str) -> None:
    assert printable(data) == text


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_different_bytes_never_look_alike(one: bytes, other: bytes) -> None:
    assert (printable(one) == printable(other)) == (one == other)


@given(st.binary(max_size=200))
def test_escaped_text_is_printable(data: bytes) -> None:
    assert printable(data).isprintable()


def test_a_long_value_is_cut_and_its_size_told() -> None:
    assert printable(b"a" * 5000, characters_max=5) == "aaaaa… (4.9 KiB)"
    assert printable(b"aaaaa", characters_max=5) == "aaaaa"


def test_bytes_in_json_carry_text_only_if_they_are_text() -> None:
    assert bytes_json(b"a") == {"text": "a", "base64": "YQ=="}
    assert bytes_json(b"\xff") == {"base64": "/w=="}


def test_json_off_a_terminal_is_one_line() -> None:
    @click.command()
    def command() -> None:
        print_json({"a": [1, {"b": "ü"}]})

    result = CliRunner().invoke(command)
    assert result.output == '{"a": [1, {"b": "ü"}]}\n'
    assert json.loads(result.output)


def test_a_table_off_a_terminal_has_no_colour_no_wrap_and_no_trailing_blanks() -> None:
    long = "x" * 500
    text = render_table(
        [Column(title="KEY"), Column(title="N", right=True)],
        [["a", Cell(text="7", style="bold red")], [long, "1,234"]],
    )
    lines = text.splitlines()
    assert [line.split() for line in lines] == [
        ["KEY", "N"],
        ["a", "7"],
        [long, "1,234"],
    ]
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in lines)


def test_text_in_a_cell_is_never_markup() -> None:
    text = render_table([Column(title="KEY")], [["[bold]x[/bold] :smile:"]])
    assert "[bold]x[/bold] :smile:" in text
