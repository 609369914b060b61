"""Where the README's code is run: here, and where only the built wheel is installed."""

import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvcluster.local import LocalCluster
from kvcluster.topology import free_ports
from tests.command_line import environment

ROOT = Path(__file__).resolve().parents[2]
BUILD_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A Python that can import kvstore."""

    python: Path

    def run(self, program: str, directory: Path) -> subprocess.CompletedProcess[str]:
        """Run a program, in which every warning is an error."""
        return self._run(
            [self.python, "-W", "error", "-X", "dev", "-"], program, directory
        )

    def run_shell(
        self, script: str, directory: Path
    ) -> subprocess.CompletedProcess[str]:
        """Run a script that finds the ``kvstore`` command of this installation."""
        return self._run(["bash", "-s"], script, directory)

    def _run(
        self, command: Sequence[str | Path], program: str, directory: Path
    ) -> subprocess.CompletedProcess[str]:
        path = f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        # Nothing of the checkout, or of the user's own settings, is in the way.
        variables = environment(PATH=path)
        variables.pop("PYTHONPATH", None)
        return subprocess.run(
            command,
            input=program,
            cwd=directory,
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="session")
def checkout() -> Installation:
    """The environment that the tests run in."""
    return Installation(python=Path(sys.executable))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        (sys.executable, "-m", "build", "--no-isolation", "-w", ROOT, "-o", folder),
        check=True,
        capture_output=True,
        timeout=BUILD_TIMEOUT_S,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed_wheel(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """An empty environment into which the wheel and what it needs were installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run(
        (python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel),
        check=True,
        timeout=BUILD_TIMEOUT_S,
    )
    return Installation(python=python)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Addresses of a running cluster of three."""
    folder = tmp_path_factory.mktemp("cluster") / "c"
    with LocalCluster.create(folder, nodes=3) as cluster:
        cluster.start()
        cluster.wait_for_leader()
        yield cluster.endpoints


@pytest.fixture
def free_addresses() -> tuple[str, ...]:
    """Where three members can serve."""
    return tuple(f"127.0.0.1:{port}" for port in free_ports(3))
