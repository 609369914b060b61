"""Builders say on the wire what they read like, and results have their types."""

import pytest

import kvstore
from kvstore import Compare, Op
from kvstore.client.keys import span
from kvstore.client.results import KeyValue, PutResult, ResponseHeader, TxnResult
from kvstore.client.transactions import Relation, SortBy, txn_from_pb, txn_to_pb
from kvstore.pb import kv_pb2

HEADER = ResponseHeader(cluster_id=b"", node_id=1, term=1, revision=1)


@pytest.mark.parametrize(
    ("relation", "result"),
    [
        ("==", kv_pb2.Compare.EQUAL),
        ("!=", kv_pb2.Compare.NOT_EQUAL),
        ("<", kv_pb2.Compare.LESS),
        (">", kv_pb2.Compare.GREATER),
    ],
)
def test_each_relation_travels(relation: Relation, result: int) -> None:
    assert Compare.version("k", relation, 3).pb == kv_pb2.Compare(
        key=b"k",
        result=result,  # type: ignore[arg-type]
        version=3,
    )


def test_each_target_travels() -> None:
    assert Compare.create_revision(b"k", "==", 3).pb.create_revision == 3
    assert Compare.mod_revision(b"k", "==", 4).pb.mod_revision == 4
    assert Compare.value("k", "==", "é").pb.value == "é".encode()
    assert Compare.absent("k") == Compare.version("k", "==", 0)
    assert Compare.exists("k") == Compare.version("k", ">", 0)


def test_a_misspelt_relation_is_refused() -> None:
    with pytest.raises(kvstore.InvalidRequest, match="=>"):
        Compare.version("k", "=>", 1)  # type: ignore[arg-type]


def test_a_misspelt_order_is_refused() -> None:
    with pytest.raises(kvstore.InvalidRequest, match="colour"):
        Op.range(sort_by="colour")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sort_by", "target"),
    [
        ("key", kv_pb2.Range.KEY),
        ("version", kv_pb2.Range.VERSION),
        ("create_revision", kv_pb2.Range.CREATE),
        ("mod_revision", kv_pb2.Range.MOD),
        ("value", kv_pb2.Range.VALUE),
    ],
)
def test_each_order_travels(sort_by: SortBy, target: int) -> None:
    wanted = Op.range("a", sort_by=sort_by, descending=True).pb.range
    assert wanted.sort_target == target
    assert wanted.sort_order == kv_pb2.Range.DESCEND


def test_spans_travel() -> None:
    assert Op.delete("k").pb.delete_range == kv_pb2.DeleteRange(key=b"k")
    assert Op.delete_range("a", "c").pb.delete_range == kv_pb2.DeleteRange(
        key=b"a", range_end=b"c"
    )
    assert Op.delete_range("", "c").pb.delete_range.key == b"\0"
    assert Op.delete_prefix("a").pb.delete_range == kv_pb2.DeleteRange(
        key=b"a", range_end=b"b"
    )
    assert Op.delete_prefix("").pb.delete_range == kv_pb2.DeleteRange(
        key=b"\0", range_end=b"\0"
    )


def test_a_bound_below_every_key_is_a_bound_and_not_the_absence_of_one() -> None:
    """On the wire that byte means no end: it must not delete the rest of the store."""
    key, range_end = span("b", b"\0", None)
    assert key == range_end
    assert Op.delete_range("", b"\0").pb.delete_range.range_end != b"\0"


def test_a_prefix_and_a_bound_contradict_each_other() -> None:
    with pytest.raises(kvstore.InvalidRequest, match="not both"):
        span("a", "", "b")
    assert span("", "", "\U0010ffff")[1] > "\U0010ffff".encode()
    assert span("", "", b"\xff\xff") == (b"\xff\xff", b"\0")


def test_the_branch_that_ran_decides_what_results_mean() -> None:
    """A get and a range travel alike; what comes back differs by what was asked."""
    then = [Op.put("a", "1"), Op.get("a")]
    otherwise = [Op.txn(then=[Op.get("b")], otherwise=[Op.delete("b")])]
    pair = kv_pb2.KeyValue(key=b"a", value=b"1", mod_revision=4)
    won = kv_pb2.TxnResult(
        revision=4,
        succeeded=True,
        results=[
            kv_pb2.Result(put=kv_pb2.PutResult(revision=4)),
            kv_pb2.Result(range=kv_pb2.RangeResult(kvs=[pair], count=1)),
        ],
    )
    put, got = txn_from_pb(won, then, otherwise, HEADER).results
    assert isinstance(put, PutResult)
    assert isinstance(got, KeyValue)
    lost = kv_pb2.TxnResult(
        revision=4,
        results=[
            kv_pb2.Result(
                txn=kv_pb2.TxnResult(
                    succeeded=True,
                    results=[kv_pb2.Result(range=kv_pb2.RangeResult())],
                )
            )
        ],
    )
    (inner,) = txn_from_pb(lost, then, otherwise, HEADER).results
    assert isinstance(inner, TxnResult)
    assert inner.results == (None,)


def test_a_transaction_travels_whole() -> None:
    txn = txn_to_pb([Compare.exists("k")], [Op.delete("k")], [Op.put("k", "v")])
    assert txn.compare[0].key == b"k"
    assert txn.success[0].delete_range.key == b"k"
    assert txn.failure[0].put.value == b"v"
