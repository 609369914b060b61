"""The arithmetic of majorities: pure functions, nothing remembered."""

from collections.abc import Collection, Mapping, Sequence
from enum import Enum

from kvstore.types import LogIndex, NodeId


class VoteResult(Enum):
    """Where a campaign stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """The smallest number of ``voters`` of which any two sets intersect."""
    return voters // 2 + 1


def committed_index(matches: Sequence[LogIndex]) -> LogIndex:
    """The largest index that a majority of ``matches``, one a voter, has reached.

    O(n log n) in the number of voters.
    """
    ordered = sorted(matches)
    return ordered[len(ordered) - majority(len(ordered))]


def vote_result(voters: Collection[NodeId], votes: Mapping[NodeId, bool]) -> VoteResult:
    """Count one vote a voter; a voter absent from ``votes`` has not answered."""
    granted = refused = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is not None:
            granted += vote
            refused += not vote
    needed = majority(len(voters))
    if granted >= needed:
        return VoteResult.WON
    if len(voters) - refused < needed:
        return VoteResult.LOST
    return VoteResult.PENDING
