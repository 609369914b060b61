"""What a local cluster is made of, recorded once in ``DIR/cluster.json``.

::

    DIR/cluster.json     this record, replaced atomically
    DIR/lock             held while a command changes the cluster
    DIR/node-N/data      the member's data directory
    DIR/node-N/log       what its process printed, one start after another
    DIR/node-N/process   the identity of its process, while it has one
"""

import json
import random
import secrets
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from kvcluster.errors import ClusterError, NotACluster, UnknownNode
from kvcluster.process import write_atomically
from kvstore.types import CLUSTER_ID_BYTES

KIND = "kvstore local cluster"
FORMAT = 1
LOOPBACK = "127.0.0.1"
NODES_MAX = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One member: its number, where it serves, and where it lives."""

    node_id: int
    address: str
    """host:port, on loopback."""
    directory: Path

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def process(self) -> Path:
        return self.directory / "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The unchanging facts of one cluster."""

    directory: Path
    cluster_id: str
    """32 hexadecimal digits."""
    nodes: tuple[NodeSpec, ...]
    founded: bool = False
    """True once every member's data directory was founded. No node starts before."""
    election_timeout_ms: int | None = None
    """None leaves the server's default."""
    heartbeat_interval_ms: int | None = None

    @classmethod
    def draw(
        cls,
        directory: Path,
        *,
        nodes: int,
        election_timeout_ms: int | None = None,
        heartbeat_interval_ms: int | None = None,
    ) -> Self:
        """A new cluster of ``nodes`` members, with free ports. Writes nothing."""
        if not 1 <= nodes <= NODES_MAX:
            raise ClusterError(
                f"a local cluster has 1 to {NODES_MAX} nodes, not {nodes}",
                advice="3 nodes survive the loss of one, 5 of two.",
            )
        directory = directory.absolute()
        return cls(
            directory=directory,
            cluster_id=secrets.token_hex(CLUSTER_ID_BYTES),
            nodes=tuple(
                NodeSpec(
                    node_id=number,
                    address=f"{LOOPBACK}:{port}",
                    directory=directory / f"node-{number}",
                )
                for number, port in enumerate(free_ports(nodes), start=1)
            ),
            election_timeout_ms=election_timeout_ms,
            heartbeat_interval_ms=heartbeat_interval_ms,
        )

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Raises NotACluster if ``directory`` holds no readable record."""
        directory = directory.absolute()
        advice = f"Found one there with `kvstore cluster up --dir {directory}`."
        try:
            fields = json.loads((directory / "cluster.json").read_text())
            if fields["kind"] != KIND or fields["format"] != FORMAT:
                raise NotACluster(f"{directory} holds something else", advice=advice)
            return cls(
                directory=directory,
                cluster_id=str(fields["cluster_id"]),
                nodes=tuple(
                    NodeSpec(
                        node_id=int(node["id"]),
                        address=str(node["address"]),
                        directory=directory / f"node-{int(node['id'])}",
                    )
                    for node in fields["nodes"]
                ),
                founded=bool(fields["founded"]),
                election_timeout_ms=fields["election_timeout_ms"],
                heartbeat_interval_ms=fields["heartbeat_interval_ms"],
            )
        except FileNotFoundError as error:
            raise NotACluster(f"no cluster in {directory}", advice=advice) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotACluster(
                f"{directory}/cluster.json cannot be read: {error!r}",
                advice="Restore the file, or choose another --dir.",
            ) from error

    def save(self) -> None:
        record = {
            "kind": KIND,
            "format": FORMAT,
            "cluster_id": self.cluster_id,
            "founded": self.founded,
            "nodes": [{"id": n.node_id, "address": n.address} for n in self.nodes],
            "election_timeout_ms": self.election_timeout_ms,
            "heartbeat_interval_ms": self.heartbeat_interval_ms,
        }
        write_atomically(
            self.directory / "cluster.json", json.dumps(record, indent=2) + "\n"
        )

    def as_founded(self) -> Self:
        return replace(self, founded=True)

    def node(self, node_id: int) -> NodeSpec:
        """Raises UnknownNode."""
        for node in self.nodes:
            if node.node_id == node_id:
                return node
        raise UnknownNode(
            f"no node {node_id} in this cluster",
            advice=f"Its nodes are 1 to {len(self.nodes)}.",
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(node.address for node in self.nodes)


def free_ports(count: int) -> list[int]:
    """``count`` different loopback ports that nobody listens on now.

    Ports below the ephemeral range, not those that ``bind`` to port 0 would give: while
    a node is down its port must not be handed to somebody's outgoing connection, or the
    node cannot come back. A client that dials the dead node over and over could even be
    given that very port and connect to itself.
    """
    first = 10_000
    last = min(_ephemeral_first() - 1, 65_535)
    held: list[socket.socket] = []
    try:
        candidates = range(first, last + 1)
        draw = random.SystemRandom()
        for _ in range(200 * count):
            if len(held) == count:
                break
            port = draw.choice(candidates) if len(candidates) >= 2 * count else 0
            probe = socket.socket()
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                probe.close()
            else:
                held.append(probe)
        if len(held) < count:
            raise ClusterError(f"found only {len(held)} of {count} free ports")
        return [int(probe.getsockname()[1]) for probe in held]
    finally:
        for probe in held:
            probe.close()


def _ephemeral_first() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        return int(text.split()[0])
    except (OSError, ValueError):
        return 32_768
