"""Clients of a real cluster do not notice when its leader stops."""

import asyncio
import socket
from pathlib import Path

import kvstore
from kvstore.client.asynchronous import AsyncClient

PATIENCE_S = 30.0
CALLERS = 8


def free_addresses(count: int) -> list[str]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in held]
    for each in held:
        each.close()
    return addresses


def test_every_write_counts_once_while_leaders_stop(tmp_path: Path) -> None:
    """Method: many callers write one key, whose version counts what was applied; the
    leader is stopped twice and started again, each time once more writes are done."""
    addresses = dict(enumerate(free_addresses(3), start=1))
    cluster_id = kvstore.new_cluster_id()
    for node_id in addresses:
        kvstore.found(
            tmp_path / str(node_id),
            node_id=node_id,
            cluster_id=cluster_id,
            members=addresses,
        )

    async def scenario() -> None:
        nodes: dict[int, kvstore.Node] = {}
        done = 0
        stop = False
        more = asyncio.Event()

        async def start(node_id: int) -> None:
            nodes[node_id] = kvstore.Node(
                kvstore.Config(
                    data_dir=tmp_path / str(node_id), listen=addresses[node_id]
                )
            )
            await nodes[node_id].__aenter__()

        async def work(client: AsyncClient) -> None:
            nonlocal done
            while not stop:
                await client.put("k", "v", timeout_s=PATIENCE_S)
                done += 1
                more.set()

        async def progress(count: int) -> None:
            wanted = done + count
            while done < wanted:
                more.clear()
                await more.wait()

        for node_id in addresses:
            await start(node_id)
        try:
            async with (
                asyncio.timeout(2 * PATIENCE_S),
                AsyncClient(list(addresses.values()), sessions=True) as client,
                asyncio.TaskGroup() as callers,
            ):
                for _ in range(CALLERS):
                    callers.create_task(work(client))
                for _ in range(2):
                    await progress(200)
                    while not (leader_id := (await client.status()).leader_id):
                        pass
                    await nodes.pop(leader_id).__aexit__(None, None, None)
                    await progress(200)
                    await start(leader_id)
                stop = True
            async with AsyncClient(list(addresses.values())) as client:
                found = await client.get("k", timeout_s=PATIENCE_S)
            assert found is not None
            assert found.version == done
        finally:
            for node in nodes.values():
                await node.__aexit__(None, None, None)

    asyncio.run(scenario())
