"""Every limit and timer of the core, with its unit, default and reason."""

from collections.abc import Mapping
from dataclasses import dataclass

from kvstore.errors import ConfigError

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftOptions:
    """How one node takes part. Members may differ in all but the election timeout.

    Raises:
        ConfigError: a value, or two together, cannot be used; the message names them.
    """

    election_timeout_ticks: int = 50
    """T, in ticks. A follower campaigns after a silence drawn from [T, 2T); a leader
    that has not heard a quorum for T steps down; nobody votes within T of hearing a
    leader. At least 3."""
    heartbeat_interval_ticks: int = 10
    """A leader is heard at least this often, in ticks. 1 to a third of T."""
    evidence_election_ticks_max: int = 5
    """A follower whose leader's connection closed campaigns within [1, this] ticks
    (dissertation section 9.6 makes it harmless if the leader lives). 1 to T."""
    append_bytes_max: int = MIB
    """Entry data in one AppendEntries, in bytes; a larger entry goes alone."""
    inflight_appends_max: int = 256
    """AppendEntries with entries that one peer has not acknowledged."""
    inflight_append_bytes_max: int = 16 * MIB
    """Entry data in them, in bytes."""
    apply_bytes_max: int = 4 * MIB
    """Committed entry data handed out and not yet reported applied, in bytes, passed by
    one entry at most. It bounds what waits in front of a slow state machine."""
    uncommitted_bytes_max: int = 64 * MIB
    """Data of a leader's proposals that are not applied yet, in bytes; past it
    ``Busy``. A larger proposal is taken when it is the only one."""
    log_cache_bytes_max: int = 16 * MIB
    """Durable entries kept in memory, so that apply and replication in step never read
    the disk, in bytes, overhead included. What is not durable is always kept."""
    lease_ms: int = 350
    """How long a leader's lease lasts, in milliseconds from the question that renewed
    it, if the cluster has leases on. Shorter than T by as much as the rates of two
    clocks may differ."""
    promotion_lag_entries_max: int = 64
    """A learner is caught up once it lacks no more than these, in entries."""
    pending_reads_max: int = 65_536
    """Reads waiting for their round; past it they are rejected."""
    events_max: int = 8_192
    """Trace events kept for ``drain_events``; past it the oldest are forgotten."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}; it must be {low} to {high}")
        if self.heartbeat_interval_ticks * 3 > self.election_timeout_ticks:
            raise ConfigError(
                f"heartbeat_interval_ticks ({self.heartbeat_interval_ticks}) must be "
                "at most a third of election_timeout_ticks "
                f"({self.election_timeout_ticks}), or one lost heartbeat deposes a "
                "leader"
            )
        if self.evidence_election_ticks_max > self.election_timeout_ticks:
            raise ConfigError(
                "evidence_election_ticks_max must not exceed election_timeout_ticks"
            )
        if self.append_bytes_max > self.inflight_append_bytes_max:
            raise ConfigError(
                "append_bytes_max must not exceed inflight_append_bytes_max"
            )


RANGES: Mapping[str, tuple[int, int]] = {
    "election_timeout_ticks": (3, 1_000_000),
    "heartbeat_interval_ticks": (1, 333_333),
    "evidence_election_ticks_max": (1, 1_000_000),
    "append_bytes_max": (1, 1 << 40),
    "inflight_appends_max": (1, 1_000_000),
    "inflight_append_bytes_max": (1, 1 << 40),
    "apply_bytes_max": (1, 1 << 40),
    "uncommitted_bytes_max": (1, 1 << 40),
    "log_cache_bytes_max": (0, 1 << 40),
    "lease_ms": (1, 1_000_000_000),
    "promotion_lag_entries_max": (0, 1_000_000),
    "pending_reads_max": (1, 10_000_000),
    "events_max": (1, 10_000_000),
}
