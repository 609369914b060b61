"""The error tree crosses the wire whole, in both directions."""

from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore import errors
from kvstore.errors import InvalidRequest, KVStoreError, NotLeader, OutcomeUnknown
from kvstore.pb import kv_pb2
from kvstore.rpc.errors import (
    ERROR_METADATA_KEY,
    STATUS_OF,
    clone,
    error_from_pb,
    error_from_rpc,
    error_to_pb,
    status_of,
)


def tree(root: type[KVStoreError] = KVStoreError) -> Iterator[type[KVStoreError]]:
    """By the names in the module: not how the code under test finds them."""
    del root
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, KVStoreError):
            yield value


CLASSES = list(tree())
every_class = pytest.mark.parametrize("error_class", CLASSES, ids=lambda c: c.__name__)


def sample(error_class: type[KVStoreError]) -> KVStoreError:
    """An error with every field set, numbers where the class wants numbers."""
    empty = error_class("")
    fields = {
        name: 7 if isinstance(getattr(empty, name), int) else f"the {name}"
        for name in empty.details()
    }
    return error_class("what happened", **fields)


def same(a: KVStoreError, b: KVStoreError) -> bool:
    return type(a) is type(b) and str(a) == str(b) and a.details() == b.details()


@every_class
def test_every_class_survives_the_wire(error_class: type[KVStoreError]) -> None:
    error = sample(error_class)
    encoded = error_to_pb(error).SerializeToString()
    assert same(error_from_pb(kv_pb2.Error.FromString(encoded)), error)


@every_class
def test_every_class_survives_a_call_that_fails(
    error_class: type[KVStoreError],
) -> None:
    error = sample(error_class)
    encoded = error_to_pb(error).SerializeToString()
    metadata = grpc.aio.Metadata((ERROR_METADATA_KEY, encoded))
    ended = grpc.aio.AioRpcError(
        status_of(error), grpc.aio.Metadata(), metadata, str(error), None
    )
    assert same(error_from_rpc(ended), error)


@every_class
def test_every_class_has_a_status(error_class: type[KVStoreError]) -> None:
    assert error_class in STATUS_OF


def test_the_status_table_names_no_other_class() -> None:
    assert set(STATUS_OF) == set(CLASSES)


@every_class
def test_no_indefinite_error_has_a_status_that_proxies_retry(
    error_class: type[KVStoreError],
) -> None:
    if not error_class.definite:
        assert STATUS_OF[error_class] is not grpc.StatusCode.UNAVAILABLE


@every_class
def test_a_clone_is_equal_and_has_no_traceback(error_class: type[KVStoreError]) -> None:
    error = sample(error_class)
    try:
        raise error
    except KVStoreError as raised:
        copy = clone(raised)
    assert same(copy, error)
    assert copy.__traceback__ is None


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda c: c.name)
def test_every_bare_status_is_some_error(code: grpc.StatusCode) -> None:
    """A status that does not exclude that the node acted gives an indefinite error."""
    ended = grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(), "details", None
    )
    error = error_from_rpc(ended)
    assert isinstance(error, KVStoreError)
    refusing = {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
    assert error.definite == (code in refusing)


def test_an_unknown_class_promises_nothing() -> None:
    error = error_from_pb(kv_pb2.Error(code="FromTheFuture", message="what"))
    assert type(error) is OutcomeUnknown
    assert "FromTheFuture" in str(error)


def test_unknown_and_unreadable_fields_are_left_out() -> None:
    wire = kv_pb2.Error(
        code="NotLeader", message="m", details={"leader_id": "x", "new": "1"}
    )
    error = error_from_pb(wire)
    assert isinstance(error, NotLeader)
    assert error.leader_id == 0


def test_the_index_of_the_faulty_command_travels() -> None:
    error = InvalidRequest("bad")
    error.command_index = 4
    back = error_from_pb(error_to_pb(error))
    assert isinstance(back, InvalidRequest)
    assert back.command_index == 4
    again = clone(back)
    assert isinstance(again, InvalidRequest)
    assert again.command_index == 4


def test_a_subclass_from_elsewhere_travels_as_its_nearest_ancestor() -> None:
    class OfAUser(NotLeader):
        pass

    assert error_to_pb(OfAUser("m", leader_id=2)).code == "NotLeader"
    assert status_of(OfAUser("m")) is grpc.StatusCode.UNAVAILABLE


@given(
    st.text(),
    st.text(),
    st.dictionaries(st.sampled_from(["leader_id", "index", "x"]), st.text()),
)
def test_any_error_message_decodes(
    code: str, message: str, details: dict[str, str]
) -> None:
    for name in (code, *(c.__name__ for c in CLASSES)):
        wire = kv_pb2.Error(code=name, message=message, details=details)
        assert isinstance(error_from_pb(wire), KVStoreError)
