"""The import hook that applies a mutant in this process."""

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from kvstore.simulation.mutants.mutant import Mutant
from kvstore.simulation.mutants.table import find

ROOT = Path(__file__).resolve().parents[3]
"""The folder that holds ``kvstore``."""


class NotApplicable(Exception):
    """The code has moved away from under a mutant, or was imported before it."""


def apply(mutant_id: str) -> None:
    """Make this process run with a mutant, from its next import on. Once a process.

    Raises:
        LookupError: there is no such mutant.
        NotApplicable: it no longer fits the code, or what it changes is imported.
    """
    changed = texts(find(mutant_id))
    if early := sorted(changed.keys() & sys.modules.keys()):
        raise NotApplicable(f"{mutant_id} comes too late: {early[0]} is imported")
    sys.meta_path.insert(0, _Finder(mutant_id, changed))


def applied() -> str | None:
    """The mutant that this process runs with, for processes that it starts."""
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            return finder.mutant_id
    return None


def texts(mutant: Mutant) -> dict[str, str]:
    """The text, changed, of each module that it changes.

    Raises:
        NotApplicable: what it replaces is not there exactly once, or what comes out is
            not Python.
    """
    changed: dict[str, str] = {}
    for edit in mutant.edits:
        text = changed.get(edit.module)
        if text is None:
            text = _path(edit.module).read_text()
        if (found := text.count(edit.old)) != 1:
            raise NotApplicable(
                f"{mutant.id} no longer applies to {edit.module}: what it replaces is "
                f"there {found} times\n{edit.old}"
            )
        changed[edit.module] = text.replace(edit.old, edit.new)
    for module, text in changed.items():
        try:
            compile(text, str(_path(module)), "exec")
        except SyntaxError as error:
            raise NotApplicable(f"{mutant.id} breaks {module}: {error}") from error
    return changed


def _path(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


class _Finder(MetaPathFinder):
    """Stands first in line for the modules that are changed."""

    def __init__(self, mutant_id: str, changed: Mapping[str, str]) -> None:
        self.mutant_id = mutant_id
        self._changed = changed

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        del path, target
        text = self._changed.get(fullname)
        if text is None:
            return None
        where = _path(fullname)
        # A name of its own: tracebacks then show what runs, and not the file.
        loader = _Loader(f"{where} with {self.mutant_id}", text)
        return spec_from_file_location(fullname, where, loader=loader)


class _Loader(InspectLoader):
    """Runs a changed text.

    Unlike a source file's loader it neither reads nor writes a cache of bytecode, where
    the change would be missing, or outlive the process.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text

    def get_source(self, fullname: str) -> str:
        del fullname
        return self._text

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return compile(self._text, self._name, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        del fullname
        return False
