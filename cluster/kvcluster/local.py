"""``LocalCluster``: a cluster of real node processes on this machine.

The processes are detached: they survive the command that started them, and another
``LocalCluster`` over the same directory finds them again. All state is in the
directory (see ``topology``); the object itself holds only the proxies, if any.

The methods block. From asyncio call them with ``asyncio.to_thread``: no two calls share
anything but files and processes, and calls that change the cluster hold its lock.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kvcluster.directory import check_vacant, locked
from kvcluster.errors import (
    ClusterError,
    NodeFailed,
    NotACluster,
    NotReady,
    UnknownNode,
)
from kvcluster.process import ProcessIdentity, spawn, stop_all
from kvcluster.proxy import ProxyThread
from kvcluster.signals import signals_held
from kvcluster.status import ClusterStatus, NodeStatus, ProcessState, query
from kvcluster.topology import NodeSpec, Topology

PROGRAM = (sys.executable, "-m", "kvstore.cli.main")
STOP_GRACE_S = 10.0
POLL_INTERVAL_S = 0.05
FOUND_TIMEOUT_S = 60.0
LOG_TAIL_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a new cluster is made with. None leaves the server's default."""

    election_timeout_ms: int | None = None
    heartbeat_interval_ms: int | None = None


class LocalCluster:
    """See the module. ``with`` stops the cluster at the end, and keeps its data."""

    def __init__(
        self,
        topology: Topology,
        *,
        program: Sequence[str] = PROGRAM,
        proxied: bool = False,
    ) -> None:
        """Use ``create`` or ``load``. ``program`` is run with ``init`` and ``serve``.

        ``proxied``: members dial each other through proxies in this process, so that
        ``isolate`` works; such a cluster lives no longer than the process.
        """
        self._topology = topology
        self._program = tuple(program)
        self._proxy = (
            ProxyThread({node.node_id: node.address for node in topology.nodes})
            if proxied
            else None
        )
        self._proxy_runs = False

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        nodes: int = 3,
        settings: Settings | None = None,
        program: Sequence[str] = PROGRAM,
        proxied: bool = False,
    ) -> Self:
        """Found a cluster, once, in a new or empty directory. Starts nothing.

        Raises ClusterExists, NodeFailed if a member cannot be founded, or NotACluster
        if the directory holds something else.
        """
        settings = settings or Settings()
        directory = directory.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        check_vacant(directory)  # also before the lock, which would leave its file
        with locked(directory):
            check_vacant(directory)
            topology = Topology.draw(
                directory,
                nodes=nodes,
                election_timeout_ms=settings.election_timeout_ms,
                heartbeat_interval_ms=settings.heartbeat_interval_ms,
            )
            topology.save()
            cluster = cls(topology, program=program, proxied=proxied)
            cluster._found()
        return cluster

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        program: Sequence[str] = PROGRAM,
        proxied: bool = False,
    ) -> Self:
        """The cluster founded in ``directory``. Raises NotACluster."""
        return cls(Topology.load(directory), program=program, proxied=proxied)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def directory(self) -> Path:
        return self._topology.directory

    @property
    def node_ids(self) -> tuple[int, ...]:
        return tuple(node.node_id for node in self._topology.nodes)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of every member, in the order of their ids."""
        return self._topology.endpoints

    def address(self, node_id: int) -> str:
        return self._topology.node(node_id).address

    # Whole-cluster verbs.

    def start(self) -> tuple[int, ...]:
        """Start every node that is down. Returns the ids of those it started.

        Raises OSError if a process cannot be started, NodeFailed if founding fails,
        NotACluster if the directory is not (or no longer) the cluster's.
        """
        with locked(self.directory):
            self._look_again()
            self._found()
            if self._proxy is not None and not self._proxy_runs:
                self._proxy.start()
                self._proxy_runs = True
            down = [n for n in self._topology.nodes if self._process(n) is None]
            for node in down:
                self._spawn(node)
            return tuple(node.node_id for node in down)

    def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """SIGTERM to every node, wait ``grace_s`` seconds, SIGKILL what is left."""
        with locked(self.directory):
            self._stop(grace_s)

    def destroy(self) -> None:
        """Kill every node and delete the directory with all data.

        Raises NotACluster if the directory is not (or no longer) the cluster's.
        """
        with locked(self.directory):
            self._look_again()
            # The data goes anyway: nothing is gained by a graceful end.
            self._stop(0.0)
            # Last of all the record, so that a destroy that was cut short can be
            # repeated, and never leaves data that no command will touch.
            for node in self._topology.nodes:
                shutil.rmtree(node.directory, ignore_errors=True)
            shutil.rmtree(self.directory)

    # One node.

    def kill(self, selector: str | int) -> int:
        """SIGKILL a node and wait until it is gone. Returns its id."""
        node_id = self.resolve(selector)
        process = self.process(node_id)
        process.signal(signal.SIGKILL)
        if not process.wait_gone(10.0):
            raise ClusterError(
                f"node {node_id} (pid {process.pid}) outlives SIGKILL",
                advice="It waits for the disk; look for I/O errors in dmesg.",
            )
        return node_id

    def pause(self, selector: str | int) -> int:
        """SIGSTOP a node. Returns its id."""
        node_id = self.resolve(selector)
        process = self.process(node_id)
        process.signal(signal.SIGSTOP)
        _wait_until(process.is_paused, 5.0, what=f"node {node_id} to stop")
        return node_id

    def resume(self, selector: str | int) -> int:
        """SIGCONT a node. Returns its id."""
        node_id = self.resolve(selector)
        self.process(node_id).signal(signal.SIGCONT)
        return node_id

    def restart(self, selector: str | int, *, grace_s: float = STOP_GRACE_S) -> int:
        """Stop a node if it runs, and start it. Returns its id."""
        node = self._topology.node(self.resolve(selector))
        with locked(self.directory):
            process = self._process(node)
            if process is not None:
                stop_all([process], grace_s=grace_s)
            self._spawn(node)
        return node.node_id

    def isolate(self, selector: str | int) -> int:
        """Partition a node from its peers; clients still reach it. Returns its id."""
        assert self._proxy is not None, "isolate needs a cluster made with proxied=True"
        node_id = self.resolve(selector)
        self._proxy.isolate([node_id])
        return node_id

    def heal(self) -> None:
        """End every partition."""
        assert self._proxy is not None, "heal needs a cluster made with proxied=True"
        self._proxy.heal()

    def resolve(self, selector: str | int) -> int:
        """The id that ``selector`` names: a number, ``leader`` or ``follower``.

        ``follower`` is the running non-leader with the lowest id. Raises UnknownNode.
        """
        if selector == "leader":
            leader = self.status().leader
            if leader is None:
                raise UnknownNode(
                    "no leader right now",
                    advice="Wait for one, or name a node by its number.",
                )
            return leader.node_id
        if selector == "follower":
            status = self.status()
            for node in status.nodes:
                if node.serving and node.role != "leader":
                    return node.node_id
            raise UnknownNode(
                "no follower runs right now",
                advice="See `kvstore cluster status`; start nodes with `cluster up`.",
            )
        try:
            number = int(selector)
        except ValueError as error:
            raise UnknownNode(
                f"{selector!r} names no node",
                advice="Use leader, follower or a node's number.",
            ) from error
        return self._topology.node(number).node_id

    def log_path(self, node_id: int) -> Path:
        return self._topology.node(node_id).log

    def logs(self, node_id: int, *, lines: int | None = None) -> str:
        """What a node has printed; the last ``lines`` lines, or everything."""
        try:
            text = self.log_path(node_id).read_text(errors="replace")
        except FileNotFoundError:
            return ""
        if lines is None:
            return text
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""

    def process(self, node_id: int) -> ProcessIdentity:
        """The process that runs a node now. Raises NodeFailed if it is down."""
        process = self._process(self._topology.node(node_id))
        if process is None:
            raise NodeFailed(
                f"node {node_id} is not running",
                advice=f"Start it with `kvstore cluster restart {node_id}`.",
            )
        return process

    def processes(self) -> tuple[ProcessIdentity, ...]:
        """The identities of the nodes' processes that exist now, by node id."""
        found = (self._process(node) for node in self._topology.nodes)
        return tuple(process for process in found if process is not None)

    def cpu_seconds(self) -> float:
        """CPU time used so far by the processes that exist now."""
        stats = (process.stat() for process in self.processes())
        return sum(stat.cpu_seconds for stat in stats if stat is not None)

    # Looking and waiting.

    def status(self) -> ClusterStatus:
        """Ask every node. Takes about a second if one runs and does not answer."""
        return query([(node, self._process(node)) for node in self._topology.nodes])

    def wait_for_leader(self, timeout_s: float = 30.0) -> NodeStatus:
        """Wait until a majority follows one leader. Returns the leader's status.

        Raises NotReady after ``timeout_s`` seconds, NodeFailed at once if so many
        processes have ended that no majority can form.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status()
            if status.leader is not None:
                return status.leader
            down = [n for n in status.nodes if n.process is ProcessState.DOWN]
            if len(down) * 2 >= len(status.nodes):
                raise self._failed(down[0].node_id, "is down, and no majority is left")
            if time.monotonic() >= deadline:
                states = ", ".join(
                    f"{n.node_id} {n.role or n.process.value}" for n in status.nodes
                )
                raise NotReady(
                    f"no leader within {timeout_s:g} s (nodes: {states})",
                    advice=f"Look into the logs under {self.directory}.",
                )
            time.sleep(POLL_INTERVAL_S)

    def wait_serving(self, node_id: int, timeout_s: float = 30.0) -> NodeStatus:
        """Wait until a node answers. Raises NotReady; NodeFailed if it has ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            node = self.status().node(node_id)
            if node.serving:
                return node
            if node.process is ProcessState.DOWN:
                raise self._failed(node_id, "has ended")
            if time.monotonic() >= deadline:
                raise NotReady(
                    f"node {node_id} did not answer within {timeout_s:g} s",
                    advice=f"Its log is {self.log_path(node_id)}.",
                )
            time.sleep(POLL_INTERVAL_S)

    def wait_caught_up(self, timeout_s: float = 30.0) -> ClusterStatus:
        """Wait until every running node follows the leader, and has applied what was
        committed when the wait began.

        Nodes that are down or paused are not waited for. Raises NotReady.
        """
        deadline = time.monotonic() + timeout_s
        target: int | None = None
        while True:
            status = self.status()
            leader = status.leader
            if leader is not None:
                target = leader.commit_index if target is None else target
                if all(
                    node.leader_id == leader.node_id and node.applied_index >= target
                    for node in status.nodes
                    if node.process is ProcessState.RUNNING
                ):
                    return status
            if time.monotonic() >= deadline:
                raise NotReady(
                    f"not all nodes caught up within {timeout_s:g} s "
                    f"(target index {target}): "
                    + ", ".join(
                        f"{n.node_id} {n.role or n.process.value} {n.applied_index}"
                        for n in status.nodes
                    ),
                    advice=f"Look into the logs under {self.directory}.",
                )
            time.sleep(POLL_INTERVAL_S)

    # Inside.

    def _failed(self, node_id: int, how: str) -> NodeFailed:
        last_words = self.logs(node_id, lines=LOG_TAIL_LINES).rstrip()
        return NodeFailed(
            f"node {node_id} {how}"
            + (f"; it said:\n{last_words}" if last_words else ""),
            advice=f"Its log is {self.log_path(node_id)}.",
        )

    def _process(self, node: NodeSpec) -> ProcessIdentity | None:
        identity = ProcessIdentity.load(node.process)
        return identity if identity is not None and identity.is_alive() else None

    def _spawn(self, node: NodeSpec) -> None:
        command = [*self._program, "serve", "--dir", str(node.data)]
        command += ["--listen", node.address]
        if self._topology.election_timeout_ms is not None:
            command += [
                "--election-timeout-ms",
                str(self._topology.election_timeout_ms),
            ]
        if self._topology.heartbeat_interval_ms is not None:
            command += [
                "--heartbeat-interval-ms",
                str(self._topology.heartbeat_interval_ms),
            ]
        if self._proxy is not None:
            for peer, address in sorted(self._proxy.peers_of(node.node_id).items()):
                command += ["--peer", f"{peer}={address}"]
        with signals_held():
            # Or an interrupt could leave a process that no record names.
            spawn(command, log=node.log).save(node.process)

    def _stop(self, grace_s: float) -> None:
        stop_all(self.processes(), grace_s=grace_s)
        for node in self._topology.nodes:
            node.process.unlink(missing_ok=True)
        if self._proxy is not None and self._proxy_runs:
            self._proxy.stop()
            self._proxy_runs = False

    def _found(self) -> None:
        """Found the members' directories. Can be repeated after being cut short: no
        node has started before all are founded, so starting over loses nothing.
        """
        if self._topology.founded:
            return
        members = [
            f"--member={node.node_id}={node.address}" for node in self._topology.nodes
        ]
        running: list[tuple[NodeSpec, subprocess.Popen[str]]] = []
        for node in self._topology.nodes:
            shutil.rmtree(node.data, ignore_errors=True)
            node.directory.mkdir(exist_ok=True)
            command = [*self._program, "init", "--dir", str(node.data)]
            command += ["--node-id", str(node.node_id)]
            command += ["--cluster-id", self._topology.cluster_id, *members]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            running.append((node, process))
        complaints = []
        for node, process in running:
            try:
                _, complaint = process.communicate(timeout=FOUND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                _, complaint = process.communicate()
            if process.returncode != 0:
                complaints.append(f"node {node.node_id}: {complaint.strip()}")
        if complaints:
            raise NodeFailed(
                "a member could not be founded: " + complaints[0],
                advice=f"Is there room, and may you write, in {self.directory}?",
            )
        self._topology = self._topology.as_founded()
        self._topology.save()

    def _look_again(self) -> None:
        """Another command may have founded or replaced the cluster before the lock."""
        found = Topology.load(self.directory)
        if found.cluster_id != self._topology.cluster_id:
            raise NotACluster(
                f"{self.directory} holds another cluster by now",
                advice="Load it anew.",
            )
        self._topology = found


def _wait_until(condition: Callable[[], bool], timeout_s: float, *, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            raise NotReady(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.005)
