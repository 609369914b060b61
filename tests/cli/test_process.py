"""The real command against a real node: init, serve, and every operation on it."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kvcluster.topology import free_ports
from tests.command_line import KVSTORE, ROOT, environment
from tests.command_line import kvstore_bytes as kvstore

pytestmark = pytest.mark.process

BINARY = bytes(range(256)) * 8
LIMIT_S = 30


@dataclass(slots=True)
class ServedNode:
    """A founded directory and, while it runs, the process that serves it."""

    directory: Path
    address: str
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Serve, and return once the node says that it started."""
        self.process = subprocess.Popen(
            [*KVSTORE, "serve", "--dir", str(self.directory)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if '"event": "node_started"' in line:
                return
        raise AssertionError(f"serve ended: {self.process.wait()}\n{''.join(said)}")

    def kill(self) -> None:
        """Leave no process behind."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def stop(self, number: signal.Signals) -> tuple[int, list[dict[str, Any]]]:
        """Signal the process; its exit code and the events it still logged."""
        assert self.process is not None
        self.process.send_signal(number)
        _, text = self.process.communicate(timeout=LIMIT_S)
        code = self.process.returncode
        self.process = None
        return code, [json.loads(line) for line in text.splitlines()]

    def run(
        self, *arguments: str | bytes, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command against this node."""
        return kvstore(*arguments, stdin=stdin, KVSTORE_ENDPOINTS=self.address)

    def ok(self, *arguments: str | bytes, stdin: bytes = b"") -> bytes:
        """Run a command that succeeds and has nothing to add; its stdout."""
        result = self.run(*arguments, stdin=stdin)
        assert (result.returncode, result.stderr) == (0, b"")
        return result.stdout

    def json(self, *arguments: str | bytes, stdin: bytes = b"") -> Any:
        """Run a command that succeeds; its stdout, parsed."""
        return json.loads(self.ok(*arguments, "--json", stdin=stdin))


def found(directory: Path, *, count: int = 1) -> list[ServedNode]:
    """Found the members of one cluster, in ``directory``/1 and so on."""
    ports = enumerate(free_ports(count), 1)
    addresses = {number: f"127.0.0.1:{port}" for number, port in ports}
    members = [f"--member={number}={address}" for number, address in addresses.items()]
    nodes = []
    for number, address in addresses.items():
        path = directory / str(number)
        cluster = ("--cluster-id", "ab" * 16)
        result = kvstore(
            "init", "--dir", str(path), "--node-id", str(number), *cluster, *members
        )
        assert result.returncode == 0, result.stderr
        nodes.append(ServedNode(directory=path, address=address))
    return nodes


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """One running node for the tests that leave it as it is."""
    (served,) = found(tmp_path_factory.mktemp("node"))
    try:
        served.start()
        yield served
    finally:
        served.kill()


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[ServedNode]:
    """A founded node for one test to start, stop and break."""
    (served,) = found(tmp_path)
    try:
        yield served
    finally:
        served.kill()


def test_values_and_keys_survive_byte_for_byte(node: ServedNode) -> None:
    node.ok("put", "bin", "-", stdin=BINARY)
    assert node.ok("get", "bin") == BINARY
    raw_key = b"raw/\xff\xfe\x80"
    node.ok("put", raw_key, b"\xc3\x28 not utf-8")
    assert node.ok("get", raw_key) == b"\xc3\x28 not utf-8"
    assert node.ok("get", "--key-format", "hex", raw_key.hex()) == (
        b"\xc3\x28 not utf-8"
    )


def test_operations_answer_over_the_network_as_documented(node: ServedNode) -> None:
    first = node.json("put", "op/a", "1")["revision"]
    node.ok("put", "op/b", "2")
    listed = node.ok("range", "--prefix", "op/", "--json").splitlines()
    assert [json.loads(line)["key"]["text"] for line in listed] == ["op/a", "op/b"]
    order = ("--sort-by", "mod", "--descending", "--limit", "1", "--json")
    newest = node.run("range", "op/", "--from-key", *order)
    assert json.loads(newest.stdout)["key"]["text"] == "op/b"
    assert newest.stderr == b"There are more keys than the 1 printed.\n"
    create = json.dumps(
        {
            "compare": [{"key": "op/c", "target": "version", "value": 0}],
            "then": [{"put": {"key": "op/c", "value": {"base64": "/w=="}}}],
        }
    ).encode()
    assert node.json("txn", "-", stdin=create)["succeeded"] is True
    assert node.run("txn", "-", stdin=create).returncode == 1
    assert node.ok("get", "op/c") == b"\xff"
    deleted = node.json("delete", "--prefix", "op/")
    assert deleted["deleted"] == 3
    absent = node.run("get", "op/a")
    assert (absent.returncode, absent.stdout) == (1, b"")
    assert node.ok("get", "op/a", "--revision", str(first)) == b"1"
    node.ok("compact", str(deleted["revision"]))
    past = node.run("get", "op/a", "--revision", str(first))
    assert past.returncode == 5
    assert b"compacted" in past.stderr


def test_status_and_scrub_status_tell_of_the_node(node: ServedNode) -> None:
    node.ok("put", "k", "v")
    status = node.json("status")
    assert status["healthy"] is True
    assert status["leader_id"] == 1
    (only,) = status["nodes"]
    assert only["address"] == node.address
    assert only["role"] == "leader"
    assert only["lag"] == 0
    assert node.ok("status").startswith(b"Healthy: node 1 leads in term ")
    scrub = node.json("scrub", "status")
    assert scrub["corrupt_records"] == 0
    assert {store["store"] for store in scrub["nodes"][0]["stores"]} == {
        "raft",
        "state",
    }
    assert node.run("scrub", "status").returncode == 0


def test_a_node_that_hangs_is_unavailable_and_nothing_is_changed(
    own_node: ServedNode,
) -> None:
    """The kernel still accepts connections, but nobody speaks on them."""
    own_node.start()
    assert own_node.process is not None
    own_node.ok("put", "k", "old")
    own_node.process.send_signal(signal.SIGSTOP)
    for command in (("put", "k", "new"), ("get", "k"), ("status",)):
        assert own_node.run("--timeout", "1", *command).returncode == 3
    own_node.process.send_signal(signal.SIGCONT)
    assert own_node.ok("get", "k") == b"old"


def test_a_write_that_no_majority_can_take_is_not_applied(tmp_path: Path) -> None:
    """Goal: nobody has to wonder. A command's write waits for its session, which needs
    a majority itself. Method: one of two nodes is paused."""
    nodes = found(tmp_path, count=2)
    try:
        for each in nodes:
            each.start()
        nodes[0].ok("--timeout", "20", "put", "k", "old")
        leader_id = nodes[0].json("status")["leader_id"]
        leader, follower = nodes[leader_id - 1], nodes[2 - leader_id]
        assert follower.process is not None
        follower.process.send_signal(signal.SIGSTOP)
        refused = leader.run("--timeout", "3", "put", "k", "new")
        assert refused.returncode == 3
        assert refused.stdout == b""
        assert b"not applied" in refused.stderr
        status = leader.run("--timeout", "1", "status")
        assert status.returncode == 1
        assert status.stdout.startswith(b"No quorum: 1 of 2 nodes answered")
        assert leader.run("--timeout", "1", "get", "k").returncode == 3
        follower.process.send_signal(signal.SIGCONT)
        assert leader.ok("--timeout", "20", "get", "k") == b"old"
    finally:
        for each in nodes:
            each.kill()


def test_signals_stop_the_node_in_good_order_and_data_stays(
    own_node: ServedNode,
) -> None:
    served = own_node
    served.start()
    served.ok("put", "k", "v")
    code, events = served.stop(signal.SIGTERM)
    assert code == 0
    assert [event["event"] for event in events][-1] == "node_stopped"
    served.start()
    locked = kvstore("serve", "--dir", str(served.directory))
    assert locked.returncode == 7
    assert b"is open in process" in locked.stderr
    assert served.ok("get", "k") == b"v"
    code, _ = served.stop(signal.SIGINT)
    assert code == 0
    gone = served.run("--timeout", "1", "get", "k")
    assert gone.returncode == 3
    again = kvstore(
        "init", "--dir", str(served.directory), "--node-id", "1", "--member", "1=h:1"
    )
    assert again.returncode == 7
    assert b"was founded already" in again.stderr


def test_serve_refuses_what_it_must_not_run(tmp_path: Path) -> None:
    empty = kvstore("serve", "--dir", str(tmp_path))
    assert empty.returncode == 7
    assert b"Hint: `kvstore init --help`" in empty.stderr
    assert list(tmp_path.iterdir()) == []
    directory = str(found(tmp_path / "founded")[0].directory)
    public = kvstore("serve", "--dir", directory, "--listen", "0.0.0.0:0")
    assert public.returncode == 7
    assert b"--insecure" in public.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        in_use = kvstore("serve", "--dir", directory, "--listen", address)
    assert in_use.returncode == 7
    # One line, and none by gRPC's core.
    assert in_use.stderr.startswith(f"Error: cannot bind {address}".encode())
    assert in_use.stderr.count(b"\n") == 1
    optimized = kvstore("serve", "--dir", directory, python_options=("-O",))
    assert optimized.returncode == 7
    assert b"-O" in optimized.stderr
