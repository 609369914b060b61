"""What members say to each other: dataclasses inside, ``peer_pb2`` on the wire.

A frame is an encoded ``PeerFrame``. Encoded frames concatenate into an encoded frame,
so each message is encoded once, alone, and whatever is ready at one moment is joined.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, assert_never

from google.protobuf.message import DecodeError

from kvstore.errors import CorruptionError, InvalidRequest, KVStoreError
from kvstore.pb import kv_pb2, peer_pb2
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    EntryId,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    RequestVoteReply,
    Snapshot,
    TimeoutNow,
)
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.rpc.errors import error_from_pb, error_to_pb
from kvstore.types import LogIndex, NodeId, Revision, Term

EntryCrc = Callable[[int, int, int, bytes], int]
"""``storage.record.entry_crc``: CRC-32C of an entry's term, index, kind and data."""

_KINDS = tuple(EntryKind)
assert [int(kind) for kind in _KINDS] == list(range(len(_KINDS)))


class Frame(NamedTuple):
    """A decoded frame."""

    messages: list[PeerMessage]
    refused: list[KVStoreError]
    """Why each message that is missing was dropped: ``CorruptionError`` for an entry
    that does not match its checksum, ``InvalidRequest`` for anything else."""


class PeerCodec:
    """Turns messages into bytes and back. Holds no state but the checksum it uses."""

    __slots__ = ("_entry_crc",)

    def __init__(self, *, entry_crc: EntryCrc) -> None:
        self._entry_crc = entry_crc

    def encode(self, message: PeerMessage) -> bytes:
        """A frame of one message; the sender and the receiver are not in it."""
        frame = peer_pb2.PeerFrame()
        wire = frame.messages.add()
        match message:
            case AppendEntries():
                self._encode_append(message, wire)
            case ForwardWrites():
                forward = wire.forward_writes
                forward.request_id = message.request_id
                forward.writes = message.writes
                forward.count = message.count
            case ForwardReply():
                _encode_forward_reply(message, wire.forward_reply)
            case _:
                _encode_small(message, wire)
        return frame.SerializeToString()

    def decode(self, frame: bytes, *, sender: NodeId, to: NodeId) -> Frame:
        """Everything in a frame that can be trusted, in its order.

        Raises:
            InvalidRequest: these bytes are no frame. Definite.
        """
        try:
            wire_messages = peer_pb2.PeerFrame.FromString(frame).messages
        except DecodeError as error:
            raise InvalidRequest(f"not a peer frame: {error}") from error
        messages: list[PeerMessage] = []
        refused: list[KVStoreError] = []
        for wire in wire_messages:
            try:
                messages.append(self._decode_message(wire, sender, to))
            except (InvalidRequest, CorruptionError) as error:
                refused.append(error)
        return Frame(messages, refused)

    def _encode_append(
        self, message: AppendEntries, wire: peer_pb2.PeerMessage
    ) -> None:
        wire.term = message.term
        append = wire.append_entries
        append.previous_index = message.previous.index
        append.previous_term = message.previous.term
        append.commit_index = message.commit_index
        add = append.entries.add
        entry_crc = self._entry_crc
        for entry in message.entries:
            term, index, kind, data = entry.term, entry.index, entry.kind, entry.data
            crc = entry_crc(term, index, kind, data)
            add(term=term, index=index, kind=kind, data=data, crc=crc)
        # An empty submessage would not be written at all, and the oneof be lost.
        append.SetInParent()

    def _decode_append(
        self, wire: peer_pb2.PeerMessage, sender: NodeId, to: NodeId
    ) -> AppendEntries:
        append = wire.append_entries
        previous = EntryId(Term(append.previous_term), LogIndex(append.previous_index))
        entries = self._decode_entries(append.entries, previous, wire.term)
        return AppendEntries(
            sender=sender,
            to=to,
            term=Term(wire.term),
            previous=previous,
            entries=entries,
            commit_index=LogIndex(append.commit_index),
        )

    def _decode_entries(
        self, wires: Sequence[peer_pb2.PeerEntry], previous: EntryId, term_max: int
    ) -> tuple[Entry, ...]:
        entry_crc = self._entry_crc
        entries: list[Entry] = []
        last_term: int = previous.term
        index_next = previous.index + 1
        for wire in wires:
            term, index, kind, data = wire.term, wire.index, wire.kind, wire.data
            actual = entry_crc(term, index, kind, data)
            if actual != wire.crc:
                raise _corrupt_entry(wire, actual)
            if index != index_next or not last_term <= term <= term_max:
                raise InvalidRequest(
                    f"entry {index} of term {term} follows entry {index_next - 1} of "
                    f"term {last_term} in a message of term {term_max}"
                )
            if kind >= len(_KINDS):
                raise InvalidRequest(f"entry {index} is of unknown kind {kind}")
            last_term = term
            index_next += 1
            entries.append(Entry(Term(term), LogIndex(index), _KINDS[kind], data))
        return tuple(entries)

    def _decode_message(
        self, wire: peer_pb2.PeerMessage, sender: NodeId, to: NodeId
    ) -> PeerMessage:
        kind = wire.WhichOneof("message")
        match kind:
            case "append_entries":
                return self._decode_append(wire, sender, to)
            case "forward_writes":
                return ForwardWrites(
                    sender=sender,
                    to=to,
                    request_id=wire.forward_writes.request_id,
                    writes=wire.forward_writes.writes,
                    count=wire.forward_writes.count,
                )
            case "forward_reply":
                return _decode_forward_reply(wire.forward_reply, sender, to)
            case _:
                return _decode_small(kind, wire, sender, to)


def _corrupt_entry(wire: peer_pb2.PeerEntry, actual: int) -> CorruptionError:
    return CorruptionError(
        f"entry {wire.index} of term {wire.term} does not match its checksum",
        store="network",
        database="entries",
        key_hex=f"{wire.index:016x}",
        expected=f"{wire.crc:08x}",
        actual=f"{actual:08x}",
    )


_Small = (
    RequestVote
    | RequestVoteReply
    | AppendEntriesReply
    | Heartbeat
    | HeartbeatReply
    | ReadIndexRequest
    | ReadIndexReply
    | TimeoutNow
    | InstallSnapshot
)


def _encode_small(message: _Small, wire: peer_pb2.PeerMessage) -> None:
    wire.term = message.term
    match message:
        case Heartbeat():
            wire.heartbeat.commit_index = message.commit_index
            wire.heartbeat.round = message.round
            wire.heartbeat.SetInParent()
        case HeartbeatReply():
            wire.heartbeat_reply.round = message.round
            wire.heartbeat_reply.SetInParent()
        case AppendEntriesReply():
            assert message.rejected == (message.hint is not None)
            reply = wire.append_entries_reply
            reply.index = message.index
            reply.rejected = message.rejected
            if message.hint is not None:
                reply.hint_index = message.hint.index
                reply.hint_term = message.hint.term
            reply.SetInParent()
        case RequestVote():
            vote = wire.request_vote
            vote.pre_vote = message.pre_vote
            vote.last_log_index = message.last_log.index
            vote.last_log_term = message.last_log.term
            vote.transfer = message.transfer
            vote.SetInParent()
        case RequestVoteReply():
            wire.request_vote_reply.pre_vote = message.pre_vote
            wire.request_vote_reply.granted = message.granted
            wire.request_vote_reply.SetInParent()
        case ReadIndexRequest():
            wire.read_index_request.request_id = message.request_id
            wire.read_index_request.SetInParent()
        case ReadIndexReply():
            read = wire.read_index_reply
            read.request_id = message.request_id
            read.index = message.index
            read.rejected = message.rejected
            read.SetInParent()
        case TimeoutNow():
            wire.timeout_now.last_index = message.last_index
            wire.timeout_now.SetInParent()
        case InstallSnapshot():
            install, last = wire.install_snapshot, message.snapshot.last
            install.last_index = last.index
            install.last_term = last.term
            install.configuration = message.snapshot.configuration
            install.SetInParent()
        case _:
            assert_never(message)


def _decode_small(
    kind: str | None, wire: peer_pb2.PeerMessage, sender: NodeId, to: NodeId
) -> PeerMessage:
    term = Term(wire.term)
    match kind:
        case "heartbeat":
            return Heartbeat(
                sender=sender,
                to=to,
                term=term,
                commit_index=LogIndex(wire.heartbeat.commit_index),
                round=wire.heartbeat.round,
            )
        case "heartbeat_reply":
            return HeartbeatReply(
                sender=sender, to=to, term=term, round=wire.heartbeat_reply.round
            )
        case "append_entries_reply":
            return _decode_append_reply(wire.append_entries_reply, sender, to, term)
        case "request_vote":
            vote = wire.request_vote
            return RequestVote(
                sender=sender,
                to=to,
                term=term,
                last_log=EntryId(
                    Term(vote.last_log_term), LogIndex(vote.last_log_index)
                ),
                pre_vote=vote.pre_vote,
                transfer=vote.transfer,
            )
        case "request_vote_reply":
            return RequestVoteReply(
                sender=sender,
                to=to,
                term=term,
                granted=wire.request_vote_reply.granted,
                pre_vote=wire.request_vote_reply.pre_vote,
            )
        case "read_index_request":
            return ReadIndexRequest(
                sender=sender,
                to=to,
                term=term,
                request_id=wire.read_index_request.request_id,
            )
        case "read_index_reply":
            return ReadIndexReply(
                sender=sender,
                to=to,
                term=term,
                request_id=wire.read_index_reply.request_id,
                index=LogIndex(wire.read_index_reply.index),
                rejected=wire.read_index_reply.rejected,
            )
        case "timeout_now":
            return TimeoutNow(
                sender=sender,
                to=to,
                term=term,
                last_index=LogIndex(wire.timeout_now.last_index),
            )
        case "install_snapshot":
            install = wire.install_snapshot
            last = EntryId(Term(install.last_term), LogIndex(install.last_index))
            snapshot = Snapshot(last=last, configuration=install.configuration)
            return InstallSnapshot(sender=sender, to=to, term=term, snapshot=snapshot)
        case _:  # nothing set: empty, or of a kind that only a newer version knows
            raise InvalidRequest("a peer message of no known kind")


def _decode_append_reply(
    wire: peer_pb2.AppendEntriesReply, sender: NodeId, to: NodeId, term: Term
) -> AppendEntriesReply:
    hint = EntryId(Term(wire.hint_term), LogIndex(wire.hint_index))
    return AppendEntriesReply(
        sender=sender,
        to=to,
        term=term,
        index=LogIndex(wire.index),
        rejected=wire.rejected,
        hint=hint if wire.rejected else None,
    )


def _encode_forward_reply(message: ForwardReply, wire: peer_pb2.ForwardReply) -> None:
    wire.request_id = message.request_id
    wire.revision = message.revision
    if message.error is None:
        wire.results = message.results
    else:
        wire.error = error_to_pb(message.error).SerializeToString()
    wire.SetInParent()


def _decode_forward_reply(
    wire: peer_pb2.ForwardReply, sender: NodeId, to: NodeId
) -> ForwardReply:
    error: KVStoreError | None = None
    if wire.error:  # an encoded error is never empty: its code is set
        try:
            error = error_from_pb(kv_pb2.Error.FromString(wire.error))
        except DecodeError as cause:
            raise InvalidRequest(f"not an error: {cause}") from cause
    return ForwardReply(
        sender=sender,
        to=to,
        request_id=wire.request_id,
        results=b"" if error is not None else wire.results,
        error=error,
        revision=Revision(wire.revision),
    )
