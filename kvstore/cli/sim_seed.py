"""One simulated seed: what it went through, written down, drawn, or made small."""

import random
import shlex
import time
from typing import TextIO

import click

from kvstore.cli.output import OutputFormat, human_count, note, print_json_line
from kvstore.cli.sim_output import (
    outcome_json,
    print_outcome,
    summary_json,
    with_mutant,
)
from kvstore.cli.sim_workers import run_seed
from kvstore.simulation.journal import Journal
from kvstore.simulation.recording import Recorder
from kvstore.simulation.report import Plan, Tally
from kvstore.simulation.run import Outcome, simulate
from kvstore.simulation.shrinking import Shrinker
from kvstore.simulation.timeline import timeline
from kvstore.simulation.trace import Tracer


class Recording:
    """What is to be seen of a run: a trace in a file, and its end drawn."""

    def __init__(self, *, trace: TextIO | None, rows: int | None) -> None:
        """``rows`` of the timeline are drawn; None: it is not."""
        self._trace = trace
        self._rows = rows
        self._lines: list[str] = []

    @property
    def journal(self) -> Journal | None:
        """For the run; None if nothing is to be seen, which is faster."""
        wanted = self._trace is not None or self._rows is not None
        return Tracer(self._write) if wanted else None

    def _write(self, line: str) -> None:
        if self._trace is not None:
            self._trace.write(line)
        if self._rows is not None:
            self._lines.append(line)

    def draw(self) -> None:
        """Print the last rows, if somebody wants them."""
        if self._rows is not None:
            click.echo()
            for row in timeline(self._lines, last=self._rows):
                click.echo(row)


def run_one(
    plan: Plan,
    seed: int,
    output: OutputFormat,
    *,
    recording: Recording,
    script: TextIO | None,
) -> Tally:
    """Run a seed and tell of it; a violation goes to ``script``, shrunk."""
    began_s = time.monotonic()
    tally = Tally(plan)
    done = run_seed(plan, seed, recording.journal)
    tally.add(done.outcome, cpu_s=done.cpu_s)
    if output is OutputFormat.JSON:
        print_json_line(outcome_json(done.outcome, plan, whole=True))
        seconds = time.monotonic() - began_s
        print_json_line(summary_json(tally, seconds=seconds, jobs=1))
    else:
        print_outcome(done.outcome, plan)
        recording.draw()
    if script is not None:
        _shrink(plan, done.outcome, script)
    return tally


def _shrink(plan: Plan, outcome: Outcome, script: TextIO) -> None:
    """Once more, with every input written down; then with ever fewer of them."""
    violation = outcome.violation
    if violation is None:
        note("There is nothing to shrink: nothing was violated.")
        return
    recorder = Recorder()
    simulate(
        outcome.seed,
        random.Random,
        nodes=plan.nodes,
        faults=plan.faults,
        steps=plan.steps,
        journal=recorder,
    )
    shrinker = Shrinker(recorder, violation, _say_progress)
    shrunk = shrinker.run(f"seed {outcome.seed} does no harm")
    if shrunk is None:
        note("No script can say how it came to this. Try with fewer --faults.")
        for what in dict.fromkeys(recorder.left_out):
            note(f"  it cannot say: {what}")
        return
    script.write(shrunk.script)
    note(
        f"Shrunk: {human_count(shrunk.inputs)} inputs to {shrunk.lines} lines of a "
        f"script, in {human_count(shrunk.replays)} replays."
    )
    if script.name != "-":
        replay = with_mutant(f"kvstore sim replay {shlex.quote(script.name)}")
        note(f"  replay:  {replay}")


def _say_progress(lines: int, replays: int) -> None:
    note(f"{human_count(lines)} inputs left after {human_count(replays)} replays")
