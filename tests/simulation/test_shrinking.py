"""A seed that breaks something becomes a script of a few lines that breaks the same."""

import random

import pytest

from kvstore.simulation.mutants import seeding
from kvstore.simulation.mutants.worker import Worker
from kvstore.simulation.recording import Recorder
from kvstore.simulation.run import simulate
from kvstore.simulation.script import parse, replay
from kvstore.simulation.shrinking import Replay, Shrinker
from kvstore.simulation.swarm import Fault

HERE = seeding.__name__
CANNOT_BE_SAID = {Fault.WIPE, Fault.ROT}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "seed", "name", "lines_max"),
    [("M01", 0, "I9", 8), ("M03", 0, "I2", 12), ("M13", 0, "I3", 25)],
)
def test_a_failing_seed_becomes_a_short_script(
    mutant: str, seed: int, name: str, lines_max: int
) -> None:
    with Worker(mutant) as worker:
        found = worker.call(f"{HERE}:shrink_seed", seed)
        assert isinstance(found, list)
        script, violation, inputs = found
        assert f"({name})" in str(violation)
        assert len(str(script).splitlines()) <= lines_max < int(str(inputs))
        again = worker.call(f"{HERE}:replay_script", script)
        assert str(again).partition(":")[0] == str(violation).partition(":")[0]
    # The runner of scripts takes it, and the code as it is does no such thing.
    assert replay(parse(str(script), "shrunk.raft")).startswith("# claim: ")


@pytest.mark.parametrize("seed", range(8))
def test_a_recorded_run_ends_alike_when_it_is_replayed(seed: int) -> None:
    """Else what is shrunk would be another run."""
    recorder = Recorder()
    faults = [fault for fault in Fault if fault not in CANNOT_BE_SAID]
    outcome = simulate(seed, random.Random, faults=faults, steps=800, journal=recorder)
    assert outcome.violation is None
    assert not recorder.left_out
    one = Replay(recorder.founding)
    assert one.run(recorder.lines) is None
    missed = len(recorder.lines) - len({line.number for line in one.done})
    assert missed <= len(recorder.lines) // 100
    assert one.stage.replicas.committed_index == outcome.commits


def test_what_does_not_break_is_not_shrunk() -> None:
    recorder = Recorder()
    simulate(3, random.Random, steps=200, journal=recorder)
    assert Shrinker(recorder, "nothing is wrong (I1): 1").run("none") is None


def test_a_recorder_changes_nothing() -> None:
    plain = simulate(5, random.Random, steps=800)
    assert simulate(5, random.Random, steps=800, journal=Recorder()) == plain
