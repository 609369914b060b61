"""The abstract log of a node, brought up to date entry by entry."""

from __future__ import annotations

from kvstore.raft.messages import Entry, EntryId, EntryKind
from kvstore.simulation.specification.rules import Members
from kvstore.simulation.specification.state import Ledger, Life, require
from kvstore.types import LogIndex

EVERYTHING = 1 << 62
"""More bytes than any log has."""


def fetch(life: Life, first: LogIndex) -> list[Entry]:
    """Entries of the node's log from ``first`` on."""
    log = life.node.log
    end = LogIndex(log.last_index + 1)
    found: list[Entry] = []
    while first < end:
        found += log.entries(first, end, EVERYTHING)
        first = LogIndex(found[-1].index + 1)
    return found


def take(life: Life, ledger: Ledger, entry: Entry, action: str) -> None:
    """Append an entry that the node's log holds now."""
    log = life.log
    previous = log.last
    require(
        entry.index == previous.index + 1 and entry.term >= previous.term,
        *(action, "a log has no gaps, and its terms never fall", life.node_id, entry),
    )
    ledger.entered(entry, previous.term, action)
    assert isinstance(log.terms, list)
    log.terms.append(entry.term)
    if entry.kind is EntryKind.CONFIGURATION:
        life.members.append((entry.index, Members.parse(entry.data)))


def truncate(life: Life, keep: LogIndex) -> None:
    """Forget what is behind ``keep``; a write under way may still bring it."""
    log = life.log
    for index in range(keep + 1, log.last_index + 1):
        life.replaced.add(EntryId(log.term(index), LogIndex(index)))
    assert isinstance(log.terms, list)
    del log.terms[keep - log.base.index :]
    while len(life.members) > 1 and life.members[-1][0] > keep:
        life.members.pop()
