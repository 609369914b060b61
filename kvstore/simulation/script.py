"""``.raft`` files: schedules of a cluster, and what happens in them.

A script is a claim, and blocks of commands with what they print::

    # claim: a node that a majority votes for leads

    nodes 3
    campaign 1
    ----
    1 asks whether it could win term 1: it was told to

    stabilize quiet
    assert-leader 1
    ----

:func:`replay` runs the commands and returns the script with what they print now, so
that a script says the truth if it equals its replay. ``docs/scripts.md`` describes the
language. The form is that of CockroachDB's ``datadriven`` and etcd's ``rafttest``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.simulation.arguments import Mistake
from kvstore.simulation.commands import execute
from kvstore.simulation.stage import Stage

if TYPE_CHECKING:
    from types import TracebackType

CLAIM = "# claim: "
RULE = "----"
"""Between the commands of a block and what they print."""


class ScriptError(Exception):
    """A script cannot be read or run, or claims what is not so.

    Its text begins with file and line, and says what was expected.
    """

    def __init__(self, path: str, line: int, what: str) -> None:
        super().__init__(f"{path}:{line}: {what}")
        self.path = path
        self.line = line


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, with its number from 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """Commands, with comments between, and what they print."""

    head: tuple[Line, ...]
    output: tuple[Line, ...]

    @property
    def commands(self) -> list[Line]:
        """The lines of the head that do something."""
        return [line for line in self.head if not _is_remark(line.text)]


@dataclass(frozen=True, slots=True)
class Script:
    """A file as it was read."""

    path: str
    """To name it in errors."""
    claim: str
    """What it shows, in words."""
    parts: tuple[Line | Block, ...]
    """Remarks and blocks, in order: together they are the file."""


def parse(text: str, path: str) -> Script:
    """Read a script. O(length).

    Raises:
        ScriptError: it has no claim, or a block without its rule.
    """
    lines = [Line(number, it) for number, it in enumerate(text.splitlines(), 1)]
    if not lines or not lines[0].text.startswith(CLAIM):
        raise ScriptError(path, 1, f"expected '{CLAIM}...' as the first line")
    return Script(path, lines[0].text.removeprefix(CLAIM), tuple(_parts(lines, path)))


def _parts(lines: list[Line], path: str) -> Iterator[Line | Block]:
    position = 0
    while position < len(lines):
        if _is_remark(lines[position].text):
            yield lines[position]
            position += 1
            continue
        start = position
        while position < len(lines) and lines[position].text not in ("", RULE):
            position += 1
        if position == len(lines) or lines[position].text != RULE:
            what = f"expected '{RULE}' behind the commands of a block"
            raise ScriptError(path, lines[position - 1].number, what)
        head = lines[start:position]
        position += 1
        start = position
        while position < len(lines) and lines[position].text:
            position += 1
        yield Block(tuple(head), tuple(lines[start:position]))


def _is_remark(text: str) -> bool:
    return not text or text.startswith("#")


def replay(script: Script) -> str:
    """Run the script on a new cluster: its text, with what happens now.

    Raises:
        ScriptError: a line cannot be done, or claims what is not so.
        InvariantViolation: the protocol is broken; a note says in which line.
    """
    return "\n".join(replayed(script)) + "\n"


def replayed(script: Script) -> Iterator[str]:
    """Like :func:`replay`, line by line: up to where it breaks, if it does."""
    stage = Stage()
    for part in script.parts:
        if isinstance(part, Line):
            yield part.text
            continue
        yield from [line.text for line in part.head]
        yield RULE
        for line in part.commands:
            yield from _run(stage, script.path, line)


def check(script: Script) -> None:
    """Run the script and compare.

    Raises:
        ScriptError: as :func:`replay`, or at the first line that is not as it was
            written, with all that differ.
        InvariantViolation: as :func:`replay`.
    """
    expected = [line for part in script.parts for line in _texts(part)]
    found = replay(script).splitlines()
    if expected == found:
        return
    same = 0
    for before, after in zip(expected, found, strict=False):
        if before != after:
            break
        same += 1
    difference = difflib.unified_diff(expected, found, "written", "found", lineterm="")
    what = "something else happens:\n" + "\n".join(difference)
    raise ScriptError(script.path, same + 1, what)


def _texts(part: Line | Block) -> list[str]:
    if isinstance(part, Line):
        return [part.text]
    return [it.text for it in part.head] + [RULE] + [it.text for it in part.output]


class _Located:
    """Tells where in a script something failed, whatever it was."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(self._where)


def _run(stage: Stage, path: str, line: Line) -> list[str]:
    try:
        with _Located(f"{path}:{line.number}: {line.text}"):
            return execute(stage, line.text)
    except Mistake as mistake:
        what = f"'{line.text}': {mistake}"
        raise ScriptError(path, line.number, what) from mistake
