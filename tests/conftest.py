"""What holds for every test: cheap ones run first, so that a failure shows early."""

import pytest

# Later levels take longer and say less about where a fault is.
LEVELS = ("slow", "process")


def level(item: pytest.Item) -> int:
    """0 for a pure test; higher for one that a later marker names."""
    return max(
        (
            LEVELS.index(mark.name) + 1
            for mark in item.iter_markers()
            if mark.name in LEVELS
        ),
        default=0,
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write what happens now into .raft scripts",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=level)  # stable: within a level, the order of the files
