"""Founding the only member of an embedded store."""

import secrets
from pathlib import Path

from kvstore.errors import DirectoryNotFounded
from kvstore.replica.interfaces import Identity, Member
from kvstore.storage.data_directory import DataDirectory
from kvstore.types import CLUSTER_ID_BYTES, ClusterId, NodeId


def found_alone_if_empty(path: Path) -> None:
    """Found a cluster of one unless there is one.

    With a single member nobody else can hold promises that an empty disk forgot.

    Raises:
        DataDirectoryError: the directory cannot be used; the message says why.
    """
    try:
        DataDirectory.open(path).close()
    except DirectoryNotFounded:
        node_id = NodeId(1)
        cluster_id = ClusterId(secrets.token_bytes(CLUSTER_ID_BYTES))
        identity = Identity(cluster_id=cluster_id, node_id=node_id)
        member = Member(node_id=node_id, address="127.0.0.1:7400")
        DataDirectory.found(path, identity, [member])
