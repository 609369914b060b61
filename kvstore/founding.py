"""Founding a cluster from a program, as ``kvstore init`` does it from a shell."""

import secrets
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from kvstore.config import check_address
from kvstore.errors import ConfigError, DirectoryNotFounded, ForeignDirectory
from kvstore.replica.interfaces import Identity, Member
from kvstore.storage.data_directory import DataDirectory
from kvstore.types import (
    CLUSTER_ID_BYTES,
    FIRST_EPOCH,
    INCARNATION_MAX,
    ClusterId,
    Epoch,
    Incarnation,
    NodeId,
)

ADDRESS_ALONE = "127.0.0.1:7400"
"""Of an only member, should ``kvstore serve`` run its directory some day."""


def new_cluster_id() -> bytes:
    """Draw the id of a new cluster. Every founding member is given the same one."""
    return secrets.token_bytes(CLUSTER_ID_BYTES)


def found(
    data_dir: str | PathLike[str],
    *,
    node_id: int,
    cluster_id: bytes,
    members: Mapping[int, str],
) -> None:
    """Write the data directory of one founding member. Once in its life; blocks.

    ``members`` is the whole list, this node included, from node id to ``host:port``,
    and the same for every founder. A member that lost its directory must not be founded
    again: it would have forgotten what it promised.

    Raises:
        ConfigError: an address does not read ``host:port``, or the arguments make no
            sense together. Nothing was changed.
        DataDirectoryError: it is founded already, or holds something else. Nothing was
            changed.
        OSError: the operating system refused; found it again.
    """
    if len(cluster_id) != CLUSTER_ID_BYTES:
        raise ConfigError(
            f"cluster_id has {len(cluster_id)} bytes; it must have {CLUSTER_ID_BYTES}"
        )
    identity = Identity(
        cluster_id=ClusterId(cluster_id),
        node_id=NodeId(node_id),
        incarnation=new_incarnation(),
    )
    DataDirectory.found(Path(data_dir), identity, checked_members(members))


def join(
    data_dir: str | PathLike[str],
    *,
    node_id: int,
    cluster_id: bytes,
    members: Mapping[int, str],
    epoch: int = FIRST_EPOCH,
    state_id: bytes | None = None,
) -> None:
    """Write the data directory of a member that is to be added to a cluster. Blocks.

    It waits, once it runs, until a leader finds it. ``cluster_id``, ``epoch`` and
    ``state_id`` are those of the cluster, as any member's status says them; ``members``
    maps node ids that are known, this node's own too, to ``host:port``. ``node_id`` is
    one that was never used in this cluster.

    Raises:
        as :func:`found` does.
    """
    identity = Identity(
        cluster_id=ClusterId(cluster_id),
        node_id=NodeId(node_id),
        incarnation=new_incarnation(),
        epoch=Epoch(epoch),
        state_id=None if state_id is None else ClusterId(state_id),
    )
    if node_id not in members:
        raise ConfigError(f"the address of member {node_id} itself is missing")
    DataDirectory.join(Path(data_dir), identity, checked_members(members))


def new_incarnation() -> Incarnation:
    """Draw what names one data directory."""
    return Incarnation(secrets.randbelow(INCARNATION_MAX) + 1)


def checked_members(members: Mapping[int, str]) -> list[Member]:
    """Members in order of id, their addresses checked.

    Raises:
        ConfigError: an address does not read ``host:port``, or stands there twice.
    """
    for member, address in members.items():
        check_address(f"the address of member {member}", address, port_min=1)
    if len(set(members.values())) != len(members):
        raise ConfigError(f"two members have one address: {dict(members)}")
    return [
        Member(node_id=NodeId(member), address=address)
        for member, address in sorted(members.items())
    ]


def found_alone(data_dir: Path) -> None:
    """Make sure that a directory is of a cluster of one: found it unless it is. Blocks.

    With a single member nobody else can hold promises that an empty disk forgot.

    Raises:
        ForeignDirectory: it belongs to one member of several. Nothing was changed.
        DataDirectoryError: it cannot be used; the message says why.
        OSError: the operating system refused; try again.
    """
    try:
        directory = DataDirectory.open(data_dir)
    except DirectoryNotFounded:
        members = {1: ADDRESS_ALONE}
        found(data_dir, node_id=1, cluster_id=new_cluster_id(), members=members)
        return
    directory.close()
    if (count := len(directory.members)) > 1:
        raise ForeignDirectory(
            f"{data_dir} belongs to a member of a cluster of {count}: run it with "
            "kvstore.Node or `kvstore serve`"
        )
