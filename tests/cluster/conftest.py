"""Clusters that end with the test, whatever happens in it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvcluster.local import LocalCluster, Settings

STUB = (sys.executable, str(Path(__file__).with_name("stub_node.py")))


@pytest.fixture
def stub_cluster(tmp_path: Path) -> Iterator[Callable[..., LocalCluster]]:
    """Make clusters of stub nodes; the test need not stop them."""
    made: list[LocalCluster] = []

    def make(
        name: str = "cluster",
        *,
        nodes: int = 3,
        settings: Settings | None = None,
        proxied: bool = False,
    ) -> LocalCluster:
        cluster = LocalCluster.create(
            tmp_path / name,
            nodes=nodes,
            settings=settings,
            program=STUB,
            proxied=proxied,
        )
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        if cluster.directory.exists():
            cluster.stop(grace_s=1.0)
