"""Linearizable reads without the log: ReadIndex (dissertation section 6.4)."""

from kvstore.raft.core import Core, Leadership
from kvstore.raft.events import ReadsConfirmed
from kvstore.raft.messages import ReadIndexReply, ReadIndexRequest
from kvstore.raft.quorum import has_quorum
from kvstore.raft.reads import ConfirmedReads, PendingRead
from kvstore.raft.ready import ReadState
from kvstore.types import NodeId


def read_index(core: Core, request_id: int, *, lease: bool) -> None:
    """Find an index from which a read that starts now may be served.

    ``lease``: the leader's lease will do, if it has one.
    """
    leadership = core.leadership
    if leadership is not None:
        if lease and has_lease(core, leadership):
            core.read_states.append(
                ReadState(request_id=request_id, index=core.commit_index, lease=True)
            )
        elif len(leadership.reads) >= core.options.pending_reads_max:
            core.reject_reads((request_id,))
        else:
            leadership.reads.add(PendingRead(core.node_id, request_id))
        return
    leader_id = core.leader_id
    forwarded = core.forwarded_reads
    if leader_id is None or len(forwarded) >= core.options.pending_reads_max:
        core.reject_reads((request_id,))
        return
    deadline = core.tick_count + core.options.election_timeout_ticks
    core.messages.append(
        ReadIndexRequest(
            sender=core.node_id,
            to=leader_id,
            term=core.term,
            request_id=forwarded.add(request_id, deadline_tick=deadline),
        )
    )


def expire(core: Core) -> None:
    """Give up reads whose question or answer must have been lost."""
    if len(core.forwarded_reads):
        core.reject_reads(core.forwarded_reads.expire(core.tick_count))


def has_lease(core: Core, leadership: Leadership) -> bool:
    """Whether nobody else can have been elected by now, if the clocks keep their word.

    The clock is the driver's and counts while the process stands still; what it cannot
    see is a pause between this answer and the client's receiving it.
    """
    return (
        core.configuration.leases
        and leadership.term_committed
        and leadership.lease.holds(core.now_ms)
    )


def can_start_round(leadership: Leadership) -> bool:
    """Whether reads wait and a round can begin.

    None may be under way, and an entry of the leader's own term must be committed:
    only then is its commit index known to be up to date.
    """
    return leadership.term_committed and leadership.reads.wants_round


def wants_lease_round(core: Core, leadership: Leadership) -> bool:
    """Whether the next heartbeat should renew the lease."""
    return (
        core.configuration.leases
        and leadership.term_committed
        and not leadership.lease.void
        and leadership.reads.round == 0
    )


def start_round(core: Core, leadership: Leadership) -> bool:
    """Begin a round with every read that waits. Whether to ask the others now."""
    if not can_start_round(leadership):
        return False
    begin_round(core, leadership)
    return leadership.reads.round != 0


def begin_round(core: Core, leadership: Leadership) -> None:
    """Ask everybody, with the next heartbeats, whether they still follow."""
    core.last_read_round += 1
    leadership.reads.start(core.last_read_round, core.commit_index, now_ms=core.now_ms)
    acknowledge(core, leadership, core.node_id, core.last_read_round)


def acknowledge(core: Core, leadership: Leadership, voter: NodeId, number: int) -> None:
    """``voter`` followed us when round ``number`` reached it."""
    configuration = core.configuration
    confirmed = leadership.reads.acknowledge(voter, number, configuration.halves)
    if confirmed is None:
        return
    if configuration.leases:
        _extend_lease(core, leadership, confirmed)
    if not confirmed.reads:
        return
    count = len(confirmed.reads)
    core.events.append(ReadsConfirmed(core.term, number, confirmed.index, count))
    for read in confirmed.reads:
        if read.origin == core.node_id:
            core.read_states.append(
                ReadState(request_id=read.request_id, index=confirmed.index)
            )
        else:
            core.messages.append(
                ReadIndexReply(
                    sender=core.node_id,
                    to=read.origin,
                    term=core.term,
                    request_id=read.request_id,
                    index=confirmed.index,
                    rejected=False,
                )
            )


def _extend_lease(
    core: Core, leadership: Leadership, confirmed: ConfirmedReads
) -> None:
    """Count only voters that hold the entry which says that leases are on.

    Another one may shorten its patience with us, and would elect inside the lease.
    """
    since = core.log.configuration_index
    progress = leadership.progress
    bound = {
        voter
        for voter in confirmed.voters
        if (
            core.log.stable_index
            if voter == core.node_id
            else progress[voter].match_index
            if voter in progress
            else -1
        )
        >= since
    }
    if has_quorum(core.configuration.halves, bound):
        leadership.lease.extend(confirmed.started_ms + core.options.lease_ms)


def handle_read_request(core: Core, request: ReadIndexRequest) -> None:
    """A peer that follows us asks for an index."""
    leadership = core.leadership
    read = PendingRead(request.sender, request.request_id)
    if leadership is None or len(leadership.reads) >= core.options.pending_reads_max:
        core.refuse_read(read)
    else:
        leadership.reads.add(read)


def handle_read_reply(core: Core, reply: ReadIndexReply) -> None:
    """Our leader answers; what is not awaited any more is ignored."""
    request_id = core.forwarded_reads.take(reply.request_id)
    if request_id is None:
        return
    if reply.rejected:
        core.reject_reads((request_id,))
    else:
        core.read_states.append(ReadState(request_id=request_id, index=reply.index))


def refuse_stale(core: Core, request: ReadIndexRequest) -> None:
    """A question to the leader of an earlier term."""
    core.refuse_read(PendingRead(request.sender, request.request_id))
