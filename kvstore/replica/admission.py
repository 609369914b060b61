"""Whether a member that speaks to us is who our configurations say it is."""

from enum import Enum

from kvstore.raft.membership import Configuration
from kvstore.types import UNKNOWN_INCARNATION, Incarnation, NodeId


class Standing(Enum):
    """What a member is to us."""

    ADMITTED = "admitted"
    """Also one that no configuration here knows: it may be newer than what we have
    heard, and a node that joins knows nobody at all."""
    REMOVED = "removed"
    """It was a member once. For good: its id is spent."""
    REPLACED = "replaced"
    """Its id belongs to another data directory. For good, too."""
    DOUBTED = "doubted"
    """The same, but only by a configuration that is not committed here."""


def standing(
    settled: Configuration,
    latest: Configuration,
    sender: NodeId,
    incarnation: Incarnation,
) -> Standing:
    """Judge a sender, and the data directory that it speaks from.

    ``settled`` is the last configuration that is known to be committed here: only that
    may send anybody away for good, for another may yet be taken back. ``latest`` is the
    last in the log. Votes and acknowledgements are counted by it, so a member that lost
    its disk must not be heard as the one that it names either: a node that restarts
    with no state knows nothing to be committed.
    """
    if sender in settled.removed:
        return Standing.REMOVED
    if not _is_known_as(settled, sender, incarnation):
        return Standing.REPLACED
    if not _is_known_as(latest, sender, incarnation):
        return Standing.DOUBTED
    return Standing.ADMITTED


def _is_known_as(
    configuration: Configuration, sender: NodeId, incarnation: Incarnation
) -> bool:
    known = configuration.members.get(sender)
    return known is None or known.incarnation in (UNKNOWN_INCARNATION, incarnation)
