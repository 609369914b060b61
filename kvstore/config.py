"""Settings of one node: frozen, units in their names, checked against each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kvstore.errors import ConfigError

LOOPBACK_HOSTS = ("127.", "localhost:", "[::1]:")

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How to run one founded member. ``RANGES`` bounds each number.

    Raises:
        ConfigError: a value, or two together, cannot be used; the message names them.
    """

    data_dir: Path
    """Directory that ``kvstore init`` (or :func:`kvstore.found`) made."""
    listen: str | None = None
    """``host:port`` to bind; by default the member's own address. Port 0 picks one."""
    peer_addresses: Mapping[int, str] = field(default_factory=dict)
    """Where to dial a member, if not at its own address (as through a proxy)."""
    network: bool = True
    """False: no server and no peers, for a one-member cluster inside a process."""
    insecure: bool = False
    """Allow to bind an address that is not loopback, in clear text and without
    authentication: anybody who reaches it can read and write everything."""
    metrics: str | None = None
    """``host:port`` at which to serve Prometheus metrics; loopback unless insecure."""

    tick_interval_ms: int = 10
    """Resolution of the node's timers."""
    heartbeat_interval_ms: int = 100
    """A leader is heard at least this often. At most a third of the timeout below."""
    election_timeout_ms: int = 500
    """T: a follower that has not heard a leader campaigns after [T, 2T); a leader that
    has not heard a quorum for T steps down."""
    request_timeout_ms: int = 10_000
    """A request waits this long for a leader if its client does not say."""

    key_bytes_max: int = KIB
    """Size of one key. S3: 1 KiB."""
    value_bytes_max: int = MIB
    """Size of one value. etcd: 1.5 MiB with everything around it."""
    txn_operations_max: int = 128
    """Operations in a transaction, nested ones included (etcd: 128)."""
    request_bytes_max: int = 4 * MIB
    """One request, or one transaction. At least a largest pair and 1 KiB."""
    response_bytes_max: int = 4 * MIB
    """Pairs in one response; a range that passes it comes in pages."""
    streams_max: int = 1_024
    """Client streams open at one time; past it a new one is refused with Busy."""
    stream_requests_max: int = 1_024
    """Requests of one stream that are not answered; past it ``Busy``, and past twice as
    many, as if the client fetches no answers, the stream waits."""
    waiting_writes_max: int = 65_536
    """Commands waiting for the log; past it ``Busy``."""
    waiting_write_bytes_max: int = 64 * MIB
    """Bytes waiting for the log; past it ``Busy``."""
    waiting_reads_max: int = 65_536
    """Read requests waiting for confirmation; past it ``Busy``."""
    entry_bytes_max: int = MIB
    """Waiting batches are joined into one log entry up to here."""
    uncommitted_bytes_max: int = 64 * MIB
    """Log data that a leader holds uncommitted; past it writes wait, then ``Busy``."""
    append_bytes_max: int = MIB
    """Log data in one message to a follower (a larger entry goes alone)."""
    inflight_appends_max: int = 256
    """Messages with log data under way to one follower."""
    inflight_append_bytes_max: int = 16 * MIB
    """Log data under way to one follower."""

    raft_store_bytes_max: int = 64 * GIB
    """The Raft store's map may grow to here."""
    raft_log_bytes_max: int = 64 * MIB
    """Entry data in the log; past it the log is cut behind the durable state."""
    raft_log_trailing_bytes: int = 16 * MIB
    """What of it stays when it is cut: a member that lacks no more catches up from the
    log, any other by a snapshot. At most a half of ``raft_log_bytes_max``."""
    snapshot_bytes_per_second_max: int = 0
    """Pace of snapshots that this node sends, all together, in a second; 0 is as fast
    as it goes."""
    state_store_bytes_max: int = 256 * GIB
    """The state store's map may grow to here."""
    state_commit_interval_ms: int = 100
    """Applied entries reach the state store's disk at least this often; the log replays
    what a crash takes."""
    history_keep_revisions: int = 1_000_000
    """A leader compacts history by itself, but not the newest so many revisions. 0: as
    ``history_keep_s`` says alone; both 0: never. Clients that read or watch at an older
    revision are told ``Compacted``."""
    history_keep_s: int = 0
    """Nor what was the newest revision within so many seconds; 0: not by age."""
    history_interval_s: int = 60
    """Between two such compactions."""
    session_timeout_s: int = 600
    """A client session that is silent for this long is closed. A client that writes
    after a longer pause opens another by itself."""
    scrub: bool = True
    """Read all records now and then, to find damage before a user does."""
    scrub_bytes_per_second_max: int = 20 * MIB
    """Pace of the scrubber, in a second."""
    scrub_records_per_second_max: int = 5_000
    """The same in records, each up to 7 µs of CPU."""
    scrub_pause_s: float = 60.0
    """Between two tours of a store."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_dir", Path(self.data_dir))
        self._check_ranges()
        if self.heartbeat_interval_ms * 3 > self.election_timeout_ms:
            raise ConfigError(
                f"heartbeat_interval_ms ({self.heartbeat_interval_ms}) must be at most "
                f"a third of election_timeout_ms ({self.election_timeout_ms}), or one "
                "lost heartbeat deposes a leader"
            )
        if self.tick_interval_ms > self.heartbeat_interval_ms:
            raise ConfigError("tick_interval_ms must not exceed heartbeat_interval_ms")
        pair = self.key_bytes_max + self.value_bytes_max
        if self.request_bytes_max < pair + KIB:
            raise ConfigError(
                f"request_bytes_max must be at least {pair + KIB}: a largest key and "
                "value, and 1 KiB around them"
            )
        if 2 * self.raft_log_trailing_bytes > self.raft_log_bytes_max:
            raise ConfigError(
                "raft_log_trailing_bytes must be at most a half of raft_log_bytes_max"
            )
        for name in ("listen", "metrics"):
            if (address := getattr(self, name)) is not None:
                check_bindable(name, address, insecure=self.insecure)
        for peer, address in self.peer_addresses.items():
            check_address(f"peer_addresses[{peer}]", address, port_min=1)

    def _check_ranges(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}; it must be {low} to {high}")


RANGES: Mapping[str, tuple[float, float]] = {
    "tick_interval_ms": (1, 100),
    "heartbeat_interval_ms": (10, 20_000),
    "election_timeout_ms": (50, 60_000),
    "request_timeout_ms": (1, 600_000),
    "key_bytes_max": (1, 65_535),  # KEY_BYTES_STORABLE_MAX of the state machine
    "value_bytes_max": (1, 3 * MIB),
    "txn_operations_max": (1, 4_096),
    "request_bytes_max": (2 * KIB, 64 * MIB),
    "response_bytes_max": (KIB, 64 * MIB),
    "streams_max": (1, 100_000),
    "stream_requests_max": (1, 100_000),
    "waiting_writes_max": (1, 10_000_000),
    "waiting_write_bytes_max": (1, 4 * GIB),
    "waiting_reads_max": (1, 10_000_000),
    "entry_bytes_max": (1, 64 * MIB),
    "uncommitted_bytes_max": (1, 4 * GIB),
    "append_bytes_max": (1, 64 * MIB),
    "inflight_appends_max": (1, 100_000),
    "inflight_append_bytes_max": (1, 4 * GIB),
    "raft_store_bytes_max": (16 * MIB, 1 << 46),
    "raft_log_bytes_max": (64 * KIB, 64 * GIB),
    "raft_log_trailing_bytes": (0, 32 * GIB),
    "snapshot_bytes_per_second_max": (0, 1 << 40),
    "state_store_bytes_max": (16 * MIB, 1 << 46),
    "state_commit_interval_ms": (1, 60_000),
    "history_keep_revisions": (0, 1 << 53),
    "history_keep_s": (0, 10 * 365 * 24 * 3_600),
    "history_interval_s": (1, 24 * 3_600),
    "session_timeout_s": (1, 30 * 24 * 3_600),
    "scrub_bytes_per_second_max": (64 * KIB, GIB),
    "scrub_records_per_second_max": (100, 10_000_000),
    "scrub_pause_s": (0, 30 * 24 * 3_600),
}
"""Bounds of each numeric setting, both included."""


def check_address(name: str, address: str, *, port_min: int = 0) -> None:
    """Raises ``ConfigError`` unless ``address`` reads ``host:port``.

    Port 0 is one to bind, of the system's choice; ``port_min=1`` is for one to dial.
    """
    host, _, port = address.rpartition(":")
    if not host or not port:
        raise ConfigError(f"{name} {address!r} is not HOST:PORT")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(
            f"{name} {address!r}: write an IPv6 host in brackets, [::1]:7400"
        )
    # Five digits at most: to convert thousands would be an error of its own.
    is_number = port.isascii() and port.isdigit() and len(port) <= 5
    if not (is_number and port_min <= int(port) <= 65_535):
        raise ConfigError(
            f"{name} {address!r}: the port must be a number from {port_min} to 65535"
        )


def check_bindable(name: str, address: str, *, insecure: bool) -> None:
    """Raises ``ConfigError`` unless a node may serve at ``address``."""
    check_address(name, address)
    if not insecure and not is_loopback(address):
        raise ConfigError(
            f"{name} {address} is not a loopback address, and there is no TLS yet: "
            "anybody who reaches it could read and write everything. Pass "
            "--insecure (Config(insecure=True)) if the network is trusted"
        )


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach ``host:port``."""
    return address.startswith(LOOPBACK_HOSTS)
