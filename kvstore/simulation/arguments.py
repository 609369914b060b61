"""The words of one line of a script: ``name word word key=value ...``."""

from collections.abc import Iterable

from kvstore.types import NodeId


class Mistake(Exception):
    """A line asks for what cannot be, or claims what is not so. Says what to do."""


class Arguments:
    """Hands out the words of a line, each once, and knows what is left.

    Every method raises :class:`Mistake` with what was expected.
    """

    def __init__(self, line: str) -> None:
        self.command, *words = line.split() or [""]
        self._words = [word for word in words if "=" not in word]
        self._options: dict[str, str] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if equals:
                if name in self._options:
                    raise Mistake(f"{name}= is given twice")
                self._options[name] = value

    def word(self, what: str) -> str:
        """The next word; ``what`` names it to whoever left it out."""
        if not self._words:
            raise Mistake(f"expected {what} after '{self.command}'")
        return self._words.pop(0)

    def peek(self) -> str:
        """The next word, which stays; empty if none is left."""
        return self._words[0] if self._words else ""

    def next_word(self) -> str | None:
        """The next word, if one is left."""
        return self._words.pop(0) if self._words else None

    def option(self, name: str) -> str | None:
        """The value of ``name=``, if given."""
        return self._options.pop(name, None)

    def options(self) -> dict[str, str]:
        """Every option not taken yet."""
        taken, self._options = self._options, {}
        return taken

    def number(self, name: str) -> int | None:
        """The value of ``name=``, a number from 0, if given."""
        value = self.option(name)
        return None if value is None else number(value, f"{name}=")

    def needed_number(self, name: str) -> int:
        """As :meth:`number`, but it must be given."""
        value = self.number(name)
        if value is None:
            raise Mistake(f"expected {name}=NUMBER")
        return value

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        """The value of ``name=``, one of ``choices``."""
        value = self.option(name)
        if value is None:
            return default
        if value not in choices:
            raise Mistake(f"expected {name}={'|'.join(choices)}, found '{value}'")
        return value

    def numbers(self, name: str) -> list[int] | None:
        """The value of ``name=``, numbers with commas between, if given."""
        value = self.option(name)
        if value is None:
            return None
        return [number(part, f"{name}=") for part in value.split(",") if part]

    def finish(self) -> None:
        """Nothing may be left."""
        left = [*self._words, *[f"{name}=" for name in self._options]]
        if left:
            raise Mistake(f"'{self.command}' does not take {' '.join(left)}")


def number(text: str, what: str) -> int:
    """A number from 0."""
    if not (text.isascii() and text.isdigit()):
        raise Mistake(f"expected a number for {what}, found '{text}'")
    return int(text)


def link(text: str) -> tuple[str, str]:
    """``FROM->TO``, of which each is a node or ``*``."""
    sender, arrow, to = text.partition("->")
    if not arrow:
        raise Mistake(f"expected FROM->TO, as 1->2 or *->3, found '{text}'")
    return sender, to


def node_id(text: str, known: Iterable[NodeId]) -> NodeId:
    """One of the nodes that there are."""
    known = list(known)
    found = NodeId(number(text, "a node"))
    if found not in known:
        raise Mistake(f"there is no node {found}: there are 1 to {len(known)}")
    return found
