"""The seam between a client and what carries its requests.

:class:`~kvstore.client.cluster.ClusterTransport` carries them over gRPC to one of
several endpoints; ``kvstore.embedded.NodeTransport`` hands them to a node in this very
process. What is coalesced, retried, timed out and reported to callers is above the
seam, in :class:`~kvstore.client.pipeline.Pipeline`, and the same for both.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from kvstore.errors import KVStoreError
from kvstore.pb import cluster_pb2, kv_pb2

Done = Callable[[kv_pb2.OperateResponse | None, KVStoreError | None], bool]
"""Called once with the node's response, or why there is none. Returns whether another
node should be asked from now on."""


class Transport(Protocol):
    """Carries requests. Used on one event loop."""

    @property
    def recovers(self) -> bool:
        """Whether a node that has closed or is damaged can be replaced by another."""
        ...

    @property
    def ready(self) -> bool:
        """Whether ``send`` may be called now."""
        ...

    @property
    def cluster_id(self) -> bytes:
        """Of the node that ``send`` would reach; empty if it did not say."""
        ...

    @property
    def endpoints(self) -> Sequence[str]:
        """Addresses at which the members can be asked about themselves."""
        ...

    @property
    def trouble(self) -> str:
        """Why it is not ready, for people."""
        ...

    @property
    def requests_open(self) -> int:
        """Requests that are not answered yet where ``send`` would put the next one."""
        ...

    async def connect(self) -> None:
        """Become ready.

        Raises:
            Unavailable: not now; nothing was sent. Definite, try again.
            KVStoreError: never. Definite.
        """
        ...

    def send(self, request: kv_pb2.OperateRequest, done: Done) -> None:
        """Send a request when ready. The transport chooses its ``id``."""
        ...

    async def status(
        self, endpoint: str | None, timeout_s: float
    ) -> cluster_pb2.StatusResponse:
        """What the node at ``endpoint``, or the one in use, says of itself.

        Raises:
            Unavailable: it did not say. Definite.
        """
        ...

    async def close(self) -> None:
        """Answer everything in flight, as of unknown outcome if need be. Repeatable."""
        ...
