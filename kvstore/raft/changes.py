"""Changes of the configuration, as its leader carries them out (section 6).

One at a time: the next waits until the one before is committed, and a leader begins
none before an entry of its own term is (M37, M38). A joint one is left by itself.
"""

from collections.abc import Iterable

from kvstore.errors import ChangePending, MembershipRefused
from kvstore.raft import handover, reading
from kvstore.raft.core import Core, Leadership
from kvstore.raft.events import StepDownReason
from kvstore.raft.membership import Change, Configuration, MemberInfo, Promote
from kvstore.raft.messages import EntryId
from kvstore.raft.progress import PeerState
from kvstore.types import NodeId


def propose(core: Core, leadership: Leadership, changes: Iterable[Change]) -> EntryId:
    """Enter the joint configuration that leads to ``changes``.

    Raises:
        ChangePending: another change is not committed yet, nor this leader's term, or
            a learner has not caught up.
        MembershipRefused: the changes make no sense.
    """
    _check_settled(core, leadership)
    joint = core.configuration.enter_joint(changes)
    for voter in joint.voters:
        if voter not in joint.outgoing:
            _check_caught_up(core, leadership, voter)
    return _append(core, leadership, joint)


def propose_info(
    core: Core, leadership: Leadership, node_id: NodeId, info: MemberInfo
) -> EntryId:
    """Know a member better. The voters stay, so no joint configuration is needed.

    Raises:
        ChangePending: as :func:`propose`. MembershipRefused: it is not a member.
    """
    _check_settled(core, leadership)
    if node_id not in core.configuration.members:
        raise MembershipRefused(f"node {node_id} is not a member")
    return _append(core, leadership, core.configuration.with_info(node_id, info))


def _append(
    core: Core, leadership: Leadership, configuration: Configuration
) -> EntryId:
    """Change the configuration, and count again who confirmed the round under way.

    Those who have may be enough by now, and nobody be left who could still answer.
    """
    entry = core.append_configuration(configuration)
    reading.acknowledge(core, leadership, core.node_id, leadership.reads.round)
    return entry


def is_settled(core: Core, leadership: Leadership) -> bool:
    """Whether a change may begin."""
    return (
        leadership.term_committed
        and not core.configuration.is_joint
        and core.log.configuration_index <= core.commit_index
        and leadership.handover is None
    )


def _check_settled(core: Core, leadership: Leadership) -> None:
    if leadership.handover is not None:
        raise ChangePending("the leader is handing over: ask the next one")
    if not leadership.term_committed:
        raise ChangePending("the leader is new and has committed nothing yet")
    if not is_settled(core, leadership):
        raise ChangePending("another change of the members is under way")


def _check_caught_up(core: Core, leadership: Leadership, node_id: NodeId) -> None:
    if node_id not in core.configuration.learners:
        raise MembershipRefused(
            f"node {node_id} is new: add it as a learner, and promote it once it has "
            "caught up"
        )
    if not _is_caught_up(core, leadership, node_id):
        raise ChangePending(
            f"node {node_id} lags too far behind: as a voter it would stop the cluster"
        )


def _is_caught_up(core: Core, leadership: Leadership, node_id: NodeId) -> bool:
    progress = leadership.progress.get(node_id)
    lag_max = core.options.promotion_lag_entries_max
    return (
        progress is not None
        and progress.state is PeerState.REPLICATE
        and progress.match_index + lag_max >= core.log.last_index
        # Not a match of long ago: it must be at the log that this leader has committed.
        and progress.match_index >= core.log.configuration_index
    )


def pass_tick(core: Core, leadership: Leadership) -> None:
    """Promote who has caught up; part with who knows that it is removed."""
    _part(core, leadership)
    if not is_settled(core, leadership):
        return
    configuration = core.configuration
    for learner in configuration.learners:
        if configuration.members[learner].promotable and _is_caught_up(
            core, leadership, learner
        ):
            propose(core, leadership, (Promote(learner),))
            return


def _part(core: Core, leadership: Leadership) -> None:
    done = [
        peer
        for peer, parting in leadership.parting.items()
        if core.tick_count >= parting.deadline_tick
        or leadership.progress[peer].knows_commit(parting.index)
    ]
    for peer in done:
        del leadership.parting[peer]
    if done:
        core.replicate_to_members()


def committed(core: Core, leadership: Leadership) -> None:
    """The commit index rose: leave a joint configuration, or the lead.

    Whoever leads leaves it: also the successor of the leader that entered it (M42).
    """
    configuration = core.configuration
    if core.log.configuration_index > core.commit_index:
        return
    if configuration.is_joint:
        _append(core, leadership, configuration.leave_joint())
    elif not configuration.is_voter(core.node_id):
        handover.step_aside(core, leadership, StepDownReason.REMOVED)
