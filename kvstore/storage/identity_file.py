"""The file that says whose a data directory is."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kvstore.errors import (
    DamagedDirectory,
    DataDirectoryError,
    ForeignDirectory,
    NewerFormat,
)
from kvstore.replica.interfaces import Identity, Member
from kvstore.storage.checksum import crc32c
from kvstore.storage.environment import ADVICE
from kvstore.types import ClusterId, Epoch, Incarnation, NodeId

FORMAT_VERSION = 2
"""Of the directory as a whole: what is in it, and how it is laid out."""

_MAGIC = "kvstore data directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFile:
    """What the identity file says.

    Text of three lines: the magic, JSON, and ``crc32c <8 hex digits>`` of the two lines
    before it. People read it when they wonder whose directory this is.
    """

    identity: Identity
    members: tuple[Member, ...]
    """The founding members; of one that joined later, those that it was told of."""
    joined: bool = False
    """It joined a cluster that others had founded."""

    def encode(self) -> bytes:
        identity = self.identity
        facts = {
            "format_version": FORMAT_VERSION,
            "cluster_id": identity.cluster_id.hex(),
            "node_id": identity.node_id,
            "incarnation": identity.incarnation,
            "epoch": identity.epoch,
            "state_id": None if identity.state_id is None else identity.state_id.hex(),
            "joined": self.joined,
            "members": [
                {"node_id": member.node_id, "address": member.address}
                for member in self.members
            ],
        }
        text = f"{_MAGIC}\n{json.dumps(facts)}\n".encode()
        return text + f"crc32c {crc32c(text):08x}\n".encode()

    @classmethod
    def decode(cls, content: bytes, path: Path) -> Self:
        """Read back what :meth:`encode` made.

        Raises:
            ForeignDirectory: the file is not ours.
            DamagedDirectory: it fails its checksum.
            NewerFormat: a newer kvstore wrote it.
            DataDirectoryError: an older one wrote it, which this one cannot read.
        """
        if not content.startswith(f"{_MAGIC}\n".encode()):
            # One damaged byte in the first line must not make the directory foreign.
            if b"crc32c " not in content:
                raise ForeignDirectory(
                    f"{path} was not written by kvstore: choose another directory"
                )
            raise damaged(path.parent, f"{path.name} is damaged")
        text, _, crc_line = content.rpartition(b"crc32c ")
        if crc_line != f"{crc32c(text):08x}\n".encode():
            raise damaged(path.parent, f"{path.name} fails its checksum")
        facts = json.loads(text.decode().split("\n")[1])
        version = facts["format_version"]
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"{path.parent} has format {version}, this kvstore reads up to format "
                f"{FORMAT_VERSION}: run the version that wrote it, or a newer one"
            )
        if version < FORMAT_VERSION:
            raise DataDirectoryError(
                f"{path.parent} has format {version}, which no released kvstore wrote "
                f"and this one does not read: found the cluster anew"
            )
        state_id = facts["state_id"]
        members = tuple(
            Member(node_id=NodeId(member["node_id"]), address=member["address"])
            for member in facts["members"]
        )
        identity = Identity(
            cluster_id=ClusterId(bytes.fromhex(facts["cluster_id"])),
            node_id=NodeId(facts["node_id"]),
            incarnation=Incarnation(facts["incarnation"]),
            epoch=Epoch(facts["epoch"]),
            state_id=None if state_id is None else ClusterId(bytes.fromhex(state_id)),
        )
        return cls(identity=identity, members=members, joined=facts["joined"])


def damaged(path: Path, what: str) -> DamagedDirectory:
    """The error for a directory that is not whole."""
    return DamagedDirectory(f"{path} is damaged: {what}; {ADVICE}")
