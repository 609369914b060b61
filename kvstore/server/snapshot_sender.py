"""Sends the state of a leader to peers that lag behind its log.

Peers that need it at about the same time share one export of the state. While a
transfer lasts the log must not be cut beyond it, so a peer that cannot be reached is
given up after a while: it gets a newer export when it is heard again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from kvstore.errors import ConfigError, DamagedSnapshot, KVStoreError, Unavailable
from kvstore.rpc.admission import Hello
from kvstore.rpc.snapshot_codec import SnapshotCodec, SnapshotHeader
from kvstore.rpc.snapshots import Pace, SnapshotOptions, send_snapshot
from kvstore.rpc.threads import in_thread, to_its_end
from kvstore.server.logs import log_event
from kvstore.types import LogIndex, NodeId, Term

LOGGER = logging.getLogger("kvstore.server")

EXPORTS_MAX = 2
"""Files of exported state at one time, but for those found damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderOptions:
    """Patience with peers.

    Raises:
        ConfigError: a value cannot be used. Definite.
    """

    backoff_s_min: float = 0.1
    backoff_s_max: float = 5.0
    give_up_s: float = 60.0
    """A peer that has taken nothing for so long is given up."""
    share_s_max: float = 60.0
    """An export older than this is shared with no further peer, if another fits."""

    def __post_init__(self) -> None:
        for name in type(self).__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive")


class SnapshotSource(Protocol):
    """One export of the state: a file, and what it is."""

    @property
    def header(self) -> SnapshotHeader:
        """In the term in which it was made."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file. May block; any thread.

        Raises:
            OSError: the medium refused.
        """
        ...

    def close(self) -> None:
        """Nobody needs it any more: the file goes. May block."""
        ...


class SnapshotSender:
    """Of one node, on its event loop. From the first ``send_to`` to ``close``."""

    def __init__(
        self,
        *,
        export: Callable[[], Awaitable[SnapshotSource]],
        target: Callable[[NodeId], tuple[str, Hello] | None],
        term: Callable[[], Term],
        codec: SnapshotCodec,
        on_ended: Callable[[NodeId, LogIndex], None],
        on_failure: Callable[[BaseException], None],
        bytes_per_second_max: int = 0,
        transfer: SnapshotOptions | None = None,
        options: SenderOptions | None = None,
    ) -> None:
        """``export`` makes one; cancelled, it leaves nothing behind.

        ``target``: where a peer serves, and what a stream to it says; None: unknown.

        ``on_ended`` is told of the last entry in what a peer was sent when all of it is
        there, or of 0 if the peer was given up; not after ``stop``. ``on_failure``: by
        a defect of ours nothing is sent.
        """
        self._options = options or SenderOptions()
        self._exports = _Exports(export, self._options)
        self._target = target
        self._term = term
        self._codec = codec
        self._on_ended = on_ended
        self._on_failure = on_failure
        self._pace = Pace(bytes_per_second_max)
        self._transfer = transfer or SnapshotOptions()
        self._tasks: dict[NodeId, asyncio.Task[None]] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._reasons: dict[NodeId, str] = {}
        self.bytes_sent = 0
        """Of snapshots, repetitions included."""

    @property
    def peers(self) -> frozenset[NodeId]:
        """Who is being sent one."""
        return frozenset(self._tasks)

    def send_to(self, peer: NodeId) -> None:
        """Send ``peer`` a snapshot, until it is there, given up, or stopped."""
        if peer in self._tasks:
            return
        task = asyncio.create_task(self._run(peer), name=f"snapshot to {peer}")
        self._tasks[peer] = task
        task.add_done_callback(self._done)

    def stop(self, peer: NodeId) -> None:
        """The peer needs none, or this node does not lead. Not an error if none is."""
        task = self._tasks.pop(peer, None)
        if task is not None:
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
            task.cancel()

    async def close(self) -> None:
        """Stop all of it. No export is open any more when this returns."""
        for peer in list(self._tasks):
            self.stop(peer)
        if self._stopping:
            await asyncio.wait(self._stopping)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    async def _run(self, peer: NodeId) -> None:
        patience = _Patience(self._options)
        reached = LogIndex(0)
        while not reached and not patience.is_over:
            try:
                async with self._exports.shared() as export:
                    reached = await self._send_export(peer, export, patience)
            except (KVStoreError, OSError) as error:
                self._log_failure(peer, error)
                await patience.wait()
        level, event = logging.INFO, "snapshot_sent"
        if not reached:
            level, event = logging.WARNING, "snapshot_given_up"
        log_event(LOGGER, level, event, peer=peer, index=reached)
        self._reasons.pop(peer, None)
        # Before the core hears of it, for it may want another at once.
        del self._tasks[peer]
        self._on_ended(peer, reached)

    async def _send_export(
        self, peer: NodeId, export: _Export, patience: _Patience
    ) -> LogIndex:
        """The last index in it once it is there, 0 if the peer is given up.

        Raises:
            DamagedSnapshot, OSError: this export is of no use.
        """
        source = await export.source()
        header = source.header
        while not patience.is_over:
            try:
                await self._send(peer, source, patience)
            except (DamagedSnapshot, OSError):
                export.is_spoiled = True
                raise
            except KVStoreError as error:
                self._log_failure(peer, error)
                await patience.wait()
            else:
                return header.last.index
        return LogIndex(0)

    async def _send(
        self, peer: NodeId, source: SnapshotSource, patience: _Patience
    ) -> None:
        target = self._target(peer)
        if target is None:
            raise Unavailable(f"nobody knows where member {peer} serves")
        address, hello = target
        window_bytes = self._transfer.window_bytes(source.header.size_bytes)
        sent_bytes = 0

        def on_sent(count: int) -> None:
            nonlocal sent_bytes
            sent_bytes += count
            self.bytes_sent += count
            if sent_bytes > window_bytes:  # so some of it was answered
                patience.renew()

        await send_snapshot(
            replace(source.header, term=self._term()),
            source.read,
            address=address,
            hello=hello,
            codec=self._codec,
            pace=self._pace,
            on_sent=on_sent,
            options=self._transfer,
        )

    def _log_failure(self, peer: NodeId, error: Exception) -> None:
        # A peer that is down is tried again and again: only what changes is news.
        reason = f"{type(error).__name__}: {error}"
        if self._reasons.get(peer) != reason:
            self._reasons[peer] = reason
            log_event(
                LOGGER, logging.WARNING, "snapshot_not_sent", peer=peer, reason=reason
            )


class _Patience:
    """How long to wait between two attempts with a peer, and when there is no more."""

    def __init__(self, options: SenderOptions) -> None:
        self._options = options
        self._now = asyncio.get_running_loop().time
        self.renew()

    @property
    def is_over(self) -> bool:
        return self._now() - self._renewed_at > self._options.give_up_s

    def renew(self) -> None:
        """The peer has taken something."""
        self._renewed_at = self._now()
        self._backoff_s = self._options.backoff_s_min

    async def wait(self) -> None:
        """Before the next attempt."""
        await asyncio.sleep(self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, self._options.backoff_s_max)


class _Export:
    """One that several peers may share. Made by a task of its own."""

    def __init__(self, made: asyncio.Task[SnapshotSource], now_s: float) -> None:
        self.made = made
        self.began_at = now_s
        self.users = 0
        self.is_spoiled = False
        """It is of no use to anybody else."""

    async def source(self) -> SnapshotSource:
        """Wait until it is there. Who is cancelled does not take it from others."""
        return await asyncio.shield(self.made)


class _Exports:
    """Makes exports, and throws them away."""

    def __init__(
        self, export: Callable[[], Awaitable[SnapshotSource]], options: SenderOptions
    ) -> None:
        self._export = export
        self._share_s_max = options.share_s_max
        self._open: list[_Export] = []
        """The newest last."""

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[_Export]:
        """One to be read inside the block."""
        export = self._fitting() or self._begin()
        export.users += 1
        try:
            yield export
        finally:
            export.users -= 1
            if not export.users:
                self._open.remove(export)
                await to_its_end(_discard(export))

    def _fitting(self) -> _Export | None:
        useful = [export for export in self._open if not export.is_spoiled]
        if not useful:
            return None
        newest = useful[-1]
        age_s = asyncio.get_running_loop().time() - newest.began_at
        is_fresh = age_s <= self._share_s_max
        return newest if is_fresh or len(useful) >= EXPORTS_MAX else None

    def _begin(self) -> _Export:
        now_s = asyncio.get_running_loop().time()
        export = _Export(asyncio.create_task(self._make()), now_s)
        self._open.append(export)
        # Before any other asks: who waits for it sees the error itself.
        export.made.add_done_callback(lambda made: _spoil_if_failed(export, made))
        return export

    async def _make(self) -> SnapshotSource:
        return await self._export()


def _spoil_if_failed(export: _Export, made: asyncio.Task[SnapshotSource]) -> None:
    if made.cancelled() or made.exception() is not None:
        export.is_spoiled = True


async def _discard(export: _Export) -> None:
    """Nobody uses it any more, also if it is not there yet."""
    export.made.cancel()
    await asyncio.wait((export.made,))
    if not export.made.cancelled() and export.made.exception() is None:
        await in_thread(export.made.result().close)
