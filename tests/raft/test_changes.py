"""Changes of the members: joint consensus, removal, leaders that change."""

import pytest

from kvstore.errors import ChangePending, MembershipRefused, NotLeader
from kvstore.raft.events import ConfigurationChanged, StepDownReason, SteppedDown
from kvstore.raft.membership import (
    Configuration,
    Promote,
    Remove,
    SetLeases,
)
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    EntryKind,
    RequestVote,
)
from kvstore.raft.node import Role
from kvstore.types import NodeId
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, founded, info, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks


def led(size: int = 3, *, learners: tuple[int, ...] = ()) -> Cluster:
    """Node 1 leads, and everybody knows what is committed."""
    cluster = Cluster(size, learners=learners)
    cluster.elect(1)
    cluster.tick_all()
    return cluster


def shape(configuration: Configuration) -> tuple[list[int], list[int], list[int]]:
    """Voters, outgoing voters and learners."""
    return (
        [*map(int, configuration.voters)],
        [*map(int, configuration.outgoing)],
        [*map(int, configuration.learners)],
    )


def shapes(cluster: Cluster, node_id: int) -> list[tuple[list[int], ...]]:
    """Each configuration that a node has had, in order."""
    events = cluster.servers[NodeId(node_id)].events
    return [
        shape(e.configuration) for e in events if isinstance(e, ConfigurationChanged)
    ]


# ------------------------------------------------------------ joint consensus


def test_a_change_passes_through_a_joint_configuration_by_itself() -> None:
    """etcd's TestRawNodeJointAutoLeave, and ``confchange_v2_add_double_auto``: the
    leader leaves the joint configuration once it is committed; nobody need ask."""
    cluster = led(5, learners=(4, 5))
    cluster.change(1, Promote(NodeId(4)), Promote(NodeId(5)))
    cluster.stabilize()
    cluster.tick_all()
    for node_id in cluster.ids:
        assert shapes(cluster, node_id) == [
            ([1, 2, 3, 4, 5], [1, 2, 3], []),
            ([1, 2, 3, 4, 5], [], []),
        ]
    assert cluster.commits() == [3] * 5


def test_a_configuration_holds_from_its_append_on() -> None:
    """Section 6: a server uses the latest configuration in its log, committed or not.
    So there is no window between commit and apply, in which etcd's
    TestConfChangeCheckBeforeCampaign and TestConfChangeV2CheckBeforeCampaign forbid a
    campaign: there is nothing to check before one."""
    cluster = led()
    cluster.servers[NodeId(2)].slow_apply = True
    cluster.change(1, Remove(NodeId(3)))
    cluster.deliver(cluster.take(AppendEntries, to=2))
    raft = cluster.raft(2)
    assert raft.configuration_index > raft.commit_index
    assert shape(raft.configuration) == ([1, 2], [1, 2, 3], [])


@pytest.mark.parametrize(
    ("answers", "committed"),
    [
        ((4, 5), False),  # all of the new half, and one of three of the old: 1
        ((2, 3), False),  # all of the old half, one of three of the new
        ((2, 4), True),
    ],
)
def test_a_joint_configuration_commits_by_both_majorities(
    answers: tuple[int, ...], committed: bool
) -> None:
    """Mutant M39 (openraft 6c0ccaf3, camunda#61854): agreement needs separate
    majorities of the old and the new configuration (section 6)."""
    bench = Bench(voters=(1, 2, 3), learners=(4, 5))
    bench.become_leader()
    for peer in (4, 5):
        bench.acknowledge(1, sender=peer)
    promote = [Promote(NodeId(4)), Promote(NodeId(5))]
    bench.change(*promote, Remove(NodeId(2)), Remove(NodeId(3)))
    for peer in answers:
        bench.acknowledge(2, sender=peer)
    assert (bench.raft.commit_index == 2) is committed


@pytest.mark.parametrize(
    ("voters", "elected"), [((4, 5), False), ((2, 3), False), ((2, 4), True)]
)
def test_a_joint_configuration_elects_by_both_majorities(
    voters: tuple[int, ...], elected: bool
) -> None:
    """Mutant M39's other half, for votes and pre-votes alike."""
    joint = Configuration(
        voters=founded([1, 4, 5]).voters,
        outgoing=founded([1, 2, 3]).voters,
        members=founded(range(1, 6)).members,
    )
    bench = Bench(configuration=joint)
    bench.raft.campaign()
    asked = of_kind(bench.work(), RequestVote)
    assert [request.to for request in asked] == [2, 3, 4, 5]
    for voter in voters:
        bench.answer_vote(sender=voter, pre=True)
    assert (bench.role() is Role.CANDIDATE) is elected
    if elected:
        for voter in voters:
            bench.answer_vote(sender=voter)
        assert bench.raft.is_leader


def test_both_halves_must_be_heard_or_the_leader_steps_down() -> None:
    """CheckQuorum while joint: a quorum of one half alone commits nothing."""
    cluster = led(5, learners=(4, 5))
    cluster.cut([2, 3])
    promote = [Promote(NodeId(4)), Promote(NodeId(5))]
    cluster.change(1, *promote, Remove(NodeId(2)), Remove(NodeId(3)))
    cluster.stabilize()
    assert cluster.raft(1).configuration.is_joint
    cluster.tick_all(2 * T)
    assert not cluster.raft(1).is_leader


def test_a_second_change_waits_for_the_first() -> None:
    """Mutant M38 (redpanda#17675), and ``confchange_v2_add_single_explicit``'s refused
    nested change: one is in flight at a time, its joint configuration and its end
    included."""
    bench = Bench(learners=(4, 5))
    bench.become_leader()
    for peer in (4, 5):
        bench.acknowledge(1, sender=peer)
    assert bench.raft.can_change_members
    bench.change(Promote(NodeId(4)))
    for commit in (2, 3):
        assert not bench.raft.can_change_members
        with pytest.raises(ChangePending):
            bench.raft.propose_changes([Promote(NodeId(5))])
        with pytest.raises(ChangePending):
            bench.raft.propose_info(NodeId(5), info(5))
        for peer in (2, 3):
            bench.acknowledge(commit, sender=peer)
        assert bench.raft.commit_index == commit
    assert bench.raft.can_change_members
    assert bench.raft.last_index == 3


def test_a_new_leader_changes_nothing_before_its_first_commit() -> None:
    """Mutant M37 (the bug of 2015; hydro#3192), its rule: until an entry of its term is
    committed, another leader's change may be committed and not here."""
    bench = Bench(terms=(1,))
    bench.become_leader(commit=False)
    with pytest.raises(ChangePending):
        bench.raft.propose_changes([Remove(NodeId(3))])
    bench.acknowledge(2)
    bench.change(Remove(NodeId(3)))
    assert bench.raft.configuration.is_joint


def test_two_leaders_cannot_remove_different_voters() -> None:
    """Mutant M37's schedule: 1 logs "remove 2" alone; 2 wins, logs "remove 1", and has
    only 3; 1 returns and has only 4. With single-server changes each would be a
    majority of its own three, and commit its own history. The old four forbid both."""
    cluster = Cluster(4)
    cluster.elect(1)
    cluster.cut([1])
    cluster.change(1, Remove(NodeId(2)))
    cluster.take(sender=1)
    cluster.depose(1)
    for peer in (2, 3, 4):
        cluster.disconnect(peer, 1)
    cluster.campaign(2)
    cluster.stabilize()
    cluster.cut([4])
    cluster.change(2, Remove(NodeId(1)))
    cluster.stabilize()
    assert cluster.raft(2).commit_index < cluster.raft(2).configuration_index
    cluster.heal()
    cluster.cut([1, 4], [2, 3])
    for _ in range(3 * T):
        cluster.tick_all()
    assert not cluster.raft(1).is_leader
    cluster.heal()
    cluster.tick_all(4 * T)
    assert len({str(log) for log in cluster.logs()}) == 1
    assert not cluster.leader().configuration.is_joint


def test_only_a_leader_changes_members() -> None:
    """The error names whom to ask."""
    bench = Bench()
    bench.become_follower(term=1)
    with pytest.raises(NotLeader) as caught:
        bench.raft.propose_changes([Remove(NodeId(3))])
    assert caught.value.leader_id == 2
    with pytest.raises(NotLeader):
        bench.raft.propose_info(NodeId(3), info(3))


def test_a_refused_change_changes_nothing() -> None:
    """One bad change of several refuses them all."""
    bench = Bench(learners=(4,))
    bench.become_leader()
    bench.acknowledge(1, sender=4)
    with pytest.raises(MembershipRefused):
        bench.raft.propose_changes([Promote(NodeId(4)), Remove(NodeId(9))])
    assert bench.raft.last_index == 1
    assert bench.raft.can_change_members


# ------------------------------------------------------------ leaders that change


@pytest.mark.parametrize("committed", [False, True])
def test_the_next_leader_leaves_a_joint_configuration(committed: bool) -> None:
    """Mutant M42 (etcd#12136): the leader that entered it dies, before it is committed
    or just after; whoever leads next leaves it."""
    cluster = led(4, learners=(4,))
    cluster.change(1, Promote(NodeId(4)), Remove(NodeId(3)))
    cluster.deliver(cluster.take(AppendEntries))
    if committed:
        cluster.deliver(cluster.take(AppendEntriesReply))
    assert cluster.raft(1).configuration.is_joint is not committed
    cluster.take()
    assert cluster.raft(2).configuration.is_joint
    cluster.crash(1, notice=True)
    cluster.elect(2)
    cluster.tick_all(2)
    assert shape(cluster.raft(2).configuration) == ([1, 2, 4], [], [])
    assert cluster.raft(4).configuration == cluster.raft(2).configuration


def test_a_removed_leader_steps_down_once_its_removal_is_committed() -> None:
    """``confchange_v1_remove_leader`` and section 6, second issue: it manages the
    cluster until then, does not count itself, and spares the rest a timeout."""
    cluster = led()
    cluster.change(1, Remove(NodeId(1)))
    for peer in (2, 3):
        cluster.deliver(cluster.take(AppendEntries, to=peer))
        cluster.deliver(cluster.take(AppendEntriesReply))
    assert shape(cluster.raft(1).configuration) == ([2, 3], [], [])
    assert cluster.raft(1).is_leader
    cluster.deliver(cluster.take(AppendEntries, to=2))
    cluster.deliver(cluster.take(AppendEntriesReply))
    assert cluster.raft(1).commit_index == 2  # itself and 2 are no majority of 2 and 3
    cluster.stabilize()
    assert not cluster.raft(1).is_leader
    assert cluster.raft(1).is_removed
    events = cluster.servers[NodeId(1)].events
    stepped = [event for event in events if isinstance(event, SteppedDown)]
    assert [event.reason for event in stepped] == [StepDownReason.REMOVED]
    assert cluster.leader().node_id in (2, 3)  # it was told to campaign at once
    assert cluster.raft(2).term == cluster.raft(1).term + 1


def test_a_leader_that_stepped_down_ignores_later_acknowledgements() -> None:
    """``confchange_v1_remove_leader_stepdown``: they are of the term that it led."""
    bench = Bench()
    bench.become_leader()
    bench.change(Remove(NodeId(1)))
    for index in (2, 3):
        for peer in (2, 3):
            bench.acknowledge(index, sender=peer)
    assert bench.role() is Role.FOLLOWER
    bench.acknowledge(3, sender=2)
    assert bench.raft.commit_index == 3
    assert bench.raft.is_removed


def test_a_removed_leader_that_knows_more_than_the_rest_still_campaigns() -> None:
    """Dissertation section 4.2.2: it alone holds the entry that removes it, and steps
    down. The rest are still joint, need its vote, and do not get it, for their logs are
    behind: only it can win, though it counts for nothing."""
    cluster = led(2)
    cluster.change(1, Remove(NodeId(1)))
    cluster.deliver(cluster.take(AppendEntries, to=2))
    cluster.deliver(cluster.take(AppendEntriesReply))
    assert shape(cluster.raft(1).configuration) == ([2], [], [])
    assert shape(cluster.raft(2).configuration) == ([2], [1, 2], [])
    cluster.cut([1])
    cluster.depose(1)
    cluster.tick_all(2 * T)
    assert not cluster.raft(2).is_leader
    cluster.heal()
    cluster.tick_all(3 * T)
    assert cluster.leader().node_id == 2
    assert shape(cluster.raft(2).configuration) == ([2], [], [])
    assert cluster.raft(1).is_removed


def test_a_removed_node_that_knows_it_never_campaigns() -> None:
    """Its removal is committed: nobody needs it."""
    cluster = led()
    cluster.change(1, Remove(NodeId(3)))
    cluster.stabilize()
    cluster.tick_all(2)
    assert cluster.raft(3).is_removed
    cluster.cut([3])
    cluster.tick(3, 5 * T)
    assert cluster.raft(3).role is Role.FOLLOWER


def test_a_removed_voter_that_knows_nothing_disturbs_nobody() -> None:
    """etcd's TestDisruptiveFollower, by section 6's third issue: it was cut off during
    its removal and campaigns for ever; who hears a leader does not listen."""
    cluster = led()
    cluster.cut([3])
    cluster.change(1, Remove(NodeId(3)))
    cluster.tick_all(4 * T)
    assert shape(cluster.raft(1).configuration) == ([1, 2], [], [])
    term = cluster.raft(1).term
    cluster.heal()
    for _ in range(10 * T):
        cluster.tick_all()
    assert cluster.raft(1).is_leader
    assert cluster.raft(1).term == cluster.raft(2).term == term


def test_commits_go_on_after_a_removal() -> None:
    """etcd's TestCommitAfterRemoveNode: what waits for the removed voter's word does so
    no longer once the rest are a majority by themselves."""
    cluster = led(2)
    cluster.change(1, Remove(NodeId(2)))
    cluster.deliver(cluster.take(AppendEntries, to=2))
    cluster.cut([2], [1])
    cluster.propose(1, b"x")
    assert cluster.raft(1).commit_index == 1
    cluster.deliver(
        cluster.take(AppendEntriesReply)
    )  # the joint configuration, of both
    cluster.stabilize()
    assert shape(cluster.raft(1).configuration) == ([1], [], [])
    assert cluster.raft(1).commit_index == cluster.raft(1).last_index == 4


def test_the_last_voter_cannot_be_removed() -> None:
    """etcd's ``confchange/zero``: nobody could decide anything again."""
    bench = Bench(voters=[1])
    bench.tick()
    with pytest.raises(MembershipRefused):
        bench.raft.propose_changes([Remove(NodeId(1))])


def test_a_leader_can_be_replaced_in_one_change() -> None:
    """``confchange_v2_replace_leader_stepdown``: the successor is elected by the new
    voters."""
    cluster = led(4, learners=(4,))
    cluster.change(1, Promote(NodeId(4)), Remove(NodeId(1)))
    cluster.stabilize()
    cluster.tick_all(2)
    assert shape(cluster.leader().configuration) == ([2, 3, 4], [], [])
    assert cluster.leader().node_id != 1


def test_a_change_that_is_replaced_never_was() -> None:
    """Mutant M40 (canonical/raft#354): a follower drops uncommitted entries, and with
    them the configuration that they brought."""
    cluster = led()
    cluster.cut([1])
    cluster.change(1, Remove(NodeId(3)))
    cluster.take(sender=1)
    cluster.depose(1)
    cluster.elect(2)
    assert shape(cluster.raft(1).configuration) == ([1, 2], [1, 2, 3], [])
    cluster.heal()
    cluster.tick_all(2)
    assert [shape(c) for c in cluster.configurations()] == [([1, 2, 3], [], [])] * 3
    assert shapes(cluster, 1)[-1] == ([1, 2, 3], [], [])


def test_a_configuration_is_that_of_the_log_after_a_restart() -> None:
    """Mutant M36's first half: it is no fact of its own, so it cannot be forgotten."""
    cluster = led()
    cluster.cut([1], [3])
    cluster.change(1, Remove(NodeId(3)))
    cluster.deliver(cluster.take(AppendEntries, to=2))
    before = cluster.raft(2).configuration
    assert before.is_joint
    cluster.crash(2)
    cluster.restart(2)
    assert cluster.raft(2).configuration == before


# ------------------------------------------------------------------ what is known


def test_a_member_is_known_better_without_a_joint_configuration() -> None:
    """etcd's ``confchange/update``: nobody's vote changes."""
    cluster = led()
    moved = info(17)
    cluster.raft(1).propose_info(NodeId(2), moved)
    cluster.tick_all(2)
    assert [c.members[NodeId(2)] for c in cluster.configurations()] == [moved] * 3
    assert shapes(cluster, 3) == [([1, 2, 3], [], [])]
    with pytest.raises(MembershipRefused):
        cluster.raft(1).propose_info(NodeId(9), moved)


def test_leases_are_switched_by_a_change() -> None:
    """All members must agree on them, so their log says it."""
    cluster = led()
    cluster.change(1, SetLeases(True))
    cluster.tick_all(2)
    assert [c.leases for c in cluster.configurations()] == [True] * 3


def test_a_configuration_entry_is_never_charged_to_proposals() -> None:
    """A leader at its bound of uncommitted data can still remove a dead voter."""
    bench = Bench()
    bench.become_leader()
    before = bench.raft.uncommitted_bytes
    bench.change(Remove(NodeId(3)))
    assert bench.raft.uncommitted_bytes == before
    (entry,) = bench.raft.log.entries(bench.raft.configuration_index, 3, 1)  # type: ignore[arg-type]
    assert entry.kind is EntryKind.CONFIGURATION
