"""Requests of clients on their way through a node: checked, named, answered once."""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from kvstore.errors import InvalidRequest, KVStoreError
from kvstore.pb import kv_pb2
from kvstore.types import Revision

Answer = Callable[[bytes, Revision, KVStoreError | None], None]
"""Called once, on the event loop: an encoded ``ResultBatch`` and the revision it was
made at, or an error."""


@dataclass(slots=True)
class PendingRead:
    """A read that waits for its confirmation."""

    ranges: list[kv_pb2.Range]
    answer: Answer


def decode_writes(writes: bytes) -> kv_pb2.CommandBatch:
    """Raises ``InvalidRequest`` for bytes that are no ``CommandBatch``."""
    try:
        return kv_pb2.CommandBatch.FromString(writes)
    except DecodeError as error:
        raise InvalidRequest("writes is not an encoded CommandBatch") from error
