"""What a mutant is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One piece of a module's text, replaced."""

    module: str
    """Its dotted name."""
    old: str
    """Must occur exactly once."""
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A small change to the real code that makes it wrong."""

    id: str
    """``M11``; with a word behind it if several changes are one bug: ``M24-refund``. A
    word alone for a bug that only this code could have."""
    what: str
    """What is broken, and who had it."""
    edits: tuple[Edit, ...]
    kill: str
    """The schedule that notices it: a file of ``scripts``, as ``name.raft``, or a
    function of ``scenarios``, as ``module:function``."""


def mutant(
    id: str,  # noqa: A002 - what it is called
    what: str,
    module: str,
    *,
    old: str,
    new: str,
    kill: str,
) -> Mutant:
    """A mutant of a single edit; ``module`` is named from below ``kvstore``."""
    edit = Edit(module=f"kvstore.{module}", old=old, new=new)
    return Mutant(id=id, what=what, edits=(edit,), kill=kill)
