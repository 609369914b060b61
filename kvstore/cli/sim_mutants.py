"""``kvstore sim mutants``: known bugs, put back one at a time, must be found."""

import re
import time
from collections.abc import Mapping, Sequence
from functools import partial

import click

from kvstore.cli.errors import ExitCode
from kvstore.cli.options import examples, output_option, reads_only
from kvstore.cli.output import (
    Cell,
    Column,
    Json,
    OutputFormat,
    coloured,
    human_count,
    human_duration,
    plural,
    print_json_line,
    print_table,
)
from kvstore.cli.sim_commands import cores
from kvstore.cli.sim_hunts import Finding, Trial
from kvstore.cli.sim_output import progress_bar
from kvstore.simulation.mutants.mutant import Mutant
from kvstore.simulation.mutants.seeding import SEEDS_MAX
from kvstore.simulation.mutants.table import MUTANTS, find

MINUTES = 40
NUMBER = re.compile(r"M\d+")
CHECK_WIDTH = 56
"""Of a check's name in the table: some are lines of a script."""
_COLUMNS = (
    Column(title="MUTANT"),
    Column(title="SCRIPT"),
    Column(title="SEED", right=True),
    Column(title="EVENTS", right=True),
    Column(title="TRIED", right=True),
    Column(title="TIME", right=True),
    Column(title="CHECK"),
)


def _parse_ids(
    _context: click.Context, _argument: click.Parameter, ids: tuple[str, ...]
) -> tuple[Mutant, ...]:
    try:
        chosen = {mutant_id: find(mutant_id) for mutant_id in ids}
    except LookupError as error:
        raise click.BadParameter(str(error)) from error
    return tuple(chosen.values()) or MUTANTS


@click.command(
    short_help="Put known bugs back, and see that each is found.",
    epilog=examples(
        "kvstore sim mutants",
        "kvstore sim mutants M03 M07 --seeds 100",
        "kvstore sim mutants --scripts-only --json",
    ),
)
@click.argument("chosen", metavar="[ID]...", nargs=-1, callback=_parse_ids)
@click.option(
    "--seeds",
    type=click.IntRange(0),
    default=SEEDS_MAX,
    show_default=True,
    help="Random runs that a mutant may survive; 0: none are tried.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=MINUTES,
    show_default=True,
    help="For the random runs of all mutants together.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    help="Mutants tried side by side.  [default: cores]",
)
@click.option("--scripts-only", is_flag=True, help="As --seeds 0.")
@output_option
@reads_only
def mutants(
    *,
    chosen: Sequence[Mutant],
    seeds: int,
    minutes: float,
    jobs: int | None,
    scripts_only: bool,
    output: OutputFormat,
) -> None:
    """Put known bugs back, one at a time, and see whether each is found.

    Each ID, by default every mutant, is run with its schedule, which must notice it,
    and then with random seeds, from 0 on, until one does. The schedules, and the seeds
    that did, are also run without a mutant, where they must notice nothing. Exit code 1
    if a schedule misses its mutant, something is noticed where nothing is, or a mutant
    cannot be run; one that survives all seeds is only told of. docs/mutants.md tells
    more.
    """
    as_json = output is OutputFormat.JSON
    began_s = time.monotonic()
    trial = Trial(chosen, seeds=0 if scripts_only else seeds, seconds_max=60 * minutes)
    with progress_bar(len(chosen), quiet=as_json) as draw:
        for finding in trial.run(jobs or cores()):
            tell = None
            if finding is not None and as_json:
                tell = partial(print_json_line, _finding_json(finding))
            draw(trial.settled, _progress(trial), tell)
        draw(trial.settled, "the same without mutants", None)
        alarms = trial.alarms()
    seconds = time.monotonic() - began_s
    if as_json:
        print_json_line(_summary_json(trial, alarms, seconds))
    else:
        _print_findings(trial, alarms, seconds)
    if alarms or not all(_is_well(it) for it in trial.findings):
        click.get_current_context().exit(ExitCode.NEGATIVE)


def _is_well(finding: Finding) -> bool:
    return finding.script_kill is not None and not finding.trouble


def _survivors(trial: Trial) -> list[str]:
    """Those that no seed has noticed; nobody if no seeds were wanted."""
    return [
        it.mutant.id for it in trial.findings if trial.seeds and it.seed_kill is None
    ]


def _untried(trial: Trial) -> list[str]:
    """Those of them that were not even tried: the time was over."""
    survivors = _survivors(trial)
    tried = {it.mutant.id for it in trial.findings if it.seeds_tried}
    return [it for it in survivors if it not in tried]


def _progress(trial: Trial) -> str:
    left = trial.seconds_left
    return (
        f"{trial.settled}/{plural(len(trial.findings), 'mutant')}, "
        f"{plural(trial.seeds_tried, 'seed')} tried"
        + ("" if left is None else f", at most {human_duration(left)} left")
    )


# ---------------------------------------------------------------------- JSON


def _finding_json(finding: Finding) -> dict[str, Json]:
    script, seed = finding.script_kill, finding.seed_kill
    kill = seed or script
    return {
        "id": finding.mutant.id,
        "what": finding.mutant.what,
        "killed_by_script": script is not None,
        "script": finding.mutant.kill,
        "script_check": script.check if script else None,
        "killed_by_seed": seed is not None,
        "seed": seed.seed if seed else None,
        "events": seed.events if seed else None,
        "seeds_tried": finding.seeds_tried,
        "seconds": round(finding.seconds, 3),
        "check": kill.check if kill else None,
        "violation": seed.violation if seed else None,
        "trouble": finding.trouble,
    }


def _summary_json(
    trial: Trial, alarms: Mapping[str, str], seconds: float
) -> dict[str, Json]:
    found = trial.findings
    return {
        "mutants": len(found),
        "numbers": len(_numbers(trial)),
        "killed_by_script": sum([it.script_kill is not None for it in found]),
        "killed_by_seed": sum([it.seed_kill is not None for it in found]),
        "survivors": _survivors(trial),
        "untried": _untried(trial),
        "false_alarms": len(alarms),
        "alarms": dict(alarms),
        "seeds_tried": trial.seeds_tried,
        "seconds": round(seconds, 3),
    }


def _numbers(trial: Trial) -> list[str]:
    """Those of the catalogue, without what tells variants apart."""
    matches = [NUMBER.match(it.mutant.id) for it in trial.findings]
    return sorted({match[0] for match in matches if match})


# ------------------------------------------------------------------- for people


def _print_findings(trial: Trial, alarms: Mapping[str, str], seconds: float) -> None:
    print_table(_COLUMNS, [_row(it) for it in trial.findings])
    click.echo()
    for finding in trial.findings:
        if finding.script_kill is None:
            said = finding.trouble[0] if finding.trouble else finding.mutant.what
            click.echo(f"{coloured('MISSED', 'red')} {finding.mutant.id}: {said}")
        elif finding.trouble:
            name = finding.mutant.id
            click.echo(f"{coloured('FAILED', 'red')} {name}: {finding.trouble[0]}")
    for what, check in alarms.items():
        click.echo(f"{coloured('FALSE ALARM', 'red')} {what}: {check}")
    untried = _untried(trial)
    if survivors := [it for it in _survivors(trial) if it not in untried]:
        click.echo(f"Survived every seed that was tried: {', '.join(survivors)}.")
    if untried:
        click.echo(f"No time was left for seeds: {', '.join(untried)}.")
    found = trial.findings
    by_script = sum([it.script_kill is not None for it in found])
    by_seed = sum([it.seed_kill is not None for it in found])
    verdict = (
        f"{plural(len(found), 'mutant')}: {by_script} killed by their scripts, "
        f"{by_seed} by a seed; {plural(len(alarms), 'false alarm')}; "
        f"{plural(trial.seeds_tried, 'seed')} in {human_duration(seconds)}."
    )
    well = not alarms and all(_is_well(it) for it in found)
    click.echo(coloured(verdict, "green" if well else "red"))


def _row(finding: Finding) -> list[Cell | str]:
    script, seed = finding.script_kill, finding.seed_kill
    kill = seed or script
    survived = Cell(text="survives", style="yellow") if finding.seeds_tried else "-"
    check = kill.check if kill else ""
    if len(check) > CHECK_WIDTH:
        check = f"{check[: CHECK_WIDTH - 1]}…"
    return [
        finding.mutant.id,
        Cell(text="killed", style="green")
        if script
        else Cell(text="MISSED", style="red"),
        str(seed.seed) if seed else survived,
        human_count(seed.events) if seed else "-",
        human_count(finding.seeds_tried),
        human_duration(finding.seconds),
        check,
    ]
