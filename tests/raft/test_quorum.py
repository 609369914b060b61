"""Majority arithmetic: tables after etcd's ``quorum/testdata``, and a dumb twin."""

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.raft.quorum import VoteResult, committed_index, majority, vote_result
from kvstore.types import LogIndex, NodeId

PENDING, WON, LOST = VoteResult.PENDING, VoteResult.WON, VoteResult.LOST


@pytest.mark.parametrize(
    ("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)]
)
def test_a_majority_is_more_than_half(voters: int, needed: int) -> None:
    """Half of an even number is not enough (mutant M07)."""
    assert majority(voters) == needed


@pytest.mark.parametrize("voters", range(1, 8))
def test_any_two_majorities_share_a_voter(voters: int) -> None:
    """What all of Raft rests on, by trying every pair."""
    majorities = list(itertools.combinations(range(voters), majority(voters)))
    for a, b in itertools.product(majorities, repeat=2):
        assert set(a) & set(b)


@pytest.mark.parametrize(
    ("matches", "committed"),
    [
        ([12], 12),
        ([5, 12], 5),
        ([12, 12], 12),
        ([0, 5, 6], 5),
        ([5, 5, 0], 5),
        ([0, 0, 12], 0),
        ([100, 101, 103], 101),
        ([101, 101, 99], 101),
        ([0, 10, 20, 30], 10),
        ([101, 104, 103, 103], 103),
        ([101, 102, 103, 103, 104], 103),
        ([99, 99, 101, 102, 103], 101),
    ],
)
def test_a_majority_commits(matches: Sequence[int], committed: int) -> None:
    """``quorum/testdata/majority_commit.txt``."""
    assert committed_index([LogIndex(match) for match in matches]) == committed


@given(st.lists(st.integers(0, 12), min_size=1, max_size=9))
def test_the_committed_index_is_what_trying_every_index_finds(
    matches: list[int],
) -> None:
    """The dumb twin counts, for every index, who has reached it."""
    reached = [
        index
        for index in range(13)
        if sum(match >= index for match in matches) * 2 > len(matches)
    ]
    assert committed_index([LogIndex(match) for match in matches]) == max(reached)


@pytest.mark.parametrize(
    ("votes", "result"),
    [
        ([None], PENDING),
        ([True], WON),
        ([False], LOST),
        ([True, None], PENDING),
        ([False, None], LOST),
        ([True, True], WON),
        ([None, None, None], PENDING),
        ([True, None, None], PENDING),
        ([False, None, None], PENDING),
        ([True, False, None], PENDING),
        ([False, False, None], LOST),
        ([True, True, None], WON),
        ([True, False, False], LOST),
        ([True, True, False, None], PENDING),
        ([True, True, False, False], LOST),
        ([True, True, True, None], WON),
        ([True, True, False, False, None], PENDING),
        ([True, True, True, None, None], WON),
    ],
)
def test_votes_are_counted(votes: Sequence[bool | None], result: VoteResult) -> None:
    """``quorum/testdata/majority_vote.txt``."""
    voters = [NodeId(node_id) for node_id in range(1, len(votes) + 1)]
    cast = {
        voter: vote
        for voter, vote in zip(voters, votes, strict=True)
        if vote is not None
    }
    assert vote_result(voters, cast) is result


@given(
    st.integers(1, 7),
    st.dictionaries(st.integers(1, 9).map(NodeId), st.booleans(), max_size=9),
)
def test_a_result_is_final_if_no_further_vote_can_change_it(
    size: int, votes: Mapping[NodeId, bool]
) -> None:
    """The dumb twin tries every way the missing votes can fall. Strangers' do not
    count."""
    voters = [NodeId(node_id) for node_id in range(1, size + 1)]
    missing = [voter for voter in voters if voter not in votes]
    outcomes = set()
    for rest in itertools.product([False, True], repeat=len(missing)):
        final = dict(votes) | dict(zip(missing, rest, strict=True))
        outcomes.add(sum(final[voter] for voter in voters) * 2 > size)
    granted = sum(votes.get(voter, False) for voter in voters)
    expected = LOST if outcomes == {False} else PENDING
    if granted * 2 > size:
        expected = WON
    assert vote_result(voters, votes) is expected
