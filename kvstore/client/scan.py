"""Where a scan stands: which page of a range is read next."""

from dataclasses import dataclass

from kvstore.client.results import RangeResult

SCAN_PAGE_PAIRS_MAX = 1_000
"""Enough that the round trip of a page costs little beside its pairs. A page is bounded
in bytes by the node's own limit."""


@dataclass(slots=True, kw_only=True)
class Scan:
    """The rest of a range. Every page after the first is of the first one's revision.

    Knows nothing of how pages are read, so that both faces of a client share it.
    """

    start: bytes
    end: bytes
    revision: int
    descending: bool
    more: bool = True
    """Whether there is a next page."""

    def advance(self, page: RangeResult) -> None:
        """``page`` was read from the rest."""
        self.more = page.more and bool(page.items)
        if not self.more:
            return
        if self.revision <= 0:
            self.revision = page.revision
        last = page.items[-1].key
        if self.descending:
            self.end = last
        else:
            self.start = last + b"\0"
