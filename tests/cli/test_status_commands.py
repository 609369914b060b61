"""status and scrub status: asking members over gRPC, and presenting what they say."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from click.testing import CliRunner, Result

from kvstore.cli import scrub_commands, status_command
from kvstore.cli.cluster_status import ClusterReport, NodeReport, ask_cluster
from kvstore.cli.main import cli
from kvstore.cli.options import Connection
from kvstore.errors import ConfigError, Unavailable
from kvstore.pb import cluster_pb2

CLUSTER = b"c" * 16
Status = cluster_pb2.StatusResponse


def status(node_id: int, *, leader: int = 1, **fields: Any) -> Status:
    role = "leader" if node_id == leader else "follower"
    return Status(
        cluster_id=CLUSTER,
        node_id=node_id,
        role=role,
        term=3,
        leader_id=leader,
        commit_index=10,
        applied_index=10,
        uptime_seconds=90,
        **fields,
    )


# -------------------------------------------------------------------- over gRPC


@asynccontextmanager
async def serving(answer: Callable[[], Status]) -> AsyncIterator[str]:
    """A node that answers Status on loopback; its address."""

    async def handle(_request: bytes, _context: object) -> bytes:
        return answer().SerializeToString()

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("kvstore.v1.Cluster", {"Status": method})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def run_async(
    work: Callable[[AsyncExitStack], Awaitable[ClusterReport]],
) -> ClusterReport:
    async def main() -> ClusterReport:
        async with AsyncExitStack() as stack:
            return await work(stack)

    return asyncio.run(main())


UNREACHABLE = "127.0.0.1:1"


def test_members_that_are_no_endpoints_are_found_and_asked() -> None:
    """One member is down, and another node answers at the address of the fourth."""

    async def work(stack: AsyncExitStack) -> ClusterReport:
        second = await stack.enter_async_context(serving(lambda: status(2)))
        addresses = {1: "elsewhere:1", 2: second, 3: UNREACHABLE, 4: second}
        members = [
            cluster_pb2.Member(node_id=node_id, address=address)
            for node_id, address in addresses.items()
        ]
        first = await stack.enter_async_context(
            serving(lambda: status(1, members=members))
        )
        return await ask_cluster(Connection(endpoints=(first,), timeout_s=5))

    report = run_async(work)
    assert [node.node_id for node in report.nodes] == [1, 2, 3, 4]
    problems = [node.problem for node in report.nodes]
    assert problems == ["", "", "connection refused", "node 2 answers there"]


def test_an_endpoint_that_is_silent_is_not_asked_again_as_a_member() -> None:
    asked: list[int] = []

    async def work(stack: AsyncExitStack) -> ClusterReport:
        def refuse() -> Status:
            asked.append(2)
            raise RuntimeError

        second = await stack.enter_async_context(serving(refuse))
        members = [
            cluster_pb2.Member(node_id=1, address="elsewhere:1"),
            cluster_pb2.Member(node_id=2, address=second),
        ]
        first = await stack.enter_async_context(
            serving(lambda: status(1, members=members))
        )
        return await ask_cluster(Connection(endpoints=(second, first), timeout_s=5))

    report = run_async(work)
    assert asked == [2]
    answering, refusing = report.nodes
    assert (answering.node_id, answering.problem) == (1, "")
    assert refusing.node_id == 2
    assert refusing.problem.startswith("UNKNOWN: ")


def test_endpoints_of_two_clusters_are_refused() -> None:
    async def work(stack: AsyncExitStack) -> ClusterReport:
        other = Status(cluster_id=b"d" * 16, node_id=2)
        endpoints = [
            await stack.enter_async_context(serving(answer))
            for answer in (lambda: status(1), lambda: other)
        ]
        return await ask_cluster(Connection(endpoints=tuple(endpoints)))

    with pytest.raises(ConfigError, match="different clusters"):
        run_async(work)


def test_no_answer_at_all_is_unavailable() -> None:
    async def work(_: AsyncExitStack) -> ClusterReport:
        return await ask_cluster(Connection(endpoints=(UNREACHABLE,), timeout_s=1))

    with pytest.raises(Unavailable, match=rf"{UNREACHABLE}: connection refused"):
        run_async(work)


# ------------------------------------------------------------------- presenting

Present = Callable[..., Result]


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> Present:
    """Run a command over a report: ``present(report, "status", "--json")``."""

    def run(report: ClusterReport | None, *arguments: str) -> Result:
        async def answer(_: Connection) -> ClusterReport:
            if report is None:
                raise Unavailable("no endpoint answered")
            return report

        for module in (status_command, scrub_commands):
            monkeypatch.setattr(module, "ask_cluster", answer)
        return CliRunner().invoke(cli, arguments)

    return run


def report_of(*statuses: Status | None) -> ClusterReport:
    nodes = tuple(
        NodeReport(
            node_id=number,
            address=f"n{number}:1",
            status=said,
            problem="" if said else "not reachable",
        )
        for number, said in enumerate(statuses, start=1)
    )
    return ClusterReport(cluster_id=CLUSTER, nodes=nodes)


def scrubbed(node_id: int, *, corrupt: int = 0, completed: int = 2) -> Status:
    said = status(node_id)
    for store in ("raft", "state"):
        said.scrub.tours.add(
            store=store,
            tours_completed=completed,
            progress=0.25,
            records_checked=1234,
            corrupt_records=corrupt if store == "state" else 0,
            last_tour_seconds=0.5,
        )
    if corrupt:
        said.scrub.findings.add(
            store="state", database="versions", key_hex="00ff", what="checksum"
        )
    return said


def test_status_shows_a_row_for_every_member(present: Present) -> None:
    first, second = scrubbed(1), scrubbed(2, completed=0)
    second.applied_index = 4
    second.raft_store_bytes = 1536
    result = present(report_of(first, second, None), "status")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Degraded, but serving: node 1 leads in term 3")
    assert lines[1] == f"Cluster {CLUSTER.hex()}"
    assert [line.split()[0] for line in lines[3:]] == ["NODE", "1", "2", "3"]
    assert lines[4].split()[-5:] == ["ok,", "2", "tours", "1m", "30s"]
    assert lines[5].split()[:7] == ["2", "n2:1", "follower", "3", "10", "4", "6"]
    assert "1.5 KiB" in lines[5]
    assert "first tour 25%" in lines[5]
    assert lines[6].split()[:4] == ["3", "n3:1", "not", "reachable"]


def test_status_shows_what_is_special_of_a_cluster(present: Present) -> None:
    said = status(1, epoch=2, leases=True, removed=[7, 9])
    for node_id in (1, 2):
        said.members.add(node_id=node_id, voter=node_id == 1)
    said.peers.add(node_id=2, state="snapshot")
    report = report_of(said, status(2))
    lines = present(report, "status").stdout.splitlines()
    cluster = CLUSTER.hex()
    assert lines[1] == f"Cluster {cluster}; epoch 2; leader leases on; removed: 7, 9"
    assert lines[5].split()[2:7] == ["learner", "3", "10", "10", "snapshot"]
    document = json.loads(present(report, "status", "--json").stdout)
    assert document["removed"] == [7, 9]
    assert document["quorum"] == 1
    assert [node["standing"] for node in document["nodes"]] == ["voter", "learner"]


def test_members_that_only_a_member_knows_are_asked_too() -> None:
    """The endpoint's account is old: it names one that was removed, not who came."""

    async def work(stack: AsyncExitStack) -> ClusterReport:
        third = await stack.enter_async_context(serving(lambda: status(3, leader=2)))
        newest = [
            cluster_pb2.Member(node_id=1, address="elsewhere:1", voter=True),
            cluster_pb2.Member(node_id=2, address="elsewhere:2", voter=True),
            cluster_pb2.Member(node_id=3, address=third, voter=True),
        ]
        second = await stack.enter_async_context(
            serving(lambda: status(2, leader=2, members=newest, removed=[4]))
        )
        old = [
            cluster_pb2.Member(node_id=1, address="elsewhere:1", voter=True),
            cluster_pb2.Member(node_id=2, address=second, voter=True),
            cluster_pb2.Member(node_id=4, address=UNREACHABLE, voter=True),
        ]

        def lagging() -> Status:
            said = status(1, leader=2, members=old)
            said.commit_index = 5
            return said

        first = await stack.enter_async_context(serving(lagging))
        return await ask_cluster(Connection(endpoints=(first,), timeout_s=5))

    report = run_async(work)
    assert [node.node_id for node in report.nodes] == [1, 2, 3]
    assert report.leader is not None


def test_status_exits_with_1_without_a_leader(present: Present) -> None:
    lost = report_of(status(1), None, None)
    assert present(lost, "status").exit_code == 1
    answer = present(lost, "status", "--json")
    assert answer.exit_code == 1
    document = json.loads(answer.stdout)
    assert document["healthy"] is False
    assert document["leader_id"] is None
    assert document["quorum"] == 2
    assert document["nodes"][1] == {
        "node_id": 2,
        "address": "n2:1",
        "answered": False,
        "problem": "not reachable",
    }


def test_status_exits_with_3_if_nobody_answers(present: Present) -> None:
    assert present(None, "status").exit_code == 3


def test_scrubbing_that_is_off_is_seen(present: Present) -> None:
    off = report_of(status(1))
    assert "off" in present(off, "status").stdout
    assert "off" in present(off, "scrub", "status").stdout


def test_scrub_status_lists_tours_and_exits_with_0_if_all_is_whole(
    present: Present,
) -> None:
    result = present(report_of(scrubbed(1), None), "scrub", "status")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1].split() == [
        *("1", "raft", "2", "25%", "0", "1,234", "0", "500.0", "ms")
    ]
    assert lines[-1] == "No corrupt record found."
    assert result.stderr == "Node 2 at n2:1: not reachable.\n"


def test_corruption_exits_with_1_and_is_listed(present: Present) -> None:
    damaged = report_of(scrubbed(1, corrupt=1))
    words = present(damaged, "scrub", "status")
    assert words.exit_code == 1
    assert words.stdout.splitlines()[-1].split() == [
        *("1", "state", "versions", "00ff", "checksum")
    ]
    answer = present(damaged, "scrub", "status", "--json")
    assert answer.exit_code == 1
    document = json.loads(answer.stdout)
    assert document["corrupt_records"] == 1
    assert document["nodes"][0]["findings"] == [
        {
            "store": "state",
            "database": "versions",
            "key_hex": "00ff",
            "what": "checksum",
        }
    ]
    status_of_it = present(damaged, "status")
    assert status_of_it.exit_code == 0
    assert "Scrub found 1 corrupt record" in status_of_it.stdout
    assert "1 corrupt" in status_of_it.stdout


def watch_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def sleep(seconds: float) -> None:
        seen.append(seconds)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)


@pytest.mark.parametrize("healthy", [True, False])
def test_a_watch_goes_on_until_ctrl_c_whatever_the_cluster_does(
    present: Present, monkeypatch: pytest.MonkeyPatch, healthy: bool
) -> None:
    report = report_of(status(1)) if healthy else None
    watch_twice(monkeypatch)
    lines = present(report, "status", "--watch", "1", "--json")
    assert lines.exit_code == 0
    answers = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [answer["healthy"] for answer in answers] == [healthy, healthy]
    watch_twice(monkeypatch)
    words = present(report, "status", "--watch", "1")
    assert words.exit_code == 0
    assert words.stdout.count("Healthy" if healthy else "Unavailable") == 2
    assert "\x1b" not in words.stdout
