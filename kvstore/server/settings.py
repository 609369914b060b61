"""From the settings that people make to the options that each part takes."""

from kvstore.config import Config
from kvstore.raft.options import RaftOptions
from kvstore.replica.options import ReplicaOptions
from kvstore.state_machine.limits import Limits


def replica_options(config: Config) -> ReplicaOptions:
    """Times become ticks here, and nowhere else."""
    tick = config.tick_interval_ms
    election_ticks = max(3, config.election_timeout_ms // tick)
    heartbeat_ticks = max(1, config.heartbeat_interval_ms // tick)
    return ReplicaOptions(
        raft=RaftOptions(
            election_timeout_ticks=election_ticks,
            heartbeat_interval_ticks=heartbeat_ticks,
            append_bytes_max=config.append_bytes_max,
            inflight_appends_max=config.inflight_appends_max,
            inflight_append_bytes_max=config.inflight_append_bytes_max,
            uncommitted_bytes_max=config.uncommitted_bytes_max,
        ),
        entry_bytes_max=config.entry_bytes_max,
        waiting_writes_max=config.waiting_writes_max,
        waiting_write_bytes_max=config.waiting_write_bytes_max,
        orphan_ticks=max(1, election_ticks // 2),
        forwarded_patience_ticks=2 * election_ticks,
        leaderless_patience_ticks=election_ticks,
        read_retry_ticks=max(2, election_ticks // 2),
    )


def limits(config: Config) -> Limits:
    """Bounds on one request."""
    return Limits(
        key_bytes_max=config.key_bytes_max,
        value_bytes_max=config.value_bytes_max,
        txn_operations_max=config.txn_operations_max,
        request_bytes_max=config.request_bytes_max,
    )
