"""What members say to each other beside consensus."""

from dataclasses import dataclass

from kvstore.errors import KVStoreError
from kvstore.raft.messages import Message
from kvstore.types import NodeId, Revision


@dataclass(slots=True, kw_only=True)
class ForwardWrites:
    """A follower passes on a client's writes; answered by one ``ForwardReply``.

    Lost, doubled or late like every message: a receiver may see it twice only if the
    transport doubles, which ours (one ordered stream) does not.
    """

    sender: NodeId
    to: NodeId
    request_id: int
    """Unique for the life of the sending process."""
    writes: bytes
    """Encoded ``CommandBatch``, checked by the sender."""
    count: int
    """Commands in it."""


@dataclass(slots=True, kw_only=True)
class ForwardReply:
    """How a forwarded batch ended: with results, or with an error."""

    sender: NodeId
    to: NodeId
    request_id: int
    results: bytes
    """Encoded ``ResultBatch``; empty if there is an ``error``."""
    error: KVStoreError | None
    revision: Revision


PeerMessage = Message | ForwardWrites | ForwardReply
