"""Prometheus metrics of one node."""

from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, start_http_server

from kvstore.config import check_address
from kvstore.errors import ConfigError


class Metrics:
    """A registry of its own: two nodes in one process do not share counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.leader_changes = Counter(
            "kvstore_leader_changes",
            "Terms in which this node saw a new leader.",
            registry=self.registry,
        )
        self.corrupt_records = Counter(
            "kvstore_corrupt_records",
            "Damaged records that the scrubber found.",
            ["store"],
            registry=self.registry,
        )
        self._serving: tuple[WSGIServer, Thread] | None = None

    def serve(self, address: str) -> None:
        """Answer scrapes at ``host:port``, in a thread, until ``close``.

        Raises:
            ConfigError: the address cannot be bound.
        """
        check_address("metrics", address)
        host, _, port = address.rpartition(":")
        try:
            self._serving = start_http_server(
                int(port), host.strip("[]"), registry=self.registry
            )
        except OSError as error:
            raise ConfigError(f"cannot bind metrics {address}: {error}") from error

    @property
    def port(self) -> int:
        """At which scrapes are answered; 0 if none are."""
        return 0 if self._serving is None else self._serving[0].server_port

    def close(self) -> None:
        """Answer no more; blocks for up to half a second."""
        if self._serving is not None:
            server, thread = self._serving
            server.shutdown()
            server.server_close()
            thread.join()
