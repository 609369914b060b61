"""How large a request may be.

The leader checks a request before it proposes it, and a client before it sends it.
``apply`` enforces none of this: an entry in the log was admitted once, and members that
disagree about a limit (as during an upgrade) must not disagree about the state.
"""

from dataclasses import dataclass

from kvstore.errors import ConfigError

KEY_BYTES_STORABLE_MAX = 65_535
"""The one bound that ``apply`` does enforce: a longer key cannot be stored. Part of the
state's format; changing it would make members differ."""

RESPONSE_BYTES_MAX = 4 * 1024 * 1024
"""Default of ``Limits.response_bytes_max``: gRPC's own default for a message."""

BATCH_RESULTS_BYTES_MAX = 64 * 1024 * 1024
"""Results that one entry's commands may ask for together: previous pairs, and reads
inside transactions. ``response_bytes_max`` is what a command's result should keep to,
but each operation of a transaction returns a pair however large: past this bound the
result is given up."""

PAIR_OVERHEAD_BYTES = 64
"""What a pair takes in a response beside its key and value, at most: four integers of
up to 10 bytes, seven tags, three lengths."""

_REQUEST_OVERHEAD_BYTES = 1024
"""What a request with one pair may take beside key and value, generously."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on requests and responses.

    Raises:
        ConfigError: a bound, or two together, make no sense. Definite.
    """

    key_bytes_max: int = 1024
    """Bytes in a key. DynamoDB: 2 KiB with its sort key; S3: 1 KiB."""
    value_bytes_max: int = 1024 * 1024
    """Bytes in a value. ZooKeeper: 1 MiB; Consul: 512 KiB."""
    txn_operations_max: int = 128
    """Comparisons, or operations of one branch, along any path through a transaction
    and those nested in it (etcd's ``--max-txn-ops``: 128)."""
    txn_depth_max: int = 4
    """Transactions nested in each other; 1 is a transaction without nested ones."""
    request_bytes_max: int = 4 * 1024 * 1024
    """Bytes in an encoded batch (etcd's ``--max-request-bytes``: 1.5 MiB)."""
    batch_commands_max: int = 16_384
    """Commands in one batch: what a client may have coalesced."""
    response_bytes_max: int = RESPONSE_BYTES_MAX
    """Bytes of pairs in the answer to one command. A range that has more says ``more``;
    each range returns at least one pair, however large."""

    def __post_init__(self) -> None:
        for name in type(self).__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")
        if self.key_bytes_max > KEY_BYTES_STORABLE_MAX:
            raise ConfigError(
                f"key_bytes_max ({self.key_bytes_max}) must not exceed what can be "
                f"stored ({KEY_BYTES_STORABLE_MAX})"
            )
        pair = self.key_bytes_max + self.value_bytes_max + _REQUEST_OVERHEAD_BYTES
        if self.request_bytes_max < pair:
            raise ConfigError(
                f"request_bytes_max ({self.request_bytes_max}) must hold a largest key "
                f"and value: {pair}"
            )
