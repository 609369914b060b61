"""Who may import whom, as a table, checked against the source with ``ast``.

Lazy imports inside functions and imports for types only count like any other: they too
say what a module knows. The ancestor of this test is click's ``tests/test_imports.py``.
"""

import ast
import itertools
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT, ROOT / "cluster")
"""Folders that hold our top-level packages."""
PACKAGES = ("kvstore", "kvcluster")

BASE = frozenset({"kvstore.types", "kvstore.errors"})
SETTINGS = BASE | {"kvstore.config"}
BELOW_SHELLS = SETTINGS | {
    "kvstore.raft",
    "kvstore.state_machine",
    "kvstore.pb",
}
MAY_IMPORT: dict[str, frozenset[str]] = {
    # The public names, each loaded on first use.
    "kvstore": SETTINGS
    | {"kvstore.client", "kvstore.embedded", "kvstore.founding", "kvstore.server"},
    "kvstore.types": frozenset(),
    "kvstore.errors": frozenset({"kvstore.types"}),
    "kvstore.config": SETTINGS,
    "kvstore.event_loop": frozenset(),
    "kvstore.pb": frozenset(),
    "kvstore.raft": BASE,
    "kvstore.state_machine": BASE | {"kvstore.pb"},
    # pb: a leader's own commands are messages like those of clients.
    "kvstore.replica": BASE | {"kvstore.raft", "kvstore.state_machine", "kvstore.pb"},
    # The storage Protocols live with their consumer, so no arrow points up.
    "kvstore.storage": BELOW_SHELLS | {"kvstore.replica.interfaces"},
    "kvstore.simulation": BASE
    | {
        "kvstore.raft",
        "kvstore.state_machine",
        "kvstore.replica",
        "kvstore.pb",
        "kvstore.storage.memory_log",
        "kvstore.storage.memory_state",
    },
    "kvstore.rpc": BELOW_SHELLS
    | {
        "kvstore.replica.admission",
        "kvstore.replica.interfaces",
        "kvstore.replica.messages",
    },
    "kvstore.client": SETTINGS | {"kvstore.event_loop", "kvstore.rpc", "kvstore.pb"},
    "kvstore.server": BELOW_SHELLS
    | {"kvstore.replica", "kvstore.storage", "kvstore.rpc"},
    "kvstore.founding": SETTINGS | {"kvstore.replica.interfaces", "kvstore.storage"},
    "kvstore.embedded": SETTINGS
    | {
        "kvstore.client",
        "kvstore.founding",
        "kvstore.pb",
        "kvstore.rpc",
        "kvstore.server",
    },
    # Not pure, like what it mutates.
    "kvstore.simulation.mutants": BELOW_SHELLS
    | {
        "kvstore.founding",
        "kvstore.replica",
        "kvstore.rpc",
        "kvstore.server",
        "kvstore.simulation",
        "kvstore.storage",
    },
    "kvstore.cli": frozenset({"kvstore", "kvcluster"}),
    "kvcluster": frozenset({"kvstore"}),
}
"""What of ours a package may import beside itself. A name covers all below it."""

PURE = (
    "kvstore.raft",
    "kvstore.state_machine",
    "kvstore.replica",
    "kvstore.simulation",
)
"""Decide everything and touch nothing: no clock, chance, thread, network or disk."""
IMPURE = frozenset(
    {
        "asyncio",
        "concurrent",
        "datetime",
        "grpc",
        "lmdb",
        "logging",
        "multiprocessing",
        "os",
        "random",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "subprocess",
        "threading",
        "time",
        "uuid",
    }
)
MUST_NOT_IMPORT: dict[str, frozenset[str]] = {
    **dict.fromkeys(PURE, IMPURE),
    "kvstore.storage": frozenset({"grpc", "asyncio"}),
    "kvstore.rpc": frozenset({"lmdb"}),
    "kvstore.client": frozenset({"lmdb"}),
}
ONLY_FOR_TYPES = {(package, "random") for package in PURE}
"""Chance arrives as a ``random.Random``, so its type may be named."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "lmdb": ("kvstore.storage",),
    "crcmod": ("kvstore.storage",),
    "google_crc32c": ("kvstore.storage",),
    "click": ("kvstore.cli",),
    "rich": ("kvstore.cli", "kvcluster"),
    "prometheus_client": ("kvstore.server",),
    "kvcluster": ("kvstore.cli", "kvcluster"),
}
"""Each of these dependencies is known to few packages."""
GRPC_STUBS_IN = ("kvstore.rpc", "kvstore.server", "kvstore.client", "kvcluster")
NEEDS_NO_KVCLUSTER = "kvstore.cli"
MAY_LOAD_KVCLUSTER = ("kvstore.cli.cluster_commands", "kvstore.cli.bench_commands")
"""Modules that load when their command runs; the others import it in functions only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One module that another one names."""

    module: str
    line: int
    for_types: bool
    lazy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One source file."""

    name: str
    text: str
    is_package: bool = False


def ours() -> list[Module]:
    """Every module that we wrote, generated ones included."""
    found = []
    for source in SOURCES:
        for package in PACKAGES:
            for path in sorted((source / package).rglob("*.py")):
                parts = path.relative_to(source).with_suffix("").parts
                is_package = parts[-1] == "__init__"
                name = ".".join(parts[:-1] if is_package else parts)
                found.append(
                    Module(name=name, text=path.read_text(), is_package=is_package)
                )
    return found


def covers(prefix: str, module: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def package_of(module: str) -> str | None:
    """The row of the table that a module falls under: the longest that covers it."""
    rows = [row for row in MAY_IMPORT if covers(row, module) and row != "kvstore"]
    if rows:
        return max(rows, key=len)
    return "kvstore" if module == "kvstore" else None


class Imports(ast.NodeVisitor):
    """Collects what one module imports, wherever the import stands."""

    def __init__(self, module: Module, known: frozenset[str]) -> None:
        self.found: list[Import] = []
        self._module = module
        self._known = known
        self._for_types = False
        self._lazy = False
        self._dynamic: list[ast.Call] = []

    def run(self) -> list[Import]:
        tree = ast.parse(self._module.text)
        self.visit(tree)
        for call in self._dynamic:
            self._add_dynamic(call, tree)
        return self.found

    def visit_If(self, node: ast.If) -> None:
        outer = self._for_types
        self._for_types = outer or ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body:
            self.visit(child)
        self._for_types = outer
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_lazily(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_lazily(node)

    def _visit_lazily(self, node: ast.AST) -> None:
        outer, self._lazy = self._lazy, True
        self.generic_visit(node)
        self._lazy = outer

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parts = self._module.name.split(".")
            keep = len(parts) - node.level + int(self._module.is_package)
            base = ".".join([*parts[:keep], *([base] if base else [])])
        for alias in node.names:
            child = f"{base}.{alias.name}"
            self._add(child if child in self._known else base, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            self._dynamic.append(node)
        self.generic_visit(node)

    def _add_dynamic(self, call: ast.Call, tree: ast.Module) -> None:
        """A name that is computed can be any that the module spells out."""
        argument = call.args[0] if call.args else None
        scope: ast.AST = argument if isinstance(argument, ast.Constant) else tree
        for node in ast.walk(scope):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            if scope is argument or re.fullmatch(r"kv\w+(\.\w+)+", node.value):
                self._add(node.value, call.lineno, lazy=True)

    def _add(self, module: str, line: int, *, lazy: bool = False) -> None:
        self.found.append(
            Import(
                module=module,
                line=line,
                for_types=self._for_types,
                lazy=lazy or self._lazy,
            )
        )


def faults_of_ours(package: str, found: Import) -> Iterator[str]:
    """Breaches of the table between our own packages."""
    if not any(covers(name, found.module) for name in PACKAGES):
        return
    if package_of(found.module) == package != "kvstore":
        return
    allowed = MAY_IMPORT[package]
    if not any(
        covers(name, found.module) and (name != "kvstore" or package in UNBOUND)
        for name in allowed
    ):
        yield f"{package} may not import {found.module}"


UNBOUND = frozenset({"kvstore.cli", "kvcluster"})
"""See all of kvstore."""


def faults_of_others(package: str, module: str, found: Import) -> Iterator[str]:
    """Breaches of the rules about the standard library, dependencies and gRPC."""
    top = found.module.split(".")[0]
    if top in MUST_NOT_IMPORT.get(package, frozenset()) and not (
        found.for_types and (package, top) in ONLY_FOR_TYPES
    ):
        yield f"{package} may not import {top}"
    if top in ONLY_IN and package not in ONLY_IN[top]:
        yield f"{top} is imported only in {', '.join(ONLY_IN[top])}"
    if found.module.endswith("_pb2_grpc") and package not in GRPC_STUBS_IN:
        yield f"{package} may use protobuf messages, but not {found.module}"
    if (
        (package, top) == (NEEDS_NO_KVCLUSTER, "kvcluster")
        and module not in MAY_LOAD_KVCLUSTER
        and not (found.lazy or found.for_types)
    ):
        yield f"{module} may import {top} only inside a function"


def faults(modules: list[Module], known: frozenset[str]) -> list[str]:
    """Every breach of the import law in these modules, one a line.

    ``known``: names of all modules, to tell ``from package import module`` from a name.
    """
    lines = []
    for module in modules:
        package = package_of(module.name)
        if package is None:
            lines.append(f"{module.name}: not in the table of tests/architecture")
            continue
        if package == "kvstore.pb":
            continue  # generated
        for found in Imports(module, known).run():
            where = f"{module.name}:{found.line}"
            lines.extend(f"{where}: {it}" for it in faults_of_ours(package, found))
            others = faults_of_others(package, module.name, found)
            lines.extend(f"{where}: {it}" for it in others)
    return lines


KNOWN = frozenset(module.name for module in ours())


def test_every_module_obeys_the_import_law() -> None:
    """Goal: the arrows between packages point one way, and the pure ones stay pure."""
    assert "\n".join(faults(ours(), KNOWN)) == ""


def drawn() -> list[str]:
    """The packages of ``kvstore`` in the order of docs/architecture.md's tree."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    _, _, rest = text.partition("\nkvstore/\n")
    lines = itertools.takewhile(lambda it: it.startswith("  "), rest.splitlines())
    found = (re.findall(r"[\w/]*\w(?=/|\.py)", it[:24]) for it in lines)
    return [f"kvstore.{name.replace('/', '.')}" for name in itertools.chain(*found)]


def test_the_table_is_the_one_that_the_architecture_draws() -> None:
    """Goal: what stands there is true: within ``kvstore`` all arrows point up."""
    order = drawn()
    assert set(order) == {row for row in MAY_IMPORT if row.startswith("kvstore.")}
    for row, allowed in MAY_IMPORT.items():
        if row not in order or row == "kvstore.cli":
            continue  # the command, last in the list, may import everything
        above = order[: order.index(row)]
        for name in allowed - {row}:
            assert any(covers(it, name) for it in above), (row, name)
    assert order[-1] == "kvstore.cli"


BREACHES = [
    ("kvstore.raft.core", "import kvstore.storage.record", "kvstore.storage"),
    ("kvstore.raft.core", "from kvstore.config import Config", "kvstore.config"),
    ("kvstore.raft.core", "import time", "time"),
    ("kvstore.raft.core", "from os import path", "os"),
    ("kvstore.raft.core", "import random", "random"),
    ("kvstore.raft.core", "def f():\n    import asyncio.tasks", "asyncio"),
    ("kvstore.raft.core", "async def f():\n    import logging", "logging"),
    ("kvstore.raft.core", "class C:\n    from threading import Lock", "threading"),
    (
        "kvstore.raft.core",
        "if TYPE_CHECKING:\n    import socket",
        "socket",
    ),
    (
        "kvstore.raft.core",
        "if typing.TYPE_CHECKING:\n    pass\nelse:\n    import random",
        "random",
    ),
    ("kvstore.raft.core", "__import__('grpc')", "grpc"),
    ("kvstore.raft.core", "from kvstore import pb", "kvstore.pb"),
    ("kvstore.raft.core", "from .. import server", "kvstore.server"),
    ("kvstore.raft.core", "from kvstore import Client", "kvstore"),
    ("kvstore.state_machine.m", "from kvstore.raft import log", "kvstore.raft"),
    ("kvstore.state_machine.m", "from kvstore.pb import kv_pb2_grpc", "_grpc"),
    ("kvstore.replica.replica", "import lmdb", "lmdb"),
    ("kvstore.replica.replica", "from kvstore.pb import kv_pb2_grpc", "_grpc"),
    ("kvstore.simulation.cluster", "import random", "random"),
    (
        "kvstore.simulation.cluster",
        "import kvstore.storage.lmdb_log",
        "kvstore.storage.lmdb_log",
    ),
    (
        "kvstore.simulation.world",
        "import kvstore.simulation.mutants.table",
        "kvstore.simulation.mutants",
    ),
    ("kvstore.storage.record", "import asyncio", "asyncio"),
    ("kvstore.storage.record", "from grpc import aio", "grpc"),
    ("kvstore.storage.record", "import kvstore.replica.replica", "kvstore.replica"),
    ("kvstore.rpc.codec", "from ..client import retry", "kvstore.client"),
    ("kvstore.client.client", "from kvstore.server.node import Node", "kvstore.server"),
    ("kvstore.server.node", "from kvstore.client import Client", "kvstore.client"),
    ("kvstore.server.node", "import lmdb", "lmdb"),
    ("kvstore.server.node", "import click", "click"),
    ("kvstore.types", "from kvstore.errors import KVStoreError", "kvstore.errors"),
    ("kvstore.cli.main", "import kvcluster.local", "kvcluster"),
    ("kvstore", "from kvstore.raft import log", "kvstore.raft"),
    (
        "kvstore",
        "X = {'Y': 'kvstore.cli'}\ndef f(n):\n    return importlib.import_module(X[n])",
        "kvstore.cli",
    ),
    ("kvstore.new_package.module", "", "table"),
]


@pytest.mark.parametrize(("name", "text", "expected"), BREACHES)
def test_the_law_notices_a_breach(name: str, text: str, expected: str) -> None:
    """Goal: each rule can fail. Method: a bad module among the real ones."""
    bad = Module(name=name, text=text, is_package=name == "kvstore")
    assert expected in "\n".join(faults([bad], KNOWN))


ALLOWED = [
    ("kvstore.raft.core", "from kvstore.errors import CorruptionError"),
    ("kvstore.raft.core", "from kvstore.raft.log import StableLog"),
    ("kvstore.raft.core", "from .log import StableLog"),
    ("kvstore.raft.core", "from . import log"),
    (
        "kvstore.raft.core",
        "if typing.TYPE_CHECKING:\n    import random",
    ),
    ("kvstore.state_machine.machine", "from kvstore.pb import kv_pb2"),
    ("kvstore.storage.record", "from kvstore.replica import interfaces"),
    ("kvstore.storage.record", "import os, threading, lmdb"),
    ("kvstore.cli.main", "def up():\n    from kvcluster import LocalCluster"),
    ("kvstore.cli.main", "import kvstore.client, kvstore.server, kvstore"),
    ("kvcluster.local", "from kvstore import Client\nimport kvstore.pb.kv_pb2_grpc"),
]


@pytest.mark.parametrize(("name", "text"), ALLOWED)
def test_the_law_lets_pass_what_it_allows(name: str, text: str) -> None:
    """Goal: the rules do not refuse what the architecture draws."""
    assert faults([Module(name=name, text=text)], KNOWN) == []


BLOCKED = """
    import importlib, pkgutil, sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {blocked!r}:
                raise ModuleNotFoundError(f"no {{name}} here", name=name)

    loaded = sorted({{name.split(".")[0] for name in sys.modules}} & {blocked!r})
    assert not loaded, loaded
    sys.meta_path.insert(0, Absent())
    for name in {packages!r}:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, name + "."):
            if not module.name.startswith({others!r}):
                importlib.import_module(module.name)
                print(module.name)
"""
NOT_INSTALLED = frozenset(
    {"asyncio", "crcmod", "google_crc32c", "grpc", "lmdb", "prometheus_client"}
)


def import_without(
    blocked: frozenset[str], packages: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """Import all modules of the packages where the blocked ones do not exist.

    But not those below them that have a row of their own in the table.
    """
    others = tuple(
        row
        for row in MAY_IMPORT
        if row not in packages and any(covers(package, row) for package in packages)
    )
    program = textwrap.dedent(BLOCKED).format(
        blocked=set(blocked), packages=packages, others=others
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_pure_packages_import_without_grpc_lmdb_or_asyncio() -> None:
    """Goal: they could run where neither exists, as in a browser's Python."""
    outcome = import_without(NOT_INSTALLED, PURE)
    assert outcome.returncode == 0, outcome.stderr
    expected = {m.name for m in ours() if package_of(m.name) in PURE}
    assert set(outcome.stdout.split()) == expected - set(PURE)


def test_the_blockade_stops_an_import() -> None:
    """Goal: the test above can fail. Method: block what a pure package does need."""
    outcome = import_without(NOT_INSTALLED | {"dataclasses"}, PURE)
    assert outcome.returncode != 0
    assert "no dataclasses here" in outcome.stderr


def test_generated_code_is_the_only_user_of_generated_stubs_at_import() -> None:
    """Goal: importing messages does not load gRPC."""
    program = "import kvstore.pb.kv_pb2, sys; sys.exit('grpc' in sys.modules)"
    outcome = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False
    )
    assert outcome.returncode == 0
