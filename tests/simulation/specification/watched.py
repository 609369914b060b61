"""Clusters in memory that the specification watches, and nobody else."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from kvstore.raft.messages import Message
from kvstore.raft.node import RaftNode
from kvstore.simulation import cluster
from kvstore.simulation.specification.checker import SpecificationChecker
from tests.raft.cluster import Cluster
from tests.raft.test_random_walk import EVENTS, Walk


class WatchedCluster(Cluster):
    """That of tests and walks. It tells the specification also what reaches a node."""

    def __init__(self, size: int = 3, **settings: object) -> None:
        self.specification = SpecificationChecker()
        super().__init__(size, checker=self.specification, **settings)  # type: ignore[arg-type]

    def deliver(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if self.servers[message.to].raft is not None:
                self.specification.message_delivered(message, self.members)
            super().deliver([message])


class WatchedScript(cluster.Cluster):
    """That of scripts."""

    _checker: SpecificationChecker  # type: ignore[assignment]

    def start(self, host: cluster.Host) -> None:
        if not isinstance(self._checker, SpecificationChecker):
            self._checker = SpecificationChecker()
        super().start(host)

    def input(self, host: cluster.Host, act: Callable[[RaftNode], object]) -> None:
        if isinstance(act, partial) and act.func is RaftNode.step:
            message = cast("Message", act.keywords["message"])
            self._checker.message_delivered(message, self._members)
        super().input(host, act)


def watched_walk(seed: int) -> Walk:
    """Random faults in a watched cluster, and recovery."""
    subject = Walk(seed, make_cluster=WatchedCluster)
    subject.run(EVENTS)
    subject.recover()
    return subject
