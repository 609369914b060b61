"""A group that knows its commands by name and imports each only when it is used."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import click
from click.shell_completion import CompletionItem

from kvstore.cli.errors import CommandFailed, ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyCommand:
    """Where a command is, and what ``--help`` says of it without importing it."""

    section: str
    module: str
    attribute: str
    short_help: str


class LazyGroup(click.Group):
    """Subclasses name their commands in ``lazy_commands``, in the order of the help."""

    lazy_commands: ClassVar[Mapping[str, LazyCommand]] = {}

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(self.lazy_commands)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            CommandFailed: a module it needs is not installed.
        """
        entry = self.lazy_commands.get(cmd_name)
        if entry is None:
            return None
        try:
            module = importlib.import_module(entry.module)
        except ModuleNotFoundError as error:
            raise _not_installed(cmd_name, entry, error.name or "") from error
        command = getattr(module, entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> list[CompletionItem]:
        """Complete names and options, importing no command."""
        names = [
            CompletionItem(name, help=entry.short_help)
            for name, entry in self.lazy_commands.items()
            if name.startswith(incomplete)
        ]
        # Not Group's, which imports every command to see whether it is hidden.
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(
        self, _ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the commands by section, importing none."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.lazy_commands.items():
            sections.setdefault(entry.section, []).append((name, entry.short_help))
        width = max(map(len, self.lazy_commands), default=0)
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(
                    [(name.ljust(width), short_help) for name, short_help in rows]
                )


def _not_installed(name: str, entry: LazyCommand, missing: str) -> CommandFailed:
    if entry.module == missing or entry.module.startswith(f"{missing}."):
        message = f"`{name}` is not part of this installation of kvstore"
    else:
        message = f"`{name}` needs the Python package {missing!r}, which is missing"
    return CommandFailed(
        message,
        code=ExitCode.DIRECTORY_OR_CONFIG,
        hint="Install the whole distribution: pip install kvstore",
    )
