"""When the log is cut, and where: on numbers alone."""

from kvstore.replica.compaction import MARKS, LogCompaction
from kvstore.types import LogIndex

MAX = 64_000
STEP = MAX // MARKS


def grown(steps: int, *, trailing: int = 0) -> LogCompaction:
    """One entry a step, each a mark."""
    log = LogCompaction(size_bytes=0, max_bytes=MAX, trailing_bytes=trailing)
    for index in range(1, steps + 1):
        log.handed_out(LogIndex(index), STEP)
    return log


def test_a_log_within_its_bound_is_left_alone() -> None:
    assert not grown(MARKS).begin()
    assert grown(MARKS + 1).begin()


def test_the_state_is_synced_once_at_a_time() -> None:
    log = grown(MARKS + 1)
    assert log.begin()
    assert not log.begin()


def test_it_is_cut_behind_the_state_and_before_the_trailing_part() -> None:
    log = grown(MARKS + 10, trailing=MAX // 2)
    assert log.begin()
    assert log.synced(LogIndex(MARKS + 10)) == MARKS // 2 + 10
    log = grown(MARKS + 10)
    assert log.begin()
    assert log.synced(LogIndex(7)) == 7


def test_it_is_not_cut_behind_a_snapshot_on_its_way() -> None:
    log = grown(MARKS + 10)
    first, second = log.hold(LogIndex(20)), log.hold(LogIndex(30))
    assert log.begin()
    assert log.synced(LogIndex(MARKS + 10)) == 20
    log.release(first)
    log.handed_out(LogIndex(MARKS + 11), STEP + MAX)
    assert log.begin()
    assert log.synced(LogIndex(MARKS + 11)) == 30
    log.release(second)


def test_a_sync_that_cut_nothing_is_not_repeated_at_once() -> None:
    """A slow peer's snapshot must not have the state synced at every turn."""
    log = grown(MARKS + 10)
    log.hold(LogIndex(0))
    assert log.begin()
    assert log.synced(LogIndex(MARKS + 10)) is None
    assert not log.begin()
    log.handed_out(LogIndex(MARKS + 11), STEP)
    assert not log.begin()
    log.handed_out(LogIndex(MARKS + 12), 1)
    assert log.begin()


def test_an_installed_snapshot_leaves_an_empty_log() -> None:
    log = grown(MARKS + 10)
    log.installed()
    assert not log.begin()
    log.handed_out(LogIndex(MARKS + 11), MAX)
    assert not log.begin()
    log.handed_out(LogIndex(MARKS + 12), STEP)
    assert log.begin()
