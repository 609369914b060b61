"""``kvstore`` offers every public name, and loads each only when it is asked for."""

import subprocess
import sys

import kvstore
from kvstore import errors


def test_every_public_name_exists() -> None:
    assert [name for name in kvstore.__all__ if not hasattr(kvstore, name)] == []


def test_every_error_is_public() -> None:
    """Goal: a caller can catch whatever is raised (after httpx's test of its own)."""
    classes = {name for name, it in vars(errors).items() if isinstance(it, type)}
    assert classes - set(kvstore.__all__) == set()


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(kvstore, "no_such_name")


def test_public_names_are_listed_and_completed() -> None:
    """Goal: a prompt that completes names knows those that are not loaded yet. Method:
    a process of its own, where none is."""
    program = (
        "import sys, kvstore; print(set(kvstore.__all__) - set(dir(kvstore)));"
        "print([m for m in sys.modules if 'kvstore.' in m])"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert outcome.stdout == "set()\n[]\n"


def test_importing_kvstore_loads_nothing_else() -> None:
    program = "import sys, kvstore; print(*(m for m in sys.modules if 'kvstore.' in m))"
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert outcome.stdout.split() == []
