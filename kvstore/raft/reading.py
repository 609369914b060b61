"""Linearizable reads without the log: ReadIndex (dissertation section 6.4)."""

from kvstore.raft.core import Core, Leadership
from kvstore.raft.events import ReadsConfirmed
from kvstore.raft.messages import ReadIndexReply, ReadIndexRequest
from kvstore.raft.reads import PendingRead
from kvstore.raft.ready import ReadState
from kvstore.types import NodeId


def read_index(core: Core, request_id: int) -> None:
    """Find an index from which a read that starts now may be served."""
    leadership = core.leadership
    if leadership is not None:
        if len(leadership.reads) >= core.options.pending_reads_max:
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


def can_start_round(leadership: Leadership) -> bool:
    """Whether reads wait and a round can begin.

    None may be under way, and an entry of the leader's own term must be committed:
    only then is its commit index known to be up to date.
    """
    return leadership.term_committed and leadership.reads.wants_round


def start_round(core: Core, leadership: Leadership) -> bool:
    """Begin a round with every read that waits. Whether to ask the others now."""
    if not can_start_round(leadership):
        return False
    core.last_read_round += 1
    leadership.reads.start(core.last_read_round, core.commit_index)
    acknowledge(core, leadership, core.node_id, core.last_read_round)
    return leadership.reads.round != 0


def acknowledge(core: Core, leadership: Leadership, voter: NodeId, number: int) -> None:
    """``voter`` followed us when round ``number`` reached it."""
    confirmed = leadership.reads.acknowledge(voter, number)
    if confirmed is None:
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
