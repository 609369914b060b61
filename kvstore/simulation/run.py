"""One seed, from the first election to the last comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvstore.simulation.faults import Faults
from kvstore.simulation.healing import Healing
from kvstore.simulation.journal import Journal
from kvstore.simulation.reshaping import Reshaping
from kvstore.simulation.streams import Streams
from kvstore.simulation.swarm import Fault, draw
from kvstore.simulation.traffic import Traffic
from kvstore.simulation.verdict import Verdict, check_of
from kvstore.simulation.world import World

if TYPE_CHECKING:
    from kvstore.simulation.streams import MakeRandom

STEPS = 4_000
"""Inputs of members before the faults end."""
LEAST = {"a write was answered": 20, "a read was answered": 5, "Elected": 1}
"""A run that reaches less has shown nothing."""
COMMITS_MIN = 20
EXTENSIONS_MAX = 5
"""A run of nothing but bad luck goes on for so many times its length at most."""
LOOKS = 20
"""How often in a length it is looked whether it has shown enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one seed."""

    seed: int
    swarm: str
    """What was switched on, and how bad it was."""
    nodes: int
    faults: tuple[Fault, ...]
    """Those that were switched on."""
    violation: str | None
    """The invariant in words, and the facts; None if all went well."""
    check: str | None
    """Its short name: I1 to I15, LIN, SES, DUR, UNK, LIVE; ``assert`` or ``error``
    if the code itself failed."""
    vacuous: str | None
    """What was not reached, though it should be; None if enough was."""
    events: int
    """Inputs that live replicas were given; a tick that changed nothing is none."""
    commits: int
    virtual_us: int
    trace_hash: int
    reached: Counter[str] = field(default_factory=Counter)


def simulate(
    seed: int,
    make_random: MakeRandom,
    *,
    nodes: int | None = None,
    faults: Iterable[Fault] | None = None,
    steps: int = STEPS,
    journal: Journal | None = None,
) -> Outcome:
    """Run one seed. The same arguments give the same outcome, on every machine."""
    streams = Streams(seed, make_random)
    swarm = draw(streams.swarm, nodes=nodes, faults=faults)
    world = World(swarm, streams, journal)
    world.journal.begins(world)
    reshaping = Reshaping(world)
    troubles = Faults(world, reshaping)
    # First the clocks: staleness is judged by the slowest.
    troubles.begin()
    reshaping.begin()
    traffic = Traffic(world, operations=steps)
    world.clients = traffic
    traffic.begin()
    verdict = Verdict()
    with verdict:
        world.boot()
        _run_on(world, traffic, steps)
        Healing(world, troubles, reshaping, traffic).run()
    violation = verdict.violation
    if violation is not None:
        world.journal.violated(world, violation)
    reached = world.reached + traffic.oracle.reached
    return Outcome(
        seed=seed,
        swarm=str(swarm),
        nodes=swarm.nodes,
        faults=tuple([fault for fault in Fault if swarm.has(fault)]),
        violation=violation,
        check=None if violation is None else check_of(violation),
        vacuous=None if violation else _lacking(reached, world.watch.committed_index),
        events=world.events,
        commits=world.watch.committed_index,
        virtual_us=world.agenda.now_us,
        trace_hash=world.trace_hash,
        reached=reached,
    )


def _run_on(world: World, traffic: Traffic, steps: int) -> None:
    """So many inputs; more, within reason, if they have shown nothing by then."""
    end = steps
    while world.events < end and world.step():
        if world.events < end:
            continue
        reached = world.reached + traffic.oracle.reached
        enough = _lacking(reached, world.watch.committed_index) is None
        if not enough and end < EXTENSIONS_MAX * steps:
            end += max(1, steps // LOOKS)


def _lacking(reached: Counter[str], commits: int) -> str | None:
    reads = sum(
        count for what, count in reached.items() if what.endswith("read was answered")
    )
    seen = {**reached, "a read was answered": reads}
    for what, least in LEAST.items():
        if seen.get(what, 0) < least:
            return f"{what}: {seen.get(what, 0)} times, {least} at least"
    if commits < COMMITS_MIN:
        return f"entries committed: {commits}, {COMMITS_MIN} at least"
    return None
