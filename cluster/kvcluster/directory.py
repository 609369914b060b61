"""A cluster's directory: whether it may become one, and the right to change it."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from kvcluster.errors import ClusterBusy, ClusterExists, NotACluster
from kvcluster.topology import Topology

LOCK_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.05


def check_vacant(directory: Path) -> None:
    """Raises ClusterExists, or NotACluster if something else is in there."""
    with contextlib.suppress(NotACluster):
        Topology.load(directory)
        raise ClusterExists(
            f"{directory} already holds a cluster",
            advice="Start it with `kvstore cluster up`, or `destroy` it first.",
        )
    strangers = sorted(p.name for p in directory.iterdir() if p.name != "lock")
    if strangers:
        raise NotACluster(
            f"{directory} is not empty: it holds {strangers[0]}",
            advice="Choose an empty or new directory.",
        )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a cluster's lock file, so that two commands do not change it at once."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError as error:
        raise NotACluster(f"no cluster in {directory}") from error
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise ClusterBusy(
                        f"another command is changing {directory}",
                        advice="Wait for it to end, then try again.",
                    ) from error
                time.sleep(POLL_INTERVAL_S)
        yield
    finally:
        os.close(descriptor)
