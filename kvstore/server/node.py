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
from kvstore.errors import Busy, Closed, EpochChanged, Removed
from kvstore.pb import kv_pb2
from kvstore.replica.messages import PeerMessage
from kvstore.replica.replica import Replica
from kvstore.server.admin import Admin
from kvstore.server.effects import Effects
from kvstore.server.fail_stop import FailStop
from kvstore.server.installing import Installing
from kvstore.server.log_thread import LogThread
from kvstore.server.logs import log_event
from kvstore.server.loop_calls import STORAGE_FAILURES, LoopCalls
from kvstore.server.metrics import Metrics
from kvstore.server.network import Network
from kvstore.server.observer import Observer
from kvstore.server.operate import operate
from kvstore.server.requests import (
    AS_WRITTEN,
    Answer,
    Confirmed,
    Requests,
    check_reads,
    check_writes,
)
from kvstore.server.scrubbing import report_finding, start_scrubber
from kvstore.server.settings import limits, replica_options
from kvstore.server.state_thread import Applied, ReadDone, StateThread
from kvstore.server.stopping import stop_leading_and_drain
from kvstore.server.stores import Stores, open_stores
from kvstore.storage.record import Finding
from kvstore.storage.scrubber import Scrubber
from kvstore.types import LogIndex, NodeId, ReadyNumber, Revision

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
        self.requests = Requests()
        self._inbox: list[list[PeerMessage] | NodeId] = []
        self._poll_due = False
        self._effects = Effects(self)
        self.admin = Admin(self)
        self.installing = Installing(self)
        self._members_seen: tuple[LogIndex, bool] | None = None
        self.fail_stop = FailStop(self._fail)
        self._resources = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.running = False
        """From the end of a start that succeeded until the node stops or fails."""
        self._ended: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.drained: asyncio.Future[None] | None = None
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
        self._resources.push_async_callback(asyncio.to_thread, self._close_stores)
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
        self.observer = Observer(self.node_id, self.metrics, self.tell_health)
        for finding in stores.log.findings:
            self.on_finding(finding)
        progress = stores.state.progress
        self.applied_revision = progress.revision
        self.compact_revision = progress.compact_revision
        self.sessions = 0
        """Client sessions open; known with the first entry applied."""
        self.replica = Replica(
            node_id=self.node_id,
            log=stores.log,
            applied_index=progress.index,
            revision=progress.revision,
            compact_revision=progress.compact_revision,
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
        self.running = True
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
        self.state_thread = StateThread(
            stores.state,
            calls=calls,
            response_bytes_max=config.response_bytes_max,
            session_timeout_ms=1_000 * config.session_timeout_s,
            commit_interval_s=config.state_commit_interval_ms / 1_000,
            on_applied=self._on_applied,
            on_read=self._on_read,
            on_failure=self._fail,
            name=f"kvstore-state-{self.node_id}",
        )
        self.log_thread = LogThread(
            stores.log,
            calls=calls,
            on_persisted=self.on_persisted,
            on_failure=self._fail,
            name=f"kvstore-log-{self.node_id}",
        )
        self.state_thread.start()
        resources.push_async_callback(asyncio.to_thread, self.state_thread.close)
        self.log_thread.start()
        resources.push_async_callback(asyncio.to_thread, self.log_thread.close)
        if config.scrub:
            self.scrubber = start_scrubber(config, stores, self.on_finding)
        resources.push_async_callback(asyncio.to_thread, self._close_scrubber)
        resources.push_async_callback(self.installing.close)

    def _close_stores(self) -> None:
        self.stores.close()  # those of now: a snapshot may have replaced one

    def _close_scrubber(self) -> None:
        if self.scrubber is not None:
            self.scrubber.close()

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
        if self.running:
            await stop_leading_and_drain(self, self._ended)
        if self.running:
            self._stop_running()
            self._effects.carry_out(self.replica.close())
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
            self.requests.abandon()
        if self._tick_timer is not None:
            log_event(LOGGER, logging.INFO, "node_stopped", node=self.node_id)
        if not self._ended.done():
            self._ended.set_result(None)

    def _stop_running(self) -> None:
        self.running = False
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
            self._effects.carry_out(self.replica.close())
        # After a defect of ours the replica may not know any more what it did.
        self.requests.abandon()

    # ---------------------------------------------------------------- requests

    def begin_writes(self, writes: bytes, timeout_ms: int, answer: Answer) -> None:
        """Check an encoded ``CommandBatch`` and pass it on; ``answer`` is called once.

        Raises:
            InvalidRequest, Busy, Closed: not applied; ``answer`` is not called.
        """
        self.check_open()
        count = check_writes(writes, self._limits)
        ticket = self.requests.next_ticket()
        patience = self.patience_ticks(timeout_ms)
        self.replica.submit(ticket, writes, count=count, patience_ticks=patience)
        self.requests.add(ticket, answer, None)
        self.poll_soon()

    def begin_reads(
        self, reads: kv_pb2.RangeBatch, timeout_ms: int, answer: Answer
    ) -> None:
        """Serve ranges at one linearizable moment; ``answer`` is called once.

        Raises:
            InvalidRequest, Busy, Closed: ``answer`` is not called.
        """
        self.check_open()
        ranges = check_reads(reads, self._limits)
        self._check_epoch(reads.options)
        maximum = self.config.waiting_reads_max
        if self.requests.reads >= maximum:
            message = f"{maximum} reads wait already"
            raise Busy(message, queue="waiting_reads", maximum=maximum)
        ticket = self.requests.next_ticket()
        patience = self.patience_ticks(timeout_ms)
        self.replica.read(ticket, reads.options, patience_ticks=patience)
        self.requests.add(ticket, answer, ranges)
        self.poll_soon()

    async def operate(self, request: kv_pb2.OperateRequest) -> kv_pb2.OperateResponse:
        """One request of this process, as a client's stream would carry it.

        Errors come inside the response. A cancelled caller does not take a write back.
        """
        return await operate(self, request)

    def header(
        self, revision: Revision | None = None, confirmed: Confirmed = AS_WRITTEN
    ) -> kv_pb2.ResponseHeader:
        """What every response says of where it comes from, and what it is worth."""
        return kv_pb2.ResponseHeader(
            cluster_id=self.stores.identity.cluster_id,
            node_id=self.node_id,
            term=self.replica.raft.term,
            revision=self.applied_revision if revision is None else revision,
            epoch=self.stores.identity.epoch,
            consistency=confirmed.consistency,
            staleness_ms=confirmed.staleness_ms,
        )

    def _check_epoch(self, options: kv_pb2.ReadOptions) -> None:
        epoch = self.stores.identity.epoch
        if options.epoch not in (0, epoch):
            raise EpochChanged(
                f"revision {options.revision_min} is of epoch {options.epoch}, and the "
                f"store is in epoch {epoch}: it was restored; read anew",
                epoch=epoch,
            )

    def check_open(self) -> None:
        if self._closing is not None or not self.running:
            raise Closed("the node does not run or is stopping; nothing was applied")

    def patience_ticks(self, timeout_ms: int) -> int:
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

    def on_persisted(self, number: ReadyNumber) -> None:
        with self.fail_stop:
            self.replica.persisted(number)
        # At once: acknowledgements wait for this, and so does the next batch.
        self._poll()

    def _on_applied(self, applied: Applied) -> None:
        self.applied_revision = applied.revision
        self.compact_revision = applied.compact_revision
        self.sessions = applied.sessions
        with self.fail_stop:
            self.replica.applied(
                applied.last,
                results=applied.results,
                revision=applied.revision,
                compact_revision=applied.compact_revision,
                compaction_pending=applied.compaction_pending,
            )
        self.poll_soon()

    def _on_read(self, done: ReadDone) -> None:
        with self.fail_stop:
            self.requests.answer(done.ticket, done.results, done.revision)
        if self.drained is not None:
            self.poll_soon()

    def _on_tick(self) -> None:
        if not self.running:
            return
        assert self._loop is not None
        interval = self.config.tick_interval_ms / 1_000
        due = 1 + max(0, int((self._loop.time() - self._next_tick) / interval))
        self._next_tick += due * interval
        self._tick_timer = self._loop.call_at(self._next_tick, self._on_tick)
        with self.fail_stop:
            self.replica.set_clock(self.now_ms())
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
        if not self.running:
            return
        with self.fail_stop:
            self.replica.set_clock(self.now_ms())
            inbox, self._inbox = self._inbox, []
            for news in inbox:
                if isinstance(news, list):
                    self.replica.receive(news)
                else:
                    self.replica.peer_disconnected(news)
            if effects := self.replica.poll():
                self._effects.carry_out(effects)
            if events := self.replica.raft.drain_events():
                self.observer.observe(events)
            self._follow_members()
            if self.drained is not None:
                self._check_drained(self.drained)

    def _follow_members(self) -> None:
        """Peers are dialled and judged by the configuration, as soon as it is another.

        And again when it is committed: before, nobody is sent away for good.
        """
        raft = self.replica.raft
        index = raft.configuration_index
        seen = (index, raft.commit_index >= index)
        if seen != self._members_seen and self.network is not None:
            self._members_seen = seen
            self.network.members_changed(raft.configuration, index)

    def state_replaced(self, stores: Stores) -> None:
        """A snapshot's state took the place of this node's."""
        self.stores = stores
        progress = stores.state.progress
        self.applied_revision = progress.revision
        self.compact_revision = progress.compact_revision

    def leave(self) -> None:
        """The cluster has removed this node: stop, and say so."""
        error = Removed(
            f"node {self.node_id} was removed from cluster "
            f"{self.stores.identity.cluster_id.hex()} and has stopped; its data "
            "directory is of no more use, and its id is never used again"
        )
        assert self._ended is not None
        if not self._ended.done():
            log_event(LOGGER, logging.WARNING, "node_removed", node=self.node_id)
            self._ended.set_exception(error)
            self._ended.exception()
            self._stop_running()
            self._effects.carry_out(self.replica.close())

    @staticmethod
    def now_ms() -> int:
        """A clock that never goes back, and counts while machine or process sleep."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def _check_drained(self, drained: asyncio.Future[None]) -> None:
        if not drained.done() and not self.requests and self.replica.is_drained:
            drained.set_result(None)

    # ------------------------------------------------------------- observation

    def on_finding(self, finding: Finding) -> None:
        report_finding(finding, node_id=self.node_id, metrics=self.metrics)

    def tell_health(self, *, serving: bool) -> None:
        if self.network is not None:
            self.network.tell_health(serving=serving and self._closing is None)
