"""Founding a cluster from a program, as ``kvstore init`` does it from a shell."""

import secrets
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from kvstore.errors import ConfigError
from kvstore.replica.interfaces import Identity, Member
from kvstore.storage.data_directory import DataDirectory
from kvstore.types import CLUSTER_ID_BYTES, ClusterId, NodeId


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
        ConfigError: the arguments make no sense together. Definite.
        DataDirectoryError: it is founded already, or holds something else. Nothing was
            changed.
        OSError: the operating system refused; found it again.
    """
    if len(cluster_id) != CLUSTER_ID_BYTES:
        raise ConfigError(
            f"cluster_id has {len(cluster_id)} bytes; it must have {CLUSTER_ID_BYTES}"
        )
    DataDirectory.found(
        Path(data_dir),
        Identity(cluster_id=ClusterId(cluster_id), node_id=NodeId(node_id)),
        [
            Member(node_id=NodeId(member), address=address)
            for member, address in sorted(members.items())
        ],
    )
