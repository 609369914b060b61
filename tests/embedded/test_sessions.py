"""Exactly once, against a real node: what is lost is the way there and back."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import kvstore
from kvstore.client.asynchronous import AsyncClient
from kvstore.client.transport import Done
from kvstore.embedded import NodeTransport
from kvstore.errors import KVStoreError, LeadershipLost
from kvstore.pb import kv_pb2

WRITES = 120


class LossyTransport(NodeTransport):
    """Loses requests and answers as ``loses`` says, and delivers some twice."""

    def __init__(self, node: kvstore.Node, loses: Callable[[], str]) -> None:
        super().__init__(node)
        self._loses = loses
        self.lost = 0

    @property
    def recovers(self) -> bool:
        return True

    def send(self, request: kv_pb2.OperateRequest, done: Done) -> None:
        fate = self._loses()
        if fate == "deliver":
            super().send(request, done)
            return
        self.lost += 1
        if fate in {"lose the answer", "deliver twice"}:
            copy = kv_pb2.OperateRequest()
            copy.CopyFrom(request)
            super().send(copy, lambda *_: False)
        if fate == "deliver twice":
            super().send(request, done)
        else:
            loop = asyncio.get_running_loop()
            loop.call_soon(done, None, LeadershipLost("told to"))


def a_node(tmp_path: Path) -> kvstore.Node:
    kvstore.open(tmp_path / "data").close()
    return kvstore.Node(kvstore.Config(data_dir=tmp_path / "data", network=False))


def test_a_lost_answer_is_given_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        fates = iter(["deliver", "lose the answer"])
        async with a_node(tmp_path) as node:
            transport = LossyTransport(node, lambda: next(fates, "deliver"))
            async with AsyncClient(transport=transport, sessions=True) as client:
                written = await client.put("k", "v")
                assert transport.lost == 1
                found = await client.get("k")
                assert found is not None
                assert found.version == 1
                assert found.mod_revision == written.revision

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(4))
def test_each_write_counts_once(tmp_path: Path, seed: int) -> None:
    """Method: many callers write one key; its version counts what was applied, and each
    caller got a revision of its own."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    fates = ["deliver", "deliver", "lose", "lose the answer", "deliver twice"]

    async def scenario() -> None:
        async with a_node(tmp_path) as node:
            transport = LossyTransport(node, lambda: chance.choice(fates))
            async with AsyncClient(transport=transport, sessions=True) as client:
                revisions: list[int] = []

                async def work(caller: int) -> None:
                    for n in range(WRITES // 8):
                        done = await client.put("k", f"{caller}/{n}", timeout_s=30)
                        revisions.append(done.revision)

                await asyncio.gather(*(work(caller) for caller in range(8)))
                found = await client.get("k")
                assert found is not None
                assert transport.lost
                assert found.version == WRITES
                assert len(set(revisions)) == WRITES

    asyncio.run(scenario())


def test_without_a_session_the_same_loss_is_an_unknown_outcome(tmp_path: Path) -> None:
    """Goal: the tests above lose what they say they lose."""

    async def scenario() -> None:
        fates = iter(["lose the answer"])
        async with a_node(tmp_path) as node:
            transport = LossyTransport(node, lambda: next(fates, "deliver"))
            async with AsyncClient(transport=transport, sessions=False) as client:
                with pytest.raises(KVStoreError) as lost:
                    await client.put("k", "v")
                assert not lost.value.definite

    asyncio.run(scenario())
