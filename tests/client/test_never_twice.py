"""Without a session no write is sent again unless it was certainly not applied."""

import asyncio
import random
from typing import Any

import pytest

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.cluster import ClusterTransport
from kvstore.client.stream import Patience
from kvstore.errors import (
    Busy,
    DeadlineExceeded,
    KVStoreError,
    LeadershipLost,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)

VERDICTS: list[object] = [
    None,
    None,
    None,
    NotLeader("n"),
    Busy("b"),
    Unavailable("u"),
    LeadershipLost("l"),
    DeadlineExceeded("d"),
    "drop",
    "apply and drop",
    "hang",
]
PATIENCE = Patience(connect_s=1.0, ping_interval_s=0.05, silence_s=0.5)


@pytest.mark.parametrize("seed", range(8))
def test_no_write_is_applied_twice(fake_nodes: Any, seed: int) -> None:
    """Random answers and broken streams; each key is written once.

    A key applied twice was sent again after an answer that did not exclude the first.
    One whose caller was told of success was applied; of a definite failure, was not.
    """
    chance = random.Random(seed)

    async def scenario() -> None:
        async with fake_nodes(3) as nodes:
            for node in nodes:
                node.script = lambda _: chance.choice(VERDICTS)
            outcomes: dict[bytes, object] = {}
            endpoints = [node.address for node in nodes]
            transport = ClusterTransport(endpoints, patience=PATIENCE)
            async with AsyncClient(transport=transport, sessions=False) as client:

                async def put(key: bytes) -> None:
                    try:
                        outcomes[key] = await client.put(key, key, timeout_s=0.4)
                    except KVStoreError as error:
                        outcomes[key] = error

                async def work(name: int) -> None:
                    for n in range(8):
                        await put(b"%d/%d" % (name, n))

                await asyncio.gather(*(work(name) for name in range(8)))
            applied = [key for node in nodes for key in node.applied]
            assert len(applied) == len(set(applied)), f"seed {seed}"
            for key, result in outcomes.items():
                if isinstance(result, OutcomeUnknown):
                    continue
                assert (key in applied) != isinstance(result, KVStoreError), (
                    f"seed {seed}: {key!r} {result!r}"
                )

    asyncio.run(scenario())
