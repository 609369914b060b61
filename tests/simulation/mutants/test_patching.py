"""Mutants are applied to what is imported after them, and to nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.simulation.mutants.mutant import Edit, Mutant
from kvstore.simulation.mutants.patching import NotApplicable, apply, texts
from kvstore.simulation.mutants.table import MUTANTS, find

SOURCE = Path(__file__).resolve().parents[3] / "kvstore"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda it: it.id)
def test_a_mutant_applies(mutant: Mutant) -> None:
    """Goal: the table follows the code. What comes out differs, and is Python."""
    for module, text in texts(mutant).items():
        path = SOURCE.parent.joinpath(*module.split(".")).with_suffix(".py")
        assert text != path.read_text()


def test_ids_name_one_mutant_each() -> None:
    ids = [mutant.id for mutant in MUTANTS]
    assert len(ids) == len({*ids})
    assert find("M11").id == "M11"
    with pytest.raises(LookupError, match="there is no mutant M00; there are M01, "):
        find("M00")


def changing(old: str, new: str = "") -> Mutant:
    edit = Edit(module="kvstore.raft.quorum", old=old, new=new)
    return Mutant(id="T", what="of a test", edits=(edit,), kill="")


@pytest.mark.parametrize("old", ["no such line", "return"])
def test_what_a_mutant_replaces_must_be_there_once(old: str) -> None:
    with pytest.raises(NotApplicable, match="T no longer applies"):
        texts(changing(old))


def test_a_mutant_must_leave_python_behind() -> None:
    with pytest.raises(NotApplicable, match="T breaks"):
        texts(changing("return voters // 2 + 1", "return ("))


def test_a_mutant_may_change_one_module_in_several_places() -> None:
    edits = (
        Edit(module="kvstore.raft.quorum", old="voters // 2 + 1", new="FIRST"),
        Edit(module="kvstore.raft.quorum", old="FIRST", new="1"),
    )
    text = texts(Mutant(id="T", what="", edits=edits, kill=""))["kvstore.raft.quorum"]
    assert "    return 1\n" in text


def test_a_mutant_that_comes_too_late_is_refused() -> None:
    """Goal: no process believes that it runs with a mutant when it does not."""
    import kvstore.raft.quorum  # noqa: F401 - to have it imported

    before = list(sys.meta_path)
    with pytest.raises(NotApplicable, match=r"M07 comes too late: kvstore.raft.quorum"):
        apply("M07")
    assert sys.meta_path == before


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "kvstore.simulation.mutants", *arguments],
        cwd=SOURCE.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_launcher_runs_a_module_with_a_mutant(tmp_path: Path) -> None:
    """Goal: the change is what runs, arguments arrive, and no bytecode of it stays."""
    (tmp_path / "probe.py").write_text(
        "import inspect, sys\n"
        "from kvstore.raft import quorum\n"
        "print(quorum.majority(4), sys.argv[1:], __name__)\n"
        "print(inspect.getsource(quorum.majority))\n"
    )
    program = ("-m", "kvstore.simulation.mutants", "M07", "--", "-m", "probe", "x")
    result = subprocess.run(
        [sys.executable, "-W", "error", *program],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{SOURCE.parent}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stderr == ""
    assert result.stdout.startswith("2 ['x'] __main__\n")
    assert "(voters + 1) // 2" in result.stdout
    control = "from kvstore.raft import quorum; print(quorum.majority(4))"
    unchanged = subprocess.run(
        [sys.executable, "-c", control],
        cwd=SOURCE.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert unchanged.stdout == "3\n"


def test_the_launcher_runs_the_command() -> None:
    result = launch("M18", "--", "kvstore", "--version")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_launcher_lists_mutants() -> None:
    lines = launch().stdout.splitlines()
    assert [line.split()[0] for line in lines] == [mutant.id for mutant in MUTANTS]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("M00", "--", "kvstore"), "there is no mutant M00"),
        (("M18", "kvstore"), "usage: "),
        (("M18", "--", "python"), "usage: "),
    ],
)
def test_the_launcher_refuses_what_it_cannot_do(
    arguments: tuple[str, ...], expected: str
) -> None:
    result = launch(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith(expected)
