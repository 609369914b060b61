"""ReadIndex (dissertation section 6.4): when a leader may answer a read, and with what.

A read may be answered at the commit index of when it came, or later, once an entry of
the leader's own term is committed and a quorum has answered one round of heartbeats
that left after the read came. Reads by lease are out of scope here.
"""

from __future__ import annotations

from kvstore.raft.messages import HeartbeatReply, ReadIndexReply
from kvstore.raft.ready import ReadState
from kvstore.simulation.specification import rules
from kvstore.simulation.specification.state import Lead, Ledger, Life, require
from kvstore.types import LogIndex

ACTION = "ReadIndex"


def answered(life: Life, lead: Lead, reply: HeartbeatReply) -> None:
    """A follower's answer to one round reaches the leader."""
    if (asked := lead.rounds.get(reply.round)) is not None:
        asked.answered.add(reply.sender)
        _confirm(life, lead, reply.round)


def reconsider(life: Life, lead: Lead, ledger: Ledger) -> None:
    """Voters may have changed; and a leader that is alone asks nobody."""
    if rules.is_quorum(life.current.halves, (lead.leader,)):
        lead.confirmed_at = ledger.now
    if life.compared[1] is not life.current:
        for number in list(lead.rounds):
            _confirm(life, lead, number)


def _confirm(life: Life, lead: Lead, number: int) -> None:
    asked = lead.rounds.get(number)
    if asked is None or not rules.is_quorum(
        life.current.halves, {lead.leader, *asked.answered}
    ):
        return
    lead.confirmed_at = max(lead.confirmed_at, asked.sent_at)
    for earlier in [it for it in lead.rounds if it <= number]:
        del lead.rounds[earlier]


def check_reply(lead: Lead, reply: ReadIndexReply) -> None:
    """A leader gives an index to a follower that asked.

    Raises:
        SpecificationViolation: it may not yet.
    """
    asked = lead.reads.get((reply.to, reply.request_id))
    require(asked is not None, ACTION, "nobody asked for this index", reply)
    assert asked is not None
    _check_confirmed(lead, *asked, reply.index)


def check_answer(life: Life, asked_at: int, commit: LogIndex, state: ReadState) -> None:
    """A node has an index for a read of its own, asked at ``asked_at`` when it had
    committed to ``commit``.

    Raises:
        SpecificationViolation: neither may it lead to that index, nor did its leader
            give it.
    """
    lead = life.lead
    for given in life.confirmed:
        left, index = given
        if left > asked_at and index == state.index:
            life.confirmed.remove(given)
            return
    require(
        lead is not None,
        *(ACTION, "no leader gave this index to a read that came before", state),
        life.node_id,
    )
    assert lead is not None
    _check_confirmed(lead, asked_at, commit, state.index)


def _check_confirmed(
    lead: Lead, asked_at: int, commit: LogIndex, index: LogIndex
) -> None:
    facts = (lead.leader, lead.term, index)
    require(
        lead.has_committed,
        *(ACTION, "the leader has committed no entry of its term", *facts),
    )
    require(
        lead.confirmed_at > asked_at,
        *(ACTION, "no quorum said since the read came that it still follows", *facts),
    )
    require(
        max(commit, lead.first_index) <= index <= lead.commit_index,
        *(ACTION, "the index misses what was committed when the read came", *facts),
        *(commit, lead.first_index, lead.commit_index),
    )
