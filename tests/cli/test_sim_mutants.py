"""``kvstore sim mutants`` and ``kvstore sim replay``: bugs that are there are found."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

from kvstore.cli import sim_hunts
from kvstore.cli.main import cli
from kvstore.cli.sim_hunts import FIRST_ROUND, LATER_ROUND, Trial
from kvstore.simulation.mutants.killing import SCRIPTS, Kill
from kvstore.simulation.mutants.mutant import Mutant
from kvstore.simulation.mutants.seeding import CHUNK, Hunt, SeedKill
from kvstore.simulation.mutants.table import find
from kvstore.simulation.mutants.worker import WorkerFailed
from tests.command_line import kvstore, python

M03 = ("-m", "kvstore.simulation.mutants", "M03", "--", "kvstore")


def mutants(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sim", "mutants", *arguments])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.process
def test_a_mutant_is_found_by_its_script_and_by_a_seed() -> None:
    done = kvstore("sim", "mutants", "M03", "M01", "--seeds", "5", "--json")
    assert done.returncode == 0, done.stderr
    *each, summary = lines(done.stdout)
    found = {line["id"]: line for line in each}
    assert found.keys() == {"M01", "M03"}
    third = found["M03"]
    assert third["what"] == find("M03").what
    assert third["killed_by_script"] is third["killed_by_seed"] is True
    assert third["script"] == find("M03").kill
    assert third["script_check"] == "a vote changed within its term (I2)"
    assert third["check"] == "I2"
    assert 0 <= third["seed"] < third["seeds_tried"] <= 5
    assert third["events"] > 0
    assert summary["mutants"] == summary["numbers"] == 2
    assert summary["killed_by_script"] == summary["killed_by_seed"] == 2
    assert summary["survivors"] == []
    assert summary["false_alarms"] == 0


@pytest.mark.process
def test_scripts_alone_are_enough() -> None:
    done = mutants("M01", "M03", "--scripts-only")
    assert done.exit_code == 0, done.output
    assert "2 mutants: 2 killed by their scripts, 0 by a seed; 0 false" in done.stdout
    assert "Survived" not in done.stdout


class Bench:
    """In place of the processes: what each mutant is killed by, and what was asked."""

    def __init__(self) -> None:
        self.seeds: dict[str, int] = {}
        """By id: the first seed that kills it."""
        self.missed: set[str] = set()
        """Mutants that their schedules do not notice."""
        self.broken: set[str] = set()
        """Mutants that cannot be run."""
        self.bad: dict[str, str] = {}
        """By schedule or seed: what is noticed without a mutant."""
        self.now_s = self.hunt_s = 0.0
        self.hunts: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    def run_script(self, mutant_id: str) -> Kill | None:
        if mutant_id in self.broken:
            raise WorkerFailed("ValueError", "what", "")
        if mutant_id in self.missed:
            return None
        return Kill(check="two leaders (I1)", detail="")

    def hunt(
        self, mutant_id: str, *, first_seed: int, seeds: int, seconds_max: float
    ) -> Hunt:
        with self._lock:
            self.hunts.append((mutant_id, first_seed, seeds))
        assert seconds_max > 0
        self.now_s += self.hunt_s
        seed = self.seeds.get(mutant_id)
        if seed is None or not first_seed <= seed < first_seed + seeds:
            return Hunt(kill=None, seeds=seeds, seconds=1.0)
        kill = SeedKill(seed=seed, events=7, check="LIN", violation="wrong (LIN)")
        return Hunt(kill=kill, seeds=seed - first_seed + 1, seconds=1.0)

    def false_alarms(self, mutants: list[Mutant]) -> dict[str, Kill]:
        kills = {it.kill for it in mutants}
        return {
            it: Kill(check=check, detail="")
            for it, check in self.bad.items()
            if it in kills
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, function: str, seed: int, count: int, *, timeout_s: float) -> object:
        assert (function, count) == ("kvstore.simulation.mutants.seeding:try_seeds", 1)
        assert timeout_s > 0
        check = self.bad.get(f"seed {seed}")
        return check and [seed, 9, "I1", check]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    it = Bench()
    monkeypatch.setattr(sim_hunts, "run_script", it.run_script)
    monkeypatch.setattr(sim_hunts, "hunt", it.hunt)
    monkeypatch.setattr(sim_hunts, "false_alarms", it.false_alarms)
    monkeypatch.setattr(sim_hunts, "Worker", lambda: it)
    clock = SimpleNamespace(monotonic=lambda: it.now_s)
    monkeypatch.setattr(sim_hunts, "time", clock)
    return it


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_mutant_meets_each_seed_once_and_in_order(bench: Bench, jobs: int) -> None:
    """Goal: the first seed that kills is the same for any rounds and jobs."""
    bench.seeds = {"M01": 1999, "M02": 29, "M03": 30}
    trial = Trial(
        [find(it) for it in ("M01", "M02", "M03", "M04")], seeds=2000, seconds_max=1e9
    )
    settled = [it.mutant.id for it in trial.run(jobs) if it is not None]
    assert sorted(settled) == ["M01", "M02", "M03", "M04"]
    assert settled[:2] == ["M02", "M03"], "the quick ones do not wait"
    for mutant_id, tried in (("M01", 2000), ("M02", 30), ("M03", 130), ("M04", 2000)):
        asked = [it[1:] for it in bench.hunts if it[0] == mutant_id]
        assert [first for first, _ in asked] == [
            sum(count for _, count in asked[:place]) for place in range(len(asked))
        ]
        assert sum(count for _, count in asked) == tried
    tried_of = {it.mutant.id: it.seeds_tried for it in trial.findings}
    assert tried_of == {"M01": 2000, "M02": 30, "M03": 31, "M04": 2000}
    assert trial.seeds_tried == sum(tried_of.values())


def test_rounds_are_whole_chunks() -> None:
    """Else the seed that stands for a run without an end would depend on them."""
    assert not [it for it in (FIRST_ROUND, LATER_ROUND) if it % CHUNK]


def test_when_the_time_is_over_no_more_seeds_are_tried(bench: Bench) -> None:
    bench.hunt_s = 61.0
    done = mutants("M01", "M02", "--minutes", "1", "--jobs", "1", "--json")
    assert done.exit_code == 0
    assert bench.hunts == [("M01", 0, FIRST_ROUND)]
    *each, summary = lines(done.stdout)
    assert {line["id"]: line["seeds_tried"] for line in each} == {"M01": 30, "M02": 0}
    assert summary["survivors"] == ["M01", "M02"]
    assert summary["untried"] == ["M02"]
    shown = mutants("M01", "M02", "--minutes", "1", "--jobs", "1").stdout
    assert "Survived every seed that was tried: M01.\n" in shown
    assert "No time was left for seeds: M02.\n" in shown


def test_a_survivor_is_told_of(bench: Bench) -> None:
    bench.seeds = {"M01": 2}
    done = mutants("M01", "M02", "--seeds", "40")
    assert done.exit_code == 0
    assert "Survived every seed that was tried: M02." in done.stdout
    *each, summary = lines(mutants("M01", "M02", "--seeds", "40", "--json").stdout)
    (survivor,) = [line for line in each if line["id"] == "M02"]
    assert survivor["killed_by_seed"] is False
    assert survivor["seed"] is survivor["events"] is None
    assert survivor["seeds_tried"] == 40
    assert survivor["check"] == survivor["script_check"] == "two leaders (I1)"
    assert summary["survivors"] == ["M02"]


def test_a_number_counts_once(bench: Bench) -> None:
    del bench
    done = mutants("M24-refund", "M24-window", "late", "--json", "--scripts-only")
    *_, summary = lines(done.stdout)
    assert (summary["mutants"], summary["numbers"]) == (3, 1)


def test_a_script_that_misses_its_mutant_is_a_failure(bench: Bench) -> None:
    bench.missed = {"M02"}
    bench.seeds = {"M01": 0, "M02": 0}
    done = mutants("M01", "M02")
    assert done.exit_code == 1
    assert "MISSED M02: " in done.stdout
    assert "1 killed by their scripts, 2 by a seed" in done.stdout


def test_what_cannot_be_run_is_no_kill(bench: Bench) -> None:
    bench.broken = {"M02"}
    done = mutants("M01", "M02", "--json", "--seeds", "10")
    assert done.exit_code == 1
    *each, summary = lines(done.stdout)
    assert [line["trouble"] for line in each if line["id"] == "M02"] == [
        ["ValueError: what"]
    ]
    assert (summary["killed_by_script"], summary["killed_by_seed"]) == (1, 0)
    assert "MISSED M02: ValueError: what" in mutants("M02").stdout


@pytest.mark.parametrize("what", [find("M01").kill, "seed 3"])
def test_what_is_noticed_without_a_mutant_is_a_failure(bench: Bench, what: str) -> None:
    """The control, of schedules and of the seeds that killed."""
    bench.seeds = {"M01": 3}
    bench.bad = {what: "two leaders (I1)", "seed 4": "that killed nothing"}
    done = mutants("M01")
    assert done.exit_code == 1
    assert f"FALSE ALARM {what}: two leaders (I1)\n" in done.stdout
    *_, summary = lines(mutants("M01", "--json").stdout)
    assert summary["false_alarms"] == 1
    assert summary["alarms"] == {what: "two leaders (I1)"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mutants", "M99"], "there is no mutant M99; there are M01, M02"),
        (["mutants", "--minutes", "0"], "0 is not in the range"),
        (["--seeds", "0..9", "mutants"], "--seeds stands behind mutants"),
        (["mutant"], "No such command 'mutant'"),
        (["replay", "/nowhere/at-all"], "No such file or directory"),
    ],
)
def test_what_cannot_be_understood_says_why(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["sim", *arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


# --------------------------------------------------------------- shrink and replay


@pytest.mark.process
def test_what_was_shrunk_can_be_replayed_as_it_says(tmp_path: Path) -> None:
    file = tmp_path / "shrunk.raft"
    found = python(*M03, "sim", "--seed", "0", "--shrink", str(file))
    replay = found.stderr.splitlines()[-1].split()
    assert replay[:2] == ["replay:", "python"], found.stderr
    assert replay[-3:] == ["sim", "replay", str(file)]
    again = python(*replay[2:])
    assert again.returncode == 1, again.stderr
    assert "VIOLATION (I2)" in again.stdout
    printed = python(*M03, "sim", "--seed", "0", "--shrink", "-")
    assert file.read_text() in printed.stdout
    assert "replay: " not in printed.stderr


@pytest.mark.process
def test_a_script_ends_in_its_violation_with_the_mutant_alone() -> None:
    """And shows what came before."""
    script = str(SCRIPTS / find("M03").kill)
    broken = python(*M03, "sim", "replay", script)
    assert broken.returncode == 1, broken.stderr
    assert broken.stdout.startswith("# claim: ")
    assert "VIOLATION (I2)\n  what:    a vote changed within" in broken.stdout
    whole = kvstore("sim", "replay", script)
    assert whole.returncode == 0, whole.stderr
    assert "VIOLATION" not in whole.stdout


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("# claim: a\n\nnodes 1\nassert-leader 1\n----\n", 1, "expected leader 1"),
        ("nodes 1\n", 2, "a.raft:1: expected '# claim: ...'"),
    ],
)
def test_a_script_that_is_not_so_says_where(
    text: str, code: int, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.raft"
    file.write_text(text)
    done = CliRunner().invoke(cli, ["sim", "replay", str(file)])
    assert done.exit_code == code
    assert said in done.stderr
