"""A node in which an assertion failed does not go on; what is not its own, it outlives.

The real ``run_node`` on a founded directory, in a process of its own. The fault strikes
once the node is entered.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from kvcluster.topology import free_ports
from kvstore.founding import found, new_cluster_id

pytestmark = pytest.mark.process

PROGRAM = """
import asyncio, os, signal, sys, threading
from pathlib import Path
from kvstore.cli import run_node
from kvstore.config import Config
from kvstore.server.node import Node

def broken():
    assert False, "our bug"

def in_thread(name):
    thread = threading.Thread(target=broken, name=name)
    thread.start()
    thread.join()

def report():
    context = {{"message": "of one connection"}}
    asyncio.get_running_loop().call_exception_handler(context)

class Struck(Node):
    async def __aenter__(self):
        await super().__aenter__()
        loop = asyncio.get_running_loop()
        loop.call_soon({fault})
        # Runs after the fault, if the fault left anything.
        loop.call_soon(os.kill, os.getpid(), signal.SIGTERM)
        return self

run_node.Node = Struck
config = Config(data_dir=Path(sys.argv[1]))
run_node.run_node(config, log_format="json", log_level="info")
"""


def outcome(folder: Path, fault: str) -> tuple[int, str]:
    """Exit code and log of a node that is struck, and then told to stop."""
    (port,) = free_ports(1)
    found(
        folder, node_id=1, cluster_id=new_cluster_id(), members={1: f"127.0.0.1:{port}"}
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(fault=fault), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("fault", ["broken", "in_thread, 'kvstore-state-1'"])
def test_a_failed_assertion_ends_the_node(tmp_path: Path, fault: str) -> None:
    """A node whose loop lost a callback, or whose thread is gone, must not linger."""
    code, log = outcome(tmp_path / "node", fault)
    assert code == 70, log
    assert "our bug" in log
    assert "stopping" not in log


@pytest.mark.parametrize("fault", ["report", "in_thread, 'somebody'"])
def test_what_is_not_the_nodes_does_not_end_it(tmp_path: Path, fault: str) -> None:
    code, log = outcome(tmp_path / "node", fault)
    assert code == 0, log
    assert "node_stopped" in log


def test_a_node_that_was_removed_ends_well_and_says_why(tmp_path: Path) -> None:
    """It did as it was told: whoever watches over it must not start it again."""
    code, log = outcome(tmp_path / "node", "self.leave")
    assert code == 0, log
    last = log.splitlines()[-1]
    assert "node 1 was removed from cluster" in last
    assert f"Delete {tmp_path / 'node'}" in last
