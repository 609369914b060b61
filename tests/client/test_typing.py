"""What a type checker makes of the public face. Checked by mypy, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import kvstore
from kvstore import Compare, KeyValue, Op
from kvstore.client.results import OpResult


def blocking(client: kvstore.Client) -> None:
    assert_type(client.put("k", b"v"), kvstore.PutResult)
    assert_type(client.put("k", "v", prev_kv=True).previous, KeyValue | None)
    assert_type(client.get(b"k"), KeyValue | None)
    assert_type(client.range("a", sort_by="version").items, tuple[KeyValue, ...])
    assert_type(client.scan(prefix="a"), Iterator[KeyValue])
    assert_type(client.delete("k"), kvstore.DeleteResult)
    assert_type(client.compact(3), kvstore.CompactResult)
    assert_type(client.status(), kvstore.NodeStatus)
    outcome = client.txn(
        compare=[Compare.version("k", "==", 1)],
        then=[Op.put("k", "v"), Op.txn(then=[Op.get("k")])],
        otherwise=(Op.range(prefix="k") for _ in range(2)),
    )
    assert_type(outcome.results, tuple[OpResult, ...])
    match outcome.results:
        case [kvstore.PutResult() as put, kvstore.TxnResult() as inner]:
            assert_type(put.revision, int)
            assert_type(inner.succeeded, bool)
        case _:
            pass


async def awaiting(client: kvstore.AsyncClient) -> None:
    assert_type(await client.put("k", "v"), kvstore.PutResult)
    assert_type(await client.get("k"), KeyValue | None)
    assert_type(client.scan(), AsyncIterator[KeyValue])
    async for pair in client.scan():
        assert_type(pair.value, bytes)


def refused(client: kvstore.Client) -> None:
    """Each ignore is needed: ``warn_unused_ignores`` tells when one is not."""
    client.put("k", 1)  # type: ignore[arg-type]
    client.put("k", "v", True)  # type: ignore[call-arg]
    client.get("k").value  # type: ignore[union-attr]  # noqa: B018
    client.range(sort_by="colour")  # type: ignore[arg-type]
    client.put("k", "v").revision = 1  # type: ignore[misc]
    Compare.version("k", "=", 1)  # type: ignore[arg-type]
    Op.put("k", "v", lease=1)  # type: ignore[call-arg]


def entered() -> None:
    with kvstore.open("data") as store:
        assert_type(store, kvstore.Client)


async def entered_asyncio() -> None:
    async with kvstore.open_async("data") as store:
        assert_type(store, kvstore.AsyncClient)


def test_the_functions_above_are_for_the_type_checker() -> None:
    """Goal: pytest sees this file too, and its names exist."""
    assert blocking.__annotations__["client"] is kvstore.Client
