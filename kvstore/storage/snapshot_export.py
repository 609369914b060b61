"""A consistent copy of the state, made while writes go on.

LMDB writes the pages of one moment to a file, compactly and in order; the progress is
read in the very transaction that is copied. The records in it are those of the state:
their checksums hold at every member (``Identity.state_owner``).
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from kvstore.state_machine.view import Progress
from kvstore.storage.environment import fsync_directory
from kvstore.storage.lmdb_state import LMDBState

SNAPSHOT_ID_BYTES = 16
SUFFIX = ".export"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One file."""

    path: Path
    snapshot_id: bytes
    """Drawn for these very bytes: two exports of one state may differ."""
    progress: Progress
    size_bytes: int


def export_state(state: LMDBState, directory: Path) -> Export:
    """Copy what was committed last to a new file in ``directory``. Any thread; blocks.

    Raises:
        CorruptionError: the state's structure is damaged. Nothing is left behind.
        OSError: the medium refused. Nothing is left behind.
    """
    directory.mkdir(exist_ok=True)
    snapshot_id = secrets.token_bytes(SNAPSHOT_ID_BYTES)
    path = directory / f"{snapshot_id.hex()}{SUFFIX}"
    try:
        with state.read_view() as view, path.open("wb") as file:
            view.copy(file.fileno())
            progress = view.progress
            size_bytes = os.fstat(file.fileno()).st_size
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    fsync_directory(directory)
    return Export(
        path=path, snapshot_id=snapshot_id, progress=progress, size_bytes=size_bytes
    )


def discard_exports(directory: Path) -> None:
    """Remove what a process that died had exported. Before anybody exports."""
    for path in directory.glob(f"*{SUFFIX}"):
        path.unlink(missing_ok=True)
