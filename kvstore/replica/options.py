"""Bounds and patience of a replica."""

from dataclasses import dataclass, field

from kvstore.errors import ConfigError
from kvstore.raft.options import RaftOptions
from kvstore.state_machine.history import HistoryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOptions:
    """What a replica may hold, and for how long. Raises ``ConfigError``."""

    raft: RaftOptions = field(default_factory=RaftOptions)
    entry_bytes_max: int = 1 << 20
    """Batches are joined into one entry up to here; one batch may be larger alone."""
    waiting_writes_max: int = 65_536
    """Commands that wait for a log write, or for a leader; past it: ``Busy``."""
    waiting_write_bytes_max: int = 64 << 20
    """Bytes of the same."""
    orphan_ticks: int = 25
    """After a leader change the outcome of a write in flight is awaited this long."""
    forwarded_patience_ticks: int = 100
    """A batch that another member passed on waits for this node's log this long."""
    leaderless_patience_ticks: int = 50
    """A node that knew no leader for this long refuses what waits for one: its client
    may reach a node that does."""
    read_retry_ticks: int = 25
    """A read whose confirmation did not come is asked for again after this."""
    log_bytes_max: int = 64 << 20
    """Entry data in the log, past which its beginning is forgotten."""
    log_trailing_bytes: int = 16 << 20
    """And of that, what stays behind the durable state: a peer that lacks no more needs
    no snapshot."""
    session_timeout_ticks: int = 60_000
    """A client session silent for this long under one leader is closed."""
    chore_interval_ticks: int = 100
    """A leader looks after sessions and history this often."""
    history: HistoryPolicy = field(default_factory=HistoryPolicy)
    """What a leader compacts by itself; by default nothing."""

    def __post_init__(self) -> None:
        for name in (
            "entry_bytes_max",
            "waiting_writes_max",
            "waiting_write_bytes_max",
            "orphan_ticks",
            "forwarded_patience_ticks",
            "leaderless_patience_ticks",
            "read_retry_ticks",
            "log_bytes_max",
            "session_timeout_ticks",
            "chore_interval_ticks",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")
        if not 0 <= self.log_trailing_bytes <= self.log_bytes_max:
            raise ConfigError("log_trailing_bytes must be 0 to log_bytes_max")
