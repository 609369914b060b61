"""What commands print with: JSON for scripts, tables and units for people.

Results go to stdout; everything said *about* them (notes, progress, errors) goes to
stderr, so that a pipe carries nothing but the answer. Colour appears only on a terminal
and never if ``NO_COLOR`` is set. Data from the store is never printed as it came:
control characters in a key could drive the reader's terminal.
"""

import base64
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import click

Json: TypeAlias = (
    bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
)

_BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_ENDLESS_WIDTH = 100_000


class OutputFormat(StrEnum):
    """How a result is written to stdout."""

    TABLE = "table"
    JSON = "json"


# ---------------------------------------------------------------------- JSON


def print_json(value: Json) -> None:
    """Print one JSON document: indented on a terminal, one line off it."""
    indent = 2 if stdout_is_terminal() else None
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False))


def print_json_line(value: Json) -> None:
    """Print one line of a JSON Lines stream."""
    click.echo(json.dumps(value, ensure_ascii=False))


def bytes_json(data: bytes) -> dict[str, str]:
    """``{"base64": …}``, and ``"text"`` beside it if the bytes are UTF-8.

    The transaction file of ``kvstore txn`` reads the same form.
    """
    fields = {}
    with contextlib.suppress(UnicodeDecodeError):
        fields["text"] = data.decode()
    fields["base64"] = base64.b64encode(data).decode()
    return fields


# -------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A table's column; numbers read best ``right``-aligned."""

    title: str
    right: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A table's cell with a rich style, such as ``"green"`` or ``"bold red"``."""

    text: str
    style: str = ""


def print_table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | str]],
    *,
    header: bool = True,
) -> None:
    """Print an aligned table, as wide as it is."""
    click.echo(render_table(columns, rows, header=header), nl=False)


def render_table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | str]],
    *,
    header: bool = True,
) -> str:
    """Return the table as lines with line ends, coloured if stdout shows colour."""
    # rich costs as much to import as everything else of a small command together.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=header, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            header_style="bold",
            no_wrap=True,
        )
    for row in rows:
        cells = [cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row]
        table.add_row(*(Text(cell.text, style=cell.style) for cell in cells))
    terminal = stdout_is_terminal()
    console = Console(
        file=sys.stdout,
        # Folded cells are harder to read than lines that the terminal wraps.
        width=_ENDLESS_WIDTH,
        force_terminal=terminal,
        color_system="standard" if terminal and colour_wanted() else None,
        highlight=False,
        markup=False,
    )
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def stdout_is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def colour_wanted() -> bool:
    """False if ``NO_COLOR`` is set and not empty (https://no-color.org)."""
    return not os.environ.get("NO_COLOR")


def coloured(text: str, colour: str) -> str:
    """Return the text, in colour if stdout shows any."""
    if stdout_is_terminal() and colour_wanted():
        return click.style(text, fg=colour, bold=True)
    return text


def note(message: str) -> None:
    """Say something beside the result: on stderr, one line."""
    click.echo(message, err=True)


# --------------------------------------------------------------------- words


def printable(data: bytes, *, characters_max: int = 0) -> str:
    r"""Return text that is safe on a terminal: what is not printable is escaped.

    Bytes that are not UTF-8 become ``\xff``, control characters ``\n`` or ``\x1b``, and
    a backslash doubles, so different keys never look alike. Longer than
    ``characters_max`` (0: no limit), the text is cut and its size in bytes follows.
    """
    # One character is at most four bytes: decode no more than can be shown.
    cut = characters_max and len(data) > 4 * characters_max
    shown = data[: 4 * characters_max] if cut else data
    text = "".join(
        _escape(character) for character in shown.decode(errors="surrogateescape")
    )
    if characters_max and (cut or len(text) > characters_max):
        return f"{text[:characters_max]}… ({human_bytes(len(data))})"
    return text


def human_bytes(count: int) -> str:
    """``1536`` -> ``1.5 KiB``."""
    if count < 1024:
        return f"{count} B"
    size = float(count)
    unit = ""
    for unit in _BINARY_UNITS:  # noqa: B007 - the unit reached is the answer
        size /= 1024
        # 1023.95 would print as 1024.0.
        if size < 1023.95:
            break
    return f"{size:.1f} {unit}"


def human_duration(seconds: float) -> str:
    """``0.0123`` -> ``12.3 ms``, ``75`` -> ``1m 15s``, ``90000`` -> ``1d 1h``."""
    if seconds < 0:
        return f"-{human_duration(-seconds)}"
    for unit, per_second in (("µs", 1e6), ("ms", 1e3)):
        if seconds and seconds * per_second < 999.95:
            return f"{seconds * per_second:.1f} {unit}"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    minutes = whole // 60
    if minutes < 24 * 60:
        return f"{minutes // 60}h {minutes % 60}m"
    hours = minutes // 60
    return f"{hours // 24}d {hours % 24}h"


def human_count(count: int) -> str:
    """``1234567`` -> ``1,234,567``."""
    return f"{count:,}"


def plural(count: int, singular: str, many: str = "") -> str:
    """``plural(1, "key")`` -> ``1 key``; ``plural(3, "key")`` -> ``3 keys``."""
    word = singular if count == 1 else many or f"{singular}s"
    return f"{human_count(count)} {word}"


def _escape(character: str) -> str:
    if character == "\\":
        return r"\\"
    if character.isprintable():
        return character
    code = ord(character)
    # surrogateescape: a byte that is not UTF-8 came as 0xDC00 + byte.
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
