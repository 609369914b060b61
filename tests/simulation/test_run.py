"""Whole clusters under random faults: nothing is violated, and a seed is one run.

More seeds: ``SIM_SEEDS=FIRST:COUNT pytest tests/simulation/test_run.py``; or, better,
``kvstore sim --seeds``.
"""

import random
from collections import Counter

import pytest

from kvstore.simulation.run import Outcome, simulate
from kvstore.simulation.swarm import Fault
from tests import walks

STEPS = 1_500


def run(seed: int) -> Outcome:
    return simulate(seed, random.Random, steps=STEPS)


def trace(seed: int) -> str:
    """All that could differ between two runs of a seed."""
    return repr(run(seed))


@pytest.mark.parametrize("seed", walks.seeds("SIM_SEEDS", "0:40"))
def test_nothing_is_violated(seed: int) -> None:
    outcome = run(seed)
    assert outcome.violation is None, outcome


def test_seeds_of_full_length_show_something() -> None:
    for seed in range(8):
        outcome = simulate(seed, random.Random)
        assert outcome.violation is None, outcome
        assert outcome.vacuous is None, outcome
    empty = simulate(0, random.Random, steps=10)
    assert empty.vacuous is not None


def test_a_seed_is_one_run() -> None:
    """Twice in one process, and under other hash seeds."""
    seed = 7
    assert trace(seed) == trace(seed)
    assert walks.traces_under_hash_seeds(__name__, seed) == {trace(seed)}
    assert trace(seed) != trace(seed + 1)


def test_rare_states_are_reached() -> None:
    """Else the other tests may be clean because nothing happened."""
    reached: Counter[str] = Counter()
    for seed in range(12):
        reached += run(seed).reached
    for what in (
        "a snapshot was installed",
        "a lost member was replaced",
        "a repeated command was answered",
        "fault: power-cut",
        "EntriesReplaced",
        "the leader crashed",
    ):
        assert reached[what], reached


def test_a_run_without_faults_is_calm() -> None:
    outcome = simulate(1, random.Random, faults=(), steps=STEPS)
    assert outcome.violation is None
    assert outcome.reached["Elected"] == 1
    assert outcome.swarm.startswith("faults=none")


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
def test_each_fault_alone_is_survived(fault: Fault, nodes: int) -> None:
    """As is a cluster of any size: what is wrong with one shows best alone."""
    outcome = simulate(1, random.Random, nodes=nodes, faults=[fault], steps=500)
    assert outcome.violation is None, outcome
