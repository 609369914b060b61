"""Golden scripts: what a cluster does in a schedule, line by line.

``pytest tests/raft/test_scripts.py --rewrite`` writes what happens now into the files.
Commit the difference only if you understand it.
"""

from pathlib import Path

import pytest

from kvstore.simulation.mutants.killing import SCRIPTS
from kvstore.simulation.script import check, parse, replay

FOLDERS = (Path(__file__).parent / "scripts", SCRIPTS)
"""Those of the second kill mutants, and ship with the package."""
FILES = sorted(path for folder in FOLDERS for path in folder.glob("*.raft"))


def claim(path: Path) -> str:
    """What names its test: the claim, if the file can be read."""
    first = path.read_text().partition("\n")[0]
    return f"{path.stem}: {first.partition('claim: ')[2]}"


@pytest.mark.parametrize("path", FILES, ids=claim)
def test_script(path: Path, request: pytest.FixtureRequest) -> None:
    """Goal: the claim of the file. Method: run it, and compare all that it prints."""
    script = parse(path.read_text(), str(path))
    if request.config.getoption("rewrite"):
        path.write_text(replay(script))
    else:
        check(script)


def test_claims_tell_scripts_apart() -> None:
    claims = [claim(path).partition(": ")[2] for path in FILES]
    assert "" not in claims
    assert len(set(claims)) == len(claims)
