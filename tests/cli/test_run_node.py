"""A node in which an assertion failed does not go on."""

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, threading
from kvstore.cli import run_node

def broken():
    assert False, "our bug"

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(run_node._exit_as_bug)
    threading.excepthook = run_node._exit_as_bug_of_thread
    {trigger}
    await asyncio.sleep(0.2)
    print("went on")

asyncio.run(main())
"""


def outcome(trigger: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(trigger=trigger)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "trigger",
    [
        "loop.call_soon(broken)",
        "threading.Thread(target=broken, name='kvstore-state-1').start()",
    ],
)
def test_a_failed_assertion_ends_the_node(trigger: str) -> None:
    """A node whose loop lost a callback, or whose thread is gone, must not linger."""
    code, output, errors = outcome(trigger)
    assert code == 70
    assert output == ""
    assert "our bug" in errors


@pytest.mark.parametrize(
    "trigger",
    [
        "loop.call_exception_handler({'message': 'of one connection'})",
        "threading.Thread(target=broken, name='somebody').start()",
    ],
)
def test_what_is_not_the_nodes_does_not_end_it(trigger: str) -> None:
    code, output, _ = outcome(trigger)
    assert code == 0
    assert output == "went on\n"
