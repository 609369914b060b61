"""From the settings that people make to the options that each part takes."""

from kvstore.config import Config
from kvstore.raft.options import RaftOptions
from kvstore.replica.options import ReplicaOptions
from kvstore.state_machine.history import HistoryPolicy
from kvstore.state_machine.limits import Limits

LEASE_PERCENT = 70
"""A lease, in parts of the election timeout: clocks of members may differ in rate by
the rest, and a tick."""
CHORE_INTERVAL_MS = 1_000
"""A leader looks after sessions, history and identities this often."""


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
            lease_ms=max(1, config.election_timeout_ms * LEASE_PERCENT // 100),
        ),
        entry_bytes_max=config.entry_bytes_max,
        waiting_writes_max=config.waiting_writes_max,
        waiting_write_bytes_max=config.waiting_write_bytes_max,
        orphan_ticks=max(1, election_ticks // 2),
        forwarded_patience_ticks=2 * election_ticks,
        leaderless_patience_ticks=election_ticks,
        read_retry_ticks=max(2, election_ticks // 2),
        log_bytes_max=config.raft_log_bytes_max,
        log_trailing_bytes=config.raft_log_trailing_bytes,
        session_timeout_ticks=max(1, config.session_timeout_s * 1_000 // tick),
        chore_interval_ticks=max(1, CHORE_INTERVAL_MS // tick),
        history=HistoryPolicy(
            keep_revisions=config.history_keep_revisions or None,
            keep_s=config.history_keep_s or None,
            interval_s=config.history_interval_s,
        ),
    )


def limits(config: Config) -> Limits:
    """Bounds on one request."""
    return Limits(
        key_bytes_max=config.key_bytes_max,
        value_bytes_max=config.value_bytes_max,
        txn_operations_max=config.txn_operations_max,
        request_bytes_max=config.request_bytes_max,
    )
