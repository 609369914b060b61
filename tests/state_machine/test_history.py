"""When a leader gives up history: by revisions, by time, by both, and not too often."""

import random

import pytest

from kvstore.errors import ConfigError
from kvstore.state_machine.history import SAMPLES_MAX, History, HistoryPolicy
from kvstore.types import Revision


def observe(
    history: History, now_s: float, revision: int, compacted: int = 0
) -> int | None:
    return history.observe(
        now_s, revision=Revision(revision), compact_revision=Revision(compacted)
    )


def test_without_a_policy_all_history_stays() -> None:
    history = History(HistoryPolicy())
    assert not HistoryPolicy().is_on
    assert observe(history, 1e9, 10**9) is None


def test_a_number_of_revisions_stays_readable() -> None:
    """Goal: as etcd's revision mode: the newest one, and so many before it."""
    history = History(HistoryPolicy(keep_revisions=100))
    assert observe(history, 0, 100) is None
    assert observe(history, 1, 101) == 1
    assert observe(History(HistoryPolicy(keep_revisions=0)), 0, 7) == 7


def test_nothing_is_compacted_twice() -> None:
    history = History(HistoryPolicy(keep_revisions=10))
    assert observe(history, 0, 50, 40) is None
    assert observe(history, 0, 51, 40) == 41


def test_compactions_keep_an_interval() -> None:
    """Goal: also when the one proposed got lost; the next one makes up for it."""
    history = History(HistoryPolicy(keep_revisions=10, interval_s=5))
    assert observe(history, 100, 50) == 40
    assert observe(history, 104.9, 90) is None
    assert observe(history, 105, 91) == 81


def test_what_was_newest_lately_stays_readable() -> None:
    """Goal: a revision goes once a later one has been the newest for ``keep_s``."""
    history = History(HistoryPolicy(keep_s=60, interval_s=1))
    assert observe(history, 1000, 5) is None
    assert observe(history, 1030, 8) is None
    assert observe(history, 1059, 9) is None
    assert observe(history, 1060, 10) == 5
    assert observe(history, 1089, 11, 5) is None
    assert observe(history, 1090, 12, 5) == 8


def test_what_one_rule_keeps_the_other_does_not_take() -> None:
    history = History(HistoryPolicy(keep_revisions=3, keep_s=10, interval_s=1))
    assert observe(history, 0, 100) is None  # young
    assert observe(history, 10, 101) == 98  # 100 is old, 98 is few revisions ago
    assert observe(history, 20, 1000, 98) == 101


def test_history_by_time_against_all_that_was_seen() -> None:
    """Goal: never more than asked for is given up, and little more is kept.

    Method: a random store is observed every half second; a list of all observations
    says what was the newest revision ``keep_s`` ago, and somewhat before.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    history = History(HistoryPolicy(keep_s=40, interval_s=1))
    seen: list[tuple[float, int]] = []
    compacted = revision = 0
    compactions = 0
    for step in range(1000):
        now_s = step / 2
        revision += rng.choice([0, 0, 1, 30])
        seen.append((now_s, revision))
        wanted = observe(history, now_s, revision, compacted)
        if wanted is not None:
            assert wanted > compacted
            compacted = wanted
            compactions += 1
        newest = max((r for at, r in seen if at <= now_s - 40), default=0)
        assert compacted <= newest
        # An interval, a sample and an observation later it is gone.
        older = max((r for at, r in seen if at <= now_s - 43), default=0)
        assert compacted >= older
    assert compactions > 100


def test_memory_is_bounded_however_often_it_looks() -> None:
    history = History(HistoryPolicy(keep_s=10, interval_s=1))
    for step in range(20_000):
        observe(history, step / 1000, step)
    assert len(history._samples) <= SAMPLES_MAX + 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_revisions": -1},
        {"keep_s": -0.1},
        {"keep_s": float("nan")},
        {"keep_s": float("inf")},
        {"interval_s": 0},
        {"interval_s": float("nan")},
    ],
)
def test_numbers_without_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        HistoryPolicy(**wrong)  # type: ignore[arg-type]
