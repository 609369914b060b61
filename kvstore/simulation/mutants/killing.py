"""Mutants and their schedules: what notices a mutant, if anything does."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from kvstore.simulation.mutants.mutant import Mutant
from kvstore.simulation.mutants.noticing import Noticed
from kvstore.simulation.mutants.table import MUTANTS, find
from kvstore.simulation.mutants.worker import Json, Worker, WorkerFailed

if TYPE_CHECKING:
    from kvstore.simulation.script import ScriptError

SCRIPTS = Path(__file__).parent / "scripts"
"""Where the ``.raft`` files are that kill."""
CLAIMS = ("assert-", "expect-error")
"""How lines of a script begin that claim something."""
OWN_CHECKS = frozenset({"AssertionError", "CorruptionError", "LookupError"})
"""How the code itself notices that it is broken: in production the node would end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """What noticed a mutant."""

    check: str
    """Short: the invariant, in words; the claim of a script that is not so; or the
    error by which the code itself noticed."""
    detail: str
    """Where, and the facts."""


def run_script(mutant_id: str) -> Kill | None:
    """Run a mutant's schedule, in a process of its own. None if nothing notices.

    Raises:
        LookupError: there is no such mutant.
        WorkerFailed: the process cannot run the schedule. No kill: a mutant that stops
            its process for another reason than a failed check has not been noticed.
    """
    with Worker(mutant_id) as worker:
        return kill_in(worker, find(mutant_id).kill)


def false_alarms(mutants: Sequence[Mutant] = MUTANTS) -> dict[str, Kill]:
    """What their schedules notice in the code as it is: nothing, if all is well.

    By schedule. The control of :func:`run_script`; raises as it does.
    """
    with Worker() as worker:
        found = [(it, kill_in(worker, it)) for it in sorted({m.kill for m in mutants})]
    return {schedule: kill for schedule, kill in found if kill is not None}


def kill_in(worker: Worker, schedule: str) -> Kill | None:
    """Run a schedule in a worker. As :func:`run_script`."""
    try:
        found = worker.call(f"{__name__}:attempt", schedule)
    except WorkerFailed as failure:
        if failure.error not in OWN_CHECKS:
            raise
        check = f"the code's own {failure.error}: {failure.text}".removesuffix(": ")
        return Kill(check=check, detail=failure.trace)
    if found is None:
        return None
    assert isinstance(found, list)
    what, facts = found
    return Kill(check=str(what), detail=str(facts))


def attempt(schedule: str) -> Json:
    """In the worker: run a schedule. What noticed the mutant, and the facts."""
    # Here, and not above: it imports what a mutant changes.
    from kvstore.raft.invariants import InvariantViolation

    try:
        if schedule.endswith(".raft"):
            return _attempt_script(SCRIPTS / schedule)
        module, _, function = schedule.partition(":")
        scenarios = import_module(f"{__package__}.scenarios.{module}")
        getattr(scenarios, function)()
    except InvariantViolation as violation:
        facts = [str(violation), *getattr(violation, "__notes__", [])]
        return [str(violation).partition(":")[0], "\n".join(facts)]
    except Noticed as noticed:
        return [noticed.check, noticed.facts]
    return None


def _attempt_script(path: Path) -> Json:
    from kvstore.simulation.script import ScriptError, parse, replay

    script = parse(path.read_text(), path.name)
    try:
        replay(script)
    except ScriptError as error:
        return [_claim(error, path), str(error)]
    return None


def _claim(error: "ScriptError", path: Path) -> str:
    """The claim that is not so, or the line that meets an error where none should be.

    Raises the error if it is neither: then the schedule does not fit any more, and that
    notices nothing.
    """
    from kvstore.errors import KVStoreError

    line = path.read_text().splitlines()[error.line - 1]
    if line.startswith(CLAIMS):
        return line
    mistake = error.__cause__
    refusal = mistake and mistake.__cause__
    if isinstance(refusal, KVStoreError):
        return f"{line}: {type(refusal).__name__}"
    raise error
