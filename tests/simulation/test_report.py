"""Sums of batches, the goals that they must reach, and how to see a seed again."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from kvstore.simulation.goals import GOALS, Goal
from kvstore.simulation.report import Plan, Tally
from kvstore.simulation.run import STEPS, Outcome, simulate
from kvstore.simulation.swarm import Fault

EMPTY = Outcome(
    seed=0,
    swarm="",
    nodes=3,
    faults=(),
    violation=None,
    check=None,
    vacuous=None,
    events=0,
    commits=0,
    virtual_us=0,
    trace_hash=0,
)


def tally_of(count: int, outcome: Outcome, plan: Plan | None = None) -> Tally:
    tally = Tally(plan or Plan())
    for _ in range(count):
        tally.add(outcome, cpu_s=0.5)
    return tally


def goal_named(name: str) -> Goal:
    (goal,) = [goal for goal in GOALS if goal.name == name]
    return goal


def test_goals_have_names_of_their_own_and_are_within_reach() -> None:
    names = [goal.name for goal in GOALS]
    assert len(set(names)) == len(names)
    assert all(1 <= goal.per_thousand <= 1_000 for goal in GOALS)


def test_goals_are_counted_where_runs_count_them() -> None:
    """Goal: a counter that is renamed in a run is not a goal that nobody reaches.
    Method: seeds enough for all but the rarest; those have batches of 200."""
    tally = Tally(Plan())
    for seed in range(20):
        tally.add(simulate(seed, random.Random), cpu_s=1.0)
    often = [goal.name for goal in GOALS if goal.per_thousand >= 50]
    assert len(often) > 40
    assert [name for name in often if not tally.goal_seeds[name]] == []
    for fault in Fault:
        struck = tally.struck(fault)
        assert struck is None or struck > 0, fault


def test_a_goal_is_demanded_of_batches_that_are_large_and_may_reach_it() -> None:
    goal = goal_named("a snapshot was installed")
    assert goal.per_thousand == 75
    assert [goal.least(seeds) for seeds in (1, 199, 200, 1_000)] == [0, 0, 15, 75]
    rare = replace(goal, per_thousand=4)
    assert [rare.least(seeds) for seeds in (200, 250, 1_000)] == [0, 1, 4]
    for plan in (Plan(faults=()), Plan(nodes=3), Plan(steps=STEPS - 1)):
        assert tally_of(200, EMPTY, plan).goals_missed() == []
    assert goal in tally_of(200, EMPTY).goals_missed()


def test_seeds_count_for_a_goal_not_how_often_one_was_there() -> None:
    goal = goal_named("a snapshot was installed")
    tally = tally_of(200, EMPTY)
    tally.add(replace(EMPTY, reached=Counter({goal.name: 500})), cpu_s=0.0)
    assert (tally.goal_times[goal.name], tally.goal_seeds[goal.name]) == (500, 1)
    assert goal in tally.goals_missed()
    for _ in range(15):
        tally.add(replace(EMPTY, reached=Counter({goal.name: 1})), cpu_s=0.0)
    assert goal not in tally.goals_missed()


def test_a_batch_is_added_up() -> None:
    outcome = replace(
        EMPTY,
        faults=(Fault.LOSS, Fault.CRASH),
        events=100,
        commits=10,
        virtual_us=7,
        reached=Counter({"fault: crash": 3}),
    )
    tally = tally_of(4, outcome)
    tally.add(replace(EMPTY, nodes=5), cpu_s=0.0)
    assert (tally.seeds, tally.events, tally.commits) == (5, 400, 40)
    assert (tally.virtual_us, tally.nodes) == (28, {3: 4, 5: 1})
    assert tally.per_cpu_second(tally.events) == 200.0
    assert Tally(Plan()).per_cpu_second(1) == 0.0
    assert (tally.faults[Fault.LOSS], tally.faults[Fault.ROT]) == (4, 0)
    # Loss is there all the time: nobody counts it.
    assert (tally.struck(Fault.CRASH), tally.struck(Fault.LOSS)) == (12, None)
    assert tally.is_well


@pytest.mark.parametrize(
    ("vacuous", "of", "is_well"),
    [(1, 1, False), (1, 9, False), (1, 10, True), (2, 19, False), (2, 20, True)],
)
def test_few_seeds_may_be_vacuous(vacuous: int, of: int, is_well: bool) -> None:
    tally = tally_of(of - vacuous, EMPTY)
    for _ in range(vacuous):
        tally.add(replace(EMPTY, vacuous="nothing"), cpu_s=0.0)
    assert (tally.vacuous, tally.is_well) == (vacuous, is_well)


def test_one_violation_is_too_many() -> None:
    tally = tally_of(100, EMPTY)
    tally.add(replace(EMPTY, violation="two leaders (I1)", check="I1"), cpu_s=0.0)
    assert (tally.violations, tally.is_well) == (1, False)


def test_the_command_that_replays_a_seed_names_what_is_not_usual() -> None:
    assert Plan().command(7) == "kvstore sim --seed 7"
    assert Plan(faults=()).command(7) == "kvstore sim --seed 7 --faults none"
    plan = Plan(nodes=5, faults=(Fault.LOSS, Fault.ONE_WAY), steps=10)
    assert plan.command(1) == (
        "kvstore sim --seed 1 --nodes 5 --steps 10 --faults loss,one-way"
    )
