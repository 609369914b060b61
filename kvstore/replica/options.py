"""Bounds and patience of a replica."""

from dataclasses import dataclass, field

from kvstore.errors import ConfigError
from kvstore.raft.options import RaftOptions


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

    def __post_init__(self) -> None:
        for name in (
            "entry_bytes_max",
            "waiting_writes_max",
            "waiting_write_bytes_max",
            "orphan_ticks",
            "forwarded_patience_ticks",
            "leaderless_patience_ticks",
            "read_retry_ticks",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")
