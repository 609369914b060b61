"""Processes that die at each step of what they do to a disk, one after the other."""

import os
import traceback
from collections.abc import Callable, Iterator
from itertools import count

from kvstore.storage.environment import Environment, Transaction

_DIED = 77
"""Exit code of a process that came as far as it should."""
POINTS_MAX = 100
"""Far more steps than any scenario takes."""


def deaths(act: Callable[[], None]) -> Iterator[int]:
    """Run ``act`` in a process that dies before its first commit, then in one that dies
    after it, and so on, and at last in one that lives; yields after each.

    Yielded is how many steps were taken: halves of commits and renamings of files.
    ``act`` opens what it needs, and finds what the process before it left.
    """
    for point in range(POINTS_MAX):
        if not _dies(act, point):
            return
        yield point
    raise AssertionError("a scenario that never ends")


def _dies(act: Callable[[], None], point: int) -> bool:
    """Whether ``act`` got so far; if not, it has ended."""
    child = os.fork()
    if not child:
        _run(act, point)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, _DIED):
        raise AssertionError(f"a process of the scenario ended with {code}")
    return code == _DIED


def _run(act: Callable[[], None], point: int) -> None:
    """In the child. A process that dies closes nothing and says no word."""
    steps = count()

    def step() -> None:
        if next(steps) == point:
            os._exit(_DIED)

    commit, rename = Environment.commit, os.rename

    def commit_between(environment: Environment, txn: Transaction) -> None:
        step()
        commit(environment, txn)
        step()

    def rename_between(*names: object) -> None:
        step()
        rename(*names)  # type: ignore[arg-type]
        step()

    Environment.commit = commit_between  # type: ignore[method-assign,assignment]
    os.rename = rename_between  # type: ignore[assignment]
    code = 1
    try:
        act()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)
