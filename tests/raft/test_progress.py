"""A leader's view of one peer: the transition table, the window, and what it sends."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.raft.progress import (
    TRANSITIONS,
    Inflight,
    PeerEvent,
    PeerState,
    Progress,
)
from kvstore.types import LogIndex
from tests.raft.pieces import entries_of


def progress(
    *, next_index: int = 1, count_max: int = 256, bytes_max: int = 1 << 20
) -> Progress:
    return Progress(
        next_index=LogIndex(next_index),
        inflight=Inflight(count_max=count_max, bytes_max=bytes_max),
    )


def replicating(
    *, match: int = 5, count_max: int = 256, bytes_max: int = 1 << 20
) -> Progress:
    peer = progress(next_index=match + 1, count_max=count_max, bytes_max=bytes_max)
    peer.accepted(LogIndex(match), floor=LogIndex(0))
    assert peer.state is PeerState.REPLICATE
    return peer


def send(peer: Progress, count: int = 1, *, commit: int = 0, tick: int = 0) -> None:
    entries = entries_of([1] * count, first=peer.next_index)
    peer.sent(entries, LogIndex(commit), tick=tick)


def wants(peer: Progress, *, last: int = 100, commit: int = 0, tick: int = 1) -> bool:
    return peer.wants_append(LogIndex(last), LogIndex(commit), tick=tick)


def test_the_table_covers_every_event_that_can_happen() -> None:
    """A probe is one message and has no window to stall; a snapshot ends once."""
    missing = set(itertools.product(PeerState, PeerEvent)) - set(TRANSITIONS)
    assert missing == {
        (PeerState.PROBE, PeerEvent.STALLED),
        (PeerState.PROBE, PeerEvent.SNAPSHOT_ENDED),
        (PeerState.REPLICATE, PeerEvent.SNAPSHOT_ENDED),
        (PeerState.SNAPSHOT, PeerEvent.REJECTED),
        (PeerState.SNAPSHOT, PeerEvent.STALLED),
        (PeerState.SNAPSHOT, PeerEvent.TOO_FAR_BEHIND),
    }
    with pytest.raises(KeyError):
        progress().stalled()


def test_a_probe_sends_one_message_and_waits() -> None:
    """etcd's ProgressResume: a probing peer is asked one thing at a time."""
    peer = progress(next_index=8)
    assert wants(peer)
    send(peer, 3)
    assert not wants(peer)
    assert peer.next_index == 8
    assert len(peer.inflight) == 0


def test_an_answered_heartbeat_renews_a_probe() -> None:
    """``heartbeat_resp_recovers_from_probing``: the probe or its answer was lost."""
    peer = progress()
    send(peer)
    peer.heard(tick=1, patience_ticks=1)
    assert wants(peer)


def test_an_acknowledgement_starts_the_pipeline_behind_it() -> None:
    """etcd's ProgressBecomeReplicate: next is match + 1, and runs ahead from there."""
    peer = replicating(match=5)
    assert peer.next_index == 6
    send(peer, 2)
    assert peer.next_index == 8
    assert wants(peer)
    assert not wants(peer, last=7)


def test_an_acknowledgement_of_what_is_known_ends_a_probe() -> None:
    """Nothing new is matched, but the path works and the logs agree."""
    peer = replicating(match=5)
    peer.disconnected()
    assert not peer.accepted(LogIndex(5), floor=LogIndex(0))
    assert peer.state is PeerState.REPLICATE


def test_a_stale_acknowledgement_moves_nothing() -> None:
    """Mutant M17: acknowledgements can be overtaken."""
    peer = replicating(match=5)
    send(peer)
    assert not peer.accepted(LogIndex(3), floor=LogIndex(0))
    assert (peer.match_index, peer.next_index, len(peer.inflight)) == (5, 7, 1)


def test_a_refusal_in_the_pipeline_probes_from_the_match() -> None:
    """etcd's ProgressMaybeDecr: an append out of order, or lost before it."""
    peer = replicating(match=5)
    send(peer, 3)
    assert peer.rejected(LogIndex(8), LogIndex(7))
    assert (peer.state, peer.match_index, peer.next_index) == (PeerState.PROBE, 5, 6)
    assert len(peer.inflight) == 0
    assert peer.inflight.bytes == 0


@pytest.mark.parametrize("index", [3, 5])
def test_a_refusal_of_what_is_known_to_match_is_old(index: int) -> None:
    """etcd's ProgressMaybeDecr, stale cases."""
    peer = replicating(match=5)
    send(peer)
    assert not peer.rejected(LogIndex(index), LogIndex(0))
    assert peer.state is PeerState.REPLICATE


@pytest.mark.parametrize(
    ("refused", "hint", "next_index"),
    [
        (9, 8, 9),
        (9, 4, 5),
        (9, 0, 1),
        # A hint beyond what was refused moves nothing forward.
        (9, 20, 9),
        # The answer to an earlier probe.
        (7, 2, 10),
        (10, 2, 10),
    ],
)
def test_a_refused_probe_goes_back_to_the_hint(
    refused: int, hint: int, next_index: int
) -> None:
    """Section 5.3: nextIndex is decremented, in leaps as far as the hint allows."""
    peer = progress(next_index=10)
    send(peer)
    peer.rejected(LogIndex(refused), LogIndex(hint))
    assert peer.next_index == next_index
    assert peer.match_index == 0


def test_a_probe_never_goes_behind_the_match() -> None:
    """A hint is not believed against an acknowledgement (mutant M16, CCF#5325)."""
    peer = replicating(match=5)
    send(peer, 3)
    peer.disconnected()
    send(peer)
    assert not peer.rejected(LogIndex(5), LogIndex(1))
    assert (peer.match_index, peer.next_index) == (5, 6)


def test_a_lost_probe_keeps_its_place() -> None:
    """A peer whose match is unknown is not sent the whole log again and again."""
    peer = progress(next_index=10)
    send(peer)
    peer.disconnected()
    assert (peer.state, peer.next_index) == (PeerState.PROBE, 10)
    assert wants(peer)


def test_a_full_window_waits_for_an_acknowledgement() -> None:
    """etcd's flow-control tests Full and MoveForward, by count."""
    peer = replicating(match=5, count_max=2)
    send(peer)
    assert wants(peer)
    send(peer)
    assert not wants(peer)
    peer.accepted(LogIndex(6), floor=LogIndex(0))
    assert wants(peer)


def test_a_window_is_full_by_bytes_too() -> None:
    """One large message may fill it."""
    peer = replicating(match=5, bytes_max=6)
    send(peer, 2)
    assert peer.inflight.full
    assert not wants(peer)
    peer.accepted(peer.match_index, floor=LogIndex(0))
    assert not wants(peer)
    peer.accepted(LogIndex(7), floor=LogIndex(0))
    assert peer.inflight.bytes == 0
    assert wants(peer)


def test_an_unanswered_append_is_asked_after() -> None:
    """An empty append finds out whether what was sent arrived, window or not."""
    peer = replicating(match=5, count_max=1)
    send(peer, tick=10)
    peer.heard(tick=10, patience_ticks=1)
    assert not wants(peer)
    peer.heard(tick=11, patience_ticks=1)
    assert wants(peer)
    assert not peer.may_send_entries
    peer.sent((), LogIndex(0), tick=11)
    assert not wants(peer)


def test_an_append_unanswered_for_long_stalls_the_pipeline() -> None:
    """Then everything behind the match is sent again."""
    peer = replicating(match=5)
    send(peer, tick=10)
    assert not peer.has_stalled(tick=19, timeout_ticks=10)
    assert peer.has_stalled(tick=20, timeout_ticks=10)
    peer.stalled()
    assert (peer.state, peer.next_index) == (PeerState.PROBE, 6)


def test_a_commit_alone_is_told_once_and_when_the_log_is_silent() -> None:
    """Followers need not wait for a heartbeat, nor hear a message more than needed: in
    the tick of the last append, another may follow."""
    peer = replicating(match=5)
    send(peer, commit=5, tick=1)
    peer.accepted(LogIndex(6), floor=LogIndex(0))
    assert not wants(peer, last=6, commit=5, tick=2)
    assert not wants(peer, last=6, commit=6, tick=1)
    assert wants(peer, last=6, commit=6, tick=2)
    peer.sent((), LogIndex(6), tick=2)
    assert not wants(peer, last=6, commit=6, tick=3)


def test_a_commit_is_told_again_after_a_loss() -> None:
    """The message that told it may have been lost with the rest."""
    peer = replicating(match=5)
    peer.sent((), LogIndex(5), tick=0)
    assert not wants(peer, last=5, commit=5)
    peer.disconnected()
    peer.accepted(LogIndex(5), floor=LogIndex(0))
    assert wants(peer, last=5, commit=5)


def test_a_commit_waits_for_entries_that_are_under_way() -> None:
    """Their commit will be told soon, and covers it."""
    peer = replicating(match=5)
    send(peer, 2, commit=5)
    peer.accepted(LogIndex(6), floor=LogIndex(0))
    assert not wants(peer, last=7, commit=6)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), max_size=30),
    st.lists(st.integers(0, 60), max_size=20),
)
def test_the_window_counts_exactly_what_is_not_acknowledged(
    sends: list[tuple[int, int]], acknowledged: list[int]
) -> None:
    """Against a list that is filtered anew (mutant M24, etcd e419ba5: leaked bytes)."""
    window = Inflight(count_max=1000, bytes_max=1000)
    twin: list[tuple[int, int]] = []
    last = 0
    acknowledgements = iter(acknowledged)
    for step, size in sends:
        last += step
        window.add(LogIndex(last), size, 0)
        twin.append((last, size))
        if (index := next(acknowledgements, None)) is not None:
            window.free_to(LogIndex(index))
            twin = [item for item in twin if item[0] > index]
            last = max(last, index)
        assert len(window) == len(twin)
        assert window.bytes == sum(size for _, size in twin)
    window.clear()
    assert (len(window), window.bytes, window.oldest_tick) == (0, 0, None)
