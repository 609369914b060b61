"""The README's Python runs as it stands, from a checkout and from the built wheel."""

import ast
import re
import zipfile
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = re.compile(
    r"<!-- snippet: ([\w-]+) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
SHELL = re.compile(
    r"<!-- snippet: quick-start -->\n```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
NAMED_ADDRESS = re.compile(r"127\.0\.0\.1:740([123])")
INSTALLATIONS = [
    "checkout",
    pytest.param("installed_wheel", marks=pytest.mark.slow),
]


class Outcome(Protocol):
    returncode: int
    stdout: str
    stderr: str


class Installation(Protocol):
    """See conftest.py."""

    def run(self, program: str, directory: Path) -> Outcome: ...
    def run_shell(self, script: str, directory: Path) -> Outcome: ...


def snippets(text: str) -> dict[str, str]:
    """The programs of a Markdown text, by the names in the comments above them."""
    found = PYTHON.findall(text)
    assert len(found) == len(dict(found)), "two snippets have one name"
    return dict(found)


README = snippets((ROOT / "README.md").read_text())


def test_every_python_block_has_a_name() -> None:
    """Goal: no program is left out of the tests below."""
    assert (ROOT / "README.md").read_text().count("```python") == len(README)


@pytest.mark.process
@pytest.mark.parametrize("installation", INSTALLATIONS)
@pytest.mark.parametrize("name", sorted(README))
def test_snippet_runs_as_it_stands(
    name: str, installation: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Goal: what a reader pastes works. Method: only addresses are replaced."""
    program = README[name]
    if NAMED_ADDRESS.search(program):
        # A program that founds a cluster of its own needs ports that are free.
        fixture = "free_addresses" if "kvstore.found(" in program else "cluster"
        addresses: tuple[str, ...] = request.getfixturevalue(fixture)
        program = NAMED_ADDRESS.sub(lambda it: addresses[int(it[1]) - 1], program)
    runner: Installation = request.getfixturevalue(installation)
    outcome = runner.run(program, tmp_path)
    assert outcome.returncode == 0, f"{outcome.stdout}\n{outcome.stderr}"
    # Development mode reports slow callbacks, and importing is slow on a busy machine.
    complaints = [
        line
        for line in outcome.stderr.splitlines()
        if not line.startswith("Executing <")
    ]
    assert complaints == []


@pytest.mark.process
@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_quick_start_runs_as_it_stands(
    installation: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Goal: the first thing a reader tries works, with a leader's death in it."""
    (script,) = SHELL.findall((ROOT / "README.md").read_text())
    printed = "$(grep -o 'KVSTORE_ENDPOINTS=.*' up.txt)"
    script = script.replace("--dir demo  ", "--dir demo >up.txt 2>&1 ", 1)
    script = script.replace("KVSTORE_ENDPOINTS=...", printed, 1)
    runner: Installation = request.getfixturevalue(installation)
    try:
        outcome = runner.run_shell(f"set -ex\n{script}", tmp_path)
    finally:
        # Does nothing after a success; nothing may outlive a failure.
        runner.run_shell("kvstore cluster destroy --yes --dir demo", tmp_path)
    assert outcome.returncode == 0, f"{outcome.stdout}\n{outcome.stderr}"
    assert outcome.stdout.count("hello") == 2


@pytest.mark.process
def test_a_snippet_that_fails_fails_the_test(
    checkout: Installation, tmp_path: Path
) -> None:
    """Goal: the test above can fail."""
    text = "<!-- snippet: bad -->\n```python\nassert False\n```\n"
    assert checkout.run(snippets(text)["bad"], tmp_path).returncode != 0


@pytest.mark.parametrize("name", sorted(README))
def test_snippet_uses_only_public_names(name: str) -> None:
    """Goal: readers learn what is promised to stay."""
    for node in ast.walk(ast.parse(README[name])):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            assert not [n for n in names if n.startswith("kvstore.")]
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("kvstore.")


@pytest.mark.slow
def test_wheel_holds_both_packages_and_says_that_they_are_typed(wheel: Path) -> None:
    """Goal: what users install is what the tree shows, and nothing beside it."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "kvstore",
        "kvcluster",
    }
    for package, folder in (("kvstore", ROOT), ("kvcluster", ROOT / "cluster")):
        sources = [*(folder / package).rglob("*.py"), folder / package / "py.typed"]
        expected = {path.relative_to(folder).as_posix() for path in sources}
        assert expected - set(names) == set()
    assert any(name.endswith("licenses/LICENSE") for name in names)
