"""A state in memory, for tests and for teaching: the same contract, no disk."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Self

from kvstore.state_machine.sessions import SessionTable
from kvstore.state_machine.view import (
    EMPTY_PROGRESS,
    Head,
    Progress,
    StateView,
    Version,
    VersionId,
)


class MemoryState:
    """A ``StateView`` of dictionaries. Not durable; one thread."""

    __slots__ = (
        "_head_keys",
        "_heads",
        "_version_ids",
        "_versions",
        "progress",
        "sessions",
    )

    def __init__(self) -> None:
        self.progress: Progress = EMPTY_PROGRESS
        self.sessions = SessionTable()
        self._heads: dict[bytes, Head] = {}
        self._head_keys: list[bytes] = []
        self._versions: dict[VersionId, Version] = {}
        self._version_ids: list[VersionId] = []

    def clone(self) -> Self:
        """An independent copy. Records are shared: nobody changes one. O(records)."""
        copy = type(self)()
        copy._heads.update(self._heads)  # noqa: SLF001 - of its own class
        copy._head_keys += self._head_keys  # noqa: SLF001
        copy._versions.update(self._versions)  # noqa: SLF001
        copy._version_ids += self._version_ids  # noqa: SLF001
        copy.progress = self.progress
        copy.sessions = self.sessions.clone()
        return copy

    def head(self, key: bytes) -> Head | None:
        return self._heads.get(key)

    def heads(
        self, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, Head]]:
        keys = self._head_keys
        behind = len(keys) if end is None else bisect_left(keys, end)
        numbers = range(bisect_left(keys, start), behind)
        for number in reversed(numbers) if reverse else numbers:
            yield keys[number], self._heads[keys[number]]

    def put_head(self, key: bytes, head: Head) -> None:
        if key not in self._heads:
            insort(self._head_keys, key)
        self._heads[key] = head

    def delete_head(self, key: bytes) -> None:
        if self._heads.pop(key, None) is not None:
            del self._head_keys[bisect_left(self._head_keys, key)]

    def version(self, at: VersionId) -> Version | None:
        return self._versions.get(at)

    def versions(self, start: VersionId) -> Iterator[tuple[VersionId, Version]]:
        ids = self._version_ids
        for number in range(bisect_left(ids, start), len(ids)):
            yield ids[number], self._versions[ids[number]]

    def append_version(self, at: VersionId, version: Version) -> None:
        assert not self._version_ids or at > self._version_ids[-1], at
        self._version_ids.append(at)
        self._versions[at] = version

    def delete_version(self, at: VersionId) -> None:
        if self._versions.pop(at, None) is not None:
            del self._version_ids[bisect_left(self._version_ids, at)]


def _satisfies(state: MemoryState) -> StateView:
    """For the type checker alone."""
    return state
