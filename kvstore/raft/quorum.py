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


Halves = Sequence[Collection[NodeId]]
"""The sets of voters of which each needs a majority: one, or two while joint."""


def joint_committed_index(
    halves: Halves, matches: Mapping[NodeId, LogIndex]
) -> LogIndex:
    """The largest index that a majority of each half has reached.

    A voter absent from ``matches`` holds nothing.
    """
    nothing = LogIndex(0)
    return min(
        [
            committed_index([matches.get(voter, nothing) for voter in half])
            for half in halves
        ]
    )


def joint_vote_result(halves: Halves, votes: Mapping[NodeId, bool]) -> VoteResult:
    """Won if every half is won, lost if one is; section 6."""
    results = {vote_result(half, votes) for half in halves}
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON


def has_quorum(halves: Halves, nodes: Collection[NodeId]) -> bool:
    """Whether ``nodes`` hold a majority of every half."""
    return all(
        sum([voter in nodes for voter in half]) >= majority(len(half))
        for half in halves
    )
