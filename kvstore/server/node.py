"""One running member: a replica, its threads, its timers and its connections."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from kvstore.config import Config
from kvstore.errors import Busy, Closed
from kvstore.pb import kv_pb2
from kvstore.replica.effects import (
    Apply,
    Effect,
    Fail,
    Persist,
    Read,
    Respond,
    Send,
)
from kvstore.replica.messages import ForwardWrites, PeerMessage
from kvstore.replica.replica import Replica
from kvstore.server.fail_stop import FailStop
from kvstore.server.log_thread import LogThread
from kvstore.server.logs import log_event
from kvstore.server.loop_calls import STORAGE_FAILURES, LoopCalls
from kvstore.server.metrics import Metrics
from kvstore.server.network import Network, no_connection
from kvstore.server.observer import Observer
from kvstore.server.operate import operate
from kvstore.server.requests import Answer, Requests, check_reads, check_writes
from kvstore.server.scrubbing import report_finding, start_scrubber
from kvstore.server.settings import limits, replica_options
from kvstore.server.state_thread import Applied, ReadDone, ReadJob, StateThread
from kvstore.server.stores import open_stores
from kvstore.storage.record import Finding
from kvstore.storage.scrubber import Scrubber
from kvstore.types import NodeId, ReadyNumber, Revision, Ticket

LOGGER = logging.getLogger("kvstore.server")

MISSED_TICKS_MAX = 2
"""Ticks made up for after the loop was held up. Few: after a pause the node should read
the messages that wait before it concludes from the clock that its leader is gone."""
DRAIN_S_MAX = 0.5
"""A node that stops waits this long for what is in flight: mostly a round trip."""
RESIGNED_S = 0.03
"""And a leader this long after it resigned: what peers had sent by then is refused."""


class Node:
    """A member of a cluster inside this process.

    ::

        async with Node(Config(data_dir=path)) as node:
            await node.wait_closed()

    Its lifetime is the ``async with`` block. A storage failure, or a damaged record
    that it needs, stops the node, and so does a defect of ours: :meth:`wait_closed`
    raises what happened. It then answers nobody any more; its stores are closed at the
    end of the block.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = Metrics()
        """Counters and gauges of this node, in a registry of its own."""
        self.network: Network | None = None
        self.scrubber: Scrubber | None = None
        self._limits = limits(config)
        self._requests = Requests()
        self._inbox: list[list[PeerMessage] | NodeId] = []
        self._poll_due = False
        self.fail_stop = FailStop(self._fail)
        self._resources = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = False
        """From the end of a start that succeeded until the node stops or fails."""
        self._ended: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._tick_timer: asyncio.TimerHandle | None = None

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
        self._ended = self._loop.create_future()
        self.started_at = time.monotonic()
        self.stores = await open_stores(self.config)
        self._resources.push_async_callback(asyncio.to_thread, self.stores.close)
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def _start(self) -> None:
        """Each part that starts is pushed on ``_resources``, to be ended in turn."""
        config, stores = self.config, self.stores
        self.node_id = stores.identity.node_id
        self.observer = Observer(self.node_id, self.metrics, self._tell_health)
        for finding in stores.log.findings:
            self._on_finding(finding)
        progress = stores.state.progress
        self.applied_revision = progress.revision
        self.compact_revision = progress.compact_revision
        self.replica = Replica(
            node_id=self.node_id,
            log=stores.log,
            applied_index=progress.index,
            compaction_pending=progress.compaction_pending,
            options=replica_options(config),
            random=random.Random(),
        )
        self._start_threads()
        if config.network:
            self.network = Network(self)
            self._resources.push_async_callback(self.network.close)
            await self.network.start()
        if config.metrics is not None:
            self.metrics.serve(config.metrics)
            self._resources.push_async_callback(asyncio.to_thread, self.metrics.close)
        assert self._loop is not None
        assert self._ended is not None
        if self._ended.done():
            self._ended.result()  # a thread has failed meanwhile
        self._running = True
        self._next_tick = self._loop.time()
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
            applied=progress.index,
        )

    def _start_threads(self) -> None:
        config, stores, resources = self.config, self.stores, self._resources
        assert self._loop is not None
        calls = LoopCalls(self._loop)
        self._state_thread = StateThread(
            stores.state,
            calls=calls,
            response_bytes_max=config.response_bytes_max,
            commit_interval_s=config.state_commit_interval_ms / 1_000,
            on_applied=self._on_applied,
            on_read=self._on_read,
            on_failure=self._fail,
            name=f"kvstore-state-{self.node_id}",
        )
        self._log_thread = LogThread(
            stores.log,
            calls=calls,
            on_persisted=self._on_persisted,
            on_failure=self._fail,
            name=f"kvstore-log-{self.node_id}",
        )
        self._state_thread.start()
        resources.push_async_callback(asyncio.to_thread, self._state_thread.close)
        self._log_thread.start()
        resources.push_async_callback(asyncio.to_thread, self._log_thread.close)
        if config.scrub:
            self.scrubber = start_scrubber(config, stores, self._on_finding)
            resources.push_async_callback(asyncio.to_thread, self.scrubber.close)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop, in order: what is in flight is mostly answered, and nothing new taken.

        Requests that are not answered by then fail: definitely, or as of unknown
        outcome. Twice is fine, and so is after a start that failed.
        """
        if self._ended is None:
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # A caller that is cancelled does not leave a store half closed.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        assert self._ended is not None
        if self._running:
            await self._drain(self._ended)
        if self._running:
            self._stop_running()
            self._carry_out(self.replica.close())
        try:
            await self._resources.aclose()
        except BaseException as error:
            # Whoever waits for the end must see one, and that it was none in order.
            if not self._ended.done():
                self._ended.set_exception(error)
                self._ended.exception()  # raised below too: asyncio need not log it
            raise
        finally:
            # What a thread had in hand when it was told to end.
            self._requests.abandon()
        if self._tick_timer is not None:
            log_event(LOGGER, logging.INFO, "node_stopped", node=self.node_id)
        if not self._ended.done():
            self._ended.set_result(None)

    async def _drain(self, ended: asyncio.Future[None]) -> None:
        self._tell_health(serving=False)
        self.replica.drain()
        self._drained = ended.get_loop().create_future()
        self.poll_soon()
        await asyncio.wait(
            (self._drained, ended),
            timeout=DRAIN_S_MAX,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if (
            self._running
            and self.replica.raft.is_leader
            and len(self.stores.members) > 1
        ):
            # What peers passed on meanwhile is refused by now, and all of them are told
            # to pass nothing on any more. They hear from nobody that leads until they
            # elect, so nothing is on its way here when the connections break.
            self.replica.resign()
            self.poll_soon()
            await asyncio.wait((ended,), timeout=RESIGNED_S)

    def _stop_running(self) -> None:
        self._running = False
        if self._tick_timer is not None:
            self._tick_timer.cancel()

    async def wait_closed(self) -> None:
        """Wait until the node stops. Raises the failure that stopped it, if one did."""
        assert self._ended is not None
        await asyncio.shield(self._ended)

    @property
    def started(self) -> bool:
        """Whether entering it succeeded. Stays so when it stops, or fails later."""
        return self._tick_timer is not None

    @property
    def address(self) -> str:
        """``host:port`` at which the node serves; empty without a network."""
        return self.network.address if self.network is not None else ""

    def _fail(self, error: BaseException) -> None:
        """The node cannot go on: say so, and serve nothing further."""
        assert self._ended is not None
        if self._ended.done():
            return
        log_event(
            LOGGER,
            logging.CRITICAL,
            "node_failed",
            node=self.node_id,
            error=type(error).__name__,
            message=str(error),
        )
        self._ended.set_exception(error)
        self._ended.exception()  # logged here: asyncio need not, if nobody waits
        self._stop_running()
        if self.network is not None:
            self.network.stop_now()
        if isinstance(error, STORAGE_FAILURES):
            self._carry_out(self.replica.close())
        # After a defect of ours the replica may not know any more what it did.
        self._requests.abandon()

    # ---------------------------------------------------------------- requests

    def begin_writes(self, writes: bytes, timeout_ms: int, answer: Answer) -> None:
        """Check an encoded ``CommandBatch`` and pass it on; ``answer`` is called once.

        Raises:
            InvalidRequest, Busy, Closed: not applied; ``answer`` is not called.
        """
        self._check_open()
        count = check_writes(writes, self._limits)
        ticket = self._requests.next_ticket()
        patience = self._patience_ticks(timeout_ms)
        self.replica.submit(ticket, writes, count=count, patience_ticks=patience)
        self._requests.add(ticket, answer, None)
        self.poll_soon()

    def begin_reads(
        self, reads: kv_pb2.RangeBatch, timeout_ms: int, answer: Answer
    ) -> None:
        """Serve ranges at one linearizable moment; ``answer`` is called once.

        Raises:
            InvalidRequest, Busy, Closed: ``answer`` is not called.
        """
        self._check_open()
        ranges = check_reads(reads, self._limits)
        maximum = self.config.waiting_reads_max
        if self._requests.reads >= maximum:
            message = f"{maximum} reads wait already"
            raise Busy(message, queue="waiting_reads", maximum=maximum)
        ticket = self._requests.next_ticket()
        self.replica.read(ticket, patience_ticks=self._patience_ticks(timeout_ms))
        self._requests.add(ticket, answer, ranges)
        self.poll_soon()

    async def operate(self, request: kv_pb2.OperateRequest) -> kv_pb2.OperateResponse:
        """One request of this process, as a client's stream would carry it.

        Errors come inside the response. A cancelled caller does not take a write back.
        """
        return await operate(self, request)

    def header(self, revision: Revision | None = None) -> kv_pb2.ResponseHeader:
        """What every response says of where it comes from."""
        return kv_pb2.ResponseHeader(
            cluster_id=self.stores.identity.cluster_id,
            node_id=self.node_id,
            term=self.replica.raft.term,
            revision=self.applied_revision if revision is None else revision,
        )

    def _check_open(self) -> None:
        if self._closing is not None or not self._running:
            raise Closed("the node does not run or is stopping; nothing was applied")

    def _patience_ticks(self, timeout_ms: int) -> int:
        wanted_ms = timeout_ms or self.config.request_timeout_ms
        bounded_ms = min(wanted_ms, self.config.request_timeout_ms)
        return max(1, bounded_ms // self.config.tick_interval_ms)

    # ------------------------------------------------------------------ inputs

    # Peers' streams only leave their news here: the replica acts in turns of its own,
    # so that what fails there fails the node and not one stream.

    def receive(self, messages: list[PeerMessage]) -> None:
        """Messages came from a peer."""
        self._inbox.append(messages)
        self.poll_soon()

    def peer_disconnected(self, peer: NodeId) -> None:
        """A peer's connection closed."""
        self._inbox.append(peer)
        self.poll_soon()

    def _on_persisted(self, number: ReadyNumber) -> None:
        with self.fail_stop:
            self.replica.persisted(number)
        # At once: acknowledgements wait for this, and so does the next batch.
        self._poll()

    def _on_applied(self, applied: Applied) -> None:
        self.applied_revision = applied.revision
        self.compact_revision = applied.compact_revision
        with self.fail_stop:
            self.replica.applied(
                applied.last,
                results=applied.results,
                revision=applied.revision,
                compaction_pending=applied.compaction_pending,
            )
        self.poll_soon()

    def _on_read(self, done: ReadDone) -> None:
        with self.fail_stop:
            self._requests.answer(done.ticket, done.results, done.revision, None)
        if self._drained is not None:
            self.poll_soon()

    def _on_tick(self) -> None:
        if not self._running:
            return
        assert self._loop is not None
        interval = self.config.tick_interval_ms / 1_000
        due = 1 + max(0, int((self._loop.time() - self._next_tick) / interval))
        self._next_tick += due * interval
        self._tick_timer = self._loop.call_at(self._next_tick, self._on_tick)
        with self.fail_stop:
            for _ in range(min(due, 1 + MISSED_TICKS_MAX)):
                self.replica.tick()
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
        if not self._running:
            return
        with self.fail_stop:
            inbox, self._inbox = self._inbox, []
            for news in inbox:
                if isinstance(news, list):
                    self.replica.receive(news)
                else:
                    self.replica.peer_disconnected(news)
            if effects := self.replica.poll():
                self._carry_out(effects)
            if events := self.replica.raft.drain_events():
                self.observer.observe(events)
            if self._drained is not None:
                self._check_drained(self._drained)

    def _carry_out(self, effects: list[Effect]) -> None:
        not_sent: list[ForwardWrites] = []
        for effect in effects:
            match effect:
                case Send(messages):
                    if self.network is not None:
                        not_sent += self.network.send(messages)
                case Persist():
                    self._log_thread.submit(effect)
                case Apply():
                    self._state_thread.submit(effect)
                case Read(tickets):
                    self._serve_reads(tickets)
                case Respond(ticket, results, revision):
                    self._requests.answer(ticket, results, revision, None)
                case Fail(ticket, error):
                    self._requests.answer(ticket, b"", Revision(0), error)
        if not_sent:
            self.receive(no_connection(not_sent))

    def _serve_reads(self, tickets: tuple[Ticket, ...]) -> None:
        for ticket in tickets:
            if (ranges := self._requests.ranges(ticket)) is not None:
                self._state_thread.submit(ReadJob(ticket, ranges))

    def _check_drained(self, drained: asyncio.Future[None]) -> None:
        if not drained.done() and not self._requests and self.replica.is_drained:
            drained.set_result(None)

    # ------------------------------------------------------------- observation

    def _on_finding(self, finding: Finding) -> None:
        report_finding(finding, node_id=self.node_id, metrics=self.metrics)

    def _tell_health(self, *, serving: bool) -> None:
        if self.network is not None:
            self.network.tell_health(serving=serving and self._closing is None)
