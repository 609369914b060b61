"""What members say to each other beside consensus."""

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from kvstore.errors import InvalidRequest, KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Message
from kvstore.types import NodeId, Revision

NO_REQUEST = 0
"""The ``request_id`` of an answer that nobody asked for."""


@dataclass(slots=True, kw_only=True)
class ForwardWrites:
    """A follower passes on a client's writes; answered by one ``ForwardReply``.

    Lost, doubled or late like every message: a receiver may see it twice only if the
    transport doubles, which ours (one ordered stream) does not.
    """

    sender: NodeId
    to: NodeId
    request_id: int
    """Unique for the life of the sending process; never ``NO_REQUEST``."""
    writes: bytes
    """Encoded ``CommandBatch``, checked by the sender."""
    count: int
    """Commands in it."""


@dataclass(slots=True, kw_only=True)
class ForwardReply:
    """How a forwarded batch ended: with results, or with an error.

    ``NotLeader`` says more: its sender does not lead, whatever the receiver believes.
    It comes with ``NO_REQUEST`` from a leader that is about to stop.
    """

    sender: NodeId
    to: NodeId
    request_id: int
    results: bytes
    """Encoded ``ResultBatch``; empty if there is an ``error``."""
    error: KVStoreError | None
    revision: Revision


PeerMessage = Message | ForwardWrites | ForwardReply


def check_forwarded(message: ForwardWrites) -> None:
    """Look at what a peer passed on before it becomes an entry. About 0.7 µs a command.

    Its sender checked it, but an entry that cannot be applied stops every member, and
    for ever: neither a damaged message nor a newer peer's command may become one.

    Raises:
        InvalidRequest: it must not be proposed. Definite.
    """
    try:
        commands = kv_pb2.CommandBatch.FromString(message.writes).commands
    except DecodeError as error:
        raise InvalidRequest("a forwarded write is no batch of commands") from error
    if not commands or len(commands) != message.count:
        raise InvalidRequest(
            f"a forwarded batch has {len(commands)} commands instead of {message.count}"
        )
    for command in commands:
        if command.WhichOneof("command") is None:
            raise InvalidRequest("a forwarded command is of no kind known here")
