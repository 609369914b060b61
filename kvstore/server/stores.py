"""A member's data directory with both stores open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from kvstore.config import Config
from kvstore.replica.interfaces import Identity, Member
from kvstore.storage import checksum
from kvstore.storage.data_directory import DataDirectory
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.lmdb_state import LMDBState


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
                state = LMDBState.open(
                    directory.state_path,
                    directory.identity,
                    map_bytes_max=config.state_store_bytes_max,
                )
            except BaseException:
                log.close()
                raise
        except BaseException:
            directory.close()
            raise
        return cls(directory, log, state)

    @property
    def identity(self) -> Identity:
        return self.directory.identity

    @property
    def members(self) -> Sequence[Member]:
        return self.directory.members

    def close(self) -> None:
        """The threads that use the stores have ended."""
        self.state.close()
        self.log.close()
        self.directory.close()
