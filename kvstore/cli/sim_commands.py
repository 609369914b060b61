"""``kvstore sim``: whole clusters in virtual time, one for each seed."""

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TextIO

import click
from click.core import ParameterSource

from kvstore.cli.errors import ExitCode
from kvstore.cli.lazy import LazyCommand, LazyGroup
from kvstore.cli.options import examples, output_option, reads_only
from kvstore.cli.output import OutputFormat, note, print_json_line
from kvstore.cli.sim_output import (
    Tell,
    outcome_json,
    print_summary,
    print_trouble,
    print_vacuous,
    progress,
    summary_json,
)
from kvstore.cli.sim_seed import Recording, run_one
from kvstore.cli.sim_workers import run_seeds
from kvstore.simulation.report import Plan, Tally
from kvstore.simulation.run import STEPS, Outcome
from kvstore.simulation.swarm import Fault
from kvstore.simulation.timeline import LAST as TIMELINE_ROWS

NODES_MAX = 7
SEEDS_MAX = 1 << 63
TOLD_MAX = 10
"""Seeds that went wrong in one way and are told of in full, to people."""
_COMMANDS = "Commands"
FAULT_NAMES = ", ".join([fault.value for fault in Fault])


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a batch is run and told."""

    jobs: int
    fail_fast: bool
    output: OutputFormat


def _parse_seeds(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> range | None:
    if value is None:
        return None
    first, dots, last = value.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal()):
        raise click.BadParameter(f"{value!r} is not a range like 0..999")
    if not int(first) <= int(last) < SEEDS_MAX:
        raise click.BadParameter(f"{value!r} is empty, or has no end below 2^63")
    return range(int(first), int(last) + 1)


def _parse_faults(
    _context: click.Context, _option: click.Parameter, value: str
) -> tuple[Fault, ...] | None:
    if value == "all":
        return None
    if value == "none":
        return ()
    names = {name.strip() for name in value.split(",")}
    known = {fault.value: fault for fault in Fault}
    if unknown := sorted(names - known.keys()):
        raise click.BadParameter(
            f"there is no fault {unknown[0]!r}; there are {FAULT_NAMES}"
        )
    return tuple([fault for name, fault in known.items() if name in names])


class SimGroup(LazyGroup):
    """What runs no random seeds of the code as it is."""

    lazy_commands: ClassVar[Mapping[str, LazyCommand]] = {
        "mutants": LazyCommand(
            section=_COMMANDS,
            module="kvstore.cli.sim_mutants",
            attribute="mutants",
            short_help="Put known bugs back, and see that each is found.",
        ),
        "replay": LazyCommand(
            section=_COMMANDS,
            module="kvstore.cli.sim_replay",
            attribute="replay",
            short_help="Run a script, as --shrink writes it.",
        ),
    }


@click.group(
    cls=SimGroup,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND [ARGS]...]",
    epilog=examples(
        "kvstore sim --seed 17 --timeline",
        "kvstore sim --seeds 0..9999",
        "kvstore sim --seeds 0..999 --nodes 3 --faults crash,rot,members --json",
    ),
)
@click.option(
    "--seed",
    type=click.IntRange(0, SEEDS_MAX - 1),
    help="Run one cluster.  [default: drawn and printed]",
)
@click.option(
    "--seeds",
    callback=_parse_seeds,
    metavar="A..B",
    help="Run one for each seed from A to B, both included.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    help="Processes to spread seeds over; results are the same.  [default: cores]",
)
@click.option(
    "--nodes",
    type=click.IntRange(1, NODES_MAX),
    help="Members at first.  [default: 3 or 5, as each seed draws]",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 100_000_000),
    default=STEPS,
    show_default=True,
    help="Inputs of members until the faults end.",
)
@click.option(
    "--faults",
    callback=_parse_faults,
    default="all",
    metavar="NAME,...",
    show_default=True,
    help="What a seed may switch on a random part of; none: nothing. There are "
    f"{FAULT_NAMES}.",
)
@click.option("--fail-fast", is_flag=True, help="End at the first violation.")
@click.option(
    "--trace",
    type=click.File("w", encoding="utf-8", lazy=False),
    help="Write what happened in one seed to a file, as lines of JSON.",
)
@click.option(
    "--timeline",
    type=click.IntRange(1),
    is_flag=False,
    flag_value=TIMELINE_ROWS,
    metavar="[ROWS]",
    help="Draw the end of one seed: a column a node, time going down.  "
    f"[rows if not given: {TIMELINE_ROWS}]",
)
@click.option(
    "--shrink",
    type=click.File("w", encoding="utf-8", lazy=True),
    metavar="FILE",
    help="Write a script of a few lines that ends in the violation of one seed.",
)
@output_option
@reads_only
def sim(
    *,
    seed: int | None,
    seeds: range | None,
    jobs: int | None,
    nodes: int | None,
    steps: int,
    faults: tuple[Fault, ...] | None,
    fail_fast: bool,
    trace: TextIO | None,
    timeline: int | None,
    shrink: TextIO | None,
    output: OutputFormat,
) -> None:
    """Run clusters in virtual time under random faults, and check every step.

    A seed decides everything that happens, so a seed that went wrong can be seen again.
    Each switches on a random part of the faults. Exit code 1 if an invariant was
    violated, if a seed was vacuous (it reached too little to show anything; of a batch,
    a tenth may), or if a batch of 200 seeds and more, with all faults, missed a goal: a
    rare state that it should reach. docs/simulation.md tells more.
    """
    if click.get_current_context().invoked_subcommand is not None:
        _refuse_options()
        return
    plan = Plan(nodes=nodes, faults=faults, steps=steps)
    if seeds is None:
        if timeline is not None and output is OutputFormat.JSON:
            raise click.UsageError("--timeline is for people: use --trace with --json")
        tally = run_one(
            plan,
            _drawn() if seed is None else seed,
            output,
            recording=Recording(trace=trace, rows=timeline),
            script=shrink,
        )
    elif seed is not None:
        raise click.UsageError("give --seed or --seeds, not both")
    elif any(it is not None for it in (trace, timeline, shrink)):
        raise click.UsageError(
            "--trace, --timeline and --shrink are of one seed: give --seed"
        )
    else:
        jobs = min(jobs or cores(), len(seeds))
        manner = Manner(jobs=jobs, fail_fast=fail_fast, output=output)
        tally = _run_batch(plan, seeds, manner)
    if not tally.is_well:
        click.get_current_context().exit(ExitCode.NEGATIVE)


def _refuse_options() -> None:
    """Before a command of its own nothing of ``sim`` means anything."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option.opts[0]} stands behind {context.invoked_subcommand}, "
                "if it has it"
            )


def _drawn() -> int:
    seed = secrets.randbelow(1 << 32)
    note(f"Seed {seed}, drawn at random.")
    return seed


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def _run_batch(plan: Plan, seeds: Sequence[int], manner: Manner) -> Tally:
    as_json = manner.output is OutputFormat.JSON
    began_s = time.monotonic()
    tally = Tally(plan)
    with (
        run_seeds(plan, seeds, processes=manner.jobs) as outcomes,
        progress(len(seeds), quiet=as_json) as show,
    ):
        for done in outcomes:
            tally.add(done.outcome, cpu_s=done.cpu_s)
            show(tally, _telling(done.outcome, tally, as_json=as_json))
            if tally.violations and manner.fail_fast:
                break
    seconds = time.monotonic() - began_s
    if as_json:
        print_json_line(summary_json(tally, seconds=seconds, jobs=manner.jobs))
    else:
        print_summary(tally, seconds=seconds, jobs=manner.jobs)
    return tally


def _telling(outcome: Outcome, tally: Tally, *, as_json: bool) -> Tell | None:
    """What prints a seed that went wrong, at once: the rest of a batch may be long."""
    plan = tally.plan
    if outcome.violation is not None:
        told, show, kind = tally.violations, print_trouble, "with a violation"
    elif outcome.vacuous is not None:
        told, show, kind = tally.vacuous, print_vacuous, "that show nothing"
    else:
        return None
    if as_json:
        line = outcome_json(outcome, plan, whole=False)
        return partial(print_json_line, line)
    if told <= TOLD_MAX:
        return partial(show, outcome, plan)
    if told == TOLD_MAX + 1:
        rest = f"More than {TOLD_MAX} seeds {kind}: the rest is only counted."
        return partial(click.echo, rest)
    return None
