"""Writes passed on between members: what a link has room for, and what cannot leave."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore.config import Config
from kvstore.errors import Removed, Unavailable
from kvstore.replica.messages import ForwardWrites
from kvstore.replica.proposals import FORWARDED_BATCHES_MAX
from kvstore.rpc.errors import error_from_pb
from kvstore.rpc.peer_link import PeerOptions
from kvstore.server.network import Network, no_connection, peer_options
from kvstore.server.node import Node
from kvstore.types import LogIndex, NodeId
from tests.replica.harness import led_by
from tests.replica.harness import put as put_command
from tests.server.harness import configs, eventually, run, writes

NOBODY = "127.0.0.1:9"
"""The discard port: nobody listens there."""


def network_of(node: Node) -> Network:
    assert node.network is not None
    return node.network


def test_a_link_has_room_for_all_that_a_replica_passes_on(tmp_path: Path) -> None:
    """Whatever bounds a node is given."""
    default = PeerOptions()
    for config in (
        Config(data_dir=tmp_path),
        Config(data_dir=tmp_path, waiting_write_bytes_max=4 << 30),
        Config(data_dir=tmp_path, inflight_append_bytes_max=4 << 30),
    ):
        options = peer_options(config)
        assert options.queue_messages_max > FORWARDED_BATCHES_MAX
        assert options.queue_bytes_max >= default.queue_bytes_max
        assert options.queue_bytes_max >= config.inflight_append_bytes_max
        # The bound on bytes is passed by one batch.
        passed_on = config.waiting_write_bytes_max + config.request_bytes_max
        assert options.queue_bytes_max > passed_on


def test_writes_for_a_leader_that_cannot_be_dialled_do_not_become_unknown(
    tmp_path: Path,
) -> None:
    """Member 3 hears the others and cannot speak to them, as behind a bad route."""

    async def scenario() -> None:
        one, two, _ = configs(tmp_path, 3)
        deaf = Config(
            data_dir=tmp_path / "node3",
            peer_addresses={1: NOBODY, 2: NOBODY},
            request_timeout_ms=300,
            scrub=False,
        )
        async with Node(one), Node(two), Node(deaf) as node:
            await eventually(lambda: node.replica.raft.leader_id is not None)
            asked = [node.operate(writes(f"k{n}")) for n in range(3)]
            for answer in await asyncio.gather(*asked):
                error = error_from_pb(answer.error)
                assert type(error) is Unavailable
                assert error.definite

    run(scenario())


def test_messages_that_a_peer_did_not_get_are_counted(tmp_path: Path) -> None:
    """Method: member 2 is down, and member 1 asks it for its vote."""

    async def scenario() -> None:
        config, _ = configs(
            tmp_path, 2, election_timeout_ms=100, heartbeat_interval_ms=30
        )
        async with Node(config) as node:
            value = node.metrics.registry.get_sample_value
            name, peer = "kvstore_dropped_messages_total", {"peer": "2"}
            assert value(name, peer) == 0
            await eventually(lambda: (value(name, peer) or 0) > 0)

    run(scenario())


def test_what_could_not_leave_waits_in_its_order_for_a_leader_that_can() -> None:
    cluster = led_by(1)
    tickets = [cluster.submit(2, put_command(str(n)), poll=False) for n in range(3)]
    cluster.poll(2)
    lost = [m for m in cluster.lose(ForwardWrites) if isinstance(m, ForwardWrites)]
    replica = cluster.replica(2)
    replica.receive(no_connection(lost))
    cluster.poll(2)
    sent = cluster.shells[NodeId(2)].sent
    assert len(sent(ForwardWrites)) == 3  # not again before the leader is heard
    cluster.tick_all()
    again = sent(ForwardWrites)[3:]
    assert [m.writes for m in again] == [m.writes for m in lost]
    for ticket in tickets:
        assert cluster.results(ticket)


def test_nobody_is_sent_away_by_a_configuration_that_is_not_committed(
    tmp_path: Path,
) -> None:
    """It may be taken back, and whoever leaves may be needed to commit it."""

    async def scenario() -> None:
        one, two, three = (Node(config) for config in configs(tmp_path, 3))
        async with one, two, three:
            await eventually(lambda: two.replica.raft.leader_id is not None)
            await eventually(lambda: three.node_id in network_of(two).identified)
            raft, network = two.replica.raft, network_of(two)
            now = raft.configuration
            members = {n: it for n, it in now.members.items() if n != three.node_id}
            without = replace(now, members=members, removed=(three.node_id,))
            network.members_changed(without, LogIndex(raft.commit_index + 1_000))
            assert three.node_id in network.identified
            answer = await three.operate(writes("k"))
            assert not answer.HasField("error")
            network.members_changed(without, raft.commit_index)
            with pytest.raises(Removed):
                await three.wait_closed()

    run(scenario())
