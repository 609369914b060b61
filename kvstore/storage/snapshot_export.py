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


def export_path(directory: Path) -> Path:
    """Where to export to: a file of its own, that :func:`discard_exports` finds."""
    return directory / f"{secrets.token_hex(SNAPSHOT_ID_BYTES)}{SUFFIX}"


def export_state(state: LMDBState, path: Path) -> Export:
    """Copy what was committed last to a new file. Any thread; blocks.

    Raises:
        CorruptionError: the state's structure is damaged.
        OSError: the medium refused. After either, what is at ``path`` is of no use.
    """
    path.parent.mkdir(exist_ok=True)
    with state.read_view() as view, path.open("wb") as file:
        view.copy(file.fileno())
        progress = view.progress
        size_bytes = os.fstat(file.fileno()).st_size
    return Export(
        path=path,
        snapshot_id=secrets.token_bytes(SNAPSHOT_ID_BYTES),
        progress=progress,
        size_bytes=size_bytes,
    )


def discard_exports(directory: Path) -> None:
    """Remove what a process that died had exported. Before anybody exports."""
    for path in directory.glob(f"*{SUFFIX}"):
        path.unlink(missing_ok=True)
