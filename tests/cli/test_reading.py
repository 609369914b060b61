"""``--consistency``, ``--staleness`` and ``--explain``."""

import dataclasses
import json
from collections.abc import Callable
from typing import Protocol

import pytest
from click.testing import Result

from kvstore.cli.reading import LEVELS, explanation
from kvstore.client.consistency import LINEARIZABLE, Consistency, ReadLevel
from kvstore.client.results import ResponseHeader

Kvstore = Callable[..., Result]

HEADER = ResponseHeader(
    cluster_id=b"\x1a" * 16, node_id=2, term=7, revision=812, epoch=3
)
CAN_MISS_ACKNOWLEDGED_WRITES = {
    Consistency.LEASE,  # with a clock gone wrong
    Consistency.BOUNDED,
    Consistency.SESSION,
    Consistency.STALE,
}


class LocalStore(Protocol):
    """What conftest.py gives."""

    levels_asked: list[ReadLevel]
    response_bytes_max: int


@pytest.fixture
def filled(kvstore: Kvstore) -> Kvstore:
    for key in "abc":
        assert kvstore("put", key, "v").exit_code == 0
    return kvstore


# ------------------------------------------------------------------ the level


def test_a_read_is_linearizable_unless_told_otherwise(
    filled: Kvstore, local_store: LocalStore
) -> None:
    filled("get", "a")
    filled("range")
    assert set(local_store.levels_asked) == {LINEARIZABLE}


@pytest.mark.parametrize(
    "command", [("get", "a"), ("range",), ("range", "--count-only")]
)
@pytest.mark.parametrize("level", [it for it in LEVELS if it != "bounded"])
def test_each_level_is_asked_for(
    filled: Kvstore, local_store: LocalStore, command: tuple[str, ...], level: str
) -> None:
    assert filled(*command, "--consistency", level).exit_code == 0
    assert local_store.levels_asked[0] == ReadLevel(Consistency(level))


@pytest.mark.parametrize(
    ("text", "bound_ms"),
    [("500ms", 500), ("2s", 2_000), ("1.5s", 1_500), ("1m", 60_000)],
)
def test_a_staleness_is_a_bound(
    filled: Kvstore, local_store: LocalStore, text: str, bound_ms: int
) -> None:
    filled("get", "a", "--staleness", text)
    filled("get", "a", "--consistency", "bounded", "--staleness", text)
    assert local_store.levels_asked == 2 * [ReadLevel(Consistency.BOUNDED, bound_ms)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--consistency", "bounded"),
        ("--consistency", "stale", "--staleness", "2s"),
        ("--consistency", "session"),
        *(("--staleness", text) for text in ("2", "0s", "-1s", "1h", "0.1ms", "")),
        ("--staleness", "99999m"),
    ],
)
def test_what_makes_no_sense_is_refused(
    filled: Kvstore, arguments: tuple[str, ...]
) -> None:
    assert filled("get", "a", *arguments).exit_code == 2


def test_later_pages_are_of_the_first_ones_state(
    filled: Kvstore, local_store: LocalStore
) -> None:
    local_store.response_bytes_max = 1  # a page holds one pair
    assert filled("range", "--consistency", "stale").stdout.count("\n") == 4
    first, *others = local_store.levels_asked
    assert first.consistency is Consistency.STALE
    assert {it.consistency for it in others} == {Consistency.SESSION}


# ----------------------------------------------------------------- in plain words


def test_an_explanation_stands_beside_the_value(filled: Kvstore) -> None:
    result = filled("get", "a", "--explain", "--staleness", "2s")
    assert result.stdout_bytes == b"v"
    assert result.stderr == (
        "Node 2 of cluster 1a1a1a1a, epoch 1, in term 7, answered at revision 3. "
        "Bounded: the node answered from its own state. Every write acknowledged up to "
        "140 ms before the read is in it; later ones may be missing.\n"
    )


def test_an_absent_key_is_explained_too(filled: Kvstore) -> None:
    result = filled("get", "none", "--explain", "--json")
    assert result.exit_code == 1
    assert "answered at revision 3" in result.stderr


def test_scripts_get_the_parts_and_the_words(filled: Kvstore) -> None:
    result = filled("get", "a", "--explain", "--json", "--consistency", "stale")
    assert result.stderr == ""
    explained = json.loads(result.stdout)["explained"]
    assert explained.pop("text").startswith("Node 2 of cluster")
    assert explained == {
        "cluster_id": "1a" * 16,
        "epoch": 1,
        "node_id": 2,
        "term": 7,
        "revision": 3,
        "consistency": "stale",
        "staleness_ms": None,
    }
    counted = filled("range", "--count-only", "--explain", "--json")
    assert json.loads(counted.stdout)["explained"]["consistency"] == "linearizable"


def test_a_range_is_explained_once_and_last(
    filled: Kvstore, local_store: LocalStore
) -> None:
    local_store.response_bytes_max = 1
    result = filled("range", "--explain", "--json", "--consistency", "stale")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr.count("Node 2") == 1
    assert "Stale: " in result.stderr


@pytest.mark.parametrize("level", Consistency)
@pytest.mark.parametrize("staleness_ms", [None, 140])
def test_the_words_promise_what_the_level_does(
    level: Consistency, staleness_ms: int | None
) -> None:
    header = dataclasses.replace(HEADER, consistency=level, staleness_ms=staleness_ms)
    words = explanation(header, ReadLevel(level), 0)
    assert words.startswith(
        "Node 2 of cluster 1a1a1a1a, epoch 3, in term 7, answered at revision 812."
    )
    assert f" {level.value.capitalize()}: " in words
    assert ("missing" in words) == (level in CAN_MISS_ACKNOWLEDGED_WRITES)
    weak = CAN_MISS_ACKNOWLEDGED_WRITES - {Consistency.LEASE}
    assert ("140 ms" in words) == (level in weak and staleness_ms is not None)
    assert "asked for" not in words


def test_an_answer_other_than_asked_for_and_history_are_pointed_out() -> None:
    words = explanation(HEADER, ReadLevel(Consistency.STALE), 5)
    assert "You asked for stale; the reply says linearizable." in words
    assert "revision 5: history" in words
    follower = dataclasses.replace(HEADER, consistency=Consistency.FOLLOWER)
    assert "asked for" not in explanation(follower, LINEARIZABLE, 0)


def test_a_node_that_names_no_epoch_is_not_given_one() -> None:
    words = explanation(dataclasses.replace(HEADER, epoch=0), LINEARIZABLE, 0)
    assert "epoch" not in words
