"""The asyncio face of a store, whatever carries its requests."""

from collections.abc import AsyncIterator, Iterable, Sequence
from os import PathLike
from types import TracebackType
from typing import Self

from kvstore.client import admin
from kvstore.client.cluster import ClusterTransport
from kvstore.client.consistency import Consistency, ReadLevel, read_level
from kvstore.client.keys import Text, bounds, span, to_bytes
from kvstore.client.pipeline import SESSIONS, Pipeline
from kvstore.client.results import (
    CompactResult,
    DeleteResult,
    KeyValue,
    Leadership,
    MemberAddress,
    NodeStatus,
    PutResult,
    RangeResult,
    TxnResult,
    compact_from_pb,
    delete_from_pb,
    members_from_pb,
    pair_from_pb,
    put_from_pb,
    range_from_pb,
    status_from_pb,
)
from kvstore.client.scan import SCAN_PAGE_PAIRS_MAX, Scan
from kvstore.client.transactions import (
    Compare,
    Op,
    SortBy,
    range_to_pb,
    txn_from_pb,
    txn_to_pb,
)
from kvstore.client.transport import Transport
from kvstore.errors import ConfigError, InvalidRequest
from kvstore.pb import cluster_pb2, kv_pb2

TIMEOUT_S = 10.0
"""Default patience of one operation."""


class AsyncClient:
    """Operations on a store: on a cluster, of which any node takes them.

    Keys and values are bytes, or text, which is UTF-8. Callers that wait at the same
    time share requests, so run many at once. The client connects when it is first used,
    and fails over between ``endpoints`` by itself.

    Every operation raises

    - :class:`~kvstore.errors.OutcomeUnknown` if a write may have been applied, and
      nobody could tell until its deadline: read before you write again;
    - another :class:`~kvstore.errors.KVStoreError` if it was certainly not applied.

    A write is carried out once, however often it has to be sent: the client numbers its
    writes in a session, which it opens with the first one. ``sessions=False`` saves
    that; then a write is never sent again after a lost answer, and its outcome unknown.

    Reads are confirmed as ``consistency`` says (with ``staleness_ms`` at ``BOUNDED``),
    unless they say so themselves.

    ``timeout_s`` bounds one operation with everything in it: connecting, waiting for a
    leader, trying again. Cancelling a task that waits for a write does not take the
    write back.

    A client belongs to the event loop in which it is first used. ``transport`` carries
    its requests instead of connections to ``endpoints``.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = (),
        *,
        timeout_s: float = TIMEOUT_S,
        sessions: bool = SESSIONS,
        consistency: Consistency = Consistency.LINEARIZABLE,
        staleness_ms: int | None = None,
        transport: Transport | None = None,
    ) -> None:
        if transport is None:
            transport = ClusterTransport(endpoints)
        elif endpoints:
            raise ConfigError("give endpoints, or a transport, not both")
        try:
            self._level = read_level(consistency, staleness_ms)
        except InvalidRequest as error:
            raise ConfigError(str(error)) from error
        self._transport = transport
        self._pipeline = Pipeline(transport, timeout_s=timeout_s, sessions=sessions)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End. Requests in flight fail as of unknown outcome. Twice is fine."""
        await self._pipeline.close()

    async def put(
        self,
        key: Text,
        value: Text,
        *,
        prev_kv: bool = False,
        timeout_s: float | None = None,
    ) -> PutResult:
        """Write a key. ``prev_kv`` asks for the pair that it replaces."""
        batch = kv_pb2.CommandBatch()
        put = batch.commands.add().put  # in place: half the cost of copying it in
        put.key = to_bytes(key)
        put.value = to_bytes(value)
        if prev_kv:
            put.prev_kv = True
        encoded = batch.SerializeToString()
        result, header = await self._pipeline.submit(encoded, timeout_s=timeout_s)
        if prev_kv:
            return put_from_pb(result.put, header)
        return PutResult(revision=result.put.revision, previous=None, header=header)

    async def get(
        self,
        key: Text,
        *,
        revision: int = 0,
        consistency: Consistency | None = None,
        staleness_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> KeyValue | None:
        """The pair at a key, or None: the newest, or as of ``revision``.

        For a read's header, which says what it is worth, see :meth:`range`.
        """
        level = read_level(consistency, staleness_ms, self._level)
        request = kv_pb2.Range(key=to_bytes(key), revision=revision)
        result, _ = await self._pipeline.read(request, timeout_s, level=level)
        pairs = result.range.kvs
        return pair_from_pb(pairs[0]) if pairs else None

    async def range(
        self,
        start: Text = b"",
        end: Text = b"",
        *,
        prefix: Text | None = None,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        without_count: bool = False,
        sort_by: SortBy = "key",
        descending: bool = False,
        consistency: Consistency | None = None,
        staleness_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> RangeResult:
        """Pairs with ``start <= key < end``, or with a prefix, in one answer.

        An empty bound is none: ``range("a")`` is everything from ``a`` on, ``range()``
        everything. An answer is bounded in bytes by the node, and by ``limit`` (0 is no
        limit); ``more`` says if there are further pairs: :meth:`scan` reads them all.
        To count is to look at every key of the range: ``without_count`` saves that.
        The result's ``header`` says how the read was confirmed.
        """
        level = read_level(consistency, staleness_ms, self._level)
        request = range_to_pb(
            span(start, end, prefix),
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
            without_count=without_count,
            sort_by=sort_by,
            descending=descending,
        )
        result, header = await self._pipeline.read(request, timeout_s, level=level)
        return range_from_pb(result.range, header)

    async def scan(
        self,
        start: Text = b"",
        end: Text = b"",
        *,
        prefix: Text | None = None,
        revision: int = 0,
        keys_only: bool = False,
        descending: bool = False,
        page_pairs_max: int = SCAN_PAGE_PAIRS_MAX,
        consistency: Consistency | None = None,
        staleness_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[KeyValue]:
        """Iterate over every pair of a range in key order, all of one revision.

        The range is read page by page, each within ``timeout_s``, while it is consumed:
        memory holds one page, and writes that come meanwhile are not seen. Raises
        ``Compacted`` if history is compacted past the revision under way.
        """
        start, end = bounds(start, end, prefix)
        scan = Scan(
            start=start,
            end=end,
            revision=revision,
            descending=descending,
            level=read_level(consistency, staleness_ms, self._level),
        )
        while scan.more:
            page = await self.range(
                scan.start,
                scan.end,
                limit=page_pairs_max,
                revision=scan.revision,
                keys_only=keys_only,
                without_count=True,
                descending=descending,
                consistency=scan.level.consistency,
                staleness_ms=scan.level.staleness_ms or None,
                timeout_s=timeout_s,
            )
            last = page.items[-1].key if page.items else None
            scan.advance(last=last, more=page.more, revision=page.revision)
            for pair in page:
                yield pair

    async def _level_of(
        self, consistency: Consistency | None, staleness_ms: int | None
    ) -> ReadLevel:
        """What a read asks for, with this client's defaults. For the blocking face."""
        return read_level(consistency, staleness_ms, self._level)

    async def delete(
        self, key: Text, *, prev_kv: bool = False, timeout_s: float | None = None
    ) -> DeleteResult:
        """Delete a key. ``prev_kv`` asks for the pair deleted."""
        return await self._delete(to_bytes(key), b"", prev_kv, timeout_s)

    async def delete_range(
        self,
        start: Text,
        end: Text,
        *,
        prev_kv: bool = False,
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """Delete every key with ``start <= key < end``; an empty bound is none."""
        return await self._delete(*span(start, end, None), prev_kv, timeout_s)

    async def delete_prefix(
        self, prefix: Text, *, prev_kv: bool = False, timeout_s: float | None = None
    ) -> DeleteResult:
        """Delete every key with a prefix; with an empty one, every key."""
        return await self._delete(*span(b"", b"", prefix), prev_kv, timeout_s)

    async def _delete(
        self, key: bytes, range_end: bytes, prev_kv: bool, timeout_s: float | None
    ) -> DeleteResult:
        delete = kv_pb2.DeleteRange(key=key, range_end=range_end, prev_kv=prev_kv)
        command = kv_pb2.Command(delete_range=delete)
        result, header = await self._pipeline.write(command, timeout_s)
        return delete_from_pb(result.delete_range, header)

    async def txn(
        self,
        *,
        compare: Iterable[Compare] = (),
        then: Iterable[Op] = (),
        otherwise: Iterable[Op] = (),
        timeout_s: float | None = None,
    ) -> TxnResult:
        """Run ``then`` if all of ``compare`` holds, else ``otherwise``, atomically.

        Every comparison, those of nested transactions too, sees the store as it was
        before. No key may be changed twice. See ``kvstore.client.transactions`` for
        examples.
        """
        branches = tuple(then), tuple(otherwise)
        command = kv_pb2.Command(txn=txn_to_pb(compare, *branches))
        result, header = await self._pipeline.write(command, timeout_s)
        return txn_from_pb(result.txn, *branches, header)

    async def compact(
        self, revision: int, *, timeout_s: float | None = None
    ) -> CompactResult:
        """Give up history below ``revision``; reads below it raise ``Compacted``."""
        command = kv_pb2.Command(compact=kv_pb2.Compact(revision=revision))
        result, header = await self._pipeline.write(command, timeout_s)
        return compact_from_pb(result.compact, header)

    async def status(
        self, endpoint: str | None = None, *, timeout_s: float | None = None
    ) -> NodeStatus:
        """What the node at ``endpoint``, by default the one in use, says of itself.

        Raises ``Unavailable`` if that node does not answer; no other is asked.
        """
        return status_from_pb(await self._pipeline.status(endpoint, timeout_s))

    # -------------------------------------------------------------- the cluster

    async def members(
        self, *, timeout_s: float | None = None
    ) -> tuple[MemberAddress, ...]:
        """The members, as the leader sees them.

        As another node does if there is no leader: then perhaps not the newest.
        Raises ``Unavailable`` if nobody answers.
        """
        patience_s = self._pipeline.patience_s(timeout_s)
        status = await admin.members(self._transport.endpoints, patience_s)
        return members_from_pb(status.members)

    async def add_member(
        self,
        node_id: int,
        address: str,
        *,
        learner_only: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[MemberAddress, ...]:
        """Take a node in that was made by ``kvstore init --join`` and runs.

        It is a learner at first, and becomes a voter by itself once it has caught up,
        unless ``learner_only``. Returns the members then.

        As of every change of the members: ``MembershipRefused`` says what does not make
        sense, ``Unavailable`` that it was not begun in time, ``OutcomeUnknown`` that it
        may be under way, and is not taken back.
        """
        added = cluster_pb2.AddMember(
            node_id=node_id, address=address, learner_only=learner_only
        )
        change = cluster_pb2.ChangeMembershipRequest(add=added)
        return await self._change_members(change, timeout_s)

    async def promote_member(
        self, node_id: int, *, timeout_s: float | None = None
    ) -> tuple[MemberAddress, ...]:
        """Make a learner a voter. Waits while it lags. Raises as :meth:`add_member`."""
        change = cluster_pb2.ChangeMembershipRequest(promote=node_id)
        return await self._change_members(change, timeout_s)

    async def remove_member(
        self, node_id: int, *, timeout_s: float | None = None
    ) -> tuple[MemberAddress, ...]:
        """Remove a member for good: its id is spent. Raises as :meth:`add_member`."""
        change = cluster_pb2.ChangeMembershipRequest(remove=node_id)
        return await self._change_members(change, timeout_s)

    async def replace_member(
        self,
        old_node_id: int,
        new_node_id: int,
        address: str,
        *,
        timeout_s: float | None = None,
    ) -> tuple[MemberAddress, ...]:
        """Put a new node in an old one's place, once it has caught up.

        May take long: ask again after ``OutcomeUnknown`` or ``ChangePending``, and it
        goes on where it stopped. Raises as :meth:`add_member`.
        """
        added = cluster_pb2.AddMember(node_id=new_node_id, address=address)
        replace = cluster_pb2.ReplaceMember(old_node_id=old_node_id, added=added)
        change = cluster_pb2.ChangeMembershipRequest(replace=replace)
        return await self._change_members(change, timeout_s)

    async def _change_members(
        self, change: cluster_pb2.ChangeMembershipRequest, timeout_s: float | None
    ) -> tuple[MemberAddress, ...]:
        patience_s = self._pipeline.patience_s(timeout_s)
        endpoints = self._transport.endpoints
        answer = await admin.change_members(endpoints, change, patience_s)
        return members_from_pb(answer.members)

    async def transfer_leadership(
        self, to: int | None = None, *, timeout_s: float | None = None
    ) -> Leadership:
        """Have the leader hand over to a voter, by default the one closest to it.

        Writes wait meanwhile, no longer than an election takes. Raises as
        :meth:`add_member`.
        """
        patience_s = self._pipeline.patience_s(timeout_s)
        request = cluster_pb2.TransferLeadershipRequest(to=to or 0)
        endpoints = self._transport.endpoints
        answer = await admin.transfer_leadership(endpoints, request, patience_s)
        return Leadership(leader_id=answer.leader_id, term=answer.term)

    async def save_snapshot(
        self, path: str | PathLike[str], *, timeout_s: float | None = None
    ) -> int:
        """Write what a node has committed to its disk to a file; returns its bytes.

        The node in use is asked first. The file appears whole and synced, or not at
        all, and takes the place of one that is there. ``timeout_s`` bounds the wait for
        each part of it.

        Raises ``Unavailable`` if no node sends one, ``DamagedSnapshot`` if it came in
        part, and ``OSError`` if it cannot be written.
        """
        patience_s = self._pipeline.patience_s(timeout_s)
        return await admin.save_snapshot(self._transport.endpoints, path, patience_s)
