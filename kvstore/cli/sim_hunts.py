"""Mutants against their schedules and against chance, many side by side.

Each runs in processes of its own, for which threads wait here. Seeds are tried in
rounds, so that a mutant that survives long does not keep the others waiting. Whatever
the rounds, a mutant meets the seeds in their order: which one kills it first does not
depend on how many run side by side.
"""

import heapq
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from kvstore.simulation.mutants.killing import Kill, false_alarms, run_script
from kvstore.simulation.mutants.mutant import Mutant
from kvstore.simulation.mutants.seeding import SEED_S_MAX, SeedKill, hunt, try_seeds
from kvstore.simulation.mutants.worker import Worker, WorkerFailed

FIRST_ROUND = 30
"""Seeds; more than half of the mutants see no second round. Whole chunks of
:func:`hunt`, so that a run without an end is told by the same seed."""
LATER_ROUND = 100
"""A start costs about as much as one seed. Longer rounds would leave the last mutants
with less when the time is over."""
WAKE_S = 1.0
"""How often there is time to pass to show, though nothing has ended."""
TRY_SEEDS = f"{try_seeds.__module__}:{try_seeds.__name__}"


@dataclass(slots=True, kw_only=True)
class Finding:
    """What is known of a mutant so far."""

    mutant: Mutant
    script_kill: Kill | None = None
    seed_kill: SeedKill | None = None
    seeds_tried: int = 0
    seconds: float = 0.0
    """That its seeds took, on the wall."""
    trouble: list[str] = field(default_factory=list)
    """What could not be run. That proves nothing: it is no kill."""


class Trial:
    """Some mutants, and what is found of them."""

    def __init__(
        self, mutants: Sequence[Mutant], *, seeds: int, seconds_max: float
    ) -> None:
        """Up to ``seeds`` are tried of each, in ``seconds_max`` for all together."""
        self.findings = [Finding(mutant=it) for it in mutants]
        self.seeds = seeds
        self.settled = 0
        """Of how many nothing more will be found."""
        self._seconds_max = seconds_max
        self._began_s: float | None = None

    @property
    def seeds_tried(self) -> int:
        """Of all mutants together."""
        return sum([it.seeds_tried for it in self.findings])

    @property
    def seconds_left(self) -> float | None:
        """How long seeds may still take, at the rate so far; None: there is none."""
        tried = self.seeds_tried
        if self._began_s is None or not tried:
            return None
        passed_s = time.monotonic() - self._began_s
        most = sum(
            [self.seeds - it.seeds_tried for it in self.findings if not it.seed_kill]
        )
        return max(0.0, min(self._seconds_max - passed_s, most * passed_s / tried))

    def run(self, jobs: int) -> Iterator[Finding | None]:
        """Each finding once it is settled, and None now and then in between."""
        waiting = [(0, place) for place in range(len(self.findings))]
        running: dict[Future[None], tuple[int, int]] = {}
        pool = ThreadPoolExecutor(jobs)
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    turn, place = heapq.heappop(waiting)
                    future = pool.submit(self._try, self.findings[place], turn)
                    running[future] = turn, place
                done, _ = wait(running, WAKE_S, return_when=FIRST_COMPLETED)
                if not done:
                    yield None
                for future in [it for it in running if it in done]:
                    turn, place = running.pop(future)
                    future.result()
                    if self._is_settled(self.findings[place]):
                        self.settled += 1
                        yield self.findings[place]
                    else:
                        heapq.heappush(waiting, (turn + 1, place))
        finally:
            pool.shutdown(cancel_futures=True)

    def _is_settled(self, finding: Finding) -> bool:
        return bool(
            finding.seed_kill
            or finding.trouble
            or finding.seeds_tried >= self.seeds
            or self._time_left_s() <= 0
        )

    def _time_left_s(self) -> float:
        began_s = time.monotonic() if self._began_s is None else self._began_s
        return began_s + self._seconds_max - time.monotonic()

    def _try(self, finding: Finding, turn: int) -> None:
        """In a thread, alone with the finding: its schedule first, then its seeds."""
        mutant_id = finding.mutant.id
        try:
            if not turn:
                finding.script_kill = run_script(mutant_id)
                return
            if self._began_s is None:
                self._began_s = time.monotonic()
            left_s = self._time_left_s()
            if left_s <= 0:
                return
            size = FIRST_ROUND if turn == 1 else LATER_ROUND
            hunted = hunt(
                mutant_id,
                first_seed=finding.seeds_tried,
                seeds=min(size, self.seeds - finding.seeds_tried),
                seconds_max=left_s,
            )
        except WorkerFailed as failure:
            finding.trouble.append(str(failure))
            return
        finding.seed_kill = hunted.kill
        finding.seeds_tried += hunted.seeds
        finding.seconds += hunted.seconds

    def alarms(self) -> dict[str, str]:
        """The control: what is noticed in the code as it is, which must be nothing.

        By schedule, and by seed that killed a mutant.

        Raises:
            WorkerFailed: a schedule or a seed cannot be run.
        """
        found = false_alarms([it.mutant for it in self.findings])
        alarms = {schedule: kill.check for schedule, kill in found.items()}
        kills = [it.seed_kill for it in self.findings if it.seed_kill is not None]
        with Worker() as worker:
            for seed in sorted({kill.seed for kill in kills}):
                noticed = worker.call(TRY_SEEDS, seed, 1, timeout_s=10 * SEED_S_MAX)
                if noticed is not None:
                    assert isinstance(noticed, list)
                    alarms[f"seed {seed}"] = str(noticed[-1])
        return alarms
