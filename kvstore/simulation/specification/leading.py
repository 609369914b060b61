"""What a leader does: ClientRequest, ChangeMembers, AdvanceCommitIndex."""

from __future__ import annotations

from kvstore.raft.messages import Entry, EntryKind
from kvstore.simulation.specification import rules
from kvstore.simulation.specification.logs import fetch, take
from kvstore.simulation.specification.reads import reconsider
from kvstore.simulation.specification.rules import Members
from kvstore.simulation.specification.state import (
    Lead,
    Ledger,
    Life,
    is_durable,
    require,
)
from kvstore.types import LogIndex


def check_leading(life: Life, ledger: Ledger) -> None:
    """Check a step of a leader, also its first and its last."""
    node, lead, log = life.node, life.lead, life.log
    assert lead is not None
    commit, last = node.commit_index, log.last_index
    require(
        node.log.last_index >= last and node.log.term(last) == log.last.term,
        *("ClientRequest", "a leader never takes back an entry", node.node_id),
        *(log.last, node.log.last_id),
    )
    if commit != life.commit_index:
        _check_advance(life, lead)
    if node.log.last_index != last:
        for entry in fetch(life, LogIndex(last + 1)):
            _check_own_entry(life, lead, entry)
            take(life, ledger, entry, "ClientRequest")
    require(
        log.last_index >= lead.first_index,
        *("BecomeLeader", "a term begins with an entry of its own", node.node_id),
    )
    _check_matches(life, lead)
    reconsider(life, lead, ledger)


def _check_advance(life: Life, lead: Lead) -> None:
    """AdvanceCommitIndex, by the configuration before the step: it may end one."""
    node, log, index = life.node, life.log, life.node.commit_index
    facts = (node.node_id, lead.term, life.commit_index, index)
    action = "AdvanceCommitIndex"
    require(index > life.commit_index, action, "a commit index never falls", *facts)
    require(
        rules.is_own_term(log, lead.term, index),
        *(action, "an entry of an earlier term is not committed by counting", *facts),
    )
    matches = dict(lead.acknowledged)
    if is_durable(life.durable, lead.term, index):
        matches[node.node_id] = index
    else:
        matches.pop(node.node_id, None)
    require(
        rules.may_commit(log, lead.term, index, life.current.halves, matches),
        *(action, "no quorum holds it durably, as far as the leader was told", *facts),
        *(matches, life.current),
    )
    life.commit_index = lead.commit_index = index


def _check_own_entry(life: Life, lead: Lead, entry: Entry) -> None:
    facts = (life.node_id, entry.term, entry.index, entry.kind)
    require(
        entry.term == lead.term,
        *("ClientRequest", "a leader's entries are of its term", *facts),
    )
    require(
        (entry.kind is EntryKind.NOOP) == (entry.index == lead.first_index),
        *("BecomeLeader", "a no-op begins the term, and nothing else is one", *facts),
    )
    if entry.kind is not EntryKind.CONFIGURATION:
        return
    action, before_index = "ChangeMembers", life.members[-1][0]
    require(
        life.commit_index >= lead.first_index,
        *(action, "the leader has committed no entry of its term", *facts),
    )
    require(
        before_index <= life.commit_index,
        *(action, "the change before is not committed", *facts, before_index),
    )
    after = Members.parse(entry.data)
    require(
        rules.may_succeed(life.current, after),
        *(action, "only a joint configuration leads to another", *facts),
        *(life.current, after),
    )


def _check_matches(life: Life, lead: Lead) -> None:
    """A match is an acknowledgement of this term that came, the highest yet."""
    acknowledged, matches = lead.acknowledged, lead.matches
    for peer, progress in life.node.progress.items():
        match, before = progress.match_index, matches.get(peer, 0)
        if match == before:
            continue
        facts = (life.node_id, peer, before, match)
        action = "HandleAppendEntriesReply"
        require(match > before, action, "a match index never falls", *facts)
        require(
            match <= acknowledged.get(peer, 0),
            *(action, "nobody acknowledged that much", *facts),
        )
        matches[peer] = match
