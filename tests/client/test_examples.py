"""The examples in docstrings do what they show."""

import doctest
from pathlib import Path

import pytest

import kvstore
from kvstore.client import keys, transactions


@pytest.mark.parametrize("module", [keys, transactions], ids=lambda it: it.__name__)
def test_examples_of_docstrings_hold(module: object, tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "data") as store:
        finder = doctest.DocTestFinder()
        runner = doctest.DocTestRunner()
        for example in finder.find(module, extraglobs={"store": store}):
            runner.run(example)
        assert runner.tries > 0
        assert runner.failures == 0
