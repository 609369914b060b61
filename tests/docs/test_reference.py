"""Pages about commands and settings say what the code says."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from kvstore.config import RANGES, Config

ROOT = Path(__file__).resolve().parents[2]
GENERATORS = sorted((ROOT / "docs").glob("generate_*.py"))
CONFIGURATION = ROOT / "docs" / "reference" / "configuration.md"


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda path: path.stem)
def test_generated_page_is_up_to_date(generator: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, generator, "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize("setting", [field.name for field in fields(Config)])
def test_every_setting_has_a_heading_and_an_explanation(setting: str) -> None:
    text = CONFIGURATION.read_text()
    _, _, rest = text.partition(f"\n## `{setting}`\n\n")
    facts, explanation = rest.split("\n#", 1)[0].strip().split("\n\n", 1)
    assert facts
    assert explanation


def test_every_number_has_a_range() -> None:
    """A setting that takes any number takes nonsense."""
    numbers = {field.name for field in fields(Config) if field.type in (int, float)}
    assert numbers == set(RANGES)
