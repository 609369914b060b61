"""Next, one node at a time: the steps that change what a node is.

:func:`check_step` knows the state before, the state after, and at most one message in
between. It finds the actions that lead from one to the other, or the guard that forbids
it. A node may always do less: ignore a message, refuse a vote, step down. What it does
must be allowed.
"""

from __future__ import annotations

from kvstore.raft.messages import (
    AppendEntries,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Heartbeat,
    InstallSnapshot,
    Message,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from kvstore.raft.node import Role
from kvstore.simulation.specification import rules
from kvstore.simulation.specification.reads import reconsider
from kvstore.simulation.specification.rules import Members
from kvstore.simulation.specification.state import (
    Lead,
    Ledger,
    Life,
    is_durable,
    require,
)
from kvstore.types import LogIndex, Term

EVERYTHING = 1 << 62
"""More bytes than any log has."""


def check_step(life: Life, ledger: Ledger) -> None:
    """Check one step of a running node, and take over its state.

    Raises:
        SpecificationViolation: the specification has no such step.
    """
    node, message = life.node, life.input
    deposed = message is not None and message.term > life.term
    led = life.role is Role.LEADER and not deposed
    if node.term != life.term or node.vote != life.vote or node.role is not life.role:
        _check_role(life, ledger)
    if led or life.role is Role.LEADER:
        _check_leading(life, ledger)
    else:
        _check_following(life, ledger)
    if node.log.floor.index != life.floor:
        _check_compaction(life)
    _check_configuration(life)
    life.input = None


# ------------------------------------------------------------- term, vote and role


def _check_role(life: Life, ledger: Ledger) -> None:
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
    durable_term = life.durable.hard_state.term
    for term in [term for term in life.vouched if term < durable_term]:
        del life.vouched[term]


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


# ------------------------------------------------------------------------- leading


def _check_leading(life: Life, ledger: Ledger) -> None:
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
        for entry in _fetch(life, LogIndex(last + 1)):
            _check_own_entry(life, lead, entry)
            _take(life, ledger, entry, "ClientRequest")
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


# ----------------------------------------------------------------------- following


def _check_following(life: Life, ledger: Ledger) -> None:
    node, message = life.node, life.input
    if message is not None and message.term != node.term:
        message = None  # it was refused
    same = _is_same_log(life)
    match message:
        case AppendEntries() if not same:
            _check_append(life, ledger, message)
        case InstallSnapshot() if node.log.floor.index != life.floor:
            _check_install(life, message)
        case _:
            require(
                same,
                *("HandleAppendEntries", "a log changes only by its leader's word"),
                *(node.node_id, life.log.last, node.log.last_id, message),
            )
    if node.commit_index != life.commit_index:
        _check_learned_commit(life, message)


def _is_same_log(life: Life) -> bool:
    """By log matching, two logs that end alike are alike."""
    log, now = life.log, life.node.log
    last = log.last_index
    return now.last_index == last and now.term(last) == log.last.term


def _check_append(life: Life, ledger: Ledger, message: AppendEntries) -> None:
    """HandleAppendEntries: replace what conflicts, and only that; append the rest."""
    action, node, log = "HandleAppendEntries", life.node, life.log
    previous, entries = message.previous, message.entries
    facts = (node.node_id, log.last, node.log.last_id, previous, len(entries))
    position = rules.new_from(log, previous, [entry.term for entry in entries])
    require(
        position is not None,
        *(action, "the log does not hold what precedes the entries", *facts),
    )
    new = entries[position:]
    require(bool(new), action, "a log that holds them all stays as it is", *facts)
    require(
        new[0].index > life.commit_index,
        *(action, "what is committed is never replaced", *facts, life.commit_index),
    )
    _truncate(life, LogIndex(new[0].index - 1))
    require(
        node.log.last_index == new[-1].index,
        *(action, "a log takes what was sent, no more and no less", *facts),
    )
    for entry, sent in zip(_fetch(life, new[0].index), new, strict=True):
        require(
            entry.term == sent.term,
            *(action, "a log takes what was sent", *facts, entry, sent),
        )
        _take(life, ledger, entry, action)


def _check_install(life: Life, message: InstallSnapshot) -> None:
    """InstallSnapshot: it stands for the whole log, and leaves nothing of it."""
    action, node, log = "InstallSnapshot", life.node, life.log
    last = message.snapshot.last
    facts = (node.node_id, log.last, last, node.log.last_id)
    require(
        node.log.floor == last and node.log.last_index == last.index,
        *(action, "the log begins anew behind it, with nothing left", *facts),
    )
    require(
        last.index > life.commit_index and not log.holds(last.term, last.index),
        *(action, "it takes away what the log holds beyond it", *facts),
        life.commit_index,
    )
    _truncate(life, log.base.index)
    log.base = last
    life.floor = last.index
    life.members[:] = [(last.index, Members.parse(message.snapshot.configuration))]


def _check_learned_commit(life: Life, message: Message | None) -> None:
    node, log, index = life.node, life.log, life.node.commit_index
    allowed = 0
    match message:
        case AppendEntries():
            last = _reaches(message)
            if log.holds(last.term, last.index):
                allowed = rules.commit_vouched_for(message.commit_index, last.index)
        case Heartbeat():
            allowed = min(message.commit_index, log.last_index)
        case InstallSnapshot() if log.holds(*_parts(message.snapshot.last)):
            allowed = message.snapshot.last.index
        case _:
            pass
    facts = (node.node_id, life.commit_index, index, allowed)
    action = "HandleAppendEntries"
    require(index > life.commit_index, action, "a commit index never falls", *facts)
    require(
        index <= allowed,
        *(action, "a follower commits only what the leader's message vouches for"),
        *facts,
    )
    life.commit_index = index


def _parts(entry: EntryId) -> tuple[Term, LogIndex]:
    return entry.term, entry.index


def _reaches(message: AppendEntries) -> EntryId:
    """The last entry that a message speaks of."""
    if not message.entries:
        return message.previous
    last = message.entries[-1]
    return EntryId(last.term, last.index)


# --------------------------------------------------------------- log and members


def _fetch(life: Life, first: LogIndex) -> list[Entry]:
    """Entries of the node's log from ``first`` on."""
    log = life.node.log
    end = LogIndex(log.last_index + 1)
    found: list[Entry] = []
    while first < end:
        found += log.entries(first, end, EVERYTHING)
        first = LogIndex(found[-1].index + 1)
    return found


def _take(life: Life, ledger: Ledger, entry: Entry, action: str) -> None:
    log = life.log
    previous = log.last
    require(
        entry.index == previous.index + 1 and entry.term >= previous.term,
        *(action, "a log has no gaps, and its terms never fall", life.node_id, entry),
    )
    ledger.entered(entry, previous.term, action)
    assert isinstance(log.terms, list)
    log.terms.append(entry.term)
    if entry.kind is EntryKind.CONFIGURATION:
        life.members.append((entry.index, Members.parse(entry.data)))


def _truncate(life: Life, keep: LogIndex) -> None:
    log = life.log
    for index in range(keep + 1, log.last_index + 1):
        life.replaced.add(EntryId(log.term(index), LogIndex(index)))
    assert isinstance(log.terms, list)
    del log.terms[keep - log.base.index :]
    while len(life.members) > 1 and life.members[-1][0] > keep:
        life.members.pop()


def _check_compaction(life: Life) -> None:
    """Compact: the state stands for what it has applied."""
    node, floor = life.node, life.node.log.floor
    require(
        life.floor < floor.index <= min(life.commit_index, node.applied_index)
        and life.log.holds(floor.term, floor.index),
        *("Compact", "only what was applied is forgotten", node.node_id, floor),
        *(life.commit_index, node.applied_index),
    )
    life.floor = floor.index


def _check_configuration(life: Life) -> None:
    """Who the members are is what the log says last, committed or not."""
    believed, current = life.node.configuration, life.current
    if life.compared[0] is believed and life.compared[1] is current:
        return
    found = Members(
        voters=believed.voters,
        outgoing=believed.outgoing,
        learners=believed.learners,
        learners_next=believed.learners_next,
    )
    require(
        found == current,
        *("ChangeMembers", "the members are those of the log's last configuration"),
        *(life.node_id, found, current),
    )
    life.compared = (believed, current)
