"""Percentiles, by the nearest rank: a figure that was really measured."""

import math
from collections.abc import Sequence


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The smallest value with at least ``fraction`` of all values at or below it.

    ``ordered`` is ascending; 0.0 if it is empty.
    """
    assert 0.0 < fraction <= 1.0
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle; 0.0 if there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
