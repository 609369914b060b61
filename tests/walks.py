"""What random walks share: seeds, the draw of actions, a search for hidden order."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN_S_MAX = 120
"""Far above what one walk takes, about half a second."""


def seeds(variable: str, default: str) -> range:
    """``FIRST:COUNT``, from the environment if ``variable`` is set there."""
    first, count = (int(n) for n in os.environ.get(variable, default).split(":"))
    return range(first, first + count)


def walk(
    subject: object, weights: Mapping[str, float], chance: random.Random, count: int
) -> Iterator[str]:
    """Call ``count`` methods of ``subject``, drawn by weight; yield each name."""
    for name in chance.choices(list(weights), list(weights.values()), k=count):
        getattr(subject, name)()
        yield name


def traces_under_hash_seeds(module: str, seed: int) -> set[str]:
    """What ``module.trace(seed)`` returns in processes that hash differently.

    More than one trace if the order of a set, or of anything hashed, decides something.
    """
    program = f"from {module} import trace; print(trace({seed}))"
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=RUN_S_MAX,
        ).stdout.strip()
        for hash_seed in ("0", "1", "77")
    }
