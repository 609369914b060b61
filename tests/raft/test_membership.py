"""Configurations as values: tables after etcd's ``confchange/testdata``, and a model.

Where etcd takes a change that does nothing, ours is refused: whoever asks for it
believes something of the cluster that is not so. Changes are written in letters: ``l4``
adds learner 4, ``v4`` promotes it, ``d4`` demotes it, ``r4`` removes it.
"""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import CorruptionError, MembershipRefused
from kvstore.raft import membership
from kvstore.raft.membership import (
    MEMBERS_MAX,
    NOBODY,
    AddLearner,
    Change,
    Configuration,
    Demote,
    MemberInfo,
    MemberRole,
    Promote,
    Remove,
    SetLeases,
)
from kvstore.types import NODE_ID_MAX, Incarnation, NodeId


def change(text: str) -> Change:
    node = NodeId(int(text[1:]))
    match text[0]:
        case "l":
            return AddLearner(node, MemberInfo(f"n{node}:1"))
        case "v":
            return Promote(node)
        case "d":
            return Demote(node)
        case _:
            return Remove(node)


def changes(text: str) -> list[Change]:
    return [change(word) for word in text.split()]


def of(voters: Sequence[int], learners: Sequence[int] = ()) -> Configuration:
    return Configuration(
        voters=tuple(NodeId(node) for node in voters),
        learners=tuple(NodeId(node) for node in learners),
        members={
            NodeId(node): MemberInfo(f"n{node}:1") for node in [*voters, *learners]
        },
    )


def drawn(it: Configuration) -> str:
    """As etcd's tables show it: ``(new)&&(old) learners=() next=() removed=()``."""

    def group(nodes: Sequence[NodeId]) -> str:
        return "(" + " ".join(str(node) for node in nodes) + ")"

    parts = ["&&".join(group(half) for half in it.halves)]
    parts += [
        f"{name.removeprefix('learners_')}={group(nodes)}"
        for name in ("learners", "learners_next", "removed")
        if (nodes := getattr(it, name))
    ]
    return " ".join(parts)


# ----------------------------------------------------------------- tables after etcd's


@pytest.mark.parametrize(
    ("before", "asked", "joint", "after"),
    [
        # joint_autoleave
        (of([1], [2, 3]), "v2 v3", "(1 2 3)&&(1)", "(1 2 3)"),
        # joint_idempotency: what of it is no repetition
        (
            of([1, 2], [3]),
            "v3 d1 d2",
            "(3)&&(1 2) next=(1 2)",
            "(3) learners=(1 2)",
        ),
        # joint_learners_next: a voter is a learner only once the old half is left
        (of([1], [2]), "v2 d1", "(2)&&(1) next=(1)", "(2) learners=(1)"),
        # joint_safety
        (of([1]), "", "(1)&&(1)", "(1)"),
        (
            of([1], [2, 3]),
            "r1 v2 v3 l4",
            "(2 3)&&(1) learners=(4)",
            "(2 3) learners=(4) removed=(1)",
        ),
        (of([2, 3], [4]), "l9", "(2 3)&&(2 3) learners=(4 9)", "(2 3) learners=(4 9)"),
        # simple_promote_demote, each through a joint configuration
        (of([1, 2, 3]), "d2", "(1 3)&&(1 2 3) next=(2)", "(1 3) learners=(2)"),
        (of([1, 3], [2]), "v2", "(1 2 3)&&(1 3)", "(1 2 3)"),
        (of([1, 3], [2]), "v2 d2", "(1 3)&&(1 3) learners=(2)", "(1 3) learners=(2)"),
        # simple_safety: all that it refuses as too much at once goes through, jointly
        (of([1], [3]), "l2 v2", "(1 2)&&(1) learners=(3)", "(1 2) learners=(3)"),
        (of([1, 2], [3]), "r1 l5 v5", "(2 5)&&(1 2) learners=(3)", None),
        (of([1, 2], [3]), "v3 l4 v4", "(1 2 3 4)&&(1 2)", "(1 2 3 4)"),
        (of([1, 2], [3]), "d1 l5 v5", "(2 5)&&(1 2) learners=(3) next=(1)", None),
        (of([1], [2, 3, 4, 5]), "r2 r3 r4 r5", "(1)&&(1) removed=(2 3 4 5)", None),
        # A member of the old half stays known until it is left.
        (of([1, 2]), "r2", "(1)&&(1 2)", "(1) removed=(2)"),
    ],
)
def test_a_change_leads_through_a_joint_configuration(
    before: Configuration, asked: str, joint: str, after: str | None
) -> None:
    entered = before.enter_joint(changes(asked))
    assert drawn(entered) == joint
    assert entered.is_joint
    left = entered.leave_joint()
    assert not left.is_joint
    if after is not None:
        assert drawn(left) == after
    assert set(left.members) == {*left.voters, *left.learners}


@pytest.mark.parametrize(
    ("before", "asked", "why"),
    [
        # joint_safety and simple_safety: somebody must be left to decide
        (NOBODY, "", "the last voter must stay"),
        (NOBODY, "l1", "the last voter must stay"),
        (of([1]), "r1", "the last voter must stay"),
        (of([1]), "d1", "the last voter must stay"),
        (of([1, 2]), "r1 r2", "the last voter must stay"),
        (of([1, 2]), "d1 d2", "the last voter must stay"),
        # joint_idempotency and simple_idempotency: etcd does nothing, ours refuses
        (of([1]), "v1", "node 1 is not a learner"),
        (of([1], [2]), "v2 v2", "node 2 is not a learner"),
        (of([1]), "v9", "node 9 is not a learner"),
        (of([1], [2]), "d2", "node 2 is not a voter"),
        (of([1, 2]), "d2 d2", "node 2 is not a voter"),
        (of([1, 2]), "d2 v2", "node 2 is not a learner"),
        (of([1]), "r9", "node 9 is not a member"),
        (of([1], [2]), "r2 r2", "node 2 is not a member"),
        (of([1, 2]), "r2 r2", "node 2 is not a member"),
        (of([1, 2]), "r2 v2", "node 2 is not a learner"),
        (of([1], [2]), "l2", "node 2 is a member already"),
        (of([1, 2]), "l2", "node 2 is a member already"),
        (of([1]), "l2 l2", "node 2 is a member already"),
        # ids are never used again, also within one change
        (of([1, 2]), "r2 l2", "node 2 is a member already"),
        (of([1], [2]), "r2 l2", "node 2 was a member once"),
        # zero: etcd ignores it, and it is nobody's id
        (of([1]), "l0", f"node 0 cannot be: ids are 1 to {NODE_ID_MAX}"),
        (of([1]), f"l{NODE_ID_MAX + 1}", "ids are 1 to"),
        (of([1]), "r0", "node 0 is not a member"),
        (of([1]), "v0", "node 0 is not a learner"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(
    before: Configuration, asked: str, why: str
) -> None:
    with pytest.raises(MembershipRefused, match=why):
        before.enter_joint(changes(asked))


@pytest.mark.parametrize("asked", ["", "v2", "r1"])
def test_no_change_enters_a_joint_configuration_twice(asked: str) -> None:
    """``joint_safety.txt``. Who leads leaves it first."""
    joint = of([1], [2]).enter_joint(changes("v2"))
    with pytest.raises(MembershipRefused, match="under way"):
        joint.enter_joint(changes(asked))


def test_only_a_joint_configuration_can_be_left() -> None:
    with pytest.raises(AssertionError):
        of([1]).leave_joint()


def test_a_removed_member_never_returns() -> None:
    """Also after other changes: its promises of before are not on its new disk."""
    without = of([1, 2, 3]).enter_joint(changes("r3")).leave_joint()
    later = without.enter_joint(changes("l4")).leave_joint()
    assert later.removed == (3,)
    with pytest.raises(MembershipRefused, match="never used again"):
        later.enter_joint(changes("l3"))


def test_two_members_never_share_an_address() -> None:
    """Also not with one that is about to leave: it may still run there."""
    address = MemberInfo("n2:1")
    with pytest.raises(MembershipRefused, match="has the address of member 2"):
        of([1, 2]).enter_joint([Remove(NodeId(2)), AddLearner(NodeId(4), address)])
    without = of([1, 2]).enter_joint(changes("r2")).leave_joint()
    again = without.enter_joint([AddLearner(NodeId(4), address)])
    assert again.members[NodeId(4)] == address


def test_a_demoted_voter_is_not_promoted_by_itself() -> None:
    """Else the leader would at once undo what somebody asked for."""
    joint = of([1, 2]).enter_joint(changes("d2"))
    assert not joint.members[NodeId(2)].promotable
    assert not joint.leave_joint().members[NodeId(2)].promotable


def test_to_know_a_member_better_is_no_change_of_members() -> None:
    """``update.txt``: etcd passes such facts through; here they need no joint one."""
    before = of([1, 2], [3])
    info = MemberInfo("elsewhere:1", Incarnation(7))
    after = before.with_info(NodeId(2), info)
    assert after.members[NodeId(2)] == info
    assert not after.is_joint
    assert (after.voters, after.learners) == (before.voters, before.learners)
    assert before.members[NodeId(2)].incarnation == 0
    joint = before.enter_joint(changes("v3"))
    assert joint.with_info(NodeId(2), info).is_joint


def test_leases_are_switched_like_members() -> None:
    """All must know before anybody counts on it."""
    joint = of([1, 2]).enter_joint([SetLeases(leases=True)])
    assert joint.is_joint
    assert joint.leases
    assert joint.leave_joint().leases
    off = joint.leave_joint().enter_joint([SetLeases(leases=False)])
    assert not off.leases


def test_every_member_has_the_role_that_it_votes_by() -> None:
    joint = of([1, 2, 3], [4, 5]).enter_joint(changes("v4 d2 r3"))
    roles = {int(node): joint.role(node) for node in joint.everybody}
    assert roles == {
        1: MemberRole.VOTER,
        2: MemberRole.OUTGOING,
        3: MemberRole.OUTGOING,
        4: MemberRole.VOTER,
        5: MemberRole.LEARNER,
    }
    assert joint.role(NodeId(9)) is None
    assert [node for node in joint.everybody if joint.is_voter(node)] == [1, 2, 3, 4]


def test_a_cluster_has_a_bound_of_members() -> None:
    """Members of the old half count: they are replicated to."""
    full = of([1], range(2, MEMBERS_MAX + 1))
    with pytest.raises(MembershipRefused, match=f"at most {MEMBERS_MAX} members"):
        full.enter_joint(changes("l99"))
    assert full.enter_joint(changes("r2 l99")).learners[-1] == 99


def test_the_memory_of_spent_ids_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "REMOVED_MAX", 2)
    spent = of([1], [2, 3, 4]).enter_joint(changes("r2 r3")).leave_joint()
    with pytest.raises(MembershipRefused, match="2 ids were removed"):
        spent.enter_joint(changes("r4"))


# -------------------------------------------------------------------------- properties

CHANGE = st.builds(
    "{}{}".format, st.sampled_from("lvdr"), st.integers(1, 7).map(str)
).map(change)


def check_sound(it: Configuration, before: Configuration) -> None:
    """What holds of every configuration that a change led to."""
    assert it.voters
    assert not set(it.voters) & {*it.learners, *it.learners_next}
    assert not set(it.learners) & {*it.outgoing, *it.learners_next}
    assert set(it.learners_next) <= set(it.outgoing)
    assert set(it.members) == set(it.everybody)
    assert not set(it.removed) & set(it.everybody)
    assert set(before.removed) <= set(it.removed)
    for group in (it.voters, it.outgoing, it.learners, it.learners_next, it.removed):
        assert list(group) == sorted(set(group))
    assert Configuration.decode(it.encode()) == it


@given(st.lists(st.lists(CHANGE, max_size=4), max_size=6))
def test_changes_keep_a_configuration_sound(asked: list[list[Change]]) -> None:
    """A refusal changes nothing: configurations are values."""
    configuration = of([1, 2, 3], [4])
    for group in asked:
        encoded = configuration.encode()
        try:
            joint = configuration.enter_joint(group)
        except MembershipRefused:
            assert configuration.encode() == encoded
            continue
        check_sound(joint, configuration)
        assert joint.outgoing == configuration.voters
        left = joint.leave_joint()
        check_sound(left, joint)
        assert left.voters == joint.voters
        gone = set(configuration.everybody) - set(left.everybody)
        assert gone <= set(left.removed)
        configuration = left


@given(st.lists(CHANGE, max_size=6))
def test_where_a_change_leads_is_what_a_model_says(asked: list[Change]) -> None:
    """The dumb twin is a table of roles, without halves."""
    roles: dict[NodeId, str] = {NodeId(n): "voter" for n in (1, 2, 3)}
    roles[NodeId(4)] = "learner"
    start = of([1, 2, 3], [4])
    possible = follow(roles, asked) and "voter" in roles.values()
    try:
        left = start.enter_joint(asked).leave_joint()
    except MembershipRefused:
        assert not possible
        return
    assert possible
    assert set(left.voters) == {n for n, role in roles.items() if role == "voter"}
    assert set(left.learners) == {
        n for n, role in roles.items() if role in ("learner", "demoted")
    }


NEXT_ROLE: Mapping[tuple[type, str], str] = {
    (AddLearner, "stranger"): "learner",
    (Promote, "learner"): "voter",
    (Demote, "voter"): "demoted",
    (Remove, "voter"): "gone",
    (Remove, "learner"): "gone",
}


def follow(roles: dict[NodeId, str], asked: Sequence[Change]) -> bool:
    """Apply changes to the table; whether each was possible.

    Of those demoted in one change, only who was promoted in it is a learner at once.
    """
    promoted = set()
    for it in asked:
        assert not isinstance(it, SetLeases)
        role = NEXT_ROLE.get((type(it), roles.get(it.node_id, "stranger")))
        if role is None:
            return False
        if role == "voter":
            promoted.add(it.node_id)
        if role == "demoted" and it.node_id in promoted:
            role = "learner"
        roles[it.node_id] = role
    return True


# ---------------------------------------------------------------------------- encoding


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"{}",
        b'{"voters":[1]}',
        b'{"voters":["a"],"members":{}}',
        b'{"voters":7,"members":{}}',
        b'{"voters":[1],"members":{"1":[]}}',
        b'{"voters":[1],"members":{"x":["a:1",0,true]}}',
        b'{"voters":[1],"members":[]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_configuration_is_damage(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        Configuration.decode(data)


def test_a_configuration_is_stored_as_text_that_people_can_read() -> None:
    """Stored and sent: what changes here, old data must still be read."""
    it = of([1, 2]).enter_joint([Demote(NodeId(2)), SetLeases(leases=True)])
    assert it.encode() == (
        b'{"voters":[1],"outgoing":[1,2],"learners_next":[2],'
        b'"members":{"1":["n1:1",0,true],"2":["n2:1",0,false]},"leases":true}'
    )
    assert Configuration.decode(it.encode()) == it
    assert Configuration.decode(NOBODY.encode()) == NOBODY
