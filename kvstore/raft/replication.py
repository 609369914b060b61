"""Replication and commitment (sections 5.3 and 5.4.2), heartbeats and CheckQuorum."""

from kvstore.errors import CorruptionError
from kvstore.raft import changes, handover, reading
from kvstore.raft.core import Core, Leadership, Role
from kvstore.raft.events import (
    EntriesReplaced,
    PeerStateChanged,
    SnapshotAccepted,
    SnapshotIgnored,
    StepDownReason,
)
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    EntryId,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
)
from kvstore.raft.progress import PeerEvent, PeerState, Progress
from kvstore.raft.quorum import has_quorum, joint_committed_index
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
    if _disk_stalled(core, leadership):
        handover.step_aside(core, leadership, StepDownReason.DISK_STALLED)
        return
    handover.pass_tick(core, leadership)
    changes.pass_tick(core, leadership)
    for peer, progress in leadership.peers:
        if progress.has_stalled(tick=core.tick_count, timeout_ticks=timeout):
            progress.stalled()
            _trace(core, peer, progress, PeerEvent.STALLED)
    if leadership.heartbeat_elapsed_ticks >= core.options.heartbeat_interval_ticks:
        if reading.wants_lease_round(core, leadership):
            reading.begin_round(core, leadership)
        broadcast_heartbeat(core, leadership)


def _disk_stalled(core: Core, leadership: Leadership) -> bool:
    """Whether a write has been under way for T: others can commit, this node cannot.

    Without another voter there is nobody to leave the lead to.
    """
    number, written = core.persistence.in_flight, leadership.written
    if number is None:
        leadership.written = None
    elif written is None or written[0] != number:
        # Under load a write is in flight at every tick, each time another.
        leadership.written = number, core.tick_count
    elif core.tick_count - written[1] >= core.options.election_timeout_ticks:
        return not core.is_alone
    return False


def _quorum_active(core: Core, leadership: Leadership) -> bool:
    """CheckQuorum (dissertation section 6.2): a cut off leader must not pretend."""
    active = {core.node_id}
    for peer, progress in leadership.peers:
        if progress.recently_active:
            active.add(peer)
        progress.recently_active = False
    return has_quorum(core.configuration.halves, active)


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
    """Send every peer all that its window takes. One that lacks what is compacted is
    marked as in need of a snapshot instead.

    Done once a Ready, not once a proposal or answer, so that what came together leaves
    together.

    Raises:
        CorruptionError: an entry that a slow peer needs is damaged.
    """
    last, commit, tick = core.log.last_index, core.commit_index, core.tick_count
    for peer, progress in leadership.peers:
        while progress.wants_append(last, commit, tick=tick):
            if progress.next_index > core.log.floor.index:
                _send_append(core, peer, progress)
            elif progress.recently_active:
                progress.too_far_behind()
                _trace(core, peer, progress, PeerEvent.TOO_FAR_BEHIND)
            else:
                progress.wait_until_heard()  # nobody to send a snapshot to


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
    if leadership is None or reply.sender not in leadership.progress:
        return
    progress = leadership.progress[reply.sender]
    progress.recently_active = True
    before = progress.state
    if not reply.rejected:
        assert reply.index <= core.log.last_index
        moved = progress.accepted(reply.index, floor=core.log.floor.index)
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
    if leadership is None or reply.sender not in leadership.progress:
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
    if peer not in leadership.progress:
        return
    progress = leadership.progress[peer]
    before = progress.state
    progress.disconnected()
    _trace_change(core, peer, progress, before, PeerEvent.DISCONNECTED)


def snapshot_ended(
    core: Core, leadership: Leadership, peer: NodeId, reached: LogIndex
) -> None:
    """A snapshot's transfer to the peer is over."""
    progress = leadership.progress.get(peer)
    if progress is None:
        return
    before = progress.state
    progress.snapshot_ended(reached)
    _trace_change(core, peer, progress, before, PeerEvent.SNAPSHOT_ENDED)


def advance_commit(core: Core, leadership: Leadership) -> None:
    """Commit what a majority of each half holds durably, if it is of this term.

    An entry of an earlier term is never committed by counting: a later leader could
    still replace it (section 5.4.2, Figure 8; mutant M11). It commits with the first
    entry of this term behind it. The leader counts itself by what is durable here, not
    by what it has (dissertation section 10.2.1; mutant M20).
    """
    log = core.log
    matches = {peer: progress.match_index for peer, progress in leadership.peers}
    matches[core.node_id] = log.stable_index
    index = joint_committed_index(core.configuration.halves, matches)
    if index > core.commit_index and log.term(index) == core.term:
        core.commit_to(index)
        leadership.term_committed = True
        changes.committed(core, leadership)


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
        _refuse_append(core, message.sender, previous.index, hint)
        return
    reaches = LogIndex(previous.index + len(entries))
    if entries:
        assert entries[0].index == previous.index + 1
        assert entries[-1].index == reaches
        _merge(core, message)
    # Only as far as this message vouches for: a stale tail may lie behind (M12, M15).
    core.commit_to(min(message.commit_index, reaches))
    _acknowledge(core, message.sender, reaches)


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
        before = log.configuration_index
        log.truncate_after(LogIndex(new[0].index - 1))
        core.events.append(EntriesReplaced(core.term, new[0].index, last_before))
        if log.configuration_index != before:
            core.configuration_changed()
    before = log.configuration_index
    log.append(new)
    if log.configuration_index != before:
        core.configuration_changed()


def _refuse_append(core: Core, leader: NodeId, index: LogIndex, hint: EntryId) -> None:
    core.messages.append(
        AppendEntriesReply(
            sender=core.node_id,
            to=leader,
            term=core.term,
            index=index,
            rejected=True,
            hint=hint,
        )
    )


def handle_snapshot(core: Core, message: InstallSnapshot) -> None:
    """Take a leader's state in place of what the log lacks, or say what it holds.

    Its data is here already. What the log knows to be committed needs no snapshot: an
    old one must not take away newer entries (M31). A log that holds the snapshot's last
    entry has all before it, too.
    """
    follow(core, message.sender)
    log, last = core.log, message.snapshot.last
    if last.index <= core.commit_index or log.matches(last):
        core.events.append(SnapshotIgnored(core.term, last))
        core.commit_to(last.index)
        _acknowledge(core, message.sender, core.commit_index)
        return
    core.events.append(SnapshotAccepted(core.term, last))
    log.reset(message.snapshot)
    core.persistence.snapshot = message.snapshot
    core.configuration_changed()
    core.commit_to(last.index)
    _acknowledge(core, message.sender, last.index)


def _acknowledge(core: Core, leader: NodeId, index: LogIndex) -> None:
    """Once the log to ``index`` is durable."""
    core.persistence.send_when_durable(
        AppendEntriesReply(
            sender=core.node_id,
            to=leader,
            term=core.term,
            index=index,
            rejected=False,
            hint=None,
        ),
        index,
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


def handle_stale_append(core: Core, leader: NodeId) -> None:
    """A leader of an earlier term: our term in the answer makes it step down.

    Without it, a node that came to a higher term while cut off could never follow
    again: the others do not listen to its campaigns while they hear that leader.
    """
    _refuse_append(core, leader, LogIndex(0), EntryId(Term(0), LogIndex(0)))


def handle_stale_heartbeat(core: Core, message: Heartbeat) -> None:
    """As :func:`handle_stale_append`."""
    core.messages.append(
        HeartbeatReply(sender=core.node_id, to=message.sender, term=core.term, round=0)
    )
