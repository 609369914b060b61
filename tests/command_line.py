"""The ``kvstore`` command as a user runs it: in a process of its own, and without the
``KVSTORE_*`` variables of whoever runs the tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KVSTORE = (sys.executable, "-m", "kvstore.cli.main")
LIMIT_S = 90


def environment(**variables: str) -> dict[str, str]:
    """This process's, without our own variables but for the given ones."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("KVSTORE_")}
    return kept | variables


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(**variables),
        timeout=LIMIT_S,
    )


def kvstore(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return python(*KVSTORE[1:], *arguments, **variables)


def kvstore_bytes(
    *arguments: str | bytes,
    stdin: bytes = b"",
    python_options: tuple[str, ...] = (),
    **variables: str,
) -> subprocess.CompletedProcess[bytes]:
    """For arguments, input and output that need not be text."""
    return subprocess.run(
        [KVSTORE[0], *python_options, *KVSTORE[1:], *arguments],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env=environment(**variables),
        timeout=LIMIT_S,
    )
