"""What a seed switches on, and how bad it is: drawn at random, printed, replayed.

Each seed has a random part of all faults, with magnitudes of its own ("Swarm Testing",
Groce et al. 2012): a run in which everything happens hides what happens only while
something else does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING

from kvstore.raft.options import RaftOptions
from kvstore.replica.options import ReplicaOptions
from kvstore.state_machine.history import HistoryPolicy

if TYPE_CHECKING:
    import random

TICK_US = 10_000
"""A tick of a clock that runs at the right rate."""
ELECTION_TICKS = 10
"""T."""
LEASE_MS = 70
"""0.7 T: what the rates of two clocks may differ by while leases are on is bounded."""
LEASE_RATE_SPREAD = 0.12
"""And this is the bound: (1 + it) / (1 - it) is below 1 / 0.7."""


class Fault(Enum):
    """What can go wrong. The value is its name on the command line."""

    LOSS = "loss"
    DUPLICATION = "duplication"
    REORDERING = "reordering"
    DELAY = "delay"
    REPLAY = "replay"
    DISCONNECT = "disconnect"
    PARTITION = "partition"
    ONE_WAY = "one-way"
    FLAPPING = "flapping"
    CRASH = "crash"
    CRASH_AT_WRITE = "crash-at-write"
    POWER_CUT = "power-cut"
    PAUSE = "pause"
    CLOCK_RATE = "clock-rate"
    CLOCK_JUMP = "clock-jump"
    SLOW_DISK = "slow-disk"
    SLOW_STATE = "slow-state"
    DISK_ERROR = "disk-error"
    ROT = "rot"
    WIPE = "wipe"
    MEMBERS = "members"
    TRANSFER = "transfer"
    COMPACTION = "compaction"
    LOST_REPLIES = "lost-replies"
    TINY_WINDOWS = "tiny-windows"
    IMPATIENCE = "impatience"
    """A follower takes its leader for dead though it lives."""


STRIKING = frozenset(
    {
        Fault.REPLAY,
        Fault.DISCONNECT,
        Fault.PARTITION,
        Fault.ONE_WAY,
        Fault.FLAPPING,
        Fault.CRASH,
        Fault.POWER_CUT,
        Fault.PAUSE,
        Fault.CLOCK_JUMP,
        Fault.SLOW_DISK,
        Fault.DISK_ERROR,
        Fault.ROT,
        Fault.WIPE,
        Fault.IMPATIENCE,
        Fault.MEMBERS,
        Fault.TRANSFER,
    }
)
"""What happens now and then; the others are there all the time."""


def strikes_of(fault: Fault) -> str:
    """What a run counts the strikes of a fault as."""
    return f"fault: {fault.value}"


def is_counted(fault: Fault) -> bool:
    """Whether it strikes at moments, which a run counts."""
    return fault in STRIKING or fault is Fault.CRASH_AT_WRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """One seed's world. Probabilities are 0 to 1; ``_us`` are microseconds."""

    nodes: int
    faults: frozenset[Fault]
    leases: bool
    loss: float
    duplication: float
    delay_us: int
    """Mean of what a message takes beyond the least."""
    slow_message: float
    """How likely one takes a hundred times as long."""
    fsync_us: int
    apply_us: int
    """Of the mean piece of work."""
    commit_us: int
    """How often a state is committed."""
    fault_us: int
    """Between two faults of whatever kind, on average."""
    outage_us: int
    """How long one lasts, on average."""
    clients: int
    think_us: int
    """Between two operations of a client, on average."""
    lost_replies: float
    bias: float
    """How likely a fault strikes the leader, rather than anybody."""
    entry_bytes_max: int
    append_bytes_max: int
    apply_bytes_max: int
    inflight_appends_max: int
    uncommitted_bytes_max: int
    log_cache_bytes_max: int
    log_bytes_max: int
    heartbeat_ticks: int
    session_timeout_ticks: int

    def __str__(self) -> str:
        names = ",".join(sorted(fault.value for fault in self.faults))
        rest = [
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in fields(self)
            if field.name != "faults"
        ]
        return f"faults={names or 'none'} " + " ".join(rest)

    def has(self, fault: Fault) -> bool:
        return fault in self.faults

    @property
    def strike_us(self) -> int:
        """Between two faults of one kind that strikes now and then."""
        return self.fault_us * max(1, len(self.faults & STRIKING))

    @property
    def replica_options(self) -> ReplicaOptions:
        """For every member: they may differ, and need not."""
        return ReplicaOptions(
            raft=RaftOptions(
                election_timeout_ticks=ELECTION_TICKS,
                heartbeat_interval_ticks=self.heartbeat_ticks,
                evidence_election_ticks_max=2,
                append_bytes_max=self.append_bytes_max,
                inflight_appends_max=self.inflight_appends_max,
                inflight_append_bytes_max=max(4_096, self.append_bytes_max),
                apply_bytes_max=self.apply_bytes_max,
                uncommitted_bytes_max=self.uncommitted_bytes_max,
                log_cache_bytes_max=self.log_cache_bytes_max,
                lease_ms=LEASE_MS,
                promotion_lag_entries_max=8,
            ),
            entry_bytes_max=self.entry_bytes_max,
            waiting_writes_max=64,
            orphan_ticks=6,
            forwarded_patience_ticks=20,
            leaderless_patience_ticks=25,
            read_retry_ticks=6,
            log_bytes_max=self.log_bytes_max,
            log_trailing_bytes=self.log_bytes_max // 4,
            session_timeout_ticks=self.session_timeout_ticks,
            chore_interval_ticks=10,
            history=HistoryPolicy(),
        )


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw(
    random: random.Random,
    *,
    nodes: int | None = None,
    faults: Iterable[Fault] | None = None,
) -> Swarm:
    """A seed's own. Of ``faults`` (by default all) it takes a part."""
    choose = random.choice
    allowed = list(Fault) if faults is None else [it for it in Fault if it in [*faults]]
    share = choose([0.2, 0.4, 0.6])
    chosen = frozenset([fault for fault in allowed if random.random() < share])
    tiny, slow = Fault.TINY_WINDOWS in chosen, Fault.SLOW_DISK in chosen
    compacting = Fault.COMPACTION in chosen
    drawn_nodes = choose([3, 3, 5])
    return Swarm(
        nodes=nodes or drawn_nodes,
        faults=chosen,
        leases=choose([False, False, True]),
        loss=choose([0.01, 0.05, 0.2]) if Fault.LOSS in chosen else 0.0,
        duplication=choose([0.02, 0.2]) if Fault.DUPLICATION in chosen else 0.0,
        delay_us=choose([200, 1_000, 4_000]),
        slow_message=choose([0.005, 0.05]) if Fault.DELAY in chosen else 0.0,
        fsync_us=choose([5_000, 20_000]) if slow else choose([100, 1_000, 4_000]),
        apply_us=10_000 if Fault.SLOW_STATE in chosen else choose([50, 500]),
        commit_us=choose([20_000, 100_000, 500_000]),
        fault_us=choose([60_000, 150_000, 400_000]),
        outage_us=choose([20_000, 80_000, 200_000]),
        clients=choose([2, 4]),
        think_us=choose([1_000, 4_000, 10_000]),
        lost_replies=choose([0.02, 0.2]) if Fault.LOST_REPLIES in chosen else 0.0,
        bias=choose([0.2, 0.6, 0.9]),
        entry_bytes_max=choose([1, 200, 1 << 16]),
        append_bytes_max=choose([1, 200]) if tiny else choose([1_000, 1 << 16]),
        apply_bytes_max=choose([1, 200]) if tiny else 1 << 16,
        inflight_appends_max=choose([1, 3]) if tiny else 64,
        uncommitted_bytes_max=choose([200, 1_000]) if tiny else 1 << 20,
        log_cache_bytes_max=choose([0, 1 << 20]),
        log_bytes_max=choose([500, 2_000]) if compacting else 1 << 20,
        heartbeat_ticks=choose([1, 2, 3]),
        session_timeout_ticks=choose([30, 60_000]),
    )
