"""The store inside one process."""

import subprocess
import sys
from pathlib import Path

import pytest

import kvstore

WRITER = """
import sys
import kvstore
store = kvstore.open(sys.argv[1])
for number in range(1_000_000):
    store.put(f"key/{number}", f"value/{number}")
    print(number, flush=True)
"""


def test_a_store_answers_what_was_put(tmp_path: Path) -> None:
    """Put, get, range, delete and compact through the blocking face."""
    with kvstore.open(tmp_path / "data") as store:
        first = store.put("a", b"\x00\xff")
        found = store.get("a")
        assert found is not None
        assert (found.value, found.version) == (b"\x00\xff", 1)
        store.put("b", "2")
        assert [pair.key for pair in store.range()] == [b"a", b"b"]
        assert store.delete("a").deleted == 1
        assert store.get("a") is None
        old = store.get("a", revision=first.revision)
        assert old is not None
        store.compact(3)
        with pytest.raises(Exception, match="compacted"):
            store.get("a", revision=1)


@pytest.mark.process
def test_sigkill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Kill a writer in mid-load three times; every acknowledged key is there."""
    path = tmp_path / "data"
    for round_number in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [
                int(next(writer.stdout)) for _ in range(100 + 50 * round_number)
            ]
            writer.kill()
        with kvstore.open(path) as store:
            for number in acknowledged:
                found = store.get(f"key/{number}")
                assert found is not None
                assert found.value == f"value/{number}".encode()
