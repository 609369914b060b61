"""Simulated seeds for people and for scripts: outcomes, sums, progress."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import click

from kvstore.cli.output import (
    Cell,
    Column,
    Json,
    coloured,
    human_count,
    human_duration,
    note,
    plural,
    print_table,
)
from kvstore.simulation.goals import GOALS
from kvstore.simulation.mutants.patching import applied
from kvstore.simulation.report import Plan, Tally
from kvstore.simulation.run import Outcome
from kvstore.simulation.swarm import Fault

LINE_EVERY_S = 5.0
"""Progress where stderr is no terminal."""
REFRESHES_PER_SECOND = 2


def replay_command(plan: Plan, seed: int) -> str:
    """What to type to see a seed again."""
    return with_mutant(plan.command(seed))


def with_mutant(command: str) -> str:
    """A command as it must be typed to have the mutant of this process, if any."""
    mutant_id = applied()
    if mutant_id is None:
        return command
    return f"python -m kvstore.simulation.mutants {mutant_id} -- {command}"


# ---------------------------------------------------------------------- JSON


def outcome_json(outcome: Outcome, plan: Plan, *, whole: bool) -> dict[str, Json]:
    """One seed; ``whole``: with all that it reached."""
    found: dict[str, Json] = {
        "seed": outcome.seed,
        "check": outcome.check,
        "violation": outcome.violation,
        "vacuous": outcome.vacuous,
        "replay": replay_command(plan, outcome.seed),
        "nodes": outcome.nodes,
        "faults": [fault.value for fault in outcome.faults],
        "swarm": outcome.swarm,
        "events": outcome.events,
        "commits": outcome.commits,
        "virtual_seconds": outcome.virtual_us / 1e6,
        "trace_hash": outcome.trace_hash,
    }
    if whole:
        found["reached"] = dict(sorted(outcome.reached.items()))
    return found


def summary_json(tally: Tally, *, seconds: float, jobs: int) -> dict[str, Json]:
    """A batch. Rates are those of one core; ``seconds`` passed on the wall."""
    goals: dict[str, Json] = {
        goal.name: {
            "times": tally.goal_times[goal.name],
            "seeds": tally.goal_seeds[goal.name],
            "least": tally.least(goal),
        }
        for goal in GOALS
    }
    return {
        "ok": tally.is_well,
        "seeds": tally.seeds,
        "violations": tally.violations,
        "vacuous": tally.vacuous,
        "events": tally.events,
        "events_per_second": round(tally.per_cpu_second(tally.events)),
        "commits": tally.commits,
        "commits_per_second": round(tally.per_cpu_second(tally.commits)),
        "virtual_seconds": tally.virtual_us / 1e6,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(tally.cpu_s, 3),
        "jobs": jobs,
        "nodes": {str(n): count for n, count in sorted(tally.nodes.items())},
        "goals": goals,
        "goals_missed": [goal.name for goal in tally.goals_missed()],
        "faults": {fault.value: _fault_json(tally, fault) for fault in Fault},
    }


def _fault_json(tally: Tally, fault: Fault) -> Mapping[str, Json]:
    return {"seeds": tally.faults[fault], "struck": tally.struck(fault)}


# ------------------------------------------------------------------- for people


def print_trouble(outcome: Outcome, plan: Plan) -> None:
    """A seed with a violation, and how to see it again."""
    click.echo(
        f"{coloured(f'VIOLATION ({outcome.check})', 'red')} at seed {outcome.seed}"
    )
    click.echo(f"  what:    {outcome.violation}")
    click.echo(f"  swarm:   {outcome.swarm}")
    click.echo(
        f"  ended:   after {human_count(outcome.events)} events, "
        f"{human_duration(outcome.virtual_us / 1e6)} of virtual time"
    )
    click.echo(f"  replay:  {replay_command(plan, outcome.seed)}")


def print_vacuous(outcome: Outcome, plan: Plan) -> None:
    """A seed that reached too little."""
    click.echo(
        f"{coloured('VACUOUS', 'yellow')} seed {outcome.seed}: {outcome.vacuous}"
    )
    click.echo(f"  replay:  {replay_command(plan, outcome.seed)}")


def print_outcome(outcome: Outcome, plan: Plan) -> None:
    """The only seed that was run."""
    if outcome.violation is not None:
        print_trouble(outcome, plan)
    elif outcome.vacuous is not None:
        print_vacuous(outcome, plan)
    else:
        click.echo(f"Seed {outcome.seed}: {coloured('all is well', 'green')}.")
    click.echo(
        f"{plural(outcome.nodes, 'node')} at first, "
        f"{human_duration(outcome.virtual_us / 1e6)} of virtual time, "
        f"{human_count(outcome.events)} events, "
        f"{plural(outcome.commits, 'entry', 'entries')} committed, "
        f"{plural(outcome.reached['Elected'], 'election')}."
    )
    names = ", ".join([fault.value for fault in outcome.faults])
    click.echo(f"Switched on: {names or 'no fault'}.")
    click.echo(f"Drawn: {outcome.swarm.partition(' ')[2]}")
    click.echo()
    print_table(
        [Column(title="REACHED"), Column(title="TIMES", right=True)],
        [
            [what, human_count(count)]
            for what, count in sorted(outcome.reached.items())
            if count
        ],
    )


def print_summary(tally: Tally, *, seconds: float, jobs: int) -> None:
    """The sums of a batch, its goals and its faults."""
    _print_goals(tally)
    click.echo()
    _print_faults(tally)
    click.echo()
    nodes = ", ".join(
        f"{plural(count, 'seed')} with {plural(n, 'node')}"
        for n, count in sorted(tally.nodes.items())
    )
    click.echo(
        f"{nodes}; {human_duration(tally.virtual_us / 1e6)} of virtual time "
        f"in {human_duration(seconds)}, {plural(jobs, 'process', 'processes')}."
    )
    click.echo(
        f"{human_count(tally.events)} events, "
        f"{human_count(tally.commits)} entries committed; one core: "
        f"{human_count(round(tally.per_cpu_second(tally.events)))} events/s, "
        f"{human_count(round(tally.per_cpu_second(tally.commits)))} commits/s."
    )
    for goal in tally.goals_missed():
        click.echo(
            f"{coloured('MISSED', 'red')} {goal.name}: in "
            f"{plural(tally.goal_seeds[goal.name], 'seed')}, "
            f"{tally.least(goal)} at least"
        )
    if tally.is_vacuous:
        click.echo(f"{coloured('VACUOUS', 'red')} too many seeds have shown nothing")
    verdict = (
        f"{plural(tally.seeds, 'seed')}: {plural(tally.violations, 'violation')}, "
        f"{tally.vacuous} vacuous, {plural(len(tally.goals_missed()), 'goal')} missed."
    )
    click.echo(coloured(verdict, "green" if tally.is_well else "red"))


def _print_goals(tally: Tally) -> None:
    missed = tally.goals_missed()
    rows: list[list[Cell | str]] = []
    for goal in GOALS:
        seeds = tally.goal_seeds[goal.name]
        style = "bold red" if goal in missed else "" if seeds else "yellow"
        least = tally.least(goal)
        rows.append(
            [
                Cell(text=goal.name, style=style),
                human_count(tally.goal_times[goal.name]),
                Cell(text=human_count(seeds), style=style),
                human_count(least) if least else "-",
            ]
        )
    right = [Column(title=it, right=True) for it in ("TIMES", "SEEDS", "LEAST")]
    print_table([Column(title="GOAL"), *right], rows)


def _print_faults(tally: Tally) -> None:
    rows = []
    for fault in Fault:
        struck = tally.struck(fault)
        shown = "-" if struck is None else human_count(struck)
        rows.append([fault.value, human_count(tally.faults[fault]), shown])
    right = [Column(title=it, right=True) for it in ("SEEDS", "STRUCK")]
    print_table([Column(title="FAULT"), *right], rows)


# ------------------------------------------------------------------- progress


class Meter:
    """How far a batch is, in words."""

    def __init__(self, total: int, now_s: float) -> None:
        self._total = total
        self._began_s = now_s

    def line(self, tally: Tally, now_s: float) -> str:
        """Done of all, rates on the wall, and what remains."""
        elapsed_s = max(now_s - self._began_s, 1e-6)
        rate = tally.seeds / elapsed_s
        left = human_duration((self._total - tally.seeds) / rate) if rate else "?"
        found = plural(tally.violations, "violation")
        return (
            f"{human_count(tally.seeds)}/{human_count(self._total)} seeds, "
            f"{rate:.1f} seeds/s, "
            f"{human_count(round(tally.events / elapsed_s))} events/s, {left} left"
            + (f", {found}" if tally.violations else "")
        )


Tell = Callable[[], None]
"""Prints results."""
Show = Callable[[Tally, Tell | None], None]
"""Called after each seed, with what is to be printed of it."""
Draw = Callable[[int, str, Tell | None], None]
"""Called with how many are done, the same in words, and what is to be printed."""


@contextmanager
def progress(total: int, *, quiet: bool) -> Iterator[Show]:
    """Show how far a batch is; see :func:`progress_bar`."""
    meter = Meter(total, time.monotonic())
    with progress_bar(total, quiet=quiet) as draw:

        def show(tally: Tally, tell: Tell | None) -> None:
            draw(tally.seeds, meter.line(tally, time.monotonic()), tell)

        yield show


@contextmanager
def progress_bar(total: int, *, quiet: bool) -> Iterator[Draw]:
    """Show how far something is: a bar on a terminal, lines elsewhere, all on stderr.

    ``quiet`` says nothing unless stderr is a terminal.
    """
    if not sys.stderr.isatty():
        due_s = time.monotonic() + LINE_EVERY_S

        def say(_done: int, line: str, tell: Tell | None) -> None:
            nonlocal due_s
            if tell is not None:
                tell()
            now_s = time.monotonic()
            if not quiet and now_s >= due_s:
                due_s = now_s + LINE_EVERY_S
                note(line)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(
        BarColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True, highlight=False),
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,
        # Results stay on stdout, wherever that leads.
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("starting", total=total)

        def draw(done: int, line: str, tell: Tell | None) -> None:
            if tell is not None:
                # Results may go to the same terminal: not onto the bar's line.
                bar.stop()
                tell()
                bar.start()
            bar.update(task, completed=done, description=line)

        yield draw
