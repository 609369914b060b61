"""Terms, votes and roles: UpdateTerm, GrantVote, PreVote, Timeout, BecomeLeader."""

from __future__ import annotations

from kvstore.raft.messages import (
    HardState,
    Message,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from kvstore.raft.node import Role
from kvstore.simulation.specification import rules
from kvstore.simulation.specification.state import Lead, Ledger, Life, require
from kvstore.types import LogIndex


def check_role(life: Life, ledger: Ledger) -> None:
    """Check a change of term, vote or role, and take it over."""
    node, message = life.node, life.input
    require(
        node.term >= life.term,
        *("UpdateTerm", "a term never falls", node.node_id, life.term, node.term),
    )
    if node.term == life.term:
        if node.vote != life.vote:
            _check_grant(life)
        _check_role_within_term(life, ledger)
    elif message is not None and message.term == node.term and _is_in_term(message):
        require(
            node.role is Role.FOLLOWER,
            *("UpdateTerm", "who enters another's term follows", node.node_id),
        )
        _enter_term(life)
        if node.vote is not None:
            _check_grant(life)
    else:
        _check_campaign(life, ledger)
        _enter_term(life)
        life.vote = node.vote
    now = HardState(term=node.term, vote=node.vote)
    if now != life.hard_states[-1]:
        life.hard_states.append(now)
    if node.role is not life.role:
        life.pre_votes.clear()
        life.role = node.role


def _is_in_term(message: Message) -> bool:
    """Whether the message's term is one that its sender is in: section 5.1.

    A pre-vote is about a term that nobody needs to be in.
    """
    match message:
        case RequestVote():
            return not message.pre_vote
        case RequestVoteReply():
            return not (message.pre_vote and message.granted)
        case _:
            return True


def _enter_term(life: Life) -> None:
    life.term, life.vote = life.node.term, None
    life.votes.clear()
    # Nothing is said any more for a term that is not on the disk.
    durable_term = life.durable.hard_state.term
    for term in [term for term in life.vouched if term < durable_term]:
        del life.vouched[term]
    life.heard = {it for it in life.heard if it[0] >= durable_term}


def _check_grant(life: Life) -> None:
    """GrantVote: to who asked, once a term, and for a log as new as its own."""
    node, message = life.node, life.input
    facts = (node.node_id, node.term, life.vote, node.vote)
    require(life.vote is None, "GrantVote", "one vote a term", *facts)
    require(
        isinstance(message, RequestVote)
        and not message.pre_vote
        and (message.term, message.sender) == (node.term, node.vote),
        *("GrantVote", "nobody asked for this vote", *facts),
    )
    assert isinstance(message, RequestVote)
    require(
        rules.may_grant(life.vote, message.sender, message.last_log, life.log.last),
        *("GrantVote", "the voter's log is newer", *facts),
        *(message.last_log, life.log.last),
    )
    life.vote = node.vote


def _may_campaign(life: Life) -> bool:
    """A voter by its log, or by what is committed of it.

    Without its vote nobody might win by the configuration before (dissertation section
    4.2.2).
    """
    committed = life.members_at(life.commit_index)
    node_id = life.node_id
    return life.current.is_voter(node_id) or committed.is_voter(node_id)


def _check_campaign(life: Life, ledger: Ledger) -> None:
    """Timeout: a new term, by leave of a quorum or at its leader's word."""
    node, message = life.node, life.input
    facts = (node.node_id, life.term, node.term)
    alone = rules.is_quorum(life.current.halves, (node.node_id,))
    require(
        node.term == life.term + 1 or alone,
        *("Timeout", "a campaign opens the next term", *facts),
    )
    require(
        node.vote == node.node_id and node.role is not Role.LEADER,
        *("Timeout", "a candidate votes for itself", *facts, node.vote),
    )
    require(_may_campaign(life), "Timeout", "only voters campaign", *facts)
    if isinstance(message, TimeoutNow) and message.term == life.term:
        lead = ledger.leads.get(message.term)
        require(
            lead is not None and lead.leader == message.sender,
            *("TimeoutNow", "only the leader hands over", *facts),
        )
        require(
            life.log.last_index >= message.last_index,
            *("TimeoutNow", "the transferee lacks entries of the leader's", *facts),
        )
        return
    leave = {*life.pre_votes, node.node_id}
    require(
        rules.is_quorum(life.current.halves, leave),
        *("Timeout", "no quorum said in a pre-vote that it could win", *facts),
        *(sorted(leave), life.current),
    )


def _check_role_within_term(life: Life, ledger: Ledger) -> None:
    before, node = life.role, life.node
    facts = (node.node_id, node.term, before)
    if node.role is before or node.role is Role.FOLLOWER:
        return  # StepDown: always
    if node.role is Role.PRE_CANDIDATE:
        require(_may_campaign(life), "PreVote", "only voters campaign", *facts)
        return
    require(
        node.role is Role.LEADER and before is Role.CANDIDATE,
        *("BecomeLeader", "only a candidate wins, and only by a campaign", *facts),
    )
    _check_election(life, ledger)


def _check_election(life: Life, ledger: Ledger) -> None:
    """BecomeLeader: by votes of its term, one a voter; its own once it is durable."""
    node = life.node
    own = life.durable.hard_state
    votes = set(life.votes)
    if own == HardState(term=node.term, vote=node.node_id):
        votes.add(node.node_id)
    require(
        rules.may_lead(life.current.halves, votes),
        *("BecomeLeader", "no quorum voted for it", node.node_id, node.term),
        *(sorted(votes), life.current),
    )
    lead = Lead(
        leader=node.node_id,
        term=node.term,
        first_index=LogIndex(life.log.last_index + 1),
        commit_index=life.commit_index,
    )
    require(
        ledger.leads.setdefault(node.term, lead) is lead,
        *("BecomeLeader", "the term has a leader", node.node_id, node.term),
    )
    life.lead = lead
