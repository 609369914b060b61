"""Leadership transfer (dissertation section 3.10), wanted or at the end of a lead."""

from kvstore.errors import ChangePending, MembershipRefused
from kvstore.raft.core import Core, Handover, Leadership
from kvstore.raft.events import HandoverEnded, HandoverStarted, StepDownReason
from kvstore.raft.messages import TimeoutNow
from kvstore.raft.progress import PeerState, Progress
from kvstore.types import NodeId


def transfer(core: Core, leadership: Leadership, to: NodeId | None) -> NodeId | None:
    """Begin to hand over; a transfer to somebody else under way is given up.

    ``to`` None: whoever is closest. Returns whom, or None if there is nobody.

    Raises:
        MembershipRefused: ``to`` is not a voter, or leaves.
        ChangePending: this node was to stay, but another was told to campaign already.
    """
    if to is None:
        to = closest(core, leadership)
        if to is None:
            return None
    if to not in core.configuration.voters:
        raise MembershipRefused(f"node {to} is not a voter: it cannot lead")
    if to == core.node_id:
        _stay(core, leadership)
        return to
    if leadership.handover is None or leadership.handover.to != to:
        deadline = core.tick_count + core.options.election_timeout_ticks
        leadership.handover = Handover(to, deadline)
        core.events.append(HandoverStarted(core.term, to))
    return to


def _stay(core: Core, leadership: Leadership) -> None:
    """The leader is to stay: give up a handover, unless it cannot be taken back."""
    handover = leadership.handover
    if handover is None:
        return
    if handover.told:
        raise ChangePending(f"node {handover.to} was told to take the lead already")
    leadership.handover = None
    core.events.append(HandoverEnded(core.term, handover.to))


def closest(core: Core, leadership: Leadership) -> NodeId | None:
    """The voter that lacks the least, of those that answer; None if none does."""
    candidates = [
        (progress.match_index, -peer)
        for peer, progress in leadership.peers
        if peer in core.configuration.voters and _answers(core, progress)
    ]
    return NodeId(-max(candidates)[1]) if candidates else None


def _answers(core: Core, progress: Progress) -> bool:
    return progress.state is PeerState.REPLICATE and (
        progress.recently_active or progress.match_index == core.log.last_index
    )


def pass_tick(core: Core, leadership: Leadership) -> None:
    """A transfer that takes longer than an election would is given up."""
    handover = leadership.handover
    if handover is not None and core.tick_count >= handover.deadline_tick:
        leadership.handover = None
        core.events.append(HandoverEnded(core.term, handover.to))


def wants_telling(core: Core, leadership: Leadership) -> bool:
    """Whether the transferee holds the whole log, and was not told yet."""
    handover = leadership.handover
    if handover is None or handover.told:
        return False
    progress = leadership.progress.get(handover.to)
    return progress is not None and progress.match_index == core.log.last_index


def tell(core: Core, leadership: Leadership) -> None:
    """Have the transferee campaign, once it can win."""
    if wants_telling(core, leadership):
        assert leadership.handover is not None
        leadership.handover.told = True
        _tell(core, leadership, leadership.handover.to)


def _tell(core: Core, leadership: Leadership, to: NodeId) -> None:
    # However late it arrives, it may elect: no lease in this term any more (M48).
    leadership.lease.void = True
    core.messages.append(
        TimeoutNow(
            sender=core.node_id,
            to=to,
            term=core.term,
            last_index=core.log.last_index,
        )
    )


def step_aside(core: Core, leadership: Leadership, reason: StepDownReason) -> None:
    """Lead no more, and spare the others an election timeout if somebody can win."""
    if (to := closest(core, leadership)) is not None:
        _tell(core, leadership, to)
    core.become_follower(core.term, None, reason)
