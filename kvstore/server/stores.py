"""A member's data directory with both stores open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kvstore.config import Config
from kvstore.errors import CorruptionError
from kvstore.replica.interfaces import Identity, LogStorage, Member
from kvstore.state_machine.view import ReadView
from kvstore.storage import checksum
from kvstore.storage.data_directory import DataDirectory
from kvstore.storage.environment import ADVICE
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.snapshot_export import discard_exports
from kvstore.storage.staging import discard_others, put_in_place, staged_path


@dataclass(frozen=True, slots=True)
class Stores:
    """Opened together, closed together."""

    directory: DataDirectory
    log: LMDBLog
    state: LMDBState

    @classmethod
    def open(cls, config: Config) -> Self:
        """Lock the directory, open and verify both stores. Blocks.

        Raises:
            DataDirectoryError, CorruptionError, NewerFormat, ConfigError: as they say.
        """
        checksum.verified()
        directory = DataDirectory.open(config.data_dir)
        try:
            log = LMDBLog.open(
                directory.raft_path,
                directory.identity,
                map_bytes_max=config.raft_store_bytes_max,
            )
            try:
                state = _open_state(directory, log, config)
            except BaseException:
                log.close()
                raise
            try:
                check_together(log, state)
            except BaseException:
                state.close()
                log.close()
                raise
        except BaseException:
            directory.close()
            raise
        return cls(directory, log, state)

    def install_state(self, staged: Path, config: Config) -> LMDBState:
        """Put a staged state in the place of this one, which is closed; open it.

        The log has noted that it is being installed. Blocks.

        Raises:
            OSError, CorruptionError: the node must stop; opening it again goes on.
        """
        put_in_place(staged, self.directory.state_path)
        return LMDBState.open(
            self.directory.state_path,
            self.identity,
            map_bytes_max=config.state_store_bytes_max,
        )

    @property
    def identity(self) -> Identity:
        return self.directory.identity

    @property
    def members(self) -> Sequence[Member]:
        return self.directory.members

    def close(self) -> None:
        """The threads that use the stores have ended. Each is closed if another fails.

        Raises:
            OSError: the medium refused.
        """
        with ExitStack() as stack:
            stack.callback(self.directory.close)
            stack.callback(self.log.close)
            stack.callback(self.state.close)


def _open_state(directory: DataDirectory, log: LMDBLog, config: Config) -> LMDBState:
    """Open the state; first finish to install a snapshot, if that was interrupted."""
    installing = log.installing
    if installing is not None:
        put_in_place(
            staged_path(directory.incoming_path, installing.snapshot_id),
            directory.state_path,
        )
    state = LMDBState.open(
        directory.state_path,
        directory.identity,
        map_bytes_max=config.state_store_bytes_max,
    )
    if installing is not None:
        last = installing.last
        if state.progress.index < last.index:
            state.close()
            raise CorruptionError(
                f"the snapshot of entry {last.index} was being installed, and its "
                f"state is gone; {ADVICE}",
                store="state",
            )
        log.finish_install()
    discard_exports(directory.snapshots_path)
    # What an earlier process had received may have holes, if the power went.
    discard_others(directory.incoming_path, None)
    return state


async def open_stores(config: Config) -> Stores:
    """Like :meth:`Stores.open`, in a thread. A caller that is cancelled leaves nothing.

    It is held up until the thread has ended, which nothing can interrupt.
    """
    loop = asyncio.get_running_loop()
    opening = loop.run_in_executor(None, Stores.open, config)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        while not opening.done():
            # Cancelled again: it makes no difference.
            with suppress(asyncio.CancelledError):
                await asyncio.wait((opening,))
        if opening.exception() is None:
            opening.result().close()
        raise


def check_together(log: LogStorage, state: ReadView) -> None:
    """Check that the state is made of this log. It may lag behind, and never else.

    Only what is durable in the log is ever applied (decision 0013), so a state that
    knows more says that the log lost entries which this node had acknowledged.

    Raises:
        CorruptionError: the log is not what it was, as if the directory's ``raft`` part
            were an older copy. The node must not vote with it.
    """
    applied = state.progress
    if applied.index > log.last_index:
        raise CorruptionError(
            f"the Raft store lost durable entries: the state store has applied entry "
            f"{applied.index}, but the log ends at {log.last_index}. This node must "
            f"not vote: it has forgotten what it acknowledged; {ADVICE}",
            store="raft",
            expected=f"entry {applied.index}",
            actual=f"entry {log.last_index}",
        )
    if applied.index < log.first_index:
        return
    term = log.term(applied.index)
    if term != applied.term:
        raise CorruptionError(
            f"the Raft store and the state store do not belong together: entry "
            f"{applied.index} was applied in term {applied.term}, and the log has it "
            f"in term {term}. This node must not vote; {ADVICE}",
            store="raft",
            expected=f"term {applied.term}",
            actual=f"term {term}",
        )
