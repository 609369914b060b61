"""``kvstore sim``: the same answers from any number of processes, honest endings."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kvstore.cli import sim_output
from kvstore.cli.main import cli
from kvstore.cli.sim_output import Meter
from kvstore.simulation import run
from kvstore.simulation.report import Plan, Tally
from kvstore.simulation.run import Outcome
from kvstore.simulation.script import parse, replay
from kvstore.simulation.swarm import Fault
from kvstore.simulation.timeline import timeline
from tests.command_line import kvstore, python

SHORT = ("--steps", "10")
"""Too few to show anything: each seed is vacuous, and has a line of its own."""
TIMED = {"seconds", "cpu_seconds", "events_per_second", "commits_per_second", "jobs"}

Bad = dict[int, tuple[str | None, str | None, str | None]]
"""By seed: violation, check, and why it is vacuous."""


def sim(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sim", *arguments])


def lines(text: str) -> list[dict[str, Any]]:
    """JSON, without what depends on how fast it was."""
    parsed = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in parsed]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Bad:
    """A simulator that knows one run for all seeds; put in which ones go wrong."""
    bad: Bad = {}
    well = run.simulate(0, random.Random, faults=(), steps=50)
    assert well.violation is None

    def simulate(seed: int, *_: object, **__: object) -> Outcome:
        violation, check, vacuous = bad.get(seed, (None, None, None))
        return replace(
            well, seed=seed, violation=violation, check=check, vacuous=vacuous
        )

    monkeypatch.setattr(run, "simulate", simulate)
    return bad


def test_a_batch_is_the_same_on_any_number_of_processes() -> None:
    """All but how long it took. Method: seeds that each print a line."""
    batch = ("sim", "--seeds", "0..5", *SHORT, "--json")
    alone = kvstore(*batch, "--jobs", "1")
    shared = kvstore(*batch, "--jobs", "2")
    assert alone.returncode == shared.returncode == 1, alone.stderr + shared.stderr
    assert lines(alone.stdout) == lines(shared.stdout)
    *each, summary = lines(alone.stdout)
    assert [line["seed"] for line in each] == [0, 1, 2, 3, 4, 5]
    assert (summary["seeds"], summary["vacuous"], summary["ok"]) == (6, 6, False)
    assert sum(summary["nodes"].values()) == 6


def test_one_seed_tells_all_that_it_reached() -> None:
    done = sim("--seed", "3", "--json")
    assert done.exit_code == 0, done.output
    outcome, summary = lines(done.stdout)
    expected = run.simulate(3, random.Random)
    assert Counter(outcome["reached"]) == +expected.reached
    assert outcome["trace_hash"] == expected.trace_hash
    assert summary["events"] == expected.events
    assert summary["goals_missed"] == []
    shown = sim("--seed", "3")
    assert shown.exit_code == 0
    assert "Seed 3: all is well." in shown.stdout
    assert f"{expected.events:,} events" in shown.stdout


def test_a_drawn_seed_is_printed() -> None:
    done = sim("--faults", "none", "--steps", "10")
    said = done.stderr.splitlines()[0]
    assert said.startswith("Seed ")
    assert f"kvstore sim --seed {said.split()[1].rstrip(',')} " in done.stdout


def test_options_reach_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command that is printed to replay a seed has them, too."""
    asked: list[object] = []
    simulate = run.simulate

    def spy(
        seed: int,
        make: Callable[[str], random.Random],
        *,
        nodes: int | None,
        faults: Iterable[Fault] | None,
        steps: int,
        journal: None,
    ) -> Outcome:
        del journal
        asked.append((seed, nodes, faults, steps))
        return simulate(seed, make, nodes=nodes, faults=faults, steps=steps)

    monkeypatch.setattr(run, "simulate", spy)
    options = ["--nodes", "2", "--steps", "8", "--faults", "loss,crash"]
    first = sim("--seed", "9", *options, "--json")
    assert first.exit_code == 1  # so few show nothing
    outcome, _ = lines(first.stdout)
    assert outcome["replay"] == " ".join(["kvstore sim --seed 9", *options])
    sim("--seed", "1", "--faults", "none")
    sim("--seed", "1", "--faults", "all", "--steps", "20")
    assert asked == [
        (9, 2, (Fault.LOSS, Fault.CRASH), 8),
        (1, None, (), run.STEPS),
        (1, None, None, 20),
    ]


def test_a_seed_can_be_written_down_and_drawn(tmp_path: Path) -> None:
    """Goal: what is seen of a run changes nothing of it."""
    file = tmp_path / "trace"
    short = ("--seed", "3", "--steps", "200")
    plain = sim(*short)
    seen = sim(*short, "--trace", str(file), "--timeline", "9")
    assert seen.exit_code == plain.exit_code
    assert seen.stdout.startswith(plain.stdout)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert records[0]["prop"]["seed"] == 3
    assert any(record["name"] == "BecomeLeader" for record in records)
    drawn = seen.stdout.removeprefix(plain.stdout).splitlines()
    assert drawn == ["", *timeline(file.read_text().splitlines(), last=9)]
    longer = sim(*short, "--timeline").stdout.removeprefix(plain.stdout)
    assert len(longer.splitlines()) > len(drawn)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--faults", "crash,gremlins"],
            "there is no fault 'gremlins'; there are loss,",
        ),
        (["--seeds", "5"], "is not a range like 0..999"),
        (["--seeds", "5..4"], "is empty"),
        (["--seeds", "0..9223372036854775808"], "below 2^63"),
        (["--seeds", "0..1", "--seed", "0"], "not both"),
        (["--nodes", "8"], "8 is not in the range"),
        (["--seeds", "0..1", "--timeline"], "are of one seed"),
        (["--seeds", "0..1", "--shrink", "-"], "are of one seed"),
        (["--seed", "0", "--timeline", "--json"], "--timeline is for people"),
        (["--seed", "0", "--trace", "/nowhere/at-all"], "No such file or directory"),
    ],
)
def test_what_cannot_be_understood_says_why(arguments: list[str], said: str) -> None:
    done = sim(*arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


def test_help_names_every_fault() -> None:
    text = " ".join(sim("--help").output.split())
    for fault in Fault:
        assert fault.value in text


def test_seeds_that_went_wrong_are_told_of(fake: Bad) -> None:
    """Ten in full, all of them in JSON; by default the batch goes on."""
    for seed in range(2, 14):
        fake[seed] = (f"two leaders (I1): {seed}", "I1", None)
    done = sim("--seeds", "0..19", "--jobs", "1")
    assert done.exit_code == 1
    assert done.stdout.count("VIOLATION (I1)") == 10
    assert "what:    two leaders (I1): 2\n" in done.stdout
    assert "replay:  kvstore sim --seed 2\n" in done.stdout
    assert "kvstore sim --seed 12\n" not in done.stdout
    assert "20 seeds: 12 violations, 0 vacuous" in done.stdout
    told = lines(sim("--seeds", "0..19", "--jobs", "1", "--json").stdout)
    assert [line["seed"] for line in told[:-1]] == list(range(2, 14))


def test_fail_fast_ends_at_the_first(fake: Bad) -> None:
    fake[1] = (None, None, "Elected: 0 times, 1 at least")
    fake[2] = fake[4] = ("two leaders (I1)", "I1", None)
    done = sim("--seeds", "0..9", "--jobs", "1", "--fail-fast", "--json")
    assert done.exit_code == 1
    empty, bad, summary = lines(done.stdout)
    assert (empty["seed"], empty["vacuous"]) == (1, "Elected: 0 times, 1 at least")
    assert (bad["seed"], bad["violation"]) == (2, "two leaders (I1)")
    assert summary["seeds"] == 3


def test_a_tenth_of_a_batch_may_be_vacuous(fake: Bad) -> None:
    fake[5] = fake[15] = (None, None, "Elected: 0 times, 1 at least")
    done = sim("--seeds", "0..19", "--jobs", "1")
    assert done.exit_code == 0
    assert "VACUOUS seed 5: Elected: 0 times, 1 at least\n" in done.stdout
    assert "20 seeds: 0 violations, 2 vacuous" in done.stdout
    assert sim("--seeds", "0..18", "--jobs", "1").exit_code == 1
    assert sim("--seed", "5").exit_code == 1


def test_a_batch_that_misses_a_goal_is_not_well(
    fake: Bad,
) -> None:
    """Though no seed of it went wrong. Nobody demands what was switched off."""
    del fake
    done = sim("--seeds", "0..199", "--jobs", "1", "--json")
    assert done.exit_code == 1
    (summary,) = lines(done.stdout)
    assert summary["violations"] == summary["vacuous"] == 0
    assert "a snapshot was installed" in summary["goals_missed"]
    shown = sim("--seeds", "0..199", "--jobs", "1")
    assert "MISSED a snapshot was installed: in 0 seeds," in shown.stdout
    for allowed in (["--seeds", "0..198"], ["--seeds", "0..199", "--faults", "none"]):
        assert sim(*allowed, "--jobs", "1").exit_code == 0


@pytest.mark.process
def test_a_bug_is_found_in_every_process_and_comes_again() -> None:
    """Goal: what is printed to replay a violation does. Method: a mutant, which the
    processes of a batch must have as well."""
    launcher = ("-m", "kvstore.simulation.mutants", "M07", "--", "kvstore")
    batch = ("sim", "--seeds", "3..6", "--json", "--fail-fast", "--jobs")
    found = python(*launcher, *batch, "2")
    assert found.returncode == 1, found.stderr
    first, _ = lines(found.stdout)
    assert first["violation"] is not None
    words = first["replay"].split()
    assert words[: len(launcher) + 1] == ["python", *launcher]
    again = python(*words[1:], "--json")
    assert again.returncode == 1
    outcome, _ = lines(again.stdout)
    assert {key: outcome[key] for key in first} == first
    # Without the bug the same seed is well.
    assert kvstore("sim", "--seed", str(first["seed"])).returncode == 0


@pytest.mark.process
def test_a_violation_is_shrunk_to_a_script(tmp_path: Path) -> None:
    """Goal: what is left of a hundred inputs is a script."""
    file = tmp_path / "shrunk.raft"
    launcher = ("-m", "kvstore.simulation.mutants", "M03", "--", "kvstore")
    found = python(*launcher, "sim", "--seed", "0", "--shrink", str(file))
    assert found.returncode == 1, found.stderr
    assert "VIOLATION (I2) at seed 0" in found.stdout
    assert "lines of a script, in " in found.stderr
    script = parse(file.read_text(), "shrunk.raft")
    assert len(file.read_text().splitlines()) < 15
    replay(script)  # the code as it is does no harm


def test_what_is_well_is_not_shrunk(tmp_path: Path) -> None:
    file = tmp_path / "shrunk.raft"
    done = sim("--seed", "3", "--faults", "none", "--shrink", str(file))
    assert done.exit_code == 0
    assert "There is nothing to shrink" in done.stderr
    assert not file.exists()


def test_progress_says_how_far_a_batch_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where stderr is no terminal: a line now and then, and none if scripts read."""
    tally = Tally(Plan())
    tally.seeds, tally.events, tally.violations = 30, 6_000, 1
    line = Meter(120, now_s=100.0).line(tally, now_s=103.0)
    assert line == "30/120 seeds, 10.0 seeds/s, 2,000 events/s, 9.0 s left, 1 violation"
    monkeypatch.setattr(sim_output, "LINE_EVERY_S", 0.0)
    for quiet, shown in ((False, 2), (True, 0)):
        with sim_output.progress(120, quiet=quiet) as show:
            show(tally, None)
            show(tally, lambda: print("a result"))
        said = capsys.readouterr()
        assert said.out == "a result\n"
        assert said.err.count("30/120 seeds, ") == shown
