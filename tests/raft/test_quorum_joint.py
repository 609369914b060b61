"""Majorities of joint configurations: tables after etcd's, and dumb twins (section 6).

etcd's ``quorum/testdata/joint_commit.txt`` and ``joint_vote.txt``. Its cases without
any voter are left out: no configuration of ours is without one where it decides.
"""

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.raft.quorum import (
    VoteResult,
    committed_index,
    has_quorum,
    joint_committed_index,
    joint_vote_result,
    vote_result,
)
from kvstore.types import LogIndex, NodeId

PENDING, WON, LOST = VoteResult.PENDING, VoteResult.WON, VoteResult.LOST
VOTES = {"y": True, "n": False}

Half = Sequence[int]


def nodes(half: Half) -> tuple[NodeId, ...]:
    return tuple(NodeId(node) for node in half)


def in_order(*halves: Half) -> list[NodeId]:
    """The voters of all halves, ascending, as the tables list what each has."""
    return sorted({NodeId(node) for half in halves for node in half})


@pytest.mark.parametrize(
    ("new", "old", "reached", "committed"),
    [
        ((1, 2, 3), (), (100, 101, 99), 100),
        ((1,), (2,), (None, None), 0),
        ((1,), (2,), (100, None), 0),
        ((1,), (2,), (13, 100), 13),
        ((1,), (1,), (None,), 0),
        ((1,), (1,), (100,), 100),
        ((1, 3), (2,), (None, None, None), 0),
        ((1, 3), (2,), (100, None, None), 0),
        ((1, 3), (2,), (100, None, 50), 0),
        ((1, 3), (2,), (100, 45, 50), 45),
        ((1, 2), (2,), (None, None), 0),
        ((1, 2), (2,), (100, None), 0),
        ((1, 2), (2,), (None, 100), 0),
        ((1, 2), (2,), (50, 100), 50),
        ((1, 2), (2,), (100, 50), 50),
        ((1, 2), (3, 4), (50, None, None, None), 0),
        ((1, 2), (3, 4), (50, None, 49, None), 0),
        ((1, 2), (3, 4), (50, 48, 49, None), 0),
        ((1, 2), (3, 4), (50, 48, 49, 47), 47),
        ((1, 2), (2, 3), (None, None, None), 0),
        ((1, 2), (2, 3), (100, None, None), 0),
        ((1, 2), (2, 3), (None, 100, None), 0),
        ((1, 2), (2, 3), (None, 100, 99), 0),
        ((1, 2), (2, 3), (101, 100, 99), 99),
        ((1, 2), (1, 2), (None, None), 0),
        ((1, 2), (1, 2), (None, 40), 0),
        ((1, 2), (1, 2), (41, 40), 40),
        ((1, 2, 3), (4, 5, 6), (None,) * 6, 0),
        ((1, 2, 3), (4, 5, 6), (100, None, None, None, None, None), 0),
        ((1, 2, 3), (4, 5, 6), (100, None, None, 90, None, None), 0),
        ((1, 2, 3), (4, 5, 6), (100, 99, None, None, None, None), 0),
        ((1, 2, 3), (4, 5, 6), (None, 99, 90, 97, 95, None), 90),
        ((1, 2, 3), (4, 5, 6), (92, 99, 90, 97, 95, None), 92),
        ((1, 2, 3), (4, 5, 6), (92, 99, 90, 97, 95, 77), 92),
        ((1, 2, 3), (1, 4, 5), (None,) * 5, 0),
        ((1, 2, 3), (1, 4, 5), (100, None, None, None, None), 0),
        ((1, 2, 3), (1, 4, 5), (100, 101, None, None, None), 0),
        ((1, 2, 3), (1, 4, 5), (100, 101, 100, None, None), 0),
        ((1, 2, 3), (1, 4, 5), (None, 100, None, 99, 98), 0),
        ((1, 2, 3), (1, 4, 5), (None, 100, 99, 99, 98), 98),
        ((1, 2, 3), (1, 4, 5), (1, 100, 99, 99, 98), 98),
        ((1, 2, 3), (1, 4, 5), (100, 100, 99, 99, 98), 99),
        ((1, 2, 3), (2, 3, 4), (None,) * 4, 0),
        ((1, 2, 3), (2, 3, 4), (None, 100, 99, None), 99),
        ((1, 2, 3), (2, 3, 4), (98, 100, 99, None), 99),
        ((1, 2, 3), (2, 3, 4), (100, 100, 99, None), 99),
        ((1, 2, 3), (2, 3, 4), (100, 100, 99, 98), 99),
        ((1, 2, 3), (2, 3, 4), (100, None, None, 101), 0),
        ((1, 2, 3), (2, 3, 4), (100, 99, None, 101), 99),
        ((1, 2, 3), (1, 2, 3), (50, 45, None), 45),
    ],
)
def test_a_joint_configuration_commits_what_both_halves_hold(
    new: Half, old: Half, reached: Sequence[int | None], committed: int
) -> None:
    """Also what neither half alone would show: mutant M39 counts the new one only."""
    matches = {
        voter: LogIndex(index)
        for voter, index in zip(in_order(new, old), reached, strict=True)
        if index is not None
    }
    halves = [nodes(half) for half in (new, old) if half]
    assert joint_committed_index(halves, matches) == committed
    assert joint_committed_index(halves[::-1], matches) == committed


@pytest.mark.parametrize(
    ("new", "old", "votes", "result"),
    [
        ((1,), (), "_", PENDING),
        ((1,), (), "y", WON),
        ((1,), (), "n", LOST),
        ((1,), (1,), "_", PENDING),
        ((1,), (1,), "y", WON),
        ((1,), (1,), "n", LOST),
        ((1,), (2,), "__", PENDING),
        ((1,), (2,), "y_", PENDING),
        ((1,), (2,), "yy", WON),
        ((1,), (2,), "yn", LOST),
        ((1,), (2,), "n_", LOST),
        ((1,), (2,), "nn", LOST),
        ((1,), (2,), "ny", LOST),
        ((1, 2), (3, 4), "____", PENDING),
        ((1, 2), (3, 4), "y___", PENDING),
        ((1, 2), (3, 4), "yy__", PENDING),
        ((1, 2), (3, 4), "yyn_", LOST),
        ((1, 2), (3, 4), "yynn", LOST),
        ((1, 2), (3, 4), "yyyn", LOST),
        ((1, 2), (3, 4), "yyyy", WON),
        ((1, 2), (2, 3), "___", PENDING),
        ((1, 2), (2, 3), "_n_", LOST),
        ((1, 2), (2, 3), "yy_", PENDING),
        ((1, 2), (2, 3), "yyn", LOST),
        ((1, 2), (2, 3), "yyy", WON),
        ((1, 2), (1, 2), "__", PENDING),
        ((1, 2), (1, 2), "y_", PENDING),
        ((1, 2), (1, 2), "yn", LOST),
        ((1, 2), (1, 2), "n_", LOST),
        ((1, 2), (1, 2), "nn", LOST),
        ((1, 2, 3), (2, 3, 4), "____", PENDING),
        ((1, 2, 3), (2, 3, 4), "_n__", PENDING),
        ((1, 2, 3), (2, 3, 4), "_nn_", LOST),
        ((1, 2, 3), (2, 3, 4), "_yy_", WON),
        ((1, 2, 3), (2, 3, 4), "yy__", PENDING),
        ((1, 2, 3), (2, 3, 4), "yyn_", PENDING),
        ((1, 2, 3), (2, 3, 4), "yynn", LOST),
        ((1, 2, 3), (2, 3, 4), "yyny", WON),
    ],
)
def test_a_joint_election_is_won_in_both_halves_and_lost_in_either(
    new: Half, old: Half, votes: str, result: VoteResult
) -> None:
    cast = {
        voter: VOTES[vote]
        for voter, vote in zip(in_order(new, old), votes, strict=True)
        if vote != "_"
    }
    halves = [nodes(half) for half in (new, old) if half]
    assert joint_vote_result(halves, cast) is result
    assert joint_vote_result(halves[::-1], cast) is result


HALF = st.sets(st.integers(1, 5).map(NodeId), min_size=1, max_size=5)


@given(
    st.lists(HALF, min_size=1, max_size=2),
    st.dictionaries(st.integers(1, 7).map(NodeId), st.integers(0, 9).map(LogIndex)),
)
def test_a_joint_commit_is_what_trying_every_index_finds(
    halves: Sequence[set[NodeId]], matches: Mapping[NodeId, LogIndex]
) -> None:
    """The dumb twin counts, for every index and half, who has reached it."""
    reached = [
        index
        for index in range(10)
        if all(
            2 * sum(matches.get(voter, 0) >= index for voter in half) > len(half)
            for half in halves
        )
    ]
    assert joint_committed_index(halves, matches) == max(reached)


@given(
    st.lists(HALF, min_size=1, max_size=2),
    st.dictionaries(st.integers(1, 7).map(NodeId), st.booleans()),
)
def test_a_joint_result_is_final_if_no_further_vote_can_change_it(
    halves: Sequence[set[NodeId]], votes: Mapping[NodeId, bool]
) -> None:
    """The dumb twin tries every way the missing votes can fall."""
    everybody = sorted(set[NodeId]().union(*halves))
    missing = [voter for voter in everybody if voter not in votes]

    def wins(final: Mapping[NodeId, bool]) -> bool:
        return all(
            2 * sum(final.get(voter, False) for voter in half) > len(half)
            for half in halves
        )

    outcomes = {
        wins({**votes, **dict(zip(missing, rest, strict=True))})
        for rest in itertools.product([False, True], repeat=len(missing))
    }
    result = joint_vote_result(halves, votes)
    assert (result is WON) == wins(votes)
    assert (result is LOST) == (outcomes == {False})


@given(st.lists(HALF, min_size=1, max_size=2), st.sets(st.integers(1, 7).map(NodeId)))
def test_a_quorum_is_a_set_whose_votes_alone_would_win(
    halves: Sequence[set[NodeId]], group: set[NodeId]
) -> None:
    votes = dict.fromkeys(group, True)
    assert has_quorum(halves, group) == (joint_vote_result(halves, votes) is WON)


@given(HALF, st.lists(HALF, min_size=1, max_size=2))
def test_quorums_before_in_and_after_a_change_share_a_voter(
    half: set[NodeId], halves: Sequence[set[NodeId]]
) -> None:
    """What makes a joint change safe: its quorums meet those of either half alone."""
    joint = [half, *halves[:1]]
    everybody = sorted(set[NodeId]().union(*joint))
    groups = [
        set(group)
        for size in range(1, len(everybody) + 1)
        for group in itertools.combinations(everybody, size)
    ]
    of_joint = [group for group in groups if has_quorum(joint, group)]
    for alone in joint:
        of_half = [group for group in groups if has_quorum([alone], group)]
        assert all(a & b for a, b in itertools.product(of_joint, of_half))


@given(HALF, st.dictionaries(st.integers(1, 7).map(NodeId), st.booleans()))
def test_one_half_counts_as_it_would_alone(
    half: set[NodeId], votes: Mapping[NodeId, bool]
) -> None:
    matches = {voter: LogIndex(int(vote)) for voter, vote in votes.items()}
    alone = [matches.get(voter, LogIndex(0)) for voter in half]
    assert joint_vote_result([half], votes) is vote_result(half, votes)
    assert joint_vote_result([half, half], votes) is vote_result(half, votes)
    assert joint_committed_index([half, half], matches) == committed_index(alone)
