"""A temporary directory on a real disk.

Durability is what costs time in a store, and on tmpfs an fsync costs nothing: a figure
measured there says nothing. So the directory goes where there is a disk, and what is
measured names the filesystem.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvcluster.errors import ClusterError
from kvcluster.signals import uninterrupted

MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A directory, and what it stands on."""

    directory: Path
    filesystem: str
    """As in /proc/mounts: ext4, xfs, overlay..."""
    device: str


@contextlib.contextmanager
def scratch_directory(
    prefix: str, *, parent: Path | None = None, allow_memory: bool = False
) -> Iterator[Scratch]:
    """A new directory, deleted at the end, also if interrupted. Main thread only.

    ``parent`` decides where; otherwise the first that is on a disk of TMPDIR, /var/tmp
    and the current directory. Raises ClusterError if there is none, unless
    ``allow_memory``.
    """
    if parent is not None:
        candidates = [parent.absolute()]
    else:
        candidates = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]
    candidates = [path for path in candidates if os.access(path, os.W_OK)]
    on_disk = [p for p in candidates if filesystem_of(p)[0] not in MEMORY_FILESYSTEMS]
    chosen = on_disk or (candidates if allow_memory else [])
    if not chosen:
        looked = ", ".join(str(path) for path in candidates) or "no writable directory"
        raise ClusterError(
            f"found no directory on a disk (looked at {looked})",
            advice="Name one with --scratch; a memory filesystem does not count.",
        )
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=chosen[0]))
    try:
        filesystem, device = filesystem_of(directory)
        yield Scratch(directory=directory, filesystem=filesystem, device=device)
    finally:
        with uninterrupted():
            shutil.rmtree(directory, ignore_errors=True)


def filesystem_of(path: Path) -> tuple[str, str]:
    """Type and device of the filesystem that holds ``path``."""
    path = path.resolve()
    best = ("unknown", "unknown")
    best_length = -1
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, mount, kind, *_ = line.split(" ")
        # Blanks and the like are octal in this file: proc(5), fstab(5).
        mount = mount.encode().decode("unicode_escape")
        # >=: a later mount on the same point hides the earlier one.
        if path.is_relative_to(mount) and len(mount) >= best_length:
            best, best_length = (kind, device), len(mount)
    return best
