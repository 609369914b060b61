"""Where a scan stands: which page of a range is read next."""

from dataclasses import dataclass

from kvstore.client.consistency import LINEARIZABLE, ReadLevel

SCAN_PAGE_PAIRS_MAX = 1_000
"""Enough that the round trip of a page costs little beside its pairs. A page is bounded
in bytes by the node's own limit."""


@dataclass(slots=True, kw_only=True)
class Scan:
    """The rest of a range. Every page after the first is of the first one's revision.

    Knows nothing of how pages are read, so that both faces of a client and the command
    share it.
    """

    start: bytes
    end: bytes
    revision: int
    descending: bool
    level: ReadLevel = LINEARIZABLE
    """At which the next page is read."""
    more: bool = True
    """Whether there is a next page."""

    def advance(self, *, last: bytes | None, more: bool, revision: int) -> None:
        """A page was read from the rest: its last key (None if it is empty), whether
        the node has more, and the page's revision.
        """
        if last is None or not more:
            self.more = False
            return
        if self.revision <= 0:
            self.revision = revision
        self.level = self.level.of_later_pages
        if self.descending:
            self.end = last
        else:
            self.start = last + b"\0"
