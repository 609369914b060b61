"""What operations return: values of our own, not the messages that carried them.

Each result bears the :class:`ResponseHeader` of the response it came in, which many
results share. A header says who answered, not what: results that differ in it alone
are equal.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kvstore.client.consistency import Consistency, consistency_from_pb
from kvstore.pb import cluster_pb2, kv_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHeader:
    """Where an answer comes from."""

    cluster_id: bytes
    node_id: int
    """The node that the client spoke to; not always the leader."""
    term: int
    """Raft term of that node."""
    revision: int
    """Revision of the store when the answer was made."""
    epoch: int = 0
    """Raised when the store is restored from a backup: revisions of two epochs do not
    compare. 0: the node did not say."""
    consistency: Consistency = Consistency.LINEARIZABLE
    """How a read was really confirmed; perhaps more strongly than was asked for."""
    staleness_ms: int | None = None
    """Of a weaker read: every write acknowledged longer ago than this is in the answer.
    None: nothing is known of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    """One key at one revision."""

    key: bytes
    value: bytes
    """Empty if only keys were asked for."""
    create_revision: int
    """Of the write that created the key since it last did not exist."""
    mod_revision: int
    """Of the last write to the key."""
    version: int
    """Writes since the key was created; 1 at creation."""
    lease: int
    """Lease that the key is attached to; 0 is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutResult:
    """What a put did."""

    revision: int
    """Revision of this write."""
    previous: KeyValue | None
    """The pair that it replaced, if there was one and ``prev_kv`` asked for it."""
    header: ResponseHeader = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeResult:
    """Pairs of a range at one revision. Iterates over them."""

    items: tuple[KeyValue, ...]
    count: int
    """Pairs in the whole range, whatever the limit; 0 ``without_count``."""
    more: bool
    """Whether the range has more pairs than ``items``."""
    revision: int
    """Of the store when the range was read; a later read at it sees the same."""
    header: ResponseHeader = field(repr=False, compare=False)

    def __iter__(self) -> Iterator[KeyValue]:
        return iter(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteResult:
    """What a delete did."""

    deleted: int
    """How many keys."""
    previous: tuple[KeyValue, ...]
    """The pairs deleted, if ``prev_kv`` asked for them."""
    revision: int
    """Of the store after the delete; unchanged if nothing was deleted."""
    header: ResponseHeader = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactResult:
    """What a compaction did."""

    revision: int
    """Of the store when history was given up."""
    header: ResponseHeader = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnResult:
    """Which branch of a transaction ran, and what each of its operations returned."""

    succeeded: bool
    """True: every comparison held, and ``then`` ran. False: ``otherwise`` ran."""
    results: "tuple[OpResult, ...]"
    """One for each operation of that branch, in its order."""
    revision: int
    """Of the store after the transaction; unchanged if it wrote nothing."""
    header: ResponseHeader = field(repr=False, compare=False)


OpResult = PutResult | RangeResult | DeleteResult | TxnResult | KeyValue | None
"""What one operation of a transaction returned. ``Op.get`` returns a pair or None, as
``get`` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberAddress:
    """One member of a cluster."""

    node_id: int
    address: str
    """``host:port`` at which it serves clients and peers."""
    voter: bool = False
    """Whether it counts for majorities. A learner only follows."""
    outgoing: bool = False
    """It counts until the change of members that is under way is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """Who leads after a handover."""

    leader_id: int
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What one node says of itself. It may be behind, or deposed and not know yet."""

    cluster_id: bytes
    node_id: int
    role: str
    """``follower``, ``pre-candidate``, ``candidate`` or ``leader``."""
    term: int
    leader_id: int
    """Whom it follows; 0 is nobody."""
    commit_index: int
    applied_index: int
    last_log_index: int
    revision: int
    compact_revision: int
    members: tuple[MemberAddress, ...]
    version: str
    """Of kvstore at that node."""
    uptime_s: float
    raft_store_bytes: int
    state_store_bytes: int
    epoch: int
    """Raised when the store is restored from a backup. 0: the node did not say."""
    snapshot_bytes_sent: int
    """To peers that lagged behind its log, since it started; repetitions included."""
    anonymous_memory_bytes: int
    """Of its process, and backed by no file."""


# ------------------------------------------------------------- from the messages


def header_from_pb(header: kv_pb2.ResponseHeader) -> ResponseHeader:
    """About 2 µs, once for each response."""
    known = header.HasField("staleness_ms")
    return ResponseHeader(
        cluster_id=header.cluster_id,
        node_id=header.node_id,
        term=header.term,
        revision=header.revision,
        epoch=header.epoch,
        consistency=consistency_from_pb(header.consistency),
        staleness_ms=header.staleness_ms if known else None,
    )


def pair_from_pb(pair: kv_pb2.KeyValue) -> KeyValue:
    """About 1.5 µs."""
    return KeyValue(
        key=pair.key,
        value=pair.value,
        create_revision=pair.create_revision,
        mod_revision=pair.mod_revision,
        version=pair.version,
        lease=pair.lease,
    )


def pairs_from_pb(pairs: Iterable[kv_pb2.KeyValue]) -> tuple[KeyValue, ...]:
    """All of them."""
    return tuple([pair_from_pb(pair) for pair in pairs])


def put_from_pb(result: kv_pb2.PutResult, header: ResponseHeader) -> PutResult:
    """About 0.8 µs without a previous pair: most operations are puts."""
    previous = pair_from_pb(result.prev_kv) if result.HasField("prev_kv") else None
    return PutResult(revision=result.revision, previous=previous, header=header)


def range_from_pb(result: kv_pb2.RangeResult, header: ResponseHeader) -> RangeResult:
    """O(pairs)."""
    return RangeResult(
        items=pairs_from_pb(result.kvs),
        count=result.count,
        more=result.more,
        revision=result.revision,
        header=header,
    )


def delete_from_pb(
    result: kv_pb2.DeleteRangeResult, header: ResponseHeader
) -> DeleteResult:
    """O(previous pairs)."""
    return DeleteResult(
        deleted=result.deleted,
        previous=pairs_from_pb(result.prev_kvs),
        revision=result.revision,
        header=header,
    )


def compact_from_pb(
    result: kv_pb2.CompactResult, header: ResponseHeader
) -> CompactResult:
    """O(1)."""
    return CompactResult(revision=result.revision, header=header)


def members_from_pb(
    members: Iterable[cluster_pb2.Member],
) -> tuple[MemberAddress, ...]:
    """O(members)."""
    return tuple(
        MemberAddress(
            node_id=member.node_id,
            address=member.address,
            voter=member.voter,
            outgoing=member.outgoing,
        )
        for member in members
    )


def status_from_pb(status: cluster_pb2.StatusResponse) -> NodeStatus:
    """O(members)."""
    return NodeStatus(
        cluster_id=status.cluster_id,
        node_id=status.node_id,
        role=status.role,
        term=status.term,
        leader_id=status.leader_id,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        last_log_index=status.last_log_index,
        revision=status.revision,
        compact_revision=status.compact_revision,
        members=members_from_pb(status.members),
        version=status.version,
        uptime_s=status.uptime_seconds,
        raft_store_bytes=status.raft_store_bytes,
        state_store_bytes=status.state_store_bytes,
        epoch=status.epoch,
        snapshot_bytes_sent=status.snapshot_bytes_sent,
        anonymous_memory_bytes=status.anonymous_memory_bytes,
    )
