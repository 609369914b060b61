"""Watches the memory of nodes that no file backs, from outside."""

import threading
from types import TracebackType
from typing import Self

from kvcluster.errors import ClusterError
from kvcluster.local import LocalCluster
from kvstore.server.status import anonymous_bytes

INTERVAL_S = 0.1


class MemoryWatch:
    """Peaks by node, over every process that a node has had while it was watched.

    Mapped pages of LMDB are the page cache's: the system takes them back when it needs
    them, and they do not count.
    """

    def __init__(self, cluster: LocalCluster) -> None:
        self.peaks: dict[int, int] = {}
        """Bytes, by node id."""
        self.also: dict[int, int] = {}
        """Process ids of nodes that are not of the cluster, by node id."""
        self._cluster = cluster
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(INTERVAL_S):
            for node_id in self._cluster.node_ids:
                try:
                    self._look(node_id, self._cluster.process(node_id).pid)
                except ClusterError:
                    continue  # it is being restarted
            for node_id, pid in list(self.also.items()):
                self._look(node_id, pid)

    def _look(self, node_id: int, pid: int) -> None:
        size = anonymous_bytes(pid)
        self.peaks[node_id] = max(self.peaks.get(node_id, 0), size)
