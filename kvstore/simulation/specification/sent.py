"""Send: what a node may say, by what it is and by what of it is durable.

Who speaks for a term, a vote or entries speaks of its disk (dissertation section 3.8).
A message may leave late, after its sender went on: then it is judged by what the sender
was in the message's term.
"""

from __future__ import annotations

from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from kvstore.raft.node import Role
from kvstore.raft.observed import DurableView
from kvstore.simulation.specification.reads import check_reply
from kvstore.simulation.specification.rules import Members
from kvstore.simulation.specification.state import (
    Lead,
    Ledger,
    Life,
    Round,
    is_durable,
    require,
)


def check_sent(
    life: Life, message: Message, durable: DurableView, ledger: Ledger
) -> None:
    """Check a message as it leaves.

    Raises:
        SpecificationViolation: nobody in that state may send it.
    """
    match message:
        case RequestVote():
            _check_request(life, message, durable)
        case RequestVoteReply(granted=True, pre_vote=True):
            require(
                message.term <= life.pre_votable.get(message.to, 0),
                *("PreVote", "promised to whom nobody could promise it", message),
            )
        case RequestVoteReply(granted=True):
            _check_durable_vote("GrantVote", message.to, message, durable)
        case AppendEntriesReply(rejected=False):
            _check_acknowledgement(life, message, durable)
        case HeartbeatReply():
            _check_heartbeat_reply(life, message, durable)
        case ReadIndexRequest():
            life.forwarded.setdefault(message.request_id, ledger.now)
        case RequestVoteReply() | AppendEntriesReply():
            require(
                message.term <= life.term,
                *("Refuse", "a refusal tells its sender's own term", message),
            )
        case ReadIndexReply(rejected=True):
            pass
        case AppendEntries() | Heartbeat() | InstallSnapshot() | TimeoutNow():
            _check_leader_says(life, _lead(message, ledger), message, ledger)
        case ReadIndexReply():
            check_reply(_lead(message, ledger), message)


def _lead(message: Message, ledger: Ledger) -> Lead:
    lead = ledger.leads.get(message.term)
    require(
        lead is not None and lead.leader == message.sender,
        *(type(message).__name__, "only the leader of the term sends it", message),
    )
    assert lead is not None
    return lead


# -------------------------------------------------------------------------- votes


def _check_request(life: Life, message: RequestVote, durable: DurableView) -> None:
    if message.pre_vote:
        require(
            message.term <= life.term + 1,
            *("PreVote", "it is about the next term", message),
        )
        return
    _check_durable_vote("RequestVote", message.sender, message, durable)
    last = message.last_log
    require(
        is_durable(durable, last.term, last.index),
        *("RequestVote", "a candidate boasts of a log that is not durable", message),
    )
    require(
        not message.transfer or message.term - 1 in life.told_to_campaign,
        *("RequestVote", "no leader asked for this campaign", message),
    )


def _check_durable_vote(
    action: str,
    candidate: int,
    message: RequestVote | RequestVoteReply,
    durable: DurableView,
) -> None:
    now, term = durable.hard_state, message.term
    require(
        now.term == term and now.vote == candidate,
        *(action, "a vote leaves while it is durable, for one candidate", message, now),
    )


# ---------------------------------------------------------------------- followers


def _check_acknowledgement(
    life: Life, message: AppendEntriesReply, durable: DurableView
) -> None:
    """Of exactly what a message of this term proved, once all of it is durable."""
    action, now, index = "HandleAppendEntries", durable.hard_state, message.index
    # A later one may have replaced the entries (the core drops what waited for it).
    require(
        now.term == message.term,
        *(action, "an acknowledgement leaves while its term is durable", message, now),
    )
    term = life.vouched.get(message.term, {}).get(index)
    require(
        term is not None or index <= life.commit_index,
        *(action, "acknowledged is what a message of the leader's proved", message),
    )
    if term is None:
        held = durable.last_index >= index
    else:
        held = is_durable(durable, term, index)
    require(
        held,
        *(action, "an acknowledgement leaves once its entries are durable", message),
        durable.last_index,
    )


def _check_heartbeat_reply(
    life: Life, message: HeartbeatReply, durable: DurableView
) -> None:
    if not message.round:
        return
    require(
        (message.term, message.round) in life.heard,
        *("HandleHeartbeat", "nobody asked in this round", message),
    )
    require(
        durable.hard_state.term == message.term,
        *("HandleHeartbeat", "who follows has the term on its disk", message),
    )


# ------------------------------------------------------------------------ leaders


def _check_leader_says(
    life: Life,
    lead: Lead,
    message: AppendEntries | Heartbeat | InstallSnapshot | TimeoutNow,
    ledger: Ledger,
) -> None:
    match message:
        case AppendEntries():
            _check_append(life, lead, message, ledger)
        case Heartbeat():
            held = lead.acknowledged.get(message.to, 0)
            require(
                message.commit_index <= min(held, lead.commit_index),
                *("Heartbeat", "it lets commit what the receiver may not hold"),
                *(message, held, lead.commit_index),
            )
            if message.round:
                lead.rounds.setdefault(message.round, Round(ledger.now))
        case TimeoutNow():
            require(
                message.last_index <= life.log.last_index or life.term > message.term,
                *("TimeoutNow", "it names an entry that nobody has", message),
            )
        case InstallSnapshot():
            last = message.snapshot.last
            require(
                last.index <= life.commit_index
                and life.log.holds(last.term, last.index),
                *("InstallSnapshot", "it stands for what is committed", message),
            )
            # What was compacted has its configuration in another place.
            require(
                last.index < life.members[0][0]
                or Members.parse(message.snapshot.configuration)
                == life.members_at(last.index),
                *("InstallSnapshot", "its members are those of its entry", message),
            )


def _check_append(
    life: Life, lead: Lead, message: AppendEntries, ledger: Ledger
) -> None:
    """AppendEntries: a piece of the leader's log, as it is."""
    action, log = "AppendEntries", life.log
    require(
        message.commit_index <= lead.commit_index,
        *(action, "it tells more than is committed", message, lead.commit_index),
    )
    leads = life.role is Role.LEADER and life.term == message.term
    previous = message.previous
    require(
        not leads or log.holds(previous.term, previous.index),
        *(action, "it builds on what the leader does not hold", message),
    )
    before = previous.term
    for index, entry in enumerate(message.entries, previous.index + 1):
        content = ledger.contents.get((entry.term, entry.index))
        require(
            entry.index == index
            and (not leads or log.holds(entry.term, index))
            and content is not None
            and content[0] == before
            and content[2] == entry.data,
            *(action, "it carries what is not the leader's", message, entry),
        )
        before = entry.term
