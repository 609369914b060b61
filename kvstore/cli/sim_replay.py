"""``kvstore sim replay``: a script, step by step."""

from typing import TextIO

import click

from kvstore.cli.errors import CommandFailed, ExitCode
from kvstore.cli.options import examples, reads_only
from kvstore.cli.output import coloured
from kvstore.simulation.script import Script, ScriptError, parse, replayed
from kvstore.simulation.verdict import Verdict, check_of


@click.command(
    short_help="Run a script, as --shrink writes it.",
    epilog=examples(
        "kvstore sim replay shrunk.raft",
        "python -m kvstore.simulation.mutants M03 -- kvstore sim replay shrunk.raft",
    ),
)
@click.argument("file", type=click.File(encoding="utf-8"))
@reads_only
def replay(*, file: TextIO) -> None:
    """Run the script in FILE, and print it with what happens at each of its lines.

    What FILE says that happens is not compared: tests do that. Exit code 1 if an
    invariant is violated, a claim of the script is not so, or a line cannot be done;
    what comes before that is printed. docs/scripts.md describes the language.
    """
    try:
        script = parse(file.read(), file.name)
    except ScriptError as error:
        raise CommandFailed(str(error), code=ExitCode.USAGE) from error
    violation = _play(script)
    if violation is not None:
        click.echo(f"{coloured(f'VIOLATION ({check_of(violation)})', 'red')}")
        click.echo(f"  what:    {violation}")
        click.get_current_context().exit(ExitCode.NEGATIVE)


def _play(script: Script) -> str | None:
    """Print it; what it ends in, if it must not.

    Raises:
        CommandFailed: a line cannot be done, or claims what is not so.
    """
    lines = replayed(script)
    verdict = Verdict()
    while verdict.violation is None:
        line: str | None = None
        refused: str | None = None
        # Around the script alone: errors of printing are not its own.
        with verdict:
            try:
                line = next(lines, None)
            except ScriptError as error:
                refused = str(error)
        if refused is not None:
            raise CommandFailed(refused, code=ExitCode.NEGATIVE)
        if line is None:
            break
        click.echo(line)
    return verdict.violation
