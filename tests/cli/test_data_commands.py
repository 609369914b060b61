"""put, get, range, delete, txn and compact over the real state machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import Result

from kvstore.errors import Busy, DeadlineExceeded, KVStoreError

BINARY = bytes(range(256))

Kvstore = Callable[..., Result]


class LocalStore(Protocol):
    """What conftest.py gives."""

    response_bytes_max: int
    ranges_asked: int
    fails_with: KVStoreError | None


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def json_of(result: Result) -> Any:
    return json.loads(ok(result))


def lines_of(result: Result) -> list[Any]:
    return [json.loads(line) for line in ok(result).splitlines()]


# ----------------------------------------------------------------- put and get


def test_a_value_comes_back_byte_for_byte(kvstore: Kvstore, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(BINARY)
    ok(kvstore("put", "from-stdin", "-", stdin=BINARY))
    ok(kvstore("put", "from-file", "--file", str(file)))
    ok(kvstore("put", "from-text", "no line end"))
    assert kvstore("get", "from-stdin").stdout_bytes == BINARY
    assert kvstore("get", "from-file").stdout_bytes == BINARY
    assert kvstore("get", "from-text", "--raw").stdout_bytes == b"no line end"


def test_an_empty_value_is_a_value(kvstore: Kvstore) -> None:
    ok(kvstore("put", "k", ""))
    assert kvstore("get", "k").stdout_bytes == b""
    assert kvstore("get", "k").exit_code == 0


def test_an_absent_key_is_a_no_on_stderr(kvstore: Kvstore) -> None:
    for arguments in (("get", "a\x1bb"), ("get", "a\x1bb", "--json")):
        result = kvstore(*arguments)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr == "Error: no such key: a\\x1bb\n"


def test_get_json_has_value_and_metadata(kvstore: Kvstore) -> None:
    ok(kvstore("put", "k", "1"))
    ok(kvstore("put", "k", "-", stdin=b"\xff"))
    assert json_of(kvstore("get", "k", "--json")) == {
        "key": {"text": "k", "base64": "aw=="},
        "value": {"base64": "/w=="},
        "create_revision": 1,
        "mod_revision": 2,
        "version": 2,
        "lease": 0,
    }


def test_get_reads_the_past(kvstore: Kvstore) -> None:
    ok(kvstore("put", "k", "old"))
    ok(kvstore("put", "k", "new"))
    assert ok(kvstore("get", "k", "--revision", "1")) == "old"
    future = kvstore("get", "k", "--revision", "9")
    assert future.exit_code == 5
    assert "Hint: That revision does not exist yet" in future.stderr


def test_put_tells_its_revision_and_what_it_replaced(kvstore: Kvstore) -> None:
    assert ok(kvstore("put", "k", "1")) == "Revision 1.\n"
    assert json_of(kvstore("put", "k", "2", "--json")) == {"revision": 2}
    replaced = json_of(kvstore("put", "k", "3", "--prev-kv", "--json"))
    assert replaced["prev_kv"]["value"]["text"] == "2"
    assert "CREATED" in ok(kvstore("put", "k", "4", "--prev-kv"))
    fresh = kvstore("put", "new", "1", "--prev-kv")
    assert fresh.stderr == "The key did not exist before.\n"


def test_put_needs_one_source_of_the_value(kvstore: Kvstore, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.touch()
    for arguments in (("put", "k"), ("put", "k", "v", "--file", str(file))):
        result = kvstore(*arguments)
        assert result.exit_code == 2
        assert "either VALUE" in result.stderr


def test_a_value_too_large_is_refused_with_advice(kvstore: Kvstore) -> None:
    result = kvstore("put", "k", "-", stdin=bytes(5 << 20))
    assert result.exit_code == 5
    assert "Hint: Send less in one request" in result.stderr


def test_binary_keys_are_given_in_hex_or_base64(kvstore: Kvstore) -> None:
    ok(kvstore("put", "--key-format", "hex", "00ff", "v"))
    assert ok(kvstore("get", "--key-format", "base64", "AP8=")) == "v"
    (pair,) = lines_of(kvstore("range", "--json"))
    assert pair["key"] == {"base64": "AP8="}
    assert kvstore("get", "--key-format", "hex", "0").exit_code == 2


def test_a_value_that_looks_like_an_option_stands_after_two_dashes(
    kvstore: Kvstore,
) -> None:
    ok(kvstore("put", "--", "k", "-5"))
    assert ok(kvstore("get", "k")) == "-5"
    assert kvstore("put", "k", "-5").exit_code == 2


# ---------------------------------------------------------------------- errors


def test_a_write_without_an_answer_exits_4_a_read_3(
    kvstore: Kvstore, local_store: LocalStore
) -> None:
    local_store.fails_with = DeadlineExceeded("no answer within 5 s")
    for write in (("put", "k", "v"), ("delete", "k"), ("compact", "1")):
        result = kvstore(*write)
        assert result.exit_code == 4
        assert "may or may not have been applied" in result.stderr
        assert result.stdout == ""
    for read in (("get", "k"), ("range",), ("range", "--count-only")):
        result = kvstore(*read)
        assert result.exit_code == 3
        assert "may or may not" not in result.stderr


def test_an_overloaded_cluster_exits_3(
    kvstore: Kvstore, local_store: LocalStore
) -> None:
    local_store.fails_with = Busy("the queue is full", queue="waiting_writes_max")
    assert kvstore("put", "k", "v").exit_code == 3


# ----------------------------------------------------------------------- range


@pytest.fixture
def filled(kvstore: Kvstore) -> Kvstore:
    """Keys a/0 ... a/24 and b, with values that fall while keys rise."""
    for number in range(25):
        ok(kvstore("put", f"a/{number:02}", f"{99 - number}"))
    ok(kvstore("put", "b", "0"))
    ok(kvstore("put", "a/03", "50"))
    return kvstore


def keys_of(result: Result) -> list[str]:
    return [pair["key"]["text"] for pair in lines_of(result)]


def test_range_names_what_it_lists(filled: Kvstore) -> None:
    every = [f"a/{number:02}" for number in range(25)]
    assert keys_of(filled("range", "--json")) == [*every, "b"]
    assert keys_of(filled("range", "--prefix", "a/", "--json")) == every
    assert keys_of(filled("range", "a/03", "a/05", "--json")) == ["a/03", "a/04"]
    assert keys_of(filled("range", "a/24", "--from-key", "--json")) == ["a/24", "b"]
    assert keys_of(filled("range", "b", "--json")) == ["b"]
    assert keys_of(filled("range", "--prefix", "", "--json")) == [*every, "b"]


@pytest.mark.parametrize("extra", [(), ("--descending",), ("--limit", "7")])
@pytest.mark.parametrize("order", ["key", "version", "create", "mod", "value"])
def test_pages_give_what_one_answer_would(
    filled: Kvstore,
    local_store: LocalStore,
    order: str,
    extra: tuple[str, ...],
) -> None:
    """Goal: a range larger than a response is whole, in order, and of one revision."""
    arguments = ("range", "--sort-by", order, *extra, "--json")
    whole = filled(*arguments)
    local_store.response_bytes_max = 100
    asked = local_store.ranges_asked
    paged = filled(*arguments)
    assert local_store.ranges_asked - asked > 1
    if order == "version":
        # Equal versions may come in any order.
        versions = [[p["version"] for p in lines_of_all(r)] for r in (whole, paged)]
        assert versions[0] == versions[1]
    else:
        assert paged.stdout == whole.stdout
    assert paged.stderr == whole.stderr


def lines_of_all(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_limit_that_cuts_is_said(filled: Kvstore) -> None:
    cut = filled("range", "--limit", "2")
    assert cut.exit_code == 0
    assert cut.stderr == "There are more keys than the 2 printed.\n"
    whole = filled("range", "--prefix", "a/", "--limit", "25")
    assert whole.stderr == ""


def test_the_table_has_one_header_over_all_pages(
    filled: Kvstore, local_store: LocalStore
) -> None:
    local_store.response_bytes_max = 100
    lines = ok(filled("range")).splitlines()
    assert lines[0].split() == [
        "KEY",
        "VALUE",
        "SIZE",
        "VERSION",
        "CREATED",
        "MODIFIED",
    ]
    assert len(lines) == 1 + 26
    keys_only = ok(filled("range", "--keys-only")).splitlines()
    assert keys_only[0].split() == ["KEY", "VERSION", "CREATED", "MODIFIED"]


def test_keys_only_and_count_only(filled: Kvstore) -> None:
    (first, *_) = lines_of(filled("range", "--keys-only", "--json"))
    assert "value" not in first
    assert ok(filled("range", "--prefix", "a/", "--count-only")) == "25\n"
    counted = json_of(filled("range", "--count-only", "--json"))
    assert counted == {"count": 26, "revision": 27}


def test_sorting_by_value_works_without_showing_values(
    filled: Kvstore, local_store: LocalStore
) -> None:
    local_store.response_bytes_max = 100
    keys = keys_of(filled("range", "--sort-by", "value", "--keys-only", "--json"))
    assert keys[:3] == ["b", "a/03", "a/24"]


def test_an_empty_range_is_no_error(kvstore: Kvstore) -> None:
    assert kvstore("range").stderr == "No keys.\n"
    assert ok(kvstore("range", "--json")) == ""


# ---------------------------------------------------------------------- delete


def test_delete_tells_how_many(filled: Kvstore) -> None:
    assert ok(filled("delete", "b")) == "Deleted 1 key, revision 28.\n"
    assert ok(filled("delete", "b")) == "Deleted 0 keys, revision 28.\n"
    deleted = json_of(filled("delete", "a/00", "a/02", "--prev-kv", "--json"))
    assert deleted["deleted"] == 2
    assert [pair["key"]["text"] for pair in deleted["prev_kvs"]] == ["a/00", "a/01"]
    assert "Deleted 23 keys" in ok(filled("delete", "--prefix", "a/"))


def test_deleting_everything_must_be_meant(filled: Kvstore) -> None:
    """An unset variable in a script must not delete the store."""
    for arguments in ((), ("--prefix", ""), ("--all", "b")):
        assert filled("delete", *arguments).exit_code == 2
    assert "Deleted 26 keys" in ok(filled("delete", "--all"))


# ------------------------------------------------------------------------- txn

CREATE = {
    "compare": [{"key": "k", "target": "version", "value": 0}],
    "then": [{"put": {"key": "k", "value": "1"}}],
    "else": [{"get": {"key": "k"}}, {"delete": {"key": "k", "prev_kv": True}}],
}


def test_a_txn_exits_0_if_then_ran_and_1_if_else_ran(kvstore: Kvstore) -> None:
    text = json.dumps(CREATE).encode()
    assert json_of(kvstore("txn", "-", "--json", stdin=text)) == {
        "succeeded": True,
        "revision": 1,
        "results": [{"put": {"revision": 1}}],
    }
    other = kvstore("txn", "-", "--json", stdin=text)
    assert (other.exit_code, other.stderr) == (1, "")
    result = json.loads(other.stdout)
    assert result["succeeded"] is False
    assert result["results"][0]["get"]["kvs"][0]["value"]["text"] == "1"
    assert result["results"][1]["delete"]["deleted"] == 1


def test_a_txn_in_words(kvstore: Kvstore, tmp_path: Path) -> None:
    file = tmp_path / "txn.json"
    file.write_text(json.dumps(CREATE))
    assert ok(kvstore("txn", "--file", str(file))) == (
        "The conditions held: `then` ran (revision 1).\n1. put\n"
    )
    assert kvstore("txn", "--file", str(file)).stdout == (
        "The conditions did not hold: `else` ran (revision 2).\n"
        "1. get: 1 key\n"
        "   k = 1\n"
        "2. delete: 1 key\n"
        "   before: k = 1\n"
    )


def test_a_nested_txn_is_indented(kvstore: Kvstore) -> None:
    nested = {"then": [{"txn": {"then": [{"get": {"key": "x", "limit": 1}}]}}]}
    assert ok(kvstore("txn", "-", stdin=json.dumps(nested).encode())) == (
        "The conditions held: `then` ran (revision 0).\n"
        "1. txn\n"
        "   The conditions held: `then` ran (revision 0).\n"
        "   1. get: 0 keys\n"
    )


def test_a_txn_that_is_not_understood_is_a_usage_error(kvstore: Kvstore) -> None:
    result = kvstore("txn", "-", stdin=b'{"esle": []}')
    assert result.exit_code == 2
    assert "unknown fields: 'esle'" in result.stderr
    assert kvstore("txn").exit_code == 2


# --------------------------------------------------------------------- compact


def test_compact_gives_history_up(kvstore: Kvstore) -> None:
    for value in "123":
        ok(kvstore("put", "k", value))
    assert ok(kvstore("compact", "3")) == "History below revision 3 is given up.\n"
    past = kvstore("get", "k", "--revision", "2")
    assert past.exit_code == 5
    assert "Hint: That history is gone" in past.stderr
    assert ok(kvstore("get", "k")) == "3"
    assert kvstore("compact", "99").exit_code == 5
