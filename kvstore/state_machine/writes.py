"""Changes of keys, and the pairs that answers are made of."""

from collections.abc import Iterator
from itertools import islice

from kvstore.errors import CorruptionError
from kvstore.pb import kv_pb2
from kvstore.state_machine.commands import shown
from kvstore.state_machine.view import (
    NO_VERSION,
    Head,
    ReadView,
    StateView,
    Version,
    VersionId,
)
from kvstore.types import LeaseId, Revision

_SLICE_KEYS = 1000
"""Heads held in memory at a time while a range is deleted."""
_NO_LEASE = LeaseId(0)
_TOMBSTONE = Revision(0)


def put_key(
    view: StateView, at: VersionId, key: bytes, value: bytes, lease: LeaseId
) -> Head | None:
    """Write a pair; returns the key's head before, a tombstone too."""
    head = view.head(key)
    if head is None:
        create_revision, version, previous = at[0], 1, NO_VERSION
    elif head.create_revision:
        create_revision = head.create_revision
        version, previous = head.version + 1, head.at
    else:
        create_revision, version, previous = at[0], 1, head.at
    view.append_version(
        at, Version(key, value, create_revision, version, lease, previous)
    )
    view.put_head(key, Head(at, create_revision, version, lease))
    return head


def delete_keys(
    view: StateView,
    *,
    start: bytes,
    end: bytes | None,
    revision: Revision,
    position: int,
) -> Iterator[tuple[bytes, Head]]:
    """Delete the keys of a range, in key order, from ``position`` on.

    Each deleted key is yielded with the head it had. Nothing is deleted that is not
    asked for: run the iterator to its end. O(keys in the range), deleted ones included
    that were not compacted yet.
    """
    while True:
        # The view must not change under its iterator, so a slice is taken at a time.
        # The keys stay in it as tombstones: the next slice starts behind them.
        heads = list(islice(view.heads(start, end), _SLICE_KEYS))
        for key, head in heads:
            if not head.create_revision:
                continue
            at = VersionId(revision, position)
            position += 1
            view.append_version(
                at, Version(key, b"", _TOMBSTONE, 0, _NO_LEASE, head.at)
            )
            view.put_head(key, Head(at, _TOMBSTONE, 0, _NO_LEASE))
            yield key, head
        if len(heads) < _SLICE_KEYS:
            return
        start = heads[-1][0] + b"\0"


def stored_version(view: ReadView, at: VersionId, key: bytes) -> Version:
    """The version of ``key`` that must be there.

    Raises:
        CorruptionError: it is missing, or another key's. Definite.
    """
    version = view.version(at)
    if version is None or version.key != key:
        raise CorruptionError(
            f"version {at.revision}.{at.position} of key {shown(key)} is "
            + ("missing" if version is None else "another key's"),
            store="state",
            database="kv",
            key_hex=key.hex(),
            expected=key.hex(),
            actual="" if version is None else version.key.hex(),
        )
    return version


def fill_pair(
    pair: kv_pb2.KeyValue, view: ReadView, key: bytes, head: Head
) -> kv_pb2.KeyValue:
    """Make ``pair`` the one that ``head`` is the newest version of."""
    pair.key = key
    pair.value = stored_version(view, head.at, key).value
    pair.create_revision = head.create_revision
    pair.mod_revision = head.at.revision
    pair.version = head.version
    pair.lease = head.lease
    return pair
