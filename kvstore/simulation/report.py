"""What many seeds came to, and how to see one of them again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kvstore.simulation.goals import GOALS, Goal
from kvstore.simulation.run import STEPS, Outcome
from kvstore.simulation.swarm import Fault, is_counted, strikes_of

VACUOUS_SHARE_MAX = 0.1
"""Of a batch. Now and then a cluster is beaten so hard that next to nothing is written;
one or two seeds in a hundred are so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What each seed of a batch is run with."""

    nodes: int | None = None
    """1 to 7; None: each seed draws its own."""
    faults: tuple[Fault, ...] | None = None
    """Those that a seed may draw; None: all."""
    steps: int = STEPS

    def command(self, seed: int) -> str:
        """The command that runs a seed of this batch again, and comes to the same."""
        words = [f"kvstore sim --seed {seed}"]
        if self.nodes is not None:
            words.append(f"--nodes {self.nodes}")
        if self.steps != STEPS:
            words.append(f"--steps {self.steps}")
        if self.faults is not None:
            names = ",".join([fault.value for fault in self.faults])
            words.append(f"--faults {names or 'none'}")
        return " ".join(words)

    @property
    def may_reach_all(self) -> bool:
        """Whether every goal is within reach: nothing was left out."""
        return self.nodes is None and self.faults is None and self.steps >= STEPS


class Tally:
    """Adds up a batch. Sums only, so that any number of seeds fits."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seeds = 0
        self.violations = 0
        self.vacuous = 0
        self.events = 0
        self.commits = 0
        self.virtual_us = 0
        self.cpu_s = 0.0
        """Of one core, for all seeds together."""
        self.nodes: Counter[int] = Counter()
        """Founding members: how many seeds had so many."""
        self.faults: Counter[Fault] = Counter()
        """How many seeds had each."""
        self.reached: Counter[str] = Counter()
        self.goal_times: Counter[str] = Counter()
        self.goal_seeds: Counter[str] = Counter()

    def add(self, outcome: Outcome, *, cpu_s: float) -> None:
        """One more seed, which took ``cpu_s`` of a processor."""
        self.seeds += 1
        self.violations += outcome.violation is not None
        self.vacuous += outcome.vacuous is not None
        self.events += outcome.events
        self.commits += outcome.commits
        self.virtual_us += outcome.virtual_us
        self.cpu_s += cpu_s
        self.nodes[outcome.nodes] += 1
        self.faults.update(outcome.faults)
        self.reached.update(outcome.reached)
        for goal in GOALS:
            times = goal.times(outcome)
            self.goal_times[goal.name] += times
            self.goal_seeds[goal.name] += times > 0

    def per_cpu_second(self, count: int) -> float:
        """``count`` by the time that one core worked; 0 if nothing was measured."""
        return count / self.cpu_s if self.cpu_s else 0.0

    def struck(self, fault: Fault) -> int | None:
        """How often a fault struck; None if it is there all the time."""
        return self.reached[strikes_of(fault)] if is_counted(fault) else None

    def least(self, goal: Goal) -> int:
        """In how many of these seeds a goal must be reached; 0 if it need not."""
        return goal.least(self.seeds) if self.plan.may_reach_all else 0

    def goals_missed(self) -> list[Goal]:
        """What was reached in fewer seeds than it should have been."""
        return [it for it in GOALS if self.goal_seeds[it.name] < self.least(it)]

    @property
    def is_vacuous(self) -> bool:
        """Whether too many seeds have shown nothing; of one seed, that one."""
        return self.vacuous > self.seeds * VACUOUS_SHARE_MAX

    @property
    def is_well(self) -> bool:
        """Nothing was violated, enough was shown, and no goal was missed."""
        return not (self.violations or self.is_vacuous or self.goals_missed())
