"""Seeds in processes of their own, one for each core, and their outcomes in order.

Nothing of the simulator may be imported before :func:`prepare`: a process that runs
with a mutant has to apply it first.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING

from kvstore.simulation.mutants.patching import applied, apply

if TYPE_CHECKING:
    from kvstore.simulation.journal import Journal
    from kvstore.simulation.report import Plan
    from kvstore.simulation.run import Outcome

AHEAD = 16
"""Seeds in hand for each process: a slow one in front lets the others go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A seed that has ended."""

    outcome: Outcome
    cpu_s: float
    """What it took of a processor."""


def run_seed(plan: Plan, seed: int, journal: Journal | None = None) -> Done:
    """Run one seed here and now."""
    from kvstore.simulation.run import simulate

    began_s = time.process_time()
    outcome = simulate(
        seed,
        random.Random,
        nodes=plan.nodes,
        faults=plan.faults,
        steps=plan.steps,
        journal=journal,
    )
    return Done(outcome=outcome, cpu_s=time.process_time() - began_s)


@contextmanager
def run_seeds(
    plan: Plan, seeds: Iterable[int], *, processes: int
) -> Iterator[Iterator[Done]]:
    """What each seed came to, in their order, whatever the number of processes.

    Leaving ends the processes; what was not begun is not run.
    """
    if processes == 1:
        yield (run_seed(plan, seed) for seed in seeds)
        return
    pool = ProcessPoolExecutor(
        processes,
        # Forked processes would share whatever threads and locks this one has.
        mp_context=get_context("spawn"),
        initializer=prepare,
        initargs=(applied(),),
    )
    try:
        with closing(_in_order(pool, plan, seeds, AHEAD * processes)) as done:
            yield done
    finally:
        pool.shutdown(cancel_futures=True)


def prepare(mutant_id: str | None) -> None:
    """Begin a worker: with the mutant of its parent, which alone hears of Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if mutant_id is not None:
        apply(mutant_id)


def _in_order(
    pool: ProcessPoolExecutor, plan: Plan, seeds: Iterable[int], ahead: int
) -> Generator[Done, None, None]:
    waiting: deque[Future[Done]] = deque()
    for seed in seeds:
        waiting.append(pool.submit(run_seed, plan, seed))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next seed for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
