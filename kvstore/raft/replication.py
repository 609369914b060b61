"""Replication and commitment (sections 5.3 and 5.4.2), heartbeats and CheckQuorum."""

from kvstore.errors import CorruptionError
from kvstore.raft import reading
from kvstore.raft.core import Core, Leadership, Role
from kvstore.raft.events import EntriesReplaced, PeerStateChanged, StepDownReason
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    EntryId,
    Heartbeat,
    HeartbeatReply,
)
from kvstore.raft.progress import PeerEvent, PeerState, Progress
from kvstore.raft.quorum import committed_index, majority
from kvstore.types import LogIndex, NodeId, Term

# ---------------------------------------------------------------------- leader


def pass_tick(core: Core, leadership: Leadership) -> None:
    """A tick passed at the leader."""
    leadership.heartbeat_elapsed_ticks += 1
    leadership.quorum_elapsed_ticks += 1
    timeout = core.options.election_timeout_ticks
    if leadership.quorum_elapsed_ticks >= timeout:
        leadership.quorum_elapsed_ticks = 0
        if not _quorum_active(core, leadership):
            core.become_follower(core.term, None, StepDownReason.QUORUM_LOST)
            return
    for peer, progress in leadership.peers:
        if progress.has_stalled(tick=core.tick_count, timeout_ticks=timeout):
            progress.stalled()
            _trace(core, peer, progress, PeerEvent.STALLED)
    if leadership.heartbeat_elapsed_ticks >= core.options.heartbeat_interval_ticks:
        broadcast_heartbeat(core, leadership)


def _quorum_active(core: Core, leadership: Leadership) -> bool:
    """CheckQuorum (dissertation section 6.2): a cut off leader must not pretend."""
    active = 1
    for _, progress in leadership.peers:
        active += progress.recently_active
        progress.recently_active = False
    return active >= majority(len(core.voters))


def broadcast_heartbeat(core: Core, leadership: Leadership) -> None:
    """Tell everybody who leads, and ask for the read round under way."""
    leadership.heartbeat_elapsed_ticks = 0
    for peer, progress in leadership.peers:
        core.messages.append(
            Heartbeat(
                sender=core.node_id,
                to=peer,
                term=core.term,
                # What lies behind match may differ there: never let it commit that.
                commit_index=min(progress.match_index, core.commit_index),
                round=leadership.reads.round,
            )
        )


def wants_append(core: Core, leadership: Leadership) -> bool:
    """Whether any peer should be sent something now."""
    last, commit, tick = core.log.last_index, core.commit_index, core.tick_count
    return any(
        progress.wants_append(last, commit, tick=tick)
        for _, progress in leadership.peers
    )


def send_appends(core: Core, leadership: Leadership) -> None:
    """Send every peer all that its window takes.

    Done once a Ready, not once a proposal or answer, so that what came together leaves
    together.

    Raises:
        CorruptionError: an entry that a slow peer needs is damaged.
    """
    last, commit, tick = core.log.last_index, core.commit_index, core.tick_count
    for peer, progress in leadership.peers:
        while progress.wants_append(last, commit, tick=tick):
            _send_append(core, peer, progress)


def _send_append(core: Core, peer: NodeId, progress: Progress) -> None:
    log = core.log
    next_index = progress.next_index
    previous_index = LogIndex(next_index - 1)
    end = LogIndex(log.last_index + 1)
    if next_index < end and progress.may_send_entries:
        entries = log.entries(next_index, end, core.options.append_bytes_max)
    else:
        entries = ()
    message = AppendEntries(
        sender=core.node_id,
        to=peer,
        term=core.term,
        previous=EntryId(log.term(previous_index), previous_index),
        entries=entries,
        commit_index=core.commit_index,
    )
    progress.sent(entries, core.commit_index, tick=core.tick_count)
    core.messages.append(message)


def handle_append_reply(core: Core, reply: AppendEntriesReply) -> None:
    """Learn what a follower holds, or where it may still agree."""
    leadership = core.leadership
    if leadership is None:
        return
    progress = leadership.progress[reply.sender]
    progress.recently_active = True
    before = progress.state
    if not reply.rejected:
        assert reply.index <= core.log.last_index
        moved = progress.accepted(reply.index)
        _trace_change(core, reply.sender, progress, before, PeerEvent.ACCEPTED)
        if moved:
            advance_commit(core, leadership)
        return
    hint = reply.hint
    retry = LogIndex(0)
    if hint is not None and before is PeerState.PROBE:
        retry = core.log.latest_within(hint).index
    progress.rejected(reply.index, retry)
    _trace_change(core, reply.sender, progress, before, PeerEvent.REJECTED)


def handle_heartbeat_reply(core: Core, reply: HeartbeatReply) -> None:
    """The follower lives and follows: resume what was lost, confirm reads."""
    leadership = core.leadership
    if leadership is None:
        return
    progress = leadership.progress[reply.sender]
    progress.recently_active = True
    progress.heard(
        tick=core.tick_count, patience_ticks=core.options.heartbeat_interval_ticks
    )
    if reply.round:
        reading.acknowledge(core, leadership, reply.sender, reply.round)


def peer_disconnected(core: Core, leadership: Leadership, peer: NodeId) -> None:
    """What is under way to the peer may be lost: find out before sending more."""
    progress = leadership.progress[peer]
    before = progress.state
    progress.disconnected()
    _trace_change(core, peer, progress, before, PeerEvent.DISCONNECTED)


def advance_commit(core: Core, leadership: Leadership) -> None:
    """Commit what a majority holds durably, if it is of this term.

    An entry of an earlier term is never committed by counting: a later leader could
    still replace it (section 5.4.2, Figure 8; mutant M11). It commits with the first
    entry of this term behind it. The leader counts itself by what is durable here, not
    by what it has (dissertation section 10.2.1; mutant M20).
    """
    log = core.log
    matches = [progress.match_index for _, progress in leadership.peers]
    matches.append(log.stable_index)
    index = committed_index(matches)
    if index > core.commit_index and log.term(index) == core.term:
        core.commit_to(index)
        leadership.term_committed = True


def _trace_change(
    core: Core, peer: NodeId, progress: Progress, before: PeerState, cause: PeerEvent
) -> None:
    if progress.state is not before:
        _trace(core, peer, progress, cause)


def _trace(core: Core, peer: NodeId, progress: Progress, cause: PeerEvent) -> None:
    core.events.append(PeerStateChanged(core.term, peer, progress.state, cause))


# -------------------------------------------------------------------- follower


def handle_append(core: Core, message: AppendEntries) -> None:
    """Take a leader's entries, or say where the logs may still agree."""
    follow(core, message.sender)
    log = core.log
    previous, entries = message.previous, message.entries
    if not log.matches(previous):
        hint = log.latest_within(previous)
        _refuse_append(core, message, hint)
        return
    reaches = LogIndex(previous.index + len(entries))
    if entries:
        assert entries[0].index == previous.index + 1
        assert entries[-1].index == reaches
        _merge(core, message)
    # Only as far as this message vouches for: a stale tail may lie behind (M12, M15).
    core.commit_to(min(message.commit_index, reaches))
    core.persistence.send_when_durable(
        AppendEntriesReply(
            sender=core.node_id,
            to=message.sender,
            term=core.term,
            index=reaches,
            rejected=False,
            hint=None,
        ),
        reaches,
    )


def _merge(core: Core, message: AppendEntries) -> None:
    """Replace what conflicts, and only that; append what is new."""
    log = core.log
    entries = message.entries
    first_new = log.first_conflict(entries)
    if first_new == len(entries):
        return
    new = entries[first_new:]
    last_before = log.last_index
    if new[0].index <= last_before:
        # Section 5.4.3: no leader lacks a committed entry.
        assert new[0].index > core.commit_index, (new[0], core.commit_index)
        log.truncate_after(LogIndex(new[0].index - 1))
        core.events.append(EntriesReplaced(core.term, new[0].index, last_before))
    log.append(new)


def _refuse_append(core: Core, message: AppendEntries, hint: EntryId) -> None:
    core.messages.append(
        AppendEntriesReply(
            sender=core.node_id,
            to=message.sender,
            term=core.term,
            index=message.previous.index,
            rejected=True,
            hint=hint,
        )
    )


def handle_heartbeat(core: Core, message: Heartbeat) -> None:
    """Take the commit index, and answer.

    Raises:
        CorruptionError: the leader knows of entries here, acknowledged and so durable,
            that the log does not hold. This node must not vote or acknowledge again.
    """
    if message.commit_index > core.log.last_index:
        raise CorruptionError(
            f"this node acknowledged entries to {message.commit_index}, but its log "
            f"ends at {core.log.last_index}: its disk lost them",
            store="raft",
        )
    follow(core, message.sender)
    core.commit_to(message.commit_index)
    core.persistence.send_when_durable(
        HeartbeatReply(
            sender=core.node_id,
            to=message.sender,
            term=core.term,
            round=message.round,
        ),
        LogIndex(0),
    )


def follow(core: Core, leader_id: NodeId) -> None:
    """A message of this term's leader came."""
    assert core.leadership is None, "two leaders in one term"
    if core.role is not Role.FOLLOWER:
        core.become_follower(core.term, leader_id, StepDownReason.LEADER_FOUND)
    core.set_leader(leader_id)
    core.timer.leader_heard()


def handle_stale_append(core: Core, message: AppendEntries) -> None:
    """A leader of an earlier term: our term in the answer makes it step down.

    Without it, a node that came to a higher term while cut off could never follow
    again: the others do not listen to its campaigns while they hear that leader.
    """
    _refuse_append(core, message, EntryId(Term(0), LogIndex(0)))


def handle_stale_heartbeat(core: Core, message: Heartbeat) -> None:
    """As :func:`handle_stale_append`."""
    core.messages.append(
        HeartbeatReply(sender=core.node_id, to=message.sender, term=core.term, round=0)
    )
