"""The file of ``kvstore snapshot save``: one state, whole or not at all.

::

    "kvstore snapshot" and a newline
    length u32 | JSON: what it is          | CRC-32C of the JSON
    length u32 | a block of at most 1 MiB  | CRC-32C of the block      (repeated)
    0 u32      | CRC-32C of all blocks together

All numbers are big-endian. The blocks together are an LMDB file as
``snapshot_export.py`` makes it, whose records have checksums of their own.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Self

from kvstore.errors import CorruptionError, DamagedSnapshot, NewerFormat
from kvstore.replica.interfaces import Identity
from kvstore.state_machine.digest import state_hash
from kvstore.storage.checksum import crc32c
from kvstore.storage.environment import DATA_FILE
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.record import FORMAT_VERSION
from kvstore.types import ClusterId, NodeId

MAGIC = b"kvstore snapshot\n"
BLOCK_BYTES = 1 << 20
_INFO_BYTES_MAX = 1 << 24
_U32 = Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """What a snapshot file is of."""

    cluster_id: str
    """In hexadecimal."""
    state_id: str
    """What the checksums of its records cover: a cluster's id, in hexadecimal."""
    epoch: int
    node_id: int
    """Who saved it."""
    index: int
    """Of the last entry applied."""
    term: int
    revision: int
    compact_revision: int
    configuration: str
    """The members then, as JSON."""
    size_bytes: int
    """Of the state."""
    format_version: int = FORMAT_VERSION

    @property
    def state_owner(self) -> Identity:
        """As whom to read the records."""
        origin = ClusterId(bytes.fromhex(self.state_id))
        return Identity(cluster_id=origin, node_id=NodeId(0))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises ``DamagedSnapshot``, or ``NewerFormat``."""
        try:
            facts = json.loads(data)
            if facts["format_version"] > FORMAT_VERSION:
                raise NewerFormat(
                    f"the snapshot has format {facts['format_version']}, this kvstore "
                    f"reads up to {FORMAT_VERSION}: use the version that saved it"
                )
            return cls(**facts)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedSnapshot("the snapshot's header says nothing known") from error


def frames(info: SnapshotInfo, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """The bytes of a snapshot file. ``read(offset, size)`` reads the exported state."""
    head = json.dumps(asdict(info)).encode()
    yield MAGIC + _framed(head)
    crc = 0
    for offset in range(0, info.size_bytes, BLOCK_BYTES):
        block = read(offset, min(BLOCK_BYTES, info.size_bytes - offset))
        crc = crc32c(block, crc)
        yield _framed(block)
    yield _U32.pack(0) + _U32.pack(crc)


def file_bytes(info: SnapshotInfo) -> int:
    """How many bytes :func:`frames` makes."""
    head = len(json.dumps(asdict(info)).encode())
    blocks = -(-info.size_bytes // BLOCK_BYTES)
    return len(MAGIC) + head + info.size_bytes + (blocks + 2) * 2 * _U32.size


def _framed(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data + _U32.pack(crc32c(data))


class SnapshotFile:
    """A snapshot file open for reading. Use as ``with SnapshotFile.open(path)``."""

    def __init__(self, file: BinaryIO, path: Path, info: SnapshotInfo) -> None:
        self._file = file
        self._path = path
        self.info = info

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open and check what the file says it is; not yet its content.

        Raises:
            DamagedSnapshot: it is not a snapshot, or damaged.
            NewerFormat: a newer kvstore saved it.
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise DamagedSnapshot(f"{path} is not a snapshot of kvstore")
            head = _read_frame(file, path, _INFO_BYTES_MAX)
            if head is None:
                raise DamagedSnapshot(f"{path} says nothing of what it is")
            yield cls(file, path, SnapshotInfo.decode(head))

    def blocks(self) -> Iterator[bytes]:
        """The state, block by block, each checked; at the end, all of it. Once.

        Raises:
            DamagedSnapshot: a block fails its checksum, or the file is cut short.
        """
        crc = size = 0
        while (block := _read_frame(self._file, self._path, BLOCK_BYTES)) is not None:
            crc = crc32c(block, crc)
            size += len(block)
            yield block
        trailer = self._file.read(_U32.size + 1)
        if trailer != _U32.pack(crc) or size != self.info.size_bytes:
            raise DamagedSnapshot(
                f"{self._path} is not whole: {size} of {self.info.size_bytes} bytes, "
                "or its last checksum fails"
            )

    def extract(self, directory: Path) -> None:
        """Write the state's LMDB file into an existing, empty directory; not synced."""
        with (directory / DATA_FILE).open("wb") as target:
            for block in self.blocks():
                target.write(block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What :func:`verify` found: a whole snapshot."""

    info: SnapshotInfo
    digest: str
    """Of the content, in hexadecimal: equal for equal states."""


def verify(path: Path) -> Verified:
    """Check everything that can be checked: blocks, structure, every record.

    Takes as much room beside the file as the state is large, for a while.

    Raises:
        DamagedSnapshot: it is not whole; the message says what is wrong.
        NewerFormat, OSError: as :meth:`SnapshotFile.open`.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        with SnapshotFile.open(path) as snapshot:
            snapshot.extract(scratch)
            return Verified(info=snapshot.info, digest=_digest(scratch, snapshot.info))
    except CorruptionError as error:
        raise DamagedSnapshot(f"{path}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _digest(directory: Path, info: SnapshotInfo) -> str:
    state = LMDBState.open(directory, info.state_owner)
    try:
        progress = state.progress
        found = (progress.index, progress.term, progress.revision)
        if found != (info.index, info.term, info.revision):
            raise DamagedSnapshot(
                f"the snapshot says index, term and revision {info.index}, "
                f"{info.term}, {info.revision}, and its state {found}"
            )
        # Reads every record, and each checks itself.
        return state_hash(state).hex()
    finally:
        state.close()


def _read_frame(file: BinaryIO, path: Path, bytes_max: int) -> bytes | None:
    """The next frame; None at the end mark."""
    head = file.read(_U32.size)
    if len(head) != _U32.size:
        raise DamagedSnapshot(f"{path} is cut short")
    (length,) = _U32.unpack(head)
    if not length:
        return None
    if length > bytes_max:
        raise DamagedSnapshot(f"{path} is damaged: a block of {length} bytes")
    data = file.read(length)
    crc = file.read(_U32.size)
    if len(data) != length or len(crc) != _U32.size:
        raise DamagedSnapshot(f"{path} is cut short")
    if _U32.pack(crc32c(data)) != crc:
        raise DamagedSnapshot(
            f"{path} is damaged: the block that ends at {file.tell()} fails its "
            "checksum"
        )
    return data
