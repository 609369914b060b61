"""One running member: a replica, its threads, its timers and its connections."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from kvstore.config import Config
from kvstore.errors import Closed, KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.events import (
    Elected,
    Event,
    LeaderChanged,
    LeaderSuspected,
    SteppedDown,
)
from kvstore.replica.effects import (
    Apply,
    Effect,
    Fail,
    Persist,
    Read,
    Respond,
    Send,
)
from kvstore.replica.messages import PeerMessage
from kvstore.replica.replica import Replica
from kvstore.server.log_thread import LogThread
from kvstore.server.logs import log_event
from kvstore.server.metrics import Metrics
from kvstore.server.network import Network
from kvstore.server.operate import operate
from kvstore.server.requests import Answer, PendingRead, decode_writes
from kvstore.server.scrubbing import start_scrubber
from kvstore.server.settings import limits, replica_options
from kvstore.server.state_thread import Applied, ReadDone, ReadJob, StateThread
from kvstore.server.stores import Stores
from kvstore.state_machine.commands import validate_batch, validate_range
from kvstore.storage.record import Finding
from kvstore.storage.scrubber import Scrubber
from kvstore.types import NodeId, ReadyNumber, Revision, Term, Ticket

LOGGER = logging.getLogger("kvstore.server")

MISSED_TICKS_MAX = 2
"""Ticks made up for after the loop was held up. Few: after a pause the node should read
the messages that wait before it concludes from the clock that its leader is gone."""


class Node:
    """A member of a cluster inside this process.

    ::

        async with Node(Config(data_dir=path)) as node:
            await node.wait_closed()

    Its lifetime is the ``async with`` block. A storage failure, or a damaged record
    that it needs, stops the node: :meth:`wait_closed` raises what happened.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: asyncio.Future[None] | None = None
        self._closing = False

    # ---------------------------------------------------------------- lifetime

    async def __aenter__(self) -> Self:
        """Open the stores and take part in the cluster.

        Raises:
            DataDirectoryError: the directory cannot be used; the message says why.
            CorruptionError: a record that the node needs is damaged.
            ConfigError: the address cannot be bound, or a setting does not fit.
        """
        if not __debug__:
            raise Closed("kvstore's assertions guard its data: run without -O")
        assert self._loop is None, "a Node is entered once"
        self._loop = asyncio.get_running_loop()
        self._closed = self._loop.create_future()
        self.started_at = time.monotonic()
        self.stores = await asyncio.to_thread(Stores.open, self.config)
        try:
            await self._start()
        except BaseException:
            await asyncio.to_thread(self.stores.close)
            raise
        return self

    async def _start(self) -> None:
        assert self._loop is not None
        config, stores, loop = self.config, self.stores, self._loop
        self.node_id = stores.identity.node_id
        self._limits = limits(config)
        self._waiting: dict[Ticket, Answer] = {}
        self._reads: dict[Ticket, PendingRead] = {}
        self._last_ticket = 0
        self._poll_due = False
        self._metrics = Metrics()
        self._leader_term = Term(0)
        self.leader_changes = 0
        self.applied_revision = stores.state.progress.revision
        self.compact_revision = stores.state.progress.compact_revision
        self.replica = Replica(
            node_id=self.node_id,
            voters=[member.node_id for member in stores.members],
            log=stores.log,
            applied_index=stores.state.progress.index,
            compaction_pending=stores.state.compaction_pending,
            options=replica_options(config),
            random=random.Random(),
        )
        self._log_thread = LogThread(
            stores.log,
            loop=loop,
            on_persisted=self._on_persisted,
            on_failure=self._fail,
            name=f"kvstore-log-{self.node_id}",
        )
        self._state_thread = StateThread(
            stores.state,
            loop=loop,
            response_bytes_max=config.response_bytes_max,
            commit_interval_s=config.state_commit_interval_ms / 1_000,
            on_applied=self._on_applied,
            on_read=self._on_read,
            on_failure=self._fail,
            name=f"kvstore-state-{self.node_id}",
        )
        self.scrubber: Scrubber | None = None
        self.network: Network | None = None
        if config.network:
            self.network = Network(self)
            await self.network.start()
        if config.metrics is not None:
            self._metrics.serve(config.metrics)
        self._log_thread.start()
        self._state_thread.start()
        if config.scrub:
            self.scrubber = start_scrubber(config, stores, self._on_finding)
        self._next_tick = loop.time()
        self._on_tick()
        log_event(
            LOGGER,
            logging.INFO,
            "node_started",
            node=self.node_id,
            cluster=stores.identity.cluster_id.hex(),
            address=self.address,
            term=self.replica.raft.term,
            index=self.replica.raft.last_index,
            applied=stores.state.progress.index,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop. Requests in flight fail: definitely, or as of unknown outcome."""
        if self._closing:
            return
        self._closing = True
        assert self._closed is not None
        self._tick_timer.cancel()
        self._carry_out(self.replica.close())
        if self.network is not None:
            await self.network.close()
        self._metrics.close()
        if self.scrubber is not None:
            await asyncio.to_thread(self.scrubber.close)
        await asyncio.to_thread(self._log_thread.close)
        await asyncio.to_thread(self._state_thread.close)
        await asyncio.to_thread(self.stores.close)
        log_event(LOGGER, logging.INFO, "node_stopped", node=self.node_id)
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        """Wait until the node stops. Raises the failure that stopped it, if one did."""
        assert self._closed is not None
        await asyncio.shield(self._closed)

    @property
    def address(self) -> str:
        """``host:port`` at which the node serves; empty without a network."""
        return self.network.address if self.network is not None else ""

    def _fail(self, error: BaseException) -> None:
        """The stores cannot be trusted any more: say so, and serve nothing further."""
        assert self._closed is not None
        if self._closed.done():
            return
        log_event(
            LOGGER,
            logging.CRITICAL,
            "node_failed",
            node=self.node_id,
            error=type(error).__name__,
            message=str(error),
        )
        self._tick_timer.cancel()
        if self.network is not None:
            self.network.stop_now()
        self._closed.set_exception(error)
        self._carry_out(self.replica.close())

    # ---------------------------------------------------------------- requests

    def begin_writes(self, writes: bytes, timeout_ms: int, answer: Answer) -> None:
        """Check an encoded ``CommandBatch`` and pass it on; ``answer`` is called once.

        Raises:
            InvalidRequest, Busy, Closed: not applied; ``answer`` is not called.
        """
        self._check_open()
        batch = decode_writes(writes)
        validate_batch(batch, self._limits)
        ticket = self._ticket()
        count = len(batch.commands)
        patience = self._patience_ticks(timeout_ms)
        self.replica.submit(ticket, writes, count=count, patience_ticks=patience)
        self._waiting[ticket] = answer
        self.poll_soon()

    def begin_reads(
        self, ranges: list[kv_pb2.Range], timeout_ms: int, answer: Answer
    ) -> None:
        """Serve ranges at one linearizable moment; ``answer`` is called once.

        Raises:
            InvalidRequest, Busy, Closed: ``answer`` is not called.
        """
        self._check_open()
        for request in ranges:
            validate_range(request, self._limits)
        ticket = self._ticket()
        self.replica.read(ticket, patience_ticks=self._patience_ticks(timeout_ms))
        self._reads[ticket] = PendingRead(ranges, answer)
        self.poll_soon()

    def header(self, revision: Revision | None = None) -> kv_pb2.ResponseHeader:
        """What every response says of where it comes from."""
        return kv_pb2.ResponseHeader(
            cluster_id=self.stores.identity.cluster_id,
            node_id=self.node_id,
            term=self.replica.raft.term,
            revision=self.applied_revision if revision is None else revision,
        )

    def _check_open(self) -> None:
        assert self._closed is not None
        if self._closing or self._closed.done():
            raise Closed("the node is stopping or has failed; nothing was applied")

    def _ticket(self) -> Ticket:
        self._last_ticket += 1
        return Ticket(self._last_ticket)

    def _patience_ticks(self, timeout_ms: int) -> int:
        wanted_ms = timeout_ms or self.config.request_timeout_ms
        bounded_ms = min(wanted_ms, self.config.request_timeout_ms)
        return max(1, bounded_ms // self.config.tick_interval_ms)

    # ------------------------------------------------------------------ inputs

    def receive(self, messages: Iterable[PeerMessage]) -> None:
        """Messages came from a peer."""
        self.replica.receive(messages)
        self.poll_soon()

    def peer_disconnected(self, peer: NodeId) -> None:
        """A peer's connection closed."""
        self.replica.peer_disconnected(peer)
        self.poll_soon()

    def _on_persisted(self, number: ReadyNumber) -> None:
        self.replica.persisted(number)
        # At once: acknowledgements wait for this, and so does the next batch.
        self._poll()

    def _on_applied(self, applied: Applied) -> None:
        self.applied_revision = applied.revision
        self.compact_revision = applied.compact_revision
        self.replica.applied(
            applied.last,
            results=applied.results,
            revision=applied.revision,
            compaction_pending=applied.compaction_pending,
        )
        self.poll_soon()

    def _on_read(self, done: ReadDone) -> None:
        if (pending := self._reads.pop(done.ticket, None)) is not None:
            pending.answer(done.results, done.revision, done.error)

    def _on_tick(self) -> None:
        assert self._loop is not None
        interval = self.config.tick_interval_ms / 1_000
        now = self._loop.time()
        missed = int((now - self._next_tick) / interval)
        for _ in range(1 + min(missed, MISSED_TICKS_MAX)):
            self.replica.tick()
        self._next_tick = max(self._next_tick + interval, now)
        self._tick_timer = self._loop.call_at(self._next_tick, self._on_tick)
        self._poll()

    # ----------------------------------------------------------------- effects

    def poll_soon(self) -> None:
        """Decide once for everything that comes in during this turn of the loop."""
        if not self._poll_due:
            assert self._loop is not None
            self._poll_due = True
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        self._poll_due = False
        assert self._closed is not None
        if self._closing or self._closed.done():
            return
        try:
            effects = self.replica.poll()
        except (KVStoreError, OSError) as error:
            # A record of the log that the core needed is damaged or unreadable.
            self._fail(error)
            return
        if effects:
            self._carry_out(effects)
        if events := self.replica.raft.drain_events():
            self._observe(events)

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(messages):
                    if self.network is not None:
                        self.network.send(messages)
                case Persist():
                    self._log_thread.submit(effect)
                case Apply():
                    self._state_thread.submit(effect)
                case Read(tickets):
                    self._serve_reads(tickets)
                case Respond(ticket, results, revision):
                    self._waiting.pop(ticket)(results, revision, None)
                case Fail(ticket, error):
                    self._answer_failure(ticket, error)

    def _serve_reads(self, tickets: tuple[Ticket, ...]) -> None:
        for ticket in tickets:
            if (pending := self._reads.get(ticket)) is not None:
                self._state_thread.submit(ReadJob(ticket, pending.ranges))

    def _answer_failure(self, ticket: Ticket, error: KVStoreError) -> None:
        if (answer := self._waiting.pop(ticket, None)) is not None:
            answer(b"", Revision(0), error)
        elif (pending := self._reads.pop(ticket, None)) is not None:
            pending.answer(b"", Revision(0), error)

    # ------------------------------------------------------------- observation

    async def operate(self, request: kv_pb2.OperateRequest) -> kv_pb2.OperateResponse:
        """One request of this process, as a client's stream would carry it.

        Errors come inside the response. A cancelled caller does not take a write back.
        """
        return await operate(self, request)

    @property
    def metrics(self) -> Metrics:
        """Counters and gauges of this node, in a registry of its own."""
        return self._metrics

    def _on_finding(self, finding: Finding) -> None:
        # On the scrubber's thread; a counter is safe there.
        self._metrics.corrupt_records.labels(finding.store).inc()

    def _observe(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Elected(term=term, last_index=index):
                    self._leader_seen(term)
                    self._log("elected", term=term, index=index)
                case LeaderChanged(term=term, leader_id=leader):
                    if leader is not None:
                        self._leader_seen(term)
                    self._log("leader_changed", term=term, leader=leader)
                    self._tell_health(leader is not None)
                case SteppedDown(term=term, was_leader=True, reason=reason):
                    self._log("stepped_down", term=term, reason=reason.value)
                case LeaderSuspected(term=term, leader_id=leader):
                    self._log("leader_suspected", term=term, leader=leader)
                case _:
                    pass

    def _leader_seen(self, term: Term) -> None:
        if term > self._leader_term:
            self._leader_term = term
            self.leader_changes += 1
            self._metrics.leader_changes.inc()

    def _tell_health(self, serving: bool) -> None:
        if self.network is not None and not self._closing:
            self.network.tell_health(serving=serving)

    def _log(self, event: str, **fields: object) -> None:
        log_event(LOGGER, logging.INFO, event, node=self.node_id, **fields)
