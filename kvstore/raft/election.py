"""Elections (sections 5.2, 5.4.1), pre-vote and stickiness (dissertation 9.6)."""

from kvstore.raft.core import Core, Role
from kvstore.raft.events import (
    CampaignReason,
    LeaderSuspected,
    Refusal,
    StepDownReason,
    Voted,
    VoteRefused,
)
from kvstore.raft.messages import RequestVote, RequestVoteReply, TimeoutNow
from kvstore.raft.quorum import VoteResult, joint_vote_result
from kvstore.types import LogIndex, Term


def pass_tick(core: Core) -> None:
    """A tick passed at a node that does not lead."""
    timer = core.timer
    # A single voter need not wait for anybody's silence.
    alone = core.is_alone and core.role is Role.FOLLOWER
    if not timer.tick() and not alone:
        return
    reason = CampaignReason.TIMEOUT
    if timer.hurried:
        reason = CampaignReason.LEADER_DISCONNECTED
    campaign(core, reason)


def campaign(core: Core, reason: CampaignReason) -> None:
    """Start an election, or the question whether one could be won."""
    if core.role is Role.LEADER or not _may_campaign(core):
        return
    if (
        reason is CampaignReason.REQUESTED
        and core.configuration.leases
        and _is_leader_alive(core)
    ):
        return  # who campaigns forgets its leader, and would vote inside its lease
    core.become_pre_candidate(reason)
    _request_votes(core, pre_vote=True)
    _count(core)


def _may_campaign(core: Core) -> bool:
    """A learner never does (M43), nor a node that has yet to install its state.

    A voter that its last configuration takes out does until that is committed: its log
    may be the longest, and without its vote nobody could win by the configuration
    before (dissertation section 4.2.2). Its own vote does not count then.
    """
    if core.persistence.is_installing:
        return False
    return core.configuration.is_voter(core.node_id) or (
        core.log.configuration_at(core.commit_index).is_voter(core.node_id)
    )


def handle_timeout_now(core: Core, message: TimeoutNow) -> None:
    """The leader hands over: campaign at once, and ask nobody whether it makes sense.

    Void if this node lacks entries of the leader's, or does not know yet that it is a
    voter: it could not win, and would disturb (M65).
    """
    if (
        core.role is not Role.FOLLOWER
        or core.leader_id != message.sender
        or core.log.last_index < message.last_index
        or not _may_campaign(core)
    ):
        return
    core.become_candidate(CampaignReason.HANDED_OVER)
    _request_votes(core, pre_vote=False, transfer=True)
    _count(core)


def leader_disconnected(core: Core) -> None:
    """The leader's connection closed: it may be dead, so do not wait for T.

    If it lives, the others refuse the pre-vote and nothing is disturbed.
    Not with leases on: a voter that shortens its patience elects inside one.
    """
    assert core.leader_id is not None
    if core.configuration.leases:
        return
    if not core.timer.hurried:
        core.events.append(LeaderSuspected(core.term, core.leader_id))
    core.timer.hurry()


def own_vote_durable(core: Core) -> None:
    """A write is done: a candidate may count the vote it gave itself."""
    if core.role is Role.CANDIDATE and core.persistence.is_durable(core.hard_state):
        core.votes[core.node_id] = True
        _count(core)


def _request_votes(core: Core, *, pre_vote: bool, transfer: bool = False) -> None:
    last = core.log.last_id
    term = Term(core.term + 1) if pre_vote else core.term
    for voter in core.configuration.all_voters:
        if voter == core.node_id:
            continue
        request = RequestVote(
            sender=core.node_id,
            to=voter,
            term=term,
            last_log=last,
            pre_vote=pre_vote,
            transfer=transfer,
        )
        if pre_vote:
            core.messages.append(request)
        else:
            core.persistence.send_when_durable(request, last.index)


def handle_vote_request(core: Core, request: RequestVote) -> None:
    """Answer a campaign of any term."""
    refusal = _refusal(core, request)
    # A refusal with our term frees a candidate whose own lies behind: without it two
    # cohorts, of longer logs and of higher terms, refuse each other for ever (M08).
    term = core.term
    if refusal is not None:
        core.events.append(
            VoteRefused(request.term, request.sender, request.pre_vote, refusal)
        )
    else:
        term = request.term
        core.events.append(Voted(term, request.sender, request.pre_vote))
    reply = RequestVoteReply(
        sender=core.node_id,
        to=request.sender,
        term=term,
        granted=refusal is None,
        pre_vote=request.pre_vote,
    )
    if refusal is not None or request.pre_vote:
        core.messages.append(reply)
        return
    if core.vote is None:
        core.set_vote(request.sender)
        core.timer.restart()
    core.persistence.send_when_durable(reply, LogIndex(0))


def _refusal(core: Core, request: RequestVote) -> Refusal | None:
    """Why not to vote; None to vote. Enters the term of a real campaign.

    A learner votes like everybody: the candidate may know of its promotion, and it not
    yet (etcd#10998). Who is a voter is the candidate's to count.
    """
    if request.term < core.term:
        return Refusal.TERM_STALE
    if request.term > core.term:
        if not request.transfer:
            if _is_leader_alive(core):
                return Refusal.LEADER_ALIVE
            if _may_have_promised_lease(core):
                return Refusal.JUST_STARTED
        if not request.pre_vote:
            core.become_follower(request.term, None, StepDownReason.HIGHER_TERM)
    else:
        if request.pre_vote:
            return Refusal.TERM_STALE  # it could not win a term that is open already
        if core.vote != request.sender and (
            core.vote is not None or core.leader_id is not None
        ):
            return Refusal.VOTE_GIVEN
    if request.last_log < core.log.last_id:  # section 5.4.1: term first, then index
        return Refusal.LOG_BEHIND
    return None


def _is_leader_alive(core: Core) -> bool:
    """Stickiness: a campaign is not listened to within T of hearing a leader.

    A leader hears itself: CheckQuorum deposes it within T if it should not.
    """
    if core.role is Role.LEADER:
        return True
    timer = core.timer
    return (
        core.leader_id is not None
        and not timer.hurried
        and timer.elapsed_ticks < core.options.election_timeout_ticks
    )


def _may_have_promised_lease(core: Core) -> bool:
    """Whether this node may have followed a leader just before it restarted.

    What it promised then, to elect nobody for T, is not on its disk.
    """
    return (
        core.configuration.leases
        and core.tick_count < core.options.election_timeout_ticks
        and not core.is_alone
    )


def handle_vote_reply(core: Core, reply: RequestVoteReply) -> None:
    """Count a voter's answer once: votes are of voters, not of messages (M04)."""
    if reply.pre_vote:
        asked = core.role is Role.PRE_CANDIDATE
        term = core.term + 1 if reply.granted else core.term
    else:
        asked = core.role is Role.CANDIDATE
        term = core.term
    if asked and reply.term == term:  # an answer to an earlier campaign is void (M05)
        core.votes.setdefault(reply.sender, reply.granted)
        _count(core)


def _count(core: Core) -> None:
    match joint_vote_result(core.configuration.halves, core.votes):
        case VoteResult.PENDING:
            pass
        case VoteResult.LOST:
            core.become_follower(core.term, None, StepDownReason.ELECTION_LOST)
        case VoteResult.WON if core.role is Role.PRE_CANDIDATE:
            core.become_candidate(None)
            _request_votes(core, pre_vote=False)
        case VoteResult.WON if core.persistence.is_durable(core.hard_state):
            core.become_leader()
        case VoteResult.WON:
            pass  # the caller sent the requests early; own_vote_durable counts again
