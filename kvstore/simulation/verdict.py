"""What a run ends in, and its name."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Self

from kvstore.raft.observed import InvariantViolation
from kvstore.simulation.specification.state import SpecificationViolation

if TYPE_CHECKING:
    from types import TracebackType


class Verdict:
    """Ends a run at what must not be, and keeps it in words: to find that is its aim.

    Also an error that nobody expected, and an assertion of the code itself.
    """

    def __init__(self) -> None:
        self.violation: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, SpecificationViolation):
            # The action, and the guard that forbids it; then the facts.
            action, guard, *facts = str(error).split(": ", 2)
            self.violation = f"{action}: {': '.join([f'{guard} (SPEC)', *facts])}"
        elif isinstance(error, InvariantViolation):
            self.violation = str(error)
        elif isinstance(error, Exception):
            last = traceback.extract_tb(trace)[-1]
            place = f"{last.filename.rpartition('/')[2]}, {last.name}: {last.line}"
            name = "assert" if isinstance(error, AssertionError) else "error"
            self.violation = (
                f"the code itself noticed a defect ({name}): {place} {error!r}"
            )
        return self.violation is not None


def check_of(violation: str) -> str:
    """The short name in a violation's text, which has it in parentheses."""
    name = violation.partition("(")[2].partition(")")[0]
    return name if name and " " not in name else "safety"


def sentence_of(violation: str) -> str:
    """The invariant in words, with its name and without the facts."""
    return violation.partition(")")[0] + ")"
