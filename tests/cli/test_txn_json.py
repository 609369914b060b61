"""The JSON form of a transaction: what it means, and that mistakes are named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.cli.output import bytes_json
from kvstore.cli.txn_json import TxnFormatError, parse_txn
from kvstore.pb import kv_pb2

WHOLE = {
    "compare": [
        {"key": "a", "target": "version", "result": ">", "value": 0},
        {"key": "a", "target": "create", "value": 5},
        {"key": "a", "target": "mod", "result": "<", "value": 9},
        {"key": "a", "target": "value", "result": "!=", "value": {"base64": "/w=="}},
    ],
    "then": [
        {"put": {"key": "a", "value": "x", "prev_kv": True}},
        {"get": {"prefix": "p/", "limit": 3, "sort_by": "mod", "descending": True}},
    ],
    "else": [
        {"delete": {"key": "a", "range_end": "c"}},
        {"txn": {"then": [{"get": {"key": "k", "from_key": True, "keys_only": True}}]}},
    ],
}


def test_every_field_has_its_meaning() -> None:
    operation = kv_pb2.Operation
    inner = kv_pb2.Txn(
        success=[
            operation(range=kv_pb2.Range(key=b"k", range_end=b"\0", keys_only=True))
        ]
    )
    assert parse_txn(json.dumps(WHOLE)) == kv_pb2.Txn(
        compare=[
            kv_pb2.Compare(key=b"a", result=kv_pb2.Compare.GREATER, version=0),
            kv_pb2.Compare(key=b"a", create_revision=5),
            kv_pb2.Compare(key=b"a", result=kv_pb2.Compare.LESS, mod_revision=9),
            kv_pb2.Compare(key=b"a", result=kv_pb2.Compare.NOT_EQUAL, value=b"\xff"),
        ],
        success=[
            operation(put=kv_pb2.Put(key=b"a", value=b"x", prev_kv=True)),
            operation(
                range=kv_pb2.Range(
                    key=b"p/",
                    range_end=b"p0",
                    limit=3,
                    sort_order=kv_pb2.Range.DESCEND,
                    sort_target=kv_pb2.Range.MOD,
                )
            ),
        ],
        failure=[
            operation(delete_range=kv_pb2.DeleteRange(key=b"a", range_end=b"c")),
            operation(txn=inner),
        ],
    )


@given(st.binary())
def test_what_json_output_prints_can_be_pasted_back(data: bytes) -> None:
    put = {"put": {"key": bytes_json(data), "value": bytes_json(data)}}
    txn = parse_txn(json.dumps({"then": [put]}))
    assert txn.success[0].put == kv_pb2.Put(key=data, value=data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "the transaction must be an object"),
        ('{"esle": []}', "unknown fields: 'esle'"),
        ('{"then": [], "then": []}', "names a field twice"),
        ('{"then": {}}', "'then' must be a list"),
        ('{"then": [{}]}', "then[0] of the transaction must be one of put, get"),
        ('{"then": [{"put": {}, "get": {}}]}', "must be one of"),
        ('{"then": [{"put": {"key": "a"}}]}', "lacks 'value'"),
        ('{"then": [{"put": {"key": 1, "value": ""}}]}', "'key' must be text"),
        ('{"then": [{"put": {"key": {}, "value": ""}}]}', "'key' must be text"),
        ('{"then": [{"put": {"key": "a", "value": "", "x": 1}}]}', "fields: 'x'"),
        ('{"then": [{"put": {"key": "\\ud800", "value": ""}}]}', "use base64"),
        ('{"then": [{"get": {"key": {"base64": "%"}}}]}', "is not base64"),
        ('{"then": [{"get": {"key": {"base64": 1}}}]}', "is not base64"),
        ('{"then": [{"get": {"key": {"text": 1}}}]}', "must be text"),
        ('{"then": [{"get": {"key": {"text": "a", "base64": ""}}}]}', "differ"),
        ('{"then": [{"get": {"key": "a", "prefix": "a"}}]}', "without 'key'"),
        ('{"then": [{"delete": {"key": "a", "range_end": "\\u0000"}}]}', "'from_key'"),
        ('{"then": [{"get": {"key": "a", "limit": true}}]}', "a whole number"),
        ('{"then": [{"get": {"key": "a", "limit": -1}}]}', "must be 0 to"),
        ('{"then": [{"get": {"key": "a", "keys_only": 1}}]}', "true or false"),
        ('{"compare": [{"key": "a", "target": "size"}]}', "'target' must be one of"),
        (
            '{"compare": [{"key": "", "target": "mod", "value": 9223372036854775808}]}',
            "must be 0 to",
        ),
        (
            '{"compare": [{"key": "a", "target": "mod", "result": "=<", "value": 1}]}',
            "'result' must be one of ==, !=, >, <",
        ),
        ('{"then":[{"txn":' * 2000 + "{}" + "}]}" * 2000, "nested too deep"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(TxnFormatError) as caught:
        parse_txn(text)
    assert message in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["compare", "then", "else", "put", "get", "key", "value"]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_a_transaction_or_a_named_mistake(document: object) -> None:
    try:
        parse_txn(json.dumps(document))
    except TxnFormatError as error:
        assert str(error)  # noqa: PT017 - nothing else may be raised
