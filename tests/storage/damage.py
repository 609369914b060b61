"""Means to damage a store: bits in its file, and records behind its back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kvstore.storage.environment import DATA_FILE, Environment


class Place(NamedTuple):
    """Where a record is stored."""

    database: str
    key: bytes


def get(environment: Environment, place: Place) -> bytes:
    """The record, as committed."""
    with environment.read() as txn:
        record = txn.get(place.key, db=environment.database(place.database))
    assert record is not None, place
    return record


def change(environment: Environment, place: Place, record: bytes | None) -> None:
    """Write as a lost or stray write would; None deletes."""
    database = environment.database(place.database)
    environment.write(
        lambda txn: (
            txn.delete(place.key, db=database)
            if record is None
            else txn.put(place.key, record, db=database)
        )
    )


def positions(data: bytes, wanted: bytes) -> Iterator[int]:
    """Each position at which ``wanted`` stands in ``data``."""
    at = data.find(wanted)
    while at >= 0:
        yield at
        at = data.find(wanted, at + 1)


class OnDisk:
    """Bytes in the file of an environment, in every place that holds them.

    For pages that LMDB has freed keep copies. The file is changed as it is, so that an
    environment which has it mapped sees the change too.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self._file = path / DATA_FILE
        self.content = content
        self._positions = list(positions(self._file.read_bytes(), content))
        assert self._positions, "the bytes to damage are not in the file"

    @contextmanager
    def flipped(self, byte: int, bit: int) -> Iterator[None]:
        """Flip a bit, and mend it in the end."""
        self._write(byte, self.content[byte] ^ 1 << bit)
        yield
        self._write(byte, self.content[byte])

    def flip(self, byte: int = -1, bit: int = 0) -> None:
        """Flip a bit for good."""
        self._write(byte % len(self.content), self.content[byte] ^ 1 << bit)

    def _write(self, byte: int, value: int) -> None:
        with self._file.open("r+b") as file:
            for position in self._positions:
                file.seek(position + byte)
                file.write(bytes([value]))


def flip_on_disk(path: Path, wanted: bytes) -> None:
    """Flip the last bit of these bytes in the environment at ``path``."""
    OnDisk(path, wanted).flip()
