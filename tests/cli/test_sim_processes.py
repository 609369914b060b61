"""The processes that a batch of seeds is spread over."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import KVSTORE, LIMIT_S, ROOT, environment

pytestmark = pytest.mark.process


def is_running(pid: str) -> bool:
    """Whether there is such a process that is more than an entry in the table."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    until_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_no_worker_outlives_a_command_that_is_killed() -> None:
    """Python's pools leave their processes waiting for ever."""
    command = [*KVSTORE, "sim", "--seeds", "0..9999", "--jobs", "2"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        # Two workers, and what multiprocessing has for itself.
        eventually(lambda: len(children.read_text().split()) == 3)
        workers = children.read_text().split()
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not any(is_running(pid) for pid in workers))
