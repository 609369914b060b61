"""A snapshot's way is cut again and again: it is taken up where it broke."""

from pathlib import Path

import pytest

import kvstore
from kvcluster.local import LocalCluster

pytestmark = pytest.mark.process
VALUE = bytes(512 * 1024)
VALUES = 400
"""Far more than the log keeps, so that only a snapshot will do."""
CUTS = 3
STEPS_MAX = 20_000


def test_a_transfer_that_is_cut_three_times_sends_little_twice(tmp_path: Path) -> None:
    with LocalCluster.create(tmp_path / "c", nodes=3, proxied=True) as cluster:
        cluster.start()
        cluster.wait_caught_up()
        leader = cluster.wait_for_leader()
        behind = cluster.resolve("follower")
        cluster.kill(behind)
        with kvstore.Client([leader.address]) as client:
            for number in range(VALUES):
                client.put(b"key/%d" % number, VALUE, timeout_s=30)

            def sent() -> int:
                return client.status(leader.address).snapshot_bytes_sent

            cluster.start()
            size = VALUES * len(VALUE)
            for cut in range(1, CUTS + 1):
                for _ in range(STEPS_MAX):
                    if sent() > size * cut // (CUTS + 1):
                        break
                cluster.isolate(behind)
                at = sent()
                print(f"cut {cut} at {at:,} of {size:,} bytes")
                assert at < size, "it was over before it was cut"
                cluster.heal()
            cluster.wait_caught_up(60)
            assert sent() > size
            stored = client.status(leader.address).state_store_bytes
            print(f"sent {sent():,}, stored {stored:,}")
            assert sent() < 1.3 * stored
        with kvstore.Client([cluster.address(behind)]) as client:
            assert client.range(prefix=b"key/", count_only=True).count == VALUES
