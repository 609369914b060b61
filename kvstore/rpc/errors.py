"""The error tree of ``kvstore.errors`` on the wire: ``kv_pb2.Error`` and gRPC status.

An error travels as the name of its class, its message and its fields as text. On unary
calls and at the end of a stream that message stands in the trailing metadata, beside a
gRPC status code that tells a generic client or proxy as much as a code can.

No status that such a client may retry by itself (``UNAVAILABLE``) stands for an error
that is not definite.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from kvstore import errors
from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2

_Q = TypeVar("_Q")
_A = TypeVar("_A")

ERROR_METADATA_KEY = "kvstore-error-bin"
"""Trailing metadata that carries the serialised ``Error``."""

ERROR_METADATA_BYTES_MAX = 6 * 1024
"""gRPC peers accept 8 KiB of metadata; a longer error travels as its status alone."""


def _tree(root: type[KVStoreError]) -> Iterator[type[KVStoreError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


# Only the classes of the tree itself: a subclass of somebody's own has no meaning here.
_CLASSES: Mapping[str, type[KVStoreError]] = MappingProxyType(
    {c.__name__: c for c in _tree(KVStoreError) if c.__module__ == errors.__name__}
)
_INDEX_FIELD = "index"
"""``InvalidRequest.command_index``, which is no constructor keyword."""

_INDEX_DIGITS_MAX = 9

_FIELDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {name: frozenset(c("").details()) for name, c in _CLASSES.items()}
)

STATUS_OF: Mapping[type[KVStoreError], grpc.StatusCode] = MappingProxyType(
    {
        errors.KVStoreError: grpc.StatusCode.UNKNOWN,
        errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
        errors.RequestTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
        errors.Compacted: grpc.StatusCode.OUT_OF_RANGE,
        errors.FutureRevision: grpc.StatusCode.OUT_OF_RANGE,
        errors.EpochChanged: grpc.StatusCode.FAILED_PRECONDITION,
        errors.SessionExpired: grpc.StatusCode.FAILED_PRECONDITION,
        errors.MembershipRefused: grpc.StatusCode.FAILED_PRECONDITION,
        errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
        errors.NotLeader: grpc.StatusCode.UNAVAILABLE,
        errors.ProposalDropped: grpc.StatusCode.UNAVAILABLE,
        errors.Behind: grpc.StatusCode.UNAVAILABLE,
        errors.ChangePending: grpc.StatusCode.UNAVAILABLE,
        errors.Busy: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.OutcomeUnknown: grpc.StatusCode.UNKNOWN,
        errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
        errors.LeadershipLost: grpc.StatusCode.UNKNOWN,
        errors.CorruptionError: grpc.StatusCode.DATA_LOSS,
        errors.DataDirectoryError: grpc.StatusCode.FAILED_PRECONDITION,
        errors.DirectoryLocked: grpc.StatusCode.FAILED_PRECONDITION,
        errors.DirectoryNotFounded: grpc.StatusCode.FAILED_PRECONDITION,
        errors.ForeignDirectory: grpc.StatusCode.FAILED_PRECONDITION,
        errors.NewerFormat: grpc.StatusCode.FAILED_PRECONDITION,
        errors.DamagedDirectory: grpc.StatusCode.FAILED_PRECONDITION,
        errors.IdentityLost: grpc.StatusCode.FAILED_PRECONDITION,
        errors.DamagedSnapshot: grpc.StatusCode.DATA_LOSS,
        errors.Removed: grpc.StatusCode.FAILED_PRECONDITION,
        errors.ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
        errors.Closed: grpc.StatusCode.UNAVAILABLE,
    }
)
"""Every class of the tree; a test proves it."""

# What a bare status means, sent by gRPC itself or by something between us and the node.
# Such a status does not say whether the node had the request, with these exceptions.
_BARE: Mapping[grpc.StatusCode, type[KVStoreError]] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
        grpc.StatusCode.UNIMPLEMENTED: errors.InvalidRequest,
        grpc.StatusCode.UNAUTHENTICATED: errors.InvalidRequest,
        grpc.StatusCode.PERMISSION_DENIED: errors.InvalidRequest,
        grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
        grpc.StatusCode.UNAVAILABLE: errors.LeadershipLost,
    }
)


def error_to_pb(error: KVStoreError) -> kv_pb2.Error:
    """The message for an error of the tree."""
    details = error.details()
    if isinstance(error, errors.InvalidRequest) and error.command_index is not None:
        details[_INDEX_FIELD] = str(error.command_index)
    # A path in a message may hold what is not UTF-8; protobuf text may not.
    text = str(error).encode("utf-8", "replace").decode()
    return kv_pb2.Error(
        code=_wire_class(type(error)).__name__, message=text, details=details
    )


def error_from_pb(message: kv_pb2.Error) -> KVStoreError:
    """The error that a message stands for.

    A class that this version does not know becomes ``OutcomeUnknown``, which promises
    nothing; fields that it does not know, or cannot read, are left out.
    """
    found = _CLASSES.get(message.code)
    if found is None:
        return errors.OutcomeUnknown(f"{message.code or 'no code'}: {message.message}")
    fields = _FIELDS[message.code]
    details = {name: text for name, text in message.details.items() if name in fields}
    try:
        error = found(message.message, **details)
    except ValueError:  # a number that is none
        error = found(message.message)
    index = message.details.get(_INDEX_FIELD, "")
    if isinstance(error, errors.InvalidRequest) and index.isdecimal():
        error.command_index = int(index[:_INDEX_DIGITS_MAX])
    return error


def clone(error: KVStoreError) -> KVStoreError:
    """An equal error for another caller: a raised one carries its traceback."""
    copy = _wire_class(type(error))(str(error), **error.details())
    if isinstance(error, errors.InvalidRequest):
        assert isinstance(copy, errors.InvalidRequest)
        copy.command_index = error.command_index
    return copy


def status_of(error: KVStoreError) -> grpc.StatusCode:
    """The gRPC status code that stands for an error."""
    return STATUS_OF[_wire_class(type(error))]


async def abort(
    context: "grpc.aio.ServicerContext[_Q, _A]", error: KVStoreError
) -> NoReturn:
    """End a call with an error: its status, and itself in the trailing metadata."""
    encoded = error_to_pb(error).SerializeToString()
    fits = len(encoded) <= ERROR_METADATA_BYTES_MAX
    trailing = ((ERROR_METADATA_KEY, encoded),) if fits else ()
    await context.abort(status_of(error), str(error)[:1024], trailing)
    raise AssertionError("abort returned")


def error_from_rpc(error: grpc.aio.AioRpcError) -> KVStoreError:
    """The error that ended a call: the node's own, or what the bare status allows.

    A bare ``UNAVAILABLE`` is ``LeadershipLost``, not ``Unavailable``: the connection
    may have broken after the node took the request.
    """
    # The stubs type the items as what the synchronous API gives.
    trailing = cast(
        "Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()
    )
    for key, encoded in trailing:
        if key == ERROR_METADATA_KEY and isinstance(encoded, bytes):
            try:
                return error_from_pb(kv_pb2.Error.FromString(encoded))
            except DecodeError:
                break  # not ours, or damaged: the status stays
    code = error.code()
    found = _BARE.get(code, errors.OutcomeUnknown)
    return found(f"{code.name}: {error.details() or 'no details'}")


def _wire_class(found: type[KVStoreError]) -> type[KVStoreError]:
    """The nearest class of the tree, for a subclass defined elsewhere."""
    for candidate in found.__mro__:
        if candidate in STATUS_OF:
            return candidate
    raise AssertionError(f"{found} is outside the tree")
