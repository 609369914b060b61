"""State machines as a simulation has them: cheap to compare after every entry."""

from __future__ import annotations

import zlib
from typing import Self

from kvstore.state_machine.view import Head, Version, VersionId
from kvstore.storage.memory_state import MemoryState


class WatchedState(MemoryState):
    """A state whose every change moves a digest.

    Two that made the same changes have the same digest. It costs what changed, not what
    is held, so it can be compared at every index (I12); what changes outside of records
    (sessions) is for ``state_hash`` to compare, now and then.
    """

    __slots__ = ("digest",)

    def __init__(self) -> None:
        super().__init__()
        self.digest = 0

    def clone(self) -> Self:
        copy = super().clone()
        copy.digest = self.digest
        return copy

    def put_head(self, key: bytes, head: Head) -> None:
        super().put_head(key, head)
        what = b"h%d %d %d %b" % (*head.at, head.version, key)
        self.digest = zlib.crc32(what, self.digest)

    def delete_head(self, key: bytes) -> None:
        super().delete_head(key)
        self.digest = zlib.crc32(b"d" + key, self.digest)

    def append_version(self, at: VersionId, version: Version) -> None:
        super().append_version(at, version)
        what = b"v%d %d %d %b %b" % (*at, version.version, version.key, version.value)
        self.digest = zlib.crc32(what, self.digest)

    def delete_version(self, at: VersionId) -> None:
        super().delete_version(at)
        self.digest = zlib.crc32(b"x%d %d" % at, self.digest)
