"""Receive: what a message that reaches a node entitles it to, later.

Evidence, and no more: a majority of votes, an acknowledgement, a leader's word. It is
weighed against the state before the message, by the rules of the receiver.
"""

from __future__ import annotations

from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    EntryId,
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
from kvstore.simulation.specification import reads, rules
from kvstore.simulation.specification.state import Lead, Ledger, Life
from kvstore.types import LogIndex


def receive(life: Life, message: Message, ledger: Ledger) -> None:
    """Note what a message entitles its receiver to."""
    match message:
        case RequestVote(pre_vote=True):
            own = life.log.last
            if message.term > life.term and rules.is_up_to_date(message.last_log, own):
                before = life.pre_votable.get(message.sender, message.term)
                life.pre_votable[message.sender] = max(message.term, before)
        case RequestVoteReply(granted=True):
            _receive_vote(life, message)
        case AppendEntries() if message.term >= life.term:
            _receive_append(life, message)
        case InstallSnapshot() if message.term >= life.term:
            _vouch(life, message, message.snapshot.last)
        case Heartbeat() if message.term >= life.term:
            life.heard.add((message.term, message.round))
        case TimeoutNow() if message.term == life.term:
            life.told_to_campaign.add(message.term)
        case ReadIndexReply(rejected=False) if message.request_id in life.forwarded:
            left = life.forwarded.pop(message.request_id)
            life.confirmed.append((left, message.index))
        case _:
            lead = life.lead
            if life.role is Role.LEADER and message.term == life.term:
                assert lead is not None
                _receive_as_leader(life, lead, message, ledger)


def _receive_vote(life: Life, reply: RequestVoteReply) -> None:
    """An answer counts in the campaign that asked, and in no other."""
    if reply.pre_vote:
        if life.role is Role.PRE_CANDIDATE and reply.term == life.term + 1:
            life.pre_votes.add(reply.sender)
    elif life.role is Role.CANDIDATE and reply.term == life.term:
        life.votes.add(reply.sender)


def _receive_append(life: Life, message: AppendEntries) -> None:
    if not life.log.holds(message.previous.term, message.previous.index):
        return
    last = message.previous
    if message.entries:
        last = EntryId(message.entries[-1].term, message.entries[-1].index)
    _vouch(life, message, last)


def _vouch(life: Life, message: AppendEntries | InstallSnapshot, last: EntryId) -> None:
    life.vouched.setdefault(message.term, {})[last.index] = last.term


def _receive_as_leader(
    life: Life, lead: Lead, message: Message, ledger: Ledger
) -> None:
    match message:
        case AppendEntriesReply(rejected=False):
            before = lead.acknowledged.get(message.sender, LogIndex(0))
            lead.acknowledged[message.sender] = max(before, message.index)
        case HeartbeatReply():
            reads.answered(life, lead, message)
        case ReadIndexRequest():
            key = (message.sender, message.request_id)
            lead.reads.setdefault(key, (ledger.now, life.commit_index))
        case _:
            pass
