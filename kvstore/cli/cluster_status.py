"""Ask every member about itself, and say in words what the answers mean."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kvstore.cli.options import Connection
from kvstore.cli.output import plural
from kvstore.client.cluster import status_of
from kvstore.client.leadership import followed_leader
from kvstore.errors import ConfigError, Unavailable
from kvstore.pb import cluster_pb2

ANSWER_TIMEOUT_S_MAX = 1.5
"""A node that is up answers in milliseconds; one that hangs must not hold up all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What one member said, if it did."""

    node_id: int
    address: str
    status: cluster_pb2.StatusResponse | None
    problem: str = ""
    """Why there is no status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReport:
    """All members, asked at about the same moment, by ascending id."""

    cluster_id: bytes
    nodes: tuple[NodeReport, ...]

    @property
    def quorum(self) -> int:
        """How many members make a majority."""
        return len(self.nodes) // 2 + 1

    @property
    def answering(self) -> tuple[NodeReport, ...]:
        """Members that answered."""
        return tuple(node for node in self.nodes if node.status is not None)

    @property
    def leader(self) -> NodeReport | None:
        """The leader that a majority of all members follows, if there is one."""
        answers = [node.status for node in self.nodes if node.status is not None]
        leader = followed_leader(answers, members=len(self.nodes))
        if leader is None:
            return None
        return next(node for node in self.nodes if node.status is leader)

    @property
    def healthy(self) -> bool:
        """Whether reads and writes go through, as far as this machine can see."""
        return self.leader is not None

    def lag(self, node: NodeReport) -> int | None:
        """Entries that the leader committed and ``node`` has not applied; or unknown.

        The two were asked at different moments, so a busy follower may seem ahead: 0.
        """
        leader = self.leader
        if leader is None or leader.status is None or node.status is None:
            return None
        return max(0, leader.status.commit_index - node.status.applied_index)

    @property
    def corrupt_records(self) -> int:
        """Records that failed their checksum, over all answering members."""
        return sum(
            tour.corrupt_records
            for node in self.nodes
            if node.status is not None
            for tour in node.status.scrub.tours
        )

    def in_words(self) -> str:
        """One line for people: can the cluster serve, and if not, why not."""
        total = len(self.nodes)
        answering = len(self.answering)
        silent = [str(node.node_id) for node in self.nodes if node.status is None]
        leader = self.leader
        if leader is not None and leader.status is not None:
            words = f"node {leader.node_id} leads in term {leader.status.term}"
            if silent:
                spare = answering - self.quorum
                words = (
                    f"Degraded, but serving: {words}; no answer from node "
                    f"{', '.join(silent)}; {_can_lose(spare)}."
                )
            else:
                everyone = (
                    "its only node answers" if total == 1 else f"all {total} answer"
                )
                words = f"Healthy: {words}, {everyone}."
        elif answering < self.quorum:
            words = (
                f"No quorum: {answering} of {plural(total, 'node')} answered, "
                f"{self.quorum} are needed; reads and writes wait."
            )
        else:
            words = (
                f"No leader: {answering} of {plural(total, 'node')} answered, but no "
                "majority follows one leader; an election may be under way."
            )
        if self.corrupt_records:
            damage = plural(self.corrupt_records, "corrupt record")
            words += f" Scrub found {damage}: see `kvstore scrub status`."
        return words


async def ask_cluster(connection: Connection) -> ClusterReport:
    """Ask the endpoints who the members are, then every member how it is.

    Raises:
        Unavailable: no endpoint answered in time.
        ConfigError: the endpoints belong to different clusters.
    """
    timeout_s = min(connection.timeout_s / 2, ANSWER_TIMEOUT_S_MAX)
    first = await _ask_all(
        [(0, address) for address in connection.endpoints], timeout_s
    )
    known: dict[int, NodeReport] = {}
    silent: dict[str, NodeReport] = {}
    for report in first:
        if report.status is not None:
            known.setdefault(report.node_id, report)
        else:
            silent[report.address] = report
    if not known:
        problems = "; ".join(f"{report.address}: {report.problem}" for report in first)
        raise Unavailable(f"no endpoint answered ({problems})")
    cluster_ids = {node.status.cluster_id for node in known.values() if node.status}
    if len(cluster_ids) > 1:
        names = ", ".join(sorted(cluster_id.hex() for cluster_id in cluster_ids))
        raise ConfigError(f"the endpoints belong to different clusters: {names}")
    witness = next(iter(known.values())).status
    assert witness is not None
    # A node that answered at an endpoint need not be asked at its member address, which
    # may not be reachable from here (port forwarding); nor one that was silent there.
    rest = []
    for member in witness.members:
        if member.node_id in known:
            continue
        if member.address in silent:
            asked = silent[member.address]
            known[member.node_id] = replace(asked, node_id=member.node_id)
        else:
            rest.append((member.node_id, member.address))
    for report in await _ask_all(rest, timeout_s):
        known[report.node_id] = report
    return ClusterReport(
        cluster_id=witness.cluster_id,
        nodes=tuple(known[node_id] for node_id in sorted(known)),
    )


async def _ask_all(
    nodes: Sequence[tuple[int, str]], timeout_s: float
) -> list[NodeReport]:
    return await asyncio.gather(
        *(_ask(node_id, address, timeout_s) for node_id, address in nodes)
    )


async def _ask(node_id: int, address: str, timeout_s: float) -> NodeReport:
    try:
        status = await status_of(address, timeout_s)
    except Unavailable as error:
        return NodeReport(
            node_id=node_id, address=address, status=None, problem=str(error)
        )
    if node_id not in (0, status.node_id):
        problem = f"node {status.node_id} answers there"
        return NodeReport(
            node_id=node_id, address=address, status=None, problem=problem
        )
    return NodeReport(node_id=status.node_id, address=address, status=status)


def _can_lose(spare: int) -> str:
    if spare <= 0:
        return "losing one more would stop it"
    return f"it can lose {spare} more"
