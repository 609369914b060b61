"""The command line of ``kvstore init`` and ``kvstore serve``, without a store.

Node 1 leads, the others follow. It lets the tests of LocalCluster start and stop
processes in a fraction of the time that real nodes need, and misbehave on request:
the file ``fail-init`` or ``fail-serve`` in the node's directory makes it exit with 1,
``ignore-term`` makes it ignore SIGTERM, ``hold-serve`` makes it wait until the file is
gone.
"""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import grpc

from kvstore.pb import cluster_pb2

LEADER = 1


@click.group()
def cli() -> None:
    pass


@cli.command()
@click.option("--dir", "directory", type=Path, required=True)
@click.option("--node-id", type=int, required=True)
@click.option("--cluster-id", required=True)
@click.option("--member", multiple=True, required=True)
def init(directory: Path, node_id: int, cluster_id: str, member: list[str]) -> None:
    if (directory.parent / "fail-init").exists():
        print("no room on the device", file=sys.stderr)
        sys.exit(1)
    directory.mkdir(parents=True)
    (directory / "member").write_text(f"{node_id} {cluster_id} {' '.join(member)}")


@cli.command()
@click.option("--dir", "directory", type=Path, required=True)
@click.option("--listen", required=True)
@click.option("--peer", multiple=True)
@click.option("--election-timeout-ms", type=int, default=1000)
@click.option("--heartbeat-interval-ms", type=int, default=100)
def serve(
    directory: Path,
    listen: str,
    peer: list[str],
    election_timeout_ms: int,
    heartbeat_interval_ms: int,
) -> None:
    if (directory.parent / "fail-serve").exists():
        print("cannot serve today", file=sys.stderr)
        sys.exit(1)
    ended = threading.Event()
    if (directory.parent / "ignore-term").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    hold = directory.parent / "hold-serve"
    while hold.exists() and not ended.wait(0.005):
        pass
    node_id = int((directory / "member").read_text().split()[0])

    def status(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        return cluster_pb2.StatusResponse(
            node_id=node_id,
            role="leader" if node_id == LEADER else "follower",
            term=7,
            leader_id=LEADER,
            commit_index=10,
            applied_index=10,
            leader_changes=1,
            version="stub",
        ).SerializeToString()

    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    handlers = {"Status": grpc.unary_unary_rpc_method_handler(status)}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("kvstore.v1.Cluster", handlers)]
    )
    server.add_insecure_port(listen)
    server.start()
    print(f"node {node_id} serves, election {election_timeout_ms} ms", *sorted(peer))
    sys.stdout.flush()
    ended.wait()
    server.stop(0)


if __name__ == "__main__":
    cli()
