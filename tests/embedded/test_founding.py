"""A data directory is written once in its life, so what goes in is checked first."""

from pathlib import Path

import pytest

import kvstore

GOOD = "127.0.0.1:7401"


@pytest.mark.parametrize(
    "members",
    [
        {1: "nonsense", 2: GOOD},
        {1: "127.0.0.1:0", 2: GOOD},
        {1: "::1:7400", 2: GOOD},
        {1: "host:²", 2: GOOD},
        {1: GOOD, 2: GOOD},
        {2: GOOD},
        {},
    ],
)
def test_members_nobody_could_reach_are_not_founded(
    tmp_path: Path, members: dict[int, str]
) -> None:
    cluster_id = kvstore.new_cluster_id()
    path = tmp_path / "data"
    with pytest.raises(kvstore.ConfigError):
        kvstore.found(path, node_id=1, cluster_id=cluster_id, members=members)
    assert not path.exists()
    members = {1: GOOD, 2: "[::1]:7402", 3: "node3.example:7400"}
    kvstore.found(path, node_id=1, cluster_id=cluster_id, members=members)
