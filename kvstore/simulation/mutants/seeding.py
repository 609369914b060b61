"""Mutants and chance: which seed of the simulation notices a mutant, if any does.

The swarm is the one that every seed draws. Nothing is tuned to a mutant.
"""

import random
import time
from dataclasses import dataclass

from kvstore.simulation.mutants.worker import Json, Worker, WorkerFailed

SEEDS_MAX = 2_000
"""Seeds that a mutant may survive before it counts as one that does."""
CHUNK = 10
"""Seeds in one call of a worker."""
SEED_S_MAX = 20.0
"""No seed takes so long, unless the mutant goes round in circles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedKill:
    """What noticed a mutant, and when."""

    seed: int
    events: int
    """Inputs of members until then, in this seed."""
    check: str
    """Its short name, as ``Outcome.check`` has it."""
    violation: str
    """In words, with the facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunt:
    """How a hunt ended."""

    kill: SeedKill | None
    seeds: int
    """How many were tried, the last one included."""
    seconds: float


def hunt(
    mutant_id: str,
    *,
    first_seed: int = 0,
    seeds: int = SEEDS_MAX,
    seconds_max: float = float("inf"),
) -> Hunt:
    """Run seeds with a mutant, one after the other, until one notices.

    Raises:
        LookupError: there is no such mutant.
        WorkerFailed: the process cannot run the simulation.
    """
    start = time.monotonic()
    tried = 0
    with Worker(mutant_id) as worker:
        while tried < seeds and time.monotonic() - start < seconds_max:
            count = min(CHUNK, seeds - tried)
            first = first_seed + tried
            try:
                found = worker.call(
                    f"{__name__}:try_seeds", first, count, timeout_s=CHUNK * SEED_S_MAX
                )
            except WorkerFailed as failure:
                if failure.error != "TimeoutError":
                    raise
                found = [first, 0, "endless", "a run does not come to an end (endless)"]
            if found is not None:
                assert isinstance(found, list)
                seed, events, check, violation = found
                kill = SeedKill(
                    seed=int(str(seed)),
                    events=int(str(events)),
                    check=str(check),
                    violation=str(violation),
                )
                tried += kill.seed - first + 1
                return Hunt(kill=kill, seeds=tried, seconds=time.monotonic() - start)
            tried += count
    return Hunt(kill=None, seeds=tried, seconds=time.monotonic() - start)


def try_seeds(first: int, count: int) -> Json:
    """In the worker: the first violation among some seeds."""
    # Here, and not above: it imports what a mutant changes.
    from kvstore.simulation.run import simulate

    for seed in range(first, first + count):
        outcome = simulate(seed, random.Random)
        if outcome.violation is not None:
            return [seed, outcome.events, outcome.check, outcome.violation]
    return None


def shrink_seed(seed: int) -> Json:
    """In the worker: a seed's violation as a short script.

    The script, its violation, and the inputs that there were; None if the seed violates
    nothing, or no script can say what does.
    """
    from kvstore.simulation.recording import Recorder
    from kvstore.simulation.run import simulate
    from kvstore.simulation.shrinking import Shrinker

    recorder = Recorder()
    outcome = simulate(seed, random.Random, journal=recorder)
    if outcome.violation is None:
        return None
    shrunk = Shrinker(recorder, outcome.violation).run(f"seed {seed} does no harm")
    if shrunk is None:
        return None
    return [shrunk.script, shrunk.violation, shrunk.inputs]


def replay_script(text: str) -> Json:
    """In the worker: what the replay of a script ends in, if it must not."""
    from kvstore.simulation.script import parse, replay
    from kvstore.simulation.verdict import Verdict

    verdict = Verdict()
    with verdict:
        replay(parse(text, "shrunk.raft"))
    return verdict.violation
