"""The guards, each by itself, and beside the core's own arithmetic.

They are written twice on purpose. That both say the same is tested here; which of them
is right, is a matter of the search.
"""

import itertools
import random

import pytest

from kvstore.errors import MembershipRefused
from kvstore.raft.membership import (
    AddLearner,
    Change,
    Configuration,
    Demote,
    Promote,
    Remove,
    SetLeases,
)
from kvstore.raft.quorum import has_quorum
from kvstore.simulation.specification import rules
from kvstore.simulation.specification.rules import Log, Members
from kvstore.types import NodeId, Term
from tests.raft.pieces import entry_id, founded, info

NODES = [NodeId(number) for number in range(1, 6)]
SETS = [nodes for size in range(1, 6) for nodes in itertools.combinations(NODES, size)]


def terms(*numbers: int) -> list[Term]:
    return [Term(number) for number in numbers]


def test_quorums_are_those_of_the_core() -> None:
    """Of every two halves among five nodes, and all who may agree."""
    for voters, outgoing in itertools.product(SETS, [(), *SETS]):
        halves = (voters, outgoing) if outgoing else (voters,)
        for agree in SETS:
            assert rules.is_quorum(halves, agree) == has_quorum(halves, agree)


def test_any_two_quorums_share_a_voter() -> None:
    for voters in SETS:
        quorums = [it for it in SETS if rules.is_quorum((voters,), it)]
        for a, b in itertools.combinations(quorums, 2):
            assert {*a} & {*b} & {*voters}


def draw_changes(chance: random.Random, before: Configuration) -> list[Change]:
    node_id = chance.choice([*NODES, NodeId(6), NodeId(7)])
    kinds: list[Change] = [
        AddLearner(node_id, info(node_id)),
        Promote(node_id),
        Demote(node_id),
        Remove(node_id),
        SetLeases(not before.leases),
    ]
    return chance.sample(kinds, chance.choice([1, 1, 2]))


def test_members_change_as_in_the_core_and_in_no_other_way() -> None:
    """Each joint configuration may follow, and only what it leads to may follow it."""
    chance = random.Random(1)
    before, changed = founded([1, 2, 3]), 0
    for _ in range(2_000):
        try:
            joint = before.enter_joint(draw_changes(chance, before))
        except MembershipRefused:
            continue
        after = joint.leave_joint()
        known = [Members.parse(it.encode()) for it in (before, joint, after)]
        assert rules.may_succeed(known[0], known[1])
        assert rules.may_succeed(known[1], known[2])
        assert not rules.may_succeed(known[1], known[1])
        if known[0] != known[2]:
            changed += 1
            assert not rules.may_succeed(known[0], known[2])
            assert not rules.may_succeed(known[1], known[0])
        before = after if len(after.voters) > 1 else founded([1, 2, 3])
    assert changed > 200


def test_to_know_a_member_better_changes_no_voter() -> None:
    before = founded([1, 2, 3])
    known = before.with_info(NodeId(2), info(9))
    assert rules.may_succeed(
        Members.parse(before.encode()), Members.parse(known.encode())
    )


@pytest.mark.parametrize(
    ("candidate", "own", "expected"),
    [
        ((2, 1), (1, 9), True),
        ((1, 9), (2, 1), False),
        ((2, 3), (2, 3), True),
        ((2, 2), (2, 3), False),
    ],
)
def test_a_later_term_is_newer_and_then_the_longer_log(
    candidate: tuple[int, int], own: tuple[int, int], expected: bool
) -> None:
    assert rules.is_up_to_date(entry_id(*candidate), entry_id(*own)) is expected


@pytest.mark.parametrize(
    ("log", "previous", "sent", "expected"),
    [
        (terms(1, 1), (1, 2), terms(1, 1), 0),
        (terms(1, 1), (0, 0), terms(1, 1), 2),
        (terms(1, 1, 1), (0, 0), terms(1), 1),
        (terms(1, 1, 1), (1, 1), terms(1, 2), 1),
        (terms(1, 1), (2, 2), terms(2), None),
        (terms(1, 1), (1, 3), terms(1), None),
    ],
)
def test_a_log_takes_what_it_does_not_hold(
    log: list[Term], previous: tuple[int, int], sent: list[Term], expected: int | None
) -> None:
    assert rules.new_from(Log(log), entry_id(*previous), sent) == expected


def test_a_log_holds_what_its_snapshot_stands_for() -> None:
    log = Log(terms(3), entry_id(2, 5))
    assert log.last == entry_id(3, 6)
    assert log.holds(1, 4)
    assert log.holds(2, 5)
    assert not log.holds(1, 5)
    assert log.holds(3, 6)
    assert not log.holds(3, 7)


def test_a_leader_counts_by_every_half_and_only_its_term() -> None:
    log = Log(terms(1, 2))
    halves = ((NODES[0], NODES[1]), (NODES[0], NODES[1], NODES[2]))
    everybody = dict.fromkeys(NODES, 2)
    assert rules.may_commit(log, Term(2), 2, halves, everybody)
    assert not rules.may_commit(log, Term(2), 1, halves, everybody)
    assert not rules.may_commit(log, Term(2), 3, halves, everybody)
    old_half = {NODES[0]: 2, NODES[2]: 2}
    assert not rules.may_commit(log, Term(2), 2, halves, old_half)
