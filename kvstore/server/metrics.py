"""Prometheus metrics of one node."""

from collections.abc import Callable, Iterator, Mapping
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from kvstore.config import check_address
from kvstore.errors import ConfigError
from kvstore.types import NodeId


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
            "Damaged records that opening a store or the scrubber found.",
            ["store"],
            registry=self.registry,
        )
        self._serving: tuple[WSGIServer, Thread] | None = None

    def watch_dropped(self, dropped: Callable[[], Mapping[NodeId, int]]) -> None:
        """Show how many messages to each peer were lost. Asked at each scrape."""
        self.registry.register(_DroppedMessages(dropped))

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


class _DroppedMessages(Collector):
    """Reads counters that belong to the transport."""

    def __init__(self, dropped: Callable[[], Mapping[NodeId, int]]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "kvstore_dropped_messages",
            "Messages lost here because a peer was not reached or too slow.",
            labels=["peer"],
        )
        for peer, count in self._dropped().items():
            family.add_metric([str(peer)], count)
        yield family
