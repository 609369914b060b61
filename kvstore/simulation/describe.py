"""Messages, events and nodes as text: short, on one line, and the same every time.

An entry is named ``term/index``, as the order of section 5.4.1 compares them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from kvstore.raft.events import (
    BecameCandidate,
    BecamePreCandidate,
    Committed,
    ConfigurationChanged,
    Elected,
    EntriesReplaced,
    Event,
    HandoverEnded,
    HandoverStarted,
    LeaderChanged,
    LeaderSuspected,
    PeerStateChanged,
    ReadsConfirmed,
    ReadsRejected,
    SnapshotAccepted,
    SnapshotIgnored,
    SteppedDown,
    Voted,
    VoteRefused,
)
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    EntryId,
    EntryKind,
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
from kvstore.raft.node import RaftNode
from kvstore.raft.ready import ReadState, Ready
from kvstore.replica.effects import Persist
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.types import LogIndex, NodeId

ALL_BYTES = 1 << 62


def entry_id(entry: EntryId) -> str:
    """``term/index``."""
    return f"{entry.term}/{entry.index}"


def entry(it: Entry, data: Callable[[bytes], str] = bytes.decode) -> str:
    """An entry with what it holds; ``data`` tells commands in words."""
    name = f"{it.term}/{it.index}"
    match it.kind:
        case EntryKind.NOOP:
            return f"{name} noop"
        case EntryKind.COMMANDS:
            return f"{name} {data(it.data)}"
        case EntryKind.CONFIGURATION:
            return f"{name} {configuration(Configuration.decode(it.data))}"


def entries(them: Iterable[Entry], data: Callable[[bytes], str] = bytes.decode) -> str:
    """Entries in brackets."""
    return "[" + ", ".join([entry(it, data) for it in them]) + "]"


def configuration(it: Configuration) -> str:
    """``voters(1 2 3)``, and whatever else is not empty."""
    parts = [f"voters{_group(it.voters)}"]
    for name, group in (
        ("outgoing", it.outgoing),
        ("learners", it.learners),
        ("learners-next", it.learners_next),
        ("removed", it.removed),
    ):
        if group:
            parts.append(f"{name}{_group(group)}")
    if it.leases:
        parts.append("leases")
    return " ".join(parts)


def _group(nodes: Sequence[NodeId]) -> str:
    return "(" + " ".join([str(node) for node in nodes]) + ")"


class Describer:
    """Text for one cluster.

    It remembers the ids of forwarded reads, which are drawn at random, to give them
    short names in the order of their first appearance.
    """

    def __init__(self, data: Callable[[bytes], str] = bytes.decode) -> None:
        """``data`` tells commands in words."""
        self._data = data
        self._forwarded: dict[int, int] = {}

    def message(self, it: PeerMessage) -> str:
        """``1->2 Heartbeat term=1 ...``"""
        if isinstance(it, ForwardWrites | ForwardReply):
            return f"{it.sender}->{it.to} {type(it).__name__} {self._forward(it)}"
        what = " ".join(self._content(it))
        return f"{it.sender}->{it.to} {type(it).__name__} term={it.term} {what}".strip()

    def _forward(self, it: ForwardWrites | ForwardReply) -> str:
        request = self._request(it.request_id)
        if isinstance(it, ForwardWrites):
            return f"{request} [{self._data(it.writes)}]"
        return request + (f" {type(it.error).__name__}" if it.error else " done")

    def _content(self, message: Message) -> Iterator[str]:
        match message:
            case RequestVote():
                yield f"last={entry_id(message.last_log)}"
                yield from ["pre-vote"] * message.pre_vote
                yield from ["transfer"] * message.transfer
            case RequestVoteReply():
                yield "granted" if message.granted else "refused"
                yield from ["pre-vote"] * message.pre_vote
            case AppendEntries():
                yield f"previous={entry_id(message.previous)}"
                yield f"commit={message.commit_index}"
                yield entries(message.entries, self._data)
            case AppendEntriesReply():
                yield f"index={message.index}"
                yield "rejected" if message.rejected else "accepted"
                if message.hint is not None:
                    yield f"hint={entry_id(message.hint)}"
            case Heartbeat():
                yield f"commit={message.commit_index}"
                yield from _round(message.round)
            case HeartbeatReply():
                yield from _round(message.round)
            case ReadIndexRequest():
                yield self._request(message.request_id)
            case ReadIndexReply():
                yield self._request(message.request_id)
                yield "rejected" if message.rejected else f"index={message.index}"
            case TimeoutNow():
                yield f"last={message.last_index}"
            case InstallSnapshot():
                snapshot = message.snapshot
                yield f"last={entry_id(snapshot.last)}"
                yield configuration(Configuration.decode(snapshot.configuration))

    def _request(self, request_id: int) -> str:
        number = self._forwarded.setdefault(request_id, len(self._forwarded) + 1)
        return f"request={number}"


def _round(number: int) -> Iterator[str]:
    if number:
        yield f"round={number}"


def event(it: Event) -> str:
    """What happened, after the number of the node that it happened to."""
    match it:
        case BecamePreCandidate():
            return f"asks whether it could win term {it.term + 1}: {it.reason.value}"
        case BecameCandidate(reason=None):
            return f"is candidate of term {it.term}"
        case BecameCandidate():
            assert it.reason is not None
            return f"is candidate of term {it.term}: {it.reason.value}"
        case Elected():
            return f"leads term {it.term}"
        case SteppedDown():
            what = "leads no more" if it.was_leader else "gives up its campaign"
            return f"{what}, is follower in term {it.term}: {it.reason.value}"
        case LeaderChanged(leader_id=None):
            return f"knows no leader of term {it.term}"
        case LeaderChanged():
            return f"knows leader {it.leader_id} of term {it.term}"
        case LeaderSuspected():
            return f"suspects that leader {it.leader_id} is gone"
        case Voted():
            return f"gives {it.candidate_id} its {_vote(it.pre_vote)} in term {it.term}"
        case VoteRefused():
            vote = _vote(it.pre_vote)
            return (
                f"refuses {it.candidate_id} its {vote} in term {it.term}: "
                f"{it.reason.value}"
            )
        case _:
            return _other_event(it)


def _other_event(
    it: Committed
    | EntriesReplaced
    | PeerStateChanged
    | ConfigurationChanged
    | HandoverStarted
    | HandoverEnded
    | SnapshotAccepted
    | SnapshotIgnored
    | ReadsConfirmed
    | ReadsRejected,
) -> str:
    match it:
        case Committed():
            return f"commits to {it.index}"
        case EntriesReplaced():
            return f"drops entries {it.first_index} to {it.last_index}"
        case PeerStateChanged():
            return f"sees {it.peer_id} as {it.state.name}: {_cause(it)}"
        case ConfigurationChanged():
            return f"has members of {it.index}: {configuration(it.configuration)}"
        case HandoverStarted():
            return f"hands over to {it.to}"
        case HandoverEnded():
            return f"does not hand over to {it.to} after all"
        case SnapshotAccepted():
            return f"takes snapshot {entry_id(it.last)}"
        case SnapshotIgnored():
            return f"needs no snapshot {entry_id(it.last)}"
        case ReadsConfirmed():
            return f"confirms {it.count} read(s) at {it.index} by round {it.round}"
        case ReadsRejected():
            return f"rejects {it.count} read(s)"


def _vote(pre_vote: bool) -> str:
    return "pre-vote" if pre_vote else "vote"


def _cause(it: PeerStateChanged) -> str:
    return it.cause.name.lower().replace("_", " ")


def write(ready: Ready | Persist, data: Callable[[bytes], str] = bytes.decode) -> str:
    """What a Ready wants written."""
    parts = []
    if (hard_state := ready.hard_state) is not None:
        vote = "none" if hard_state.vote is None else hard_state.vote
        parts.append(f"term={hard_state.term} vote={vote}")
    if ready.snapshot is not None:
        parts.append(f"snapshot {entry_id(ready.snapshot.last)}")
    if ready.entries:
        parts.append(entries(ready.entries, data))
    return " ".join(parts)


def read_state(it: ReadState, name: str) -> str:
    """The answer to a read."""
    if it.rejected:
        return f"read {name} rejected"
    how = ", by lease" if it.lease else ""
    return f"read {name} confirmed at {it.index}{how}"


def status(node: RaftNode) -> list[str]:
    """A node on a line, and what it knows of its peers if it leads."""
    vote = "none" if node.vote is None else node.vote
    leader = "none" if node.leader_id is None else node.leader_id
    what = (
        f"{node.node_id} {node.role.value} term={node.term} vote={vote} "
        f"leader={leader} commit={node.commit_index} applied={node.applied_index} "
        f"last={entry_id(node.log.last_id)}"
    )
    lines = [what]
    for peer, progress in node.progress.items():
        learner = " learner" if peer in node.configuration.learners else ""
        lines.append(
            f"  {peer} {progress.state.name} match={progress.match_index} "
            f"next={progress.next_index} inflight={len(progress.inflight)}{learner}"
        )
    return lines


def log(node: RaftNode) -> str:
    """All entries of a node's log, in memory, and where it begins."""
    held = node.log
    floor = held.floor
    start, end = LogIndex(floor.index + 1), LogIndex(held.last_index + 1)
    them: list[Entry] = []
    while start < end:
        part = held.entries(start, end, ALL_BYTES)
        them += part
        start = LogIndex(start + len(part))
    begins = f" behind {entry_id(floor)}" if floor.index else ""
    return f"{node.node_id}{begins} {entries(them)}"
