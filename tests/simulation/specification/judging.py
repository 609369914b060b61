"""What the specification says of schedules and walks: also in a mutated process."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from unittest import mock

from kvstore.simulation import founding, script
from kvstore.simulation.specification.checker import SpecificationViolation
from tests.simulation.specification.watched import (
    WatchedCluster,
    WatchedScript,
    watched_walk,
)

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("tests/raft/scripts", "kvstore/simulation/mutants/scripts")
MODULES = (
    "changes",
    "check_quorum",
    "handover",
    "learners",
    "leases",
    "persistence",
    "reads",
    "schedules",
    "snapshots",
)
"""Of ``tests/raft``: those whose tests move a whole cluster."""

Schedule = tuple[str, Callable[[], object]]


def schedules() -> Iterator[Schedule]:
    """All exact schedules that there are, as the specification watches them."""
    for name in MODULES:
        module = import_module(f"tests.raft.test_{name}")
        for test_name, test in sorted(vars(module).items()):
            if test_name.startswith("test_") and not inspect.signature(test).parameters:
                act = partial(_with, module, WatchedCluster, test)
                yield f"{name}::{test_name.removeprefix('test_')}", act
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.raft")):
            parsed = script.parse(path.read_text(), path.name)
            replay = partial(script.replay, parsed)
            yield path.name, partial(_with, founding, WatchedScript, replay)


def _with(module: ModuleType, kind: type, act: Callable[[], object]) -> None:
    """Do it while clusters that the module makes are watched by the specification."""
    with mock.patch.object(module, "Cluster", kind):
        act()


def walks(seeds: Iterable[int]) -> Iterator[Schedule]:
    """Random walks."""
    for seed in seeds:
        yield f"seed {seed}", partial(watched_walk, seed)


class Judge:
    """Holds how the specification rejects what happens in a ``with``, if it does.

    Whatever else fails there is the affair of others: it alone is to judge.
    """

    def __init__(self) -> None:
        self.rejection: str | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, SpecificationViolation):
            self.rejection = str(error)
        return not isinstance(error, KeyboardInterrupt)


def rejection(act: Callable[[], object]) -> str | None:
    """How the specification rejects what happens, if it does."""
    judge = Judge()
    with judge:
        act()
    return judge.rejection


def first_rejection(seeds: int) -> list[str] | None:
    """Where and how a schedule, or else a walk, is rejected first; None if none is."""
    for name, act in itertools.chain(schedules(), walks(range(seeds))):
        if (found := rejection(act)) is not None:
            return [name, found]
    return None
