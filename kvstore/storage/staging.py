"""A snapshot on its way into a data directory: staged beside, then put in place.

::

    DIR/incoming/<snapshot id>/data.mdb   as far as it has arrived

What is there survives breaks of the connection; the next attempt goes on behind it. (A
node that starts throws it away: a power cut may have left holes.) Once it is whole, the
log notes that it is being installed, and from then on it *is* the state:
:func:`put_in_place` renames it over ``state/data.mdb``, and can be repeated until the
note is gone.
"""

import os
import shutil
from pathlib import Path

from kvstore.errors import CorruptionError, DamagedSnapshot
from kvstore.raft.messages import EntryId
from kvstore.replica.interfaces import Identity
from kvstore.storage.environment import DATA_FILE, LOCK_FILE, fsync_directory
from kvstore.storage.lmdb_state import LMDBState


class StagedState:
    """One snapshot as far as it has arrived. One thread at a time; all of it blocks."""

    def __init__(
        self,
        incoming: Path,
        identity: Identity,
        *,
        snapshot_id: bytes,
        last: EntryId,
        size_bytes: int,
    ) -> None:
        """Take up what is there of it; other snapshots are thrown away.

        Raises:
            OSError: the medium refused.
        """
        self._identity = identity
        self._last = last
        self._size_bytes = size_bytes
        self.directory = staged_path(incoming, snapshot_id)
        discard_others(incoming, self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._path = self.directory / DATA_FILE
        self._path.touch()
        self.offset = self._path.stat().st_size
        """Bytes that are there, from the first on."""
        if self.offset > size_bytes:
            os.truncate(self._path, 0)
            self.offset = 0

    def write(self, data: bytes, offset: int) -> None:
        """Add ``data`` at ``offset``, which is where it ends.

        Raises:
            OSError: the medium refused.
        """
        assert offset == self.offset, "a snapshot arrives in order"
        # Opened for each chunk: whoever receives may be gone at any moment, and a file
        # that stays open keeps its room after it was thrown away.
        with self._path.open("r+b", buffering=0) as file:
            file.seek(offset)
            view = memoryview(data)
            while view:
                written = file.write(view)
                self.offset += written
                view = view[written:]

    def finish(self) -> None:
        """All is there: make it durable, and check that it is what it should be.

        Every page of the tree is walked; each record has its checksum and is checked
        when it is read, and by the scrubber before long.

        Raises:
            DamagedSnapshot: it is not whole, and was thrown away.
            OSError: the medium refused.
        """
        try:
            with self._path.open("r+b") as file:
                os.fsync(file.fileno())
            fsync_directory(self.directory)
        except OSError:
            # A later sync that succeeds proves nothing about what this one lost.
            self.discard()
            raise
        try:
            self._check_whole()
        except CorruptionError as error:
            self.discard()
            raise DamagedSnapshot(f"a snapshot is damaged: {error}") from error
        except DamagedSnapshot:
            self.discard()
            raise

    def _check_whole(self) -> None:
        if self.offset != self._size_bytes:
            raise DamagedSnapshot(
                f"a snapshot ends at {self.offset} of {self._size_bytes} bytes"
            )
        state = LMDBState.open(self.directory, self._identity)
        progress = state.progress
        state.close()
        (self.directory / LOCK_FILE).unlink(missing_ok=True)
        if (progress.term, progress.index) != (self._last.term, self._last.index):
            raise DamagedSnapshot(
                f"a snapshot has applied entry {progress.index} of term "
                f"{progress.term}, and should have {self._last}"
            )

    def discard(self) -> None:
        """Throw it away."""
        shutil.rmtree(self.directory, ignore_errors=True)


def staged_path(incoming: Path, snapshot_id: bytes) -> Path:
    """Where a snapshot is staged."""
    return incoming / snapshot_id.hex()


def discard_others(incoming: Path, kept: Path | None) -> None:
    """Throw away every staged snapshot but ``kept``."""
    if incoming.is_dir():
        for path in incoming.iterdir():
            if path != kept:
                shutil.rmtree(path, ignore_errors=True)


def put_in_place(staged: Path, state_path: Path) -> None:
    """Make the staged state the state. Nobody has either open. Twice is fine.

    Raises:
        OSError: the medium refused; repeat it.
    """
    data = staged / DATA_FILE
    if data.exists():
        # First: the lock file describes the readers of the file that is going.
        (state_path / LOCK_FILE).unlink(missing_ok=True)
        data.rename(state_path / DATA_FILE)
    # Also the second time: who renamed it may have died before this.
    fsync_directory(state_path)
    shutil.rmtree(staged, ignore_errors=True)
