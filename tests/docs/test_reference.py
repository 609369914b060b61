"""Pages about commands and settings say what the code says."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

from kvstore.cli.main import cli
from kvstore.client import pipeline
from kvstore.config import RANGES, Config

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = ROOT / "docs" / "generate.py"
CLI = ROOT / "docs" / "reference" / "cli.md"
CONFIGURATION = ROOT / "docs" / "reference" / "configuration.md"
HELP_WIDTH = 88


def commands(context: click.Context) -> Iterator[click.Context]:
    """The command of the context and all below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            child = context.command.get_command(context, name)
            assert child is not None
            yield from commands(click.Context(child, info_name=name, parent=context))


COMMANDS = list(commands(click.Context(cli, info_name="kvstore")))


def test_generated_pages_are_up_to_date() -> None:
    outcome = subprocess.run(
        [sys.executable, GENERATOR, "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_page_shows_what_help_prints() -> None:
    """In a process of its own: click keeps in a command how its help was first asked
    for, and other tests ask in other ways."""
    program = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from kvstore.cli.main import cli\n"
        "def shown(path):\n"
        "    arguments = [*path.split()[1:], '--help']\n"
        f"    return CliRunner().invoke(cli, arguments, terminal_width={HELP_WIDTH})\n"
        "print(json.dumps({path: shown(path).output for path in sys.argv[1:]}))\n"
    )
    paths = [context.command_path for context in COMMANDS]
    outcome = subprocess.run(
        [sys.executable, "-c", program, *paths],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text = CLI.read_text()
    for path, printed in json.loads(outcome.stdout).items():
        assert f"### `{path}`\n\n```text\n{printed}```\n" in text


def test_every_variable_that_a_command_reads_is_in_the_table() -> None:
    variables = {
        option.envvar
        for context in COMMANDS
        for option in context.command.params
        if option.envvar is not None
    }
    assert len(variables) >= 2
    text = CLI.read_text()
    for variable in variables:
        assert f"\n| `{variable}` | " in text


@pytest.mark.parametrize("setting", [field.name for field in fields(Config)])
def test_every_setting_has_a_heading_and_an_explanation(setting: str) -> None:
    text = CONFIGURATION.read_text()
    _, _, rest = text.partition(f"\n## `{setting}`\n\n")
    facts, explanation = rest.split("\n#", 1)[0].strip().split("\n\n", 1)
    assert facts
    assert explanation


def test_every_number_has_a_range() -> None:
    """A setting that takes any number takes nonsense."""
    numbers = {field.name for field in fields(Config) if field.type in (int, float)}
    assert numbers == set(RANGES)


def test_every_bound_of_a_client_has_a_heading() -> None:
    """Backoff is a pace, not a bound of what is held."""
    names = {
        name
        for name in vars(pipeline)
        if name.endswith("_MAX") and not name.startswith(("_", "BACKOFF_"))
    }
    assert len(names) >= 4
    text = CONFIGURATION.read_text()
    for name in names:
        assert f"\n## `{name}`\n" in text
