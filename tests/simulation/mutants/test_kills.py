"""Every mutant is noticed by its schedule, every time, and the real code by none."""

from pathlib import Path

import pytest

from kvstore.simulation.mutants import killing
from kvstore.simulation.mutants.killing import (
    SCRIPTS,
    attempt,
    false_alarms,
    kill_in,
    run_script,
)
from kvstore.simulation.mutants.mutant import Mutant
from kvstore.simulation.mutants.table import MUTANTS
from kvstore.simulation.mutants.worker import Worker, WorkerFailed


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda it: it.id)
def test_a_mutant_is_killed(mutant: Mutant) -> None:
    assert run_script(mutant.id) is not None


@pytest.mark.slow
def test_no_schedule_kills_the_real_code() -> None:
    """The control: what is noticed in a mutant is the mutant."""
    assert false_alarms() == {}


def test_every_script_that_ships_kills() -> None:
    files = {path.name for path in SCRIPTS.iterdir()}
    assert files == {it.kill for it in MUTANTS if it.kill.endswith(".raft")}


def script(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "a.raft"
    path.write_text("\n".join(["# claim: a test", "", *lines, "----", ""]))
    return str(path)


def test_a_violation_is_told_by_its_invariant() -> None:
    with Worker("M13") as worker:
        kill = kill_in(worker, "m13_commit_never_falls.raft")
    assert kill is not None
    assert kill.check == "a commit index fell (I3)"
    assert "m13_commit_never_falls.raft:" in kill.detail


def test_a_claim_that_is_not_so_is_told_by_its_line(tmp_path: Path) -> None:
    claims = ("nodes 1", "assert-leader 1")
    assert attempt(script(tmp_path, *claims)) == [
        "assert-leader 1",
        "a.raft:4: 'assert-leader 1': expected leader 1, found none",
    ]


def test_an_error_where_none_should_be_is_told(tmp_path: Path) -> None:
    found = attempt(script(tmp_path, "nodes 1", "propose 1 x"))
    assert isinstance(found, list)
    assert found[0] == "propose 1 x: NotLeader"


@pytest.mark.parametrize(
    ("text", "noticed"), [("assert False, 'what'", True), ("raise ValueError", False)]
)
def test_only_the_codes_own_checks_count(
    text: str, noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a node that would have stopped itself has noticed; another error has not.
    Method: in place of the function that runs schedules, one that fails."""
    (tmp_path / "failing.py").write_text(f"def attempt(schedule):\n    {text}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(killing, "__name__", "failing")
    with Worker() as worker:
        if noticed:
            kill = kill_in(worker, "any")
            assert kill is not None
            assert kill.check == "the code's own AssertionError: what"
            assert "Traceback" in kill.detail
        else:
            with pytest.raises(WorkerFailed, match="ValueError"):
                kill_in(worker, "any")


def test_a_script_that_does_not_fit_notices_nothing(tmp_path: Path) -> None:
    """Goal: a difference in what happens is no proof of a bug."""
    path = script(tmp_path, "nodes 2", "deliver 1->2")
    with Worker() as worker, pytest.raises(WorkerFailed, match="expected a message"):
        kill_in(worker, path)
