"""What others do with a leader's words: HandleAppendEntries, InstallSnapshot."""

from __future__ import annotations

from kvstore.raft.messages import (
    AppendEntries,
    EntryId,
    Heartbeat,
    InstallSnapshot,
    Message,
)
from kvstore.simulation.specification import rules
from kvstore.simulation.specification.logs import fetch, take, truncate
from kvstore.simulation.specification.rules import Members
from kvstore.simulation.specification.state import Ledger, Life, require
from kvstore.types import LogIndex, Term


def check_following(life: Life, ledger: Ledger) -> None:
    """Check what becomes of the log and the commit index of who does not lead."""
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
    truncate(life, LogIndex(new[0].index - 1))
    require(
        node.log.last_index == new[-1].index,
        *(action, "a log takes what was sent, no more and no less", *facts),
    )
    for entry, sent in zip(fetch(life, new[0].index), new, strict=True):
        require(
            entry.term == sent.term,
            *(action, "a log takes what was sent", *facts, entry, sent),
        )
        take(life, ledger, entry, action)


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
    # An earlier snapshot may be under way to the disk, and entries before it.
    life.replaced.add(log.base)
    truncate(life, log.base.index)
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
