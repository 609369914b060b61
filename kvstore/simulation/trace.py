"""A run as lines of JSON: one record for each thing that happened.

Names and fields are those of etcd's ``TracingEvent`` (``state_trace.go`` of
etcd-io/raft, made for checking runs against its TLA+ specification) where both have the
same thing; ids of nodes are text, as there. What etcd does not have, whole members and
what befalls them, has names of its own. ``docs/simulation.md`` lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import Enum
from typing import TYPE_CHECKING, NotRequired, TypedDict

from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.core import Role
from kvstore.raft.events import (
    BecameCandidate,
    BecamePreCandidate,
    Committed,
    ConfigurationChanged,
    Elected,
    Event,
    SteppedDown,
)
from kvstore.raft.membership import Configuration
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    EntryId,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from kvstore.replica.effects import Apply, Read
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.simulation import describe
from kvstore.simulation.journal import Journal
from kvstore.simulation.workload import Write
from kvstore.types import LogIndex, NodeId, Ticket

if TYPE_CHECKING:
    from kvstore.simulation.member import SimMember
    from kvstore.simulation.seat import Seat
    from kvstore.simulation.workload import Read as ClientRead
    from kvstore.simulation.world import World

Property = str | int | None
Properties = dict[str, Property]


class TraceState(TypedDict):
    """What a node must not forget, and how far it knows its log to be committed."""

    term: int
    vote: str
    """``0``: none."""
    commit: int
    """Of a node that is down: what its state is the outcome of."""


TraceMessage = TypedDict(
    "TraceMessage",
    {
        "type": str,
        "term": int,
        "from": str,
        "to": str,
        "entries": int,
        "logTerm": int,
        "index": int,
        "commit": int,
        "vote": str,
        "reject": bool,
        "rejectHint": int,
    },
)
"""One message; 0, false or ``0`` is what it has not. ``logTerm`` and ``index`` name an
entry: the previous one, or the last of a candidate's log or of a snapshot; in a
rejection ``logTerm`` is of the hint. ``entries`` is their number."""


class TraceRecord(TypedDict):
    """One line. Without ``nid``: it happened to the world, not to a node."""

    time_us: int
    """Virtual time, of no node's clock."""
    name: str
    nid: NotRequired[str]
    state: NotRequired[TraceState]
    """As ``role``, ``log`` and ``conf``: before an input, after what came of it."""
    role: NotRequired[str]
    log: NotRequired[int]
    """Index of the last entry, durable or not."""
    conf: NotRequired[list[list[str]]]
    """Voters, and outgoing ones of a joint configuration."""
    msg: NotRequired[TraceMessage]
    prop: NotRequired[Properties]


ROLES = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}
DOWN = "StateDown"
"""The role of a node that is not running."""
EVENTS: dict[type[Event], str] = {
    BecamePreCandidate: "BecomePreCandidate",
    BecameCandidate: "BecomeCandidate",
    Elected: "BecomeLeader",
    SteppedDown: "BecomeFollower",
    Committed: "Commit",
    ConfigurationChanged: "ApplyConfChange",
}
"""Other events go by their own name."""


class Tracer(Journal):
    """Writes down a run: hand it to ``simulate``. It changes nothing of it."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """``write`` is handed each line, with its end."""
        self._write = write

    def begins(self, world: World) -> None:
        prop: Properties = {"seed": world.streams.seed, "swarm": str(world.swarm)}
        self._world(world, "Run", prop)

    # ------------------------------------------------------------------ processes

    def restarted(self, world: World, seat: Seat, *, survives: int) -> None:
        name = "Restart" if seat.member.life else "InitState"
        self._node(world, name, seat.member, prop={"commits_lost": survives})

    def joined(self, world: World, node_id: NodeId) -> None:
        self._node(world, "Join", world.seats[node_id].member)

    def wiped(self, world: World, node_id: NodeId) -> None:
        self._node(world, "Wipe", world.seats[node_id].member)

    def crashed(self, world: World, seat: Seat, *, write_is_lost: bool) -> None:
        write = None
        if seat.member.writing is not None:
            write = "lost" if write_is_lost else "kept"
        self._node(world, "Crash", seat.member, prop={"write": write})

    def paused(self, world: World, seat: Seat) -> None:
        self._node(world, "Pause", seat.member)

    def resumed(self, world: World, seat: Seat) -> None:
        self._node(world, "Resume", seat.member)

    def disconnected(self, world: World, seat: Seat, peer: NodeId) -> None:
        self._node(world, "Disconnect", seat.member, prop={"peer": str(peer)})

    def ticked(self, world: World, seat: Seat, count: int) -> None:
        self._node(world, "Tick", seat.member, prop={"count": count})

    # ------------------------------------------------------------ disks and states

    def wrote(self, world: World, seat: Seat) -> None:
        work = seat.member.writing
        assert work is not None
        hard_state, entries = work.hard_state, work.entries
        prop: Properties = {"number": work.number}
        if hard_state is not None:
            prop |= {"term": hard_state.term, "vote": str(hard_state.vote or 0)}
        if work.snapshot is not None:
            prop["snapshot"] = describe.entry_id(work.snapshot.last)
        if entries:
            prop["first"] = f"{entries[0].term}/{entries[0].index}"
            prop["last"] = f"{entries[-1].term}/{entries[-1].index}"
        prop["refused"] = seat.disk_fails or seat.disk_is_full
        self._node(world, "Persist", seat.member, prop=prop)

    def worked(self, world: World, seat: Seat) -> None:
        work, member = seat.member.working[0], seat.member
        match work:
            case Apply(entries):
                prop: Properties = {
                    "first": entries[0].index,
                    "last": entries[-1].index,
                }
            case Read(tickets, index):
                tickets_text = ",".join([str(ticket) for ticket in tickets])
                prop = {"tickets": tickets_text, "index": index}
            case _:
                prop = {}
        self._node(world, type(work).__name__, member, prop=prop)

    def committed(self, world: World, seat: Seat) -> None:
        prop: Properties = {"applied": seat.member.applied_index}
        self._node(world, "CommitState", seat.member, prop=prop)

    # ------------------------------------------------------------------- messages

    def sent(self, world: World, message: PeerMessage) -> None:
        self._message(world, "Send", message.sender, message)

    def delivers(self, world: World, message: PeerMessage) -> None:
        self._message(world, "Receive", message.to, message)

    def lost(self, world: World, message: PeerMessage, why: str) -> None:
        self._message(world, "Lose", message.sender, message, why=why)

    def exported(self, world: World, message: InstallSnapshot) -> None:
        self._message(world, "Send", message.sender, message)

    def transferred(
        self, world: World, seat: Seat, peer: NodeId, reached: LogIndex
    ) -> None:
        prop: Properties = {"peer": str(peer), "reached": reached}
        self._node(world, "SnapshotEnded", seat.member, prop=prop)

    def _message(
        self,
        world: World,
        verb: str,
        node_id: NodeId,
        message: PeerMessage,
        *,
        why: str | None = None,
    ) -> None:
        noun, msg = encode(message)
        prop: Properties = {}
        if isinstance(message, Heartbeat | HeartbeatReply):
            prop["round"] = message.round
        if why is not None:
            prop["why"] = why
        member = world.seats[node_id].member
        self._node(world, verb + noun, member, msg=msg, prop=prop)

    # --------------------------------------------------------- clients and operators

    def asked(self, world: World, seat: Seat, line: str) -> None:
        self._node(world, "Ask", seat.member, prop={"line": line})

    def wanted(
        self, world: World, seat: Seat, ticket: Ticket, operation: Write | ClientRead
    ) -> None:
        prop: Properties = {"ticket": ticket, "text": _wish(operation)}
        self._node(world, "Request", seat.member, prop=prop)

    def heard(
        self,
        world: World,
        ticket: Ticket,
        operation: Write | ClientRead,
        error: KVStoreError | None,
    ) -> None:
        del operation
        prop: Properties = {
            "ticket": ticket,
            "error": None if error is None else type(error).__name__,
            "definite": None if error is None else error.definite,
        }
        self._world(world, "Answer", prop)

    # ----------------------------------------------------------------- the rest

    def happened(self, world: World, member: SimMember, event: Event) -> None:
        prop: Properties = {
            field.name: _property(getattr(event, field.name)) for field in fields(event)
        }
        prop["text"] = describe.event(event)
        name = EVENTS.get(type(event), type(event).__name__)
        self._node(world, name, member, prop=prop)

    def noted(self, world: World, what: str) -> None:
        self._world(world, "Note", {"text": what})

    def violated(self, world: World, what: str) -> None:
        self._world(world, "Violation", {"text": what})

    # ----------------------------------------------------------------- recording

    def _world(self, world: World, name: str, prop: Properties) -> None:
        record: TraceRecord = {
            "time_us": world.agenda.now_us,
            "name": name,
            "prop": prop,
        }
        self._put(record)

    def _node(
        self,
        world: World,
        name: str,
        member: SimMember,
        *,
        msg: TraceMessage | None = None,
        prop: Properties | None = None,
    ) -> None:
        record: TraceRecord = {
            "time_us": world.agenda.now_us,
            "name": name,
            "nid": str(member.node_id),
        }
        if member.replica is None:
            _add_disk(record, member)
        else:
            raft = member.replica.raft
            record["state"] = {
                "term": raft.term,
                "vote": str(raft.vote or 0),
                "commit": raft.commit_index,
            }
            record["role"] = ROLES[raft.role]
            record["log"] = raft.last_index
            record["conf"] = _halves(raft.configuration)
        if msg is not None:
            record["msg"] = msg
        if prop:
            record["prop"] = prop
        self._put(record)

    def _put(self, record: TraceRecord) -> None:
        self._write(json.dumps(record, separators=(",", ":")) + "\n")


def _add_disk(record: TraceRecord, member: SimMember) -> None:
    """What is left of a node that is down."""
    hard_state = member.log.hard_state
    record["state"] = {
        "term": hard_state.term,
        "vote": str(hard_state.vote or 0),
        "commit": member.commits[-1].state.progress.index,
    }
    record["role"] = DOWN
    record["log"] = member.log.last_index


def _halves(configuration: Configuration) -> list[list[str]]:
    return [_ids(configuration.voters), _ids(configuration.outgoing)]


def _ids(node_ids: Sequence[NodeId]) -> list[str]:
    return [str(node_id) for node_id in node_ids]


def _property(value: object) -> Property:
    match value:
        case Enum():
            return value.name
        case EntryId():
            return describe.entry_id(value)
        case Configuration():
            return describe.configuration(value)
        case str() | int() | None:
            return value
        case _:
            raise TypeError(f"an event has a field of {type(value).__name__}")


def _wish(operation: Write | ClientRead) -> str:
    """What a client wants, in one line."""
    if isinstance(operation, Write):
        batch = kv_pb2.CommandBatch.FromString(operation.commands)
        return ", ".join([_command(command) for command in batch.commands])
    level = kv_pb2.Consistency.Name(operation.options.consistency).lower()
    return f"{level} range " + ", ".join([_key(it.key) for it in operation.ranges])


def _command(command: kv_pb2.Command) -> str:
    kind = command.WhichOneof("command")
    match kind:
        case "put":
            return f"put {_key(command.put.key)}"
        case "delete_range":
            return f"delete {_key(command.delete_range.key)}"
        case "compact":
            return f"compact {command.compact.revision}"
        case "session_commands":
            them = command.session_commands
            return f"session {them.session_id} from {them.first_number}"
        case _:
            return str(kind).replace("_", " ")


def _key(key: bytes) -> str:
    return key.decode(errors="backslashreplace")


# ----------------------------------------------------------------------- messages


def encode(message: PeerMessage) -> tuple[str, TraceMessage]:
    """What a record's name says of a message, behind Send or Receive; and the rest."""
    it: TraceMessage = {
        "type": "",
        "term": 0
        if isinstance(message, ForwardWrites | ForwardReply)
        else message.term,
        "from": str(message.sender),
        "to": str(message.to),
        "entries": 0,
        "logTerm": 0,
        "index": 0,
        "commit": 0,
        "vote": "0",
        "reject": False,
        "rejectHint": 0,
    }
    match message:
        case RequestVote(last_log=last, pre_vote=pre_vote):
            it["type"] = "MsgPreVote" if pre_vote else "MsgVote"
            it["logTerm"], it["index"] = last.term, last.index
            return f"Request{_pre(pre_vote)}VoteRequest", it
        case RequestVoteReply(granted=granted, pre_vote=pre_vote):
            it["type"] = "MsgPreVoteResp" if pre_vote else "MsgVoteResp"
            it["reject"] = not granted
            return f"Request{_pre(pre_vote)}VoteResponse", it
        case AppendEntries(previous=previous):
            it["type"] = "MsgApp"
            it["logTerm"], it["index"] = previous.term, previous.index
            it["entries"], it["commit"] = len(message.entries), message.commit_index
            return "AppendEntriesRequest", it
        case AppendEntriesReply(hint=hint):
            it["type"] = "MsgAppResp"
            it["index"], it["reject"] = message.index, message.rejected
            if hint is not None:
                it["logTerm"], it["rejectHint"] = hint.term, hint.index
            return "AppendEntriesResponse", it
        case Heartbeat(commit_index=commit):
            it["type"], it["commit"] = "MsgHeartbeat", commit
            return "AppendEntriesRequest", it
        case HeartbeatReply():
            it["type"] = "MsgHeartbeatResp"
            return "AppendEntriesResponse", it
        case InstallSnapshot(snapshot=snapshot):
            it["type"] = "MsgSnap"
            it["logTerm"], it["index"] = snapshot.last.term, snapshot.last.index
            return "Snapshot", it
        case _:
            return _encode_rare(message, it), it


def _pre(pre_vote: bool) -> str:
    return "Pre" if pre_vote else ""


def _encode_rare(
    message: (
        ReadIndexRequest | ReadIndexReply | TimeoutNow | ForwardWrites | ForwardReply
    ),
    it: TraceMessage,
) -> str:
    match message:
        case ReadIndexRequest():
            it["type"] = "MsgReadIndex"
            return "ReadIndexRequest"
        case ReadIndexReply():
            it["type"] = "MsgReadIndexResp"
            it["index"], it["reject"] = message.index, message.rejected
            return "ReadIndexResponse"
        case TimeoutNow():
            it["type"], it["index"] = "MsgTimeoutNow", message.last_index
            return "TimeoutNow"
        case ForwardWrites():
            it["type"], it["entries"] = "MsgProp", message.count
            return "ForwardRequest"
        case ForwardReply():
            it["type"], it["reject"] = "MsgPropResp", message.error is not None
            return "ForwardResponse"
