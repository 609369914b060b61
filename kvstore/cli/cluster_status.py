"""Ask every member about itself, and say in words what the answers mean."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
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
    """All members, asked at about the same moment, by ascending id.

    Nodes that were asked and are no members, not yet or not any more, are there too.
    """

    cluster_id: bytes
    nodes: tuple[NodeReport, ...]

    @property
    def configuration(self) -> cluster_pb2.StatusResponse | None:
        """The answer whose account of the members counts: it knows the most.

        None: nobody who answered belongs to a cluster yet.
        """
        known = [it for it in self.statuses if it.members]
        # What is committed last includes the last change. (A leader may be an old one.)
        return max(known, key=lambda it: (it.commit_index, it.term), default=None)

    @property
    def statuses(self) -> tuple[cluster_pb2.StatusResponse, ...]:
        """What the members that answered said."""
        return tuple(it.status for it in self.nodes if it.status is not None)

    @property
    def voters(self) -> frozenset[int]:
        """Members whose votes count, without those that a change under way removes."""
        found = self.configuration
        if found is None:
            return frozenset(node.node_id for node in self.nodes)
        return frozenset(
            it.node_id for it in found.members if it.voter and not it.outgoing
        )

    @property
    def quorum(self) -> int:
        """How many voters make a majority."""
        return len(self.voters) // 2 + 1

    @property
    def answering(self) -> tuple[NodeReport, ...]:
        """Members that answered."""
        return tuple(node for node in self.nodes if node.status is not None)

    @property
    def leader(self) -> NodeReport | None:
        """The leader that a majority of the voters follows, if there is one."""
        # One that leaves may lead until it is gone, and is followed meanwhile.
        standings = {node.node_id: self.standing(node) for node in self.nodes}
        answers = [
            it for it in self.statuses if standings[it.node_id] in {"voter", "leaving"}
        ]
        leader = followed_leader(answers, members=len(self.voters))
        if leader is None:
            return None
        return next(node for node in self.nodes if node.status is leader)

    def standing(self, node: NodeReport) -> str:
        """``voter``, ``learner``, ``leaving``, ``joining`` or ``removed``.

        ``leaving`` is a voter until the change under way is done, ``joining`` a node
        that is no member yet.
        """
        found = self.configuration
        if found is None:
            waits = node.status is not None and not self._answers_as_member()
            return "joining" if waits else "voter"
        for member in found.members:
            if member.node_id == node.node_id:
                return standing_of(member)
        return "removed" if node.node_id in found.removed else "joining"

    def role(self, node: NodeReport) -> str:
        """In the table's word: a voter's part in elections, else its standing."""
        standing = self.standing(node)
        role = node.status.role if node.status is not None else ""
        if standing == "voter":
            return role
        return f"{role}, leaving" if standing == "leaving" else standing

    def receives_snapshot(self, node: NodeReport) -> bool:
        """Whether the leader sends it a snapshot now: its log would not do."""
        leader = self.leader
        if leader is None or leader.status is None:
            return False
        return any(
            peer.node_id == node.node_id and peer.state == "snapshot"
            for peer in leader.status.peers
        )

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
        if self.configuration is None and not self._answers_as_member():
            return (
                "Not in a cluster yet: the node waits until `kvstore member add` is "
                "told of it."
            )
        words = self._serving_in_words() + self._changing_in_words()
        if self.corrupt_records:
            damage = plural(self.corrupt_records, "corrupt record")
            words += f" Scrub found {damage}: see `kvstore scrub status`."
        return words

    def _answers_as_member(self) -> bool:
        return len(self.nodes) != 1 or any(it.leader_id for it in self.statuses)

    def _serving_in_words(self) -> str:
        voters = self.voters
        answering = sum(1 for it in self.answering if it.node_id in voters)
        silent = [str(node.node_id) for node in self.nodes if node.status is None]
        leader = self.leader
        if leader is not None and leader.status is not None:
            words = f"node {leader.node_id} leads in term {leader.status.term}"
            if silent:
                spare = answering - self.quorum
                return (
                    f"Degraded, but serving: {words}; no answer from node "
                    f"{', '.join(silent)}; {_can_lose(spare)}."
                )
            total = len(self.nodes)
            everyone = "its only node answers" if total == 1 else f"all {total} answer"
            return f"Healthy: {words}, {everyone}."
        # Without learners one says "nodes": nobody then knows of another kind.
        kind = "node" if len(voters) == len(self.nodes) else "voter"
        asked = f"{answering} of {plural(len(voters), kind)} answered"
        if answering < self.quorum:
            return (
                f"No quorum: {asked}, {self.quorum} are needed; reads and writes wait."
            )
        return (
            f"No leader: {asked}, but no majority follows one leader; an election may "
            "be under way."
        )

    def _changing_in_words(self) -> str:
        words = ""
        leader = self.leader
        if leader is not None and leader.status is not None:
            if leader.status.transferee:
                words += f" It hands over to node {leader.status.transferee}."
            if leader.status.joint:
                words += " A change of the members is under way."
            if copying := [n for n in self.nodes if self.receives_snapshot(n)]:
                names = ", ".join(str(node.node_id) for node in copying)
                words += f" A snapshot is being sent to node {names}."
        return words


def standing_of(member: cluster_pb2.Member) -> str:
    """``voter``, ``learner``, or ``leaving``: a voter until the change is done."""
    if member.outgoing:
        return "leaving"
    return "voter" if member.voter else "learner"


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
    # A node that answered at an endpoint need not be asked at its member address, which
    # may not be reachable from here (port forwarding); nor one that was silent there.
    await _ask_members(known, silent, timeout_s)
    # Those may know of newer members than the first ones did.
    await _ask_members(known, silent, timeout_s)
    found = ClusterReport(
        cluster_id=next(iter(cluster_ids)),
        nodes=tuple(known[node_id] for node_id in sorted(known)),
    )
    return _without_former_members(found, asked={it.node_id for it in first})


async def _ask_members(
    known: dict[int, NodeReport], silent: Mapping[str, NodeReport], timeout_s: float
) -> None:
    """Add those of whom the ones known tell."""
    rest: dict[int, str] = {}
    for report in list(known.values()):
        for member in report.status.members if report.status is not None else ():
            if member.node_id in known:
                continue
            if member.address in silent:
                asked = silent[member.address]
                known[member.node_id] = replace(asked, node_id=member.node_id)
            else:
                rest[member.node_id] = member.address
    for report in await _ask_all(list(rest.items()), timeout_s):
        known[report.node_id] = report


def _without_former_members(
    report: ClusterReport, asked: Collection[int]
) -> ClusterReport:
    """Leave out whom only an old configuration names, and who was no endpoint."""
    newest = report.configuration
    if newest is None:
        return report
    members = {it.node_id for it in newest.members} | set(asked)
    return replace(
        report, nodes=tuple(it for it in report.nodes if it.node_id in members)
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
