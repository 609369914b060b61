"""The demo, for real: whole, and interrupted."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvcluster import demo as demo_module
from kvcluster.demo import Library
from kvcluster.demo_screen import PlainScreen
from kvcluster.errors import ClusterError, NodeFailed, NotReady
from kvcluster.local import LocalCluster
from kvcluster.process import ProcessIdentity
from kvstore.errors import CorruptionError, KVStoreError

pytestmark = pytest.mark.process

DEMO = [sys.executable, "-m", "kvcluster.demo"]
SUMMARY = re.compile(
    r"acknowledged (\d+), verified (\d+), lost (\d+), leader kills (\d+), "
    r"longest write gap \d+ ms"
)
LIMIT_S = 150


def start(scratch: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        DEMO,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch)},
    )


@pytest.mark.slow
def test_the_demo_loses_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as demo:
        output, _ = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == 0, output
    lines = output.splitlines()
    ends = [match for line in lines if (match := SUMMARY.fullmatch(line))]
    assert len(ends) == 1
    assert lines[-1] == ends[0].group()
    acknowledged, verified, lost, kills = map(int, ends[0].groups())
    assert acknowledged == verified == len(Library.of_this_python().files)
    assert lost == 0
    assert kills >= 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    with start(tmp_path) as demo:
        assert demo.stdout is not None
        lines = iter(demo.stdout.readline, "")
        # In the middle of the load, with all nodes up.
        assert any("acknowledged" in line for line in lines)
        nodes = [
            identity
            for record in tmp_path.glob("*/cluster/node-*/process")
            if (identity := ProcessIdentity.load(record)) is not None
        ]
        assert len(nodes) == 3
        demo.send_signal(number)
        output = "".join(lines)
        assert demo.wait(LIMIT_S) == 130, output
    assert "interrupted" in output
    assert not any(node.is_alive() for node in nodes)
    assert list(tmp_path.iterdir()) == []


def test_what_ends_the_load_is_told_by_itself(
    stub_cluster: Callable[..., LocalCluster],
) -> None:
    """Method: no node was started, so that there is no leader to kill."""
    library = Library(files=(("key", Path(__file__)),), skipped=())

    async def load() -> None:
        with pytest.raises(NodeFailed, match="no majority is left"):
            await demo_module._load_and_verify(
                stub_cluster(), library, PlainScreen(total=1)
            )
        # gRPC may keep tasks of its own for a moment.
        assert "watch roles" not in {task.get_name() for task in asyncio.all_tasks()}

    asyncio.run(load())


@pytest.mark.parametrize(
    "error",
    [NotReady("no leader", advice="Look into the logs."), CorruptionError("damaged")],
)
def test_a_demo_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: ClusterError | KVStoreError,
) -> None:
    def run() -> None:
        raise error

    monkeypatch.setattr(demo_module, "run", run)
    assert demo_module.main() == 1
    said = capsys.readouterr().out
    assert said.startswith(f"the demo failed: {error}\n")
    assert getattr(error, "advice", "") in said
