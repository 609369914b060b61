"""The demo, for real: whole, and interrupted."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kvcluster.demo import Library
from kvcluster.process import ProcessIdentity

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
