"""Limits are checked where they are given, alone and together."""

from dataclasses import fields
from typing import Any

import pytest

from kvstore.errors import ConfigError
from kvstore.raft.options import RANGES, RaftOptions


def test_every_option_has_a_range_that_holds_its_default() -> None:
    """A limit without bounds is a limit that nobody thought about."""
    options = RaftOptions()
    assert set(RANGES) == {field.name for field in fields(RaftOptions)}
    for name, (low, high) in RANGES.items():
        assert low <= getattr(options, name) <= high


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"election_timeout_ticks": 2}, "election_timeout_ticks"),
        ({"heartbeat_interval_ticks": 0}, "heartbeat_interval_ticks"),
        ({"heartbeat_interval_ticks": 17}, "third of election_timeout_ticks"),
        ({"evidence_election_ticks_max": 51}, "evidence_election_ticks_max"),
        ({"append_bytes_max": 1 << 30}, "inflight_append_bytes_max"),
        ({"inflight_appends_max": 0}, "inflight_appends_max"),
        ({"log_cache_bytes_max": -1}, "log_cache_bytes_max"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    values: dict[str, Any], named: str
) -> None:
    """One value, or two that contradict each other."""
    with pytest.raises(ConfigError, match=named):
        RaftOptions(**values)
