"""The house style where no linter checks it. After TigerBeetle's ``src/tidy.zig``.

Each rule is a function from a source text to the lines that break it, so that each can
be shown to fail.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = "kvstore/pb/"
SKIPPED = frozenset({"build", "dist", "__pycache__", "htmlcov"})
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500
TEST_LINES_MAX = 800

PRINTS = (
    "kvstore/cli/",
    "cluster/kvcluster/bench/",
    "cluster/kvcluster/demo",
    "proto/",
    "docs/",
)
"""Programs that speak to a person; everything else logs or returns."""
BROAD_EXCEPT: dict[str, str] = {
    "kvstore/client/loop_thread.py": "raises it in the callers that wait for the thread"
}
"""The outermost shells, with what they do with a failure that nobody foresaw."""

Rule = Callable[[str, str], Iterator[tuple[int, str]]]
"""From a path and a text to (line, what is wrong)."""


def files(*suffixes: str) -> Iterator[Path]:
    """Files of the tree, without what is built, cached or hidden (but with .ci)."""

    def walk(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            hidden = path.name.startswith(".") and path.name != ".ci"
            if hidden or path.name in SKIPPED or path.name.endswith(".egg-info"):
                continue
            if path.is_dir():
                yield from walk(path)
            elif not suffixes or path.suffix in suffixes:
                yield path

    yield from walk(ROOT)


def own_sources() -> Iterator[tuple[str, str]]:
    for path in files(".py"):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(GENERATED):
            yield name, path.read_text()


def function_length(path: str, text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines"


def module_length(path: str, text: str) -> Iterator[tuple[int, str]]:
    lines = text.count("\n")
    if lines > (TEST_LINES_MAX if path.startswith("tests/") else MODULE_LINES_MAX):
        yield 1, f"the module has {lines} lines"


def prints(path: str, text: str) -> Iterator[tuple[int, str]]:
    if path.startswith((*PRINTS, "tests/")):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield node.lineno, "print outside a program for people"


def sleeps(path: str, text: str) -> Iterator[tuple[int, str]]:
    """A test of one process waits on a condition; it never guesses how long.

    Exempt are tests, and modules, that are marked as starting processes, and the pause
    of a loop that asks for its condition over and over.
    """
    if path.startswith("tests/"):
        yield from _sleeps_below(ast.parse(text), polling=False)


def _sleeps_below(parent: ast.AST, *, polling: bool) -> Iterator[tuple[int, str]]:
    if _starts_processes(parent):
        return
    if isinstance(parent, ast.While) and not isinstance(parent.test, ast.Constant):
        polling = True
    elif isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef):
        polling = False
    elif isinstance(parent, ast.ImportFrom) and parent.module in {"time", "asyncio"}:
        if "sleep" in {alias.name for alias in parent.names}:
            yield parent.lineno, f"sleep imported from {parent.module}"
    elif isinstance(parent, ast.Call):
        called = ast.unparse(parent.func)
        gives_way = ast.unparse(parent).endswith("sleep(0)")
        if called == "time.sleep" or (
            called == "asyncio.sleep" and not (polling or gives_way)
        ):
            yield parent.lineno, f"{called} in a test that starts no process"
    for child in ast.iter_child_nodes(parent):
        yield from _sleeps_below(child, polling=polling)


def _starts_processes(node: ast.AST) -> bool:
    """Whether it is a test, or a module, that is marked so."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            marks: list[ast.expr] = node.decorator_list
        case ast.Module():
            marks = [
                each.value
                for each in node.body
                if isinstance(each, ast.Assign)
                and ast.unparse(each.targets[0]) == "pytestmark"
            ]
        case _:
            return False
    return any("pytest.mark.process" in ast.unparse(mark) for mark in marks)


def broad_excepts(path: str, text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "" if node.type is None else ast.unparse(node.type)
        if not caught:
            yield node.lineno, "bare except"
        if re.search(r"\bAssertionError\b", caught):
            yield node.lineno, "a failed assertion is our bug and must stop the process"
        cleans_up = ast.unparse(node.body[-1]) == "raise"
        if cleans_up or path in BROAD_EXCEPT:
            continue
        if re.search(r"\b(Base)?Exception\b", caught):
            yield node.lineno, f"except {caught} outside the outermost shells"


def unnamed_ignores(path: str, text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"#\s*type:\s*ignore(?!\[)", line):
            yield number, "type: ignore without a code"
        if re.search(r"#\s*noqa(?!:)", line, re.IGNORECASE):
            yield number, "noqa without a code"


def promises(path: str, text: str) -> Iterator[tuple[int, str]]:
    words = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"))
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(rf"\b({words})\b", line):
            yield number, "work that was put off: do it, or file it"


def machine_paths(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Nothing in the tree depends on where it lies or on whose machine."""
    folders = "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers"))
    pattern = re.compile(
        rf"(?<![\w.$)}}\]*~])/({folders})/\w"
        rf"|\.\./(\.\./)*sha{''}red\b"
        rf"|\b(pypi|pythonhosted)\.or{''}g\b"
    )
    for number, line in enumerate(text.splitlines(), 1):
        if found := pattern.search(line):
            yield number, f"refers to {found.group()}"


def docstrings(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Modules, public classes and public functions say what they are."""
    if path.startswith("tests/"):
        return
    tree = ast.parse(text)
    if ast.get_docstring(tree) is None:
        yield 1, "the module has no docstring"
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not node.name.startswith("_") and ast.get_docstring(node) is None:
            yield node.lineno, f"{node.name} has no docstring"


SOURCE_RULES: tuple[Rule, ...] = (
    function_length,
    module_length,
    prints,
    sleeps,
    broad_excepts,
    unnamed_ignores,
    docstrings,
)
TEXT_RULES: tuple[Rule, ...] = (promises, machine_paths)


def report(rule: Rule, texts: Iterator[tuple[str, str]]) -> str:
    return "\n".join(
        f"{path}:{line}: {what}"
        for path, text in texts
        for line, what in rule(path, text)
    )


@pytest.mark.parametrize("rule", SOURCE_RULES, ids=lambda rule: rule.__name__)
def test_sources_keep_the_rule(rule: Rule) -> None:
    assert report(rule, own_sources()) == ""


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: rule.__name__)
def test_all_texts_keep_the_rule(rule: Rule) -> None:
    texts = ((str(path.relative_to(ROOT)), path.read_text()) for path in files())
    assert report(rule, texts) == ""


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX
BREACHES: list[tuple[Rule, str, str]] = [
    (function_length, "kvstore/a.py", LONG_FUNCTION),
    (function_length, "tests/a.py", LONG_FUNCTION.replace("def", "async def")),
    (module_length, "kvstore/a.py", "\n" * (MODULE_LINES_MAX + 1)),
    (module_length, "tests/a.py", "\n" * (TEST_LINES_MAX + 1)),
    (prints, "kvstore/server/a.py", "print(1)"),
    (sleeps, "tests/a.py", "import time\ntime.sleep(1)"),
    (sleeps, "tests/a.py", "from time import sleep"),
    (sleeps, "tests/a.py", "from asyncio import sleep"),
    (sleeps, "tests/a.py", "async def test(): await asyncio.sleep(0.2)"),
    (sleeps, "tests/a.py", "async def test(): await asyncio.sleep(PAUSE_S)"),
    (sleeps, "tests/a.py", "async def f():\n  while True: await asyncio.sleep(1)"),
    (sleeps, "tests/a.py", "def f():\n  while not done(): time.sleep(1)"),
    (sleeps, "tests/a.py", "# pytest.mark.process\ndef test(): time.sleep(1)"),
    (
        sleeps,
        "tests/a.py",
        "@pytest.mark.process\ndef test(): ...\ndef test_2(): time.sleep(1)",
    ),
    (broad_excepts, "kvstore/a.py", "try:\n    f()\nexcept:\n    pass"),
    (broad_excepts, "kvstore/a.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (
        broad_excepts,
        "tests/a.py",
        "try:\n    f()\nexcept (OSError, BaseException): g()",
    ),
    (broad_excepts, "tests/a.py", "try:\n    f()\nexcept AssertionError:\n    pass"),
    (unnamed_ignores, "kvstore/a.py", "x = 1  # type: " + "ignore"),
    (unnamed_ignores, "kvstore/a.py", "x = 1  # no" + "qa"),
    (promises, "kvstore/a.py", "# TO" + "DO: later"),
    (machine_paths, "docs/a.md", "see /wo" + "rk/main"),
    (machine_paths, "docs/a.md", "see ../../sha" + "red/notes"),
    (machine_paths, "constraints.txt", "--index-url https://pypi.or" + "g/simple"),
    (docstrings, "kvstore/a.py", "x = 1"),
    (docstrings, "kvstore/a.py", '"""A module."""\ndef f(): ...'),
    (docstrings, "kvstore/a.py", '"""A module."""\nclass C: ...'),
]


@pytest.mark.parametrize(("rule", "path", "text"), BREACHES)
def test_each_rule_notices_a_breach(rule: Rule, path: str, text: str) -> None:
    assert list(rule(path, text)) != []


ALLOWED: list[tuple[Rule, str, str]] = [
    (function_length, "kvstore/a.py", LONG_FUNCTION.replace("    x = 1\n", "", 1)),
    (prints, "kvstore/cli/a.py", "print(1)"),
    (sleeps, "tests/a.py", "@pytest.mark.process\ndef test(): time.sleep(1)"),
    (sleeps, "tests/a.py", "pytestmark = [pytest.mark.process]\ntime.sleep(1)"),
    (sleeps, "tests/a.py", "async def f(): await asyncio.sleep(0)"),
    (sleeps, "tests/a.py", "async def f():\n  while not g(): await asyncio.sleep(0.1)"),
    (broad_excepts, "kvstore/a.py", "try:\n    f()\nexcept OSError:\n    pass"),
    (broad_excepts, "kvstore/a.py", "try: f()\nexcept BaseException: g(); raise"),
    (unnamed_ignores, "kvstore/a.py", "x = 1  # type: ignore[arg-type]"),
    (machine_paths, "docs/a.md", "networks/root/x, $HOME/home/x and <dir>/data"),
    (docstrings, "kvstore/a.py", '"""A module."""\ndef _f(): ...'),
]


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_no_rule_is_stricter_than_it_says(rule: Rule, path: str, text: str) -> None:
    assert list(rule(path, text)) == []


def test_every_top_level_package_says_that_it_is_typed() -> None:
    for package in ("kvstore", "cluster/kvcluster"):
        assert (ROOT / package / "py.typed").is_file()


def test_every_package_folder_has_an_init_file() -> None:
    """A folder without one imports from a checkout and is lost from a wheel's users."""
    folders = {
        path.parent
        for top in ("kvstore", "cluster/kvcluster")
        for path in (ROOT / top).rglob("*.py")
    }
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


def test_tests_are_found_by_path_alone() -> None:
    """With importlib import mode an ``__init__.py`` would only hide name clashes."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_pins_name_versions_and_nothing_else() -> None:
    """No hosts, paths or hashes: the pins serve whichever index a machine uses."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert [p for p in pins if not re.fullmatch(r"[\w.-]+==[\w.+-]+", p)] == []
