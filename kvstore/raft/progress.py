"""What a leader knows of one peer's log, and what it may send it next.

All changes of state are in :data:`TRANSITIONS`; an event that is not there is a bug.
Three states (etcd's names):

* ``PROBE``: where the logs agree is unknown. One message at a time; it waits for an
  answer, or for a heartbeat's answer, which proves that the path works again.
* ``REPLICATE``: the peer took an append. Messages are sent without waiting, within a
  window of messages and bytes, and ``next_index`` runs ahead in hope.
* ``SNAPSHOT``: the peer needs what the log does not hold any more. Nothing is appended
  until it holds as much as the log can continue.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from enum import IntEnum

from kvstore.raft.messages import Entry
from kvstore.types import LogIndex


class PeerState(IntEnum):
    """How a leader sends to a peer. Integers because they hash ten times faster."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


class PeerEvent(IntEnum):
    """What can happen to a peer's progress."""

    ACCEPTED = 0
    """It holds what an append brought, durably."""
    REJECTED = 1
    """It does not hold what an append built upon."""
    DISCONNECTED = 2
    """Its connection closed: what was under way may be lost."""
    STALLED = 3
    """It left an append unanswered for an election timeout."""
    TOO_FAR_BEHIND = 4
    """What it needs next is compacted."""
    SNAPSHOT_ENDED = 5
    """The transfer is over, well or not: find out what it holds."""


TRANSITIONS: Mapping[tuple[PeerState, PeerEvent], PeerState] = {
    (PeerState.PROBE, PeerEvent.ACCEPTED): PeerState.REPLICATE,
    (PeerState.PROBE, PeerEvent.REJECTED): PeerState.PROBE,
    (PeerState.PROBE, PeerEvent.DISCONNECTED): PeerState.PROBE,
    (PeerState.REPLICATE, PeerEvent.ACCEPTED): PeerState.REPLICATE,
    (PeerState.REPLICATE, PeerEvent.REJECTED): PeerState.PROBE,
    (PeerState.REPLICATE, PeerEvent.DISCONNECTED): PeerState.PROBE,
    (PeerState.REPLICATE, PeerEvent.STALLED): PeerState.PROBE,
    (PeerState.PROBE, PeerEvent.TOO_FAR_BEHIND): PeerState.SNAPSHOT,
    (PeerState.REPLICATE, PeerEvent.TOO_FAR_BEHIND): PeerState.SNAPSHOT,
    (PeerState.SNAPSHOT, PeerEvent.ACCEPTED): PeerState.REPLICATE,
    (PeerState.SNAPSHOT, PeerEvent.SNAPSHOT_ENDED): PeerState.PROBE,
    # Its transfer may be taken up again where it broke.
    (PeerState.SNAPSHOT, PeerEvent.DISCONNECTED): PeerState.SNAPSHOT,
}


class Inflight:
    """The window of unanswered appends with entries: oldest first, bounded twice."""

    __slots__ = ("_bytes_max", "_count_max", "_sent", "bytes")

    def __init__(self, *, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._sent: deque[tuple[LogIndex, int, int]] = deque()
        self.bytes = 0
        """Entry data under way."""

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        return len(self._sent) >= self._count_max or self.bytes >= self._bytes_max

    @property
    def oldest_tick(self) -> int | None:
        """When the oldest unanswered append left; None if all are answered."""
        return self._sent[0][2] if self._sent else None

    def add(self, last: LogIndex, size: int, tick: int) -> None:
        assert not self._sent or self._sent[-1][0] < last
        self._sent.append((last, size, tick))
        self.bytes += size

    def free_to(self, index: LogIndex) -> None:
        """An answer covers everything sent up to ``index``. Amortised O(1)."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            self.bytes -= sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self.bytes = 0


class Progress:
    """One peer, as its leader sees it."""

    __slots__ = (
        "_check_due",
        "_paused",
        "_sent_tick",
        "_told_commit_index",
        "inflight",
        "match_index",
        "next_index",
        "recently_active",
        "state",
    )

    def __init__(self, *, next_index: LogIndex, inflight: Inflight) -> None:
        self.state = PeerState.PROBE
        self.match_index = LogIndex(0)
        """The peer holds the leader's log to here, durably. Only acknowledgements
        raise it, nothing lowers it."""
        self.next_index = next_index
        """The next entry to send."""
        self.inflight = inflight
        self.recently_active = False
        """It answered since the leader last checked for a quorum."""
        self._paused = False
        """PROBE: a probe is under way."""
        self._check_due = False
        """REPLICATE: ask whether what was sent arrived, with an empty append."""
        self._sent_tick = -1
        """When the last append left."""
        self._told_commit_index = LogIndex(0)
        """What the messages sent let the peer commit, if they arrived."""

    def __repr__(self) -> str:
        return (
            f"Progress({self.state.name} match={self.match_index} "
            f"next={self.next_index} inflight={len(self.inflight)})"
        )

    # ------------------------------------------------------------------ sending

    def wants_append(
        self, last_index: LogIndex, commit_index: LogIndex, *, tick: int
    ) -> bool:
        """Whether an AppendEntries to the peer is of use now."""
        if self.state is PeerState.PROBE:
            return not self._paused
        if self.state is PeerState.SNAPSHOT:
            return False
        if self._check_due:
            return True
        if self.next_index <= last_index:
            return not self.inflight.full
        # News of a commit alone. Entries that follow would carry it, and a message
        # costs far more than what is in it: so only once nothing is outstanding, and
        # in a later tick than the last append. Under load it never leaves; followers
        # of a silent log need not wait for a heartbeat.
        return (
            commit_index == last_index
            and self._told_commit_index < commit_index
            and self._sent_tick < tick
        )

    @property
    def may_send_entries(self) -> bool:
        """Whether the append that is wanted may carry entries."""
        return not self.inflight.full

    def sent(
        self, entries: Sequence[Entry], commit_index: LogIndex, *, tick: int
    ) -> None:
        """An append with ``entries`` from ``next_index`` on leaves."""
        self._check_due = False
        self._sent_tick = tick
        reaches = LogIndex(self.next_index - 1 + len(entries))
        self._told_commit_index = max(
            self._told_commit_index, min(commit_index, reaches)
        )
        if self.state is PeerState.PROBE:
            self._paused = True
        elif entries:
            self.next_index = LogIndex(reaches + 1)
            size = sum([len(entry.data) for entry in entries])
            self.inflight.add(reaches, size, tick)

    # ------------------------------------------------------------------- events

    def accepted(self, index: LogIndex, *, floor: LogIndex) -> bool:
        """The peer acknowledged the log to ``index``. Whether that is news.

        An old acknowledgement changes nothing (mutant M17), but one that confirms what
        is known still ends a probe. ``floor`` is the last index that the leader's log
        does not hold: a peer that holds it can be sent what follows, whether or not
        the snapshot that was on its way reached beyond.
        """
        if index < self.match_index:
            return False
        moved = index > self.match_index
        self.match_index = index
        self.inflight.free_to(index)
        self.next_index = max(self.next_index, LogIndex(index + 1))
        if self.state is not PeerState.SNAPSHOT or index >= floor:
            self._fire(PeerEvent.ACCEPTED)
        return moved

    def rejected(self, index: LogIndex, retry_index: LogIndex) -> bool:
        """The peer refused an append that built upon ``index``. Whether it was news.

        ``retry_index`` is the newest at which the logs may agree. A refusal moves
        ``next_index`` only, never ``match_index``: a hint is not a match (M16). One
        that contradicts an acknowledgement, or answers no probe of now, is old.
        """
        if self.state is PeerState.SNAPSHOT:
            return False
        if self.state is PeerState.REPLICATE:
            # Optimism was wrong, perhaps only out of order: what is known is match.
            retry_index = self.match_index
        elif index != self.next_index - 1:
            return False
        if index <= self.match_index:
            return False
        self._fire(PeerEvent.REJECTED)
        retry_index = min(retry_index, LogIndex(index - 1))
        self.next_index = LogIndex(max(retry_index, self.match_index) + 1)
        return True

    def heard(self, *, tick: int, patience_ticks: int) -> None:
        """A heartbeat's answer: the path to the peer and back works.

        A probe that was lost is sent again. An append unanswered for
        ``patience_ticks`` may be lost, or its fsync slow: an empty append finds out.
        """
        if self.state is PeerState.PROBE:
            self._paused = False
        elif self.state is PeerState.REPLICATE:
            oldest = self.inflight.oldest_tick
            self._check_due = oldest is not None and tick - oldest >= patience_ticks

    def disconnected(self) -> None:
        """What is under way may be lost."""
        self._fire(PeerEvent.DISCONNECTED)

    def wait_until_heard(self) -> None:
        """Send nothing before the peer gives a sign of life."""
        if self.state is not PeerState.PROBE:
            self._fire(PeerEvent.STALLED)
        self._paused = True

    def too_far_behind(self) -> None:
        """It needs a snapshot."""
        self._fire(PeerEvent.TOO_FAR_BEHIND)

    def snapshot_ended(self, reached: LogIndex) -> None:
        """The transfer is over; if it went well, the peer may hold ``reached`` by now.

        One probe finds out, and leaves once the peer is heard again.
        """
        if self.state is PeerState.SNAPSHOT:
            self._fire(PeerEvent.SNAPSHOT_ENDED)
            self.next_index = LogIndex(max(reached, self.match_index) + 1)
            self._paused = True

    def knows_commit(self, index: LogIndex) -> bool:
        """Whether it holds ``index``, and was told that it is committed."""
        return min(self.match_index, self._told_commit_index) >= index

    def has_stalled(self, *, tick: int, timeout_ticks: int) -> bool:
        """Whether the oldest unanswered append is ``timeout_ticks`` old."""
        oldest = self.inflight.oldest_tick
        return oldest is not None and tick - oldest >= timeout_ticks

    def stalled(self) -> None:
        """Start anew from what the peer is known to hold."""
        self._fire(PeerEvent.STALLED)

    def _fire(self, event: PeerEvent) -> None:
        before = self.state
        after = TRANSITIONS[before, event]
        if before is not after:
            self.state = after
            self.inflight.clear()
            # From a probe that went on too far back, or an optimism that failed. A
            # probe that is lost keeps its place: match may still be unknown.
            self.next_index = LogIndex(self.match_index + 1)
        if after is PeerState.PROBE:
            self._paused = False
            self._check_due = False
            self._told_commit_index = LogIndex(0)
