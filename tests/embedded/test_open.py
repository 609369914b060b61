"""The store inside one process."""

import asyncio
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import kvstore

FORKING = """
import os, sys
import kvstore
with kvstore.open(sys.argv[1]) as store:
    store.put("k", "v")
    child = os.fork()
    if child == 0:
        try:
            store.get("k")
        except kvstore.Closed:
            print("refused", flush=True)
        store.close()  # the parent's, so nothing happens
        os._exit(0)
    os.waitpid(child, 0)
    if store.get("k") is not None:
        print("served")
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


def test_a_directory_is_open_once(tmp_path: Path) -> None:
    """Goal: the second opening in the same process is told what to do."""
    path = tmp_path / "data"
    with kvstore.open(path) as store:
        with pytest.raises(kvstore.DirectoryLocked, match="this process"):
            kvstore.open(path)
        store.put("k", "v")


def test_a_directory_open_elsewhere_names_the_process(tmp_path: Path) -> None:
    path = tmp_path / "data"
    program = "import sys, kvstore; kvstore.open(sys.argv[1]); print(1, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}; sys.stdin.read()", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(kvstore.DirectoryLocked, match=str(holder.pid)):
            kvstore.open(path)
        holder.communicate()
    kvstore.open(path).close()


def test_a_store_is_reopened_again_and_again(tmp_path: Path) -> None:
    """Goal: closing lets go of everything."""
    before = threading.active_count()
    for number in range(5):
        with kvstore.open(tmp_path / "data") as store:
            assert store.range(count_only=True).count == number
            store.put(str(number), "v")
    assert threading.active_count() == before


def test_settings_come_as_a_config(tmp_path: Path) -> None:
    config = kvstore.Config(data_dir=tmp_path / "data", value_bytes_max=10)
    with kvstore.open(config, timeout_s=5) as store:
        store.put("k", b"x" * 10)
        with pytest.raises(kvstore.RequestTooLarge):
            store.put("k", b"x" * 11)


def test_an_embedded_store_listens_nowhere(tmp_path: Path) -> None:
    config = kvstore.Config(data_dir=tmp_path / "data", listen="127.0.0.1:0")
    with pytest.raises(kvstore.ConfigError, match="no network"):
        kvstore.open(config)
    assert not (tmp_path / "data").exists()


def test_a_member_of_several_is_not_opened_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: it could never elect a leader; to say so beats waiting for one, and beats
    starting a member that its cluster does not expect."""
    caplog.set_level(logging.INFO, "kvstore.server")
    kvstore.found(
        tmp_path / "data",
        node_id=1,
        cluster_id=kvstore.new_cluster_id(),
        members={1: "127.0.0.1:7401", 2: "127.0.0.1:7402", 3: "127.0.0.1:7403"},
    )
    with pytest.raises(kvstore.ForeignDirectory, match=r"cluster of 3.*kvstore serve"):
        kvstore.open(tmp_path / "data")
    assert "node_started" not in caplog.text
    kvstore.open(tmp_path / "other").close()
    assert "node_started" in caplog.text  # it is what a start would have said


def test_a_status_tells_of_the_one_member(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "data") as store:
        written = store.put("k", "v")
        status = store.status()
        assert (status.role, status.revision) == ("leader", written.revision)
        assert status.cluster_id == written.header.cluster_id
        assert [member.node_id for member in status.members] == [status.node_id]
        with pytest.raises(kvstore.ConfigError):
            store.status("127.0.0.1:7401")


def test_a_range_has_open_and_closed_bounds(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "data") as store:
        for key in "abcde":
            store.put(key, key.upper())

        def keys(found: kvstore.RangeResult) -> bytes:
            return b"".join(pair.key for pair in found)

        assert keys(store.range()) == b"abcde"
        assert keys(store.range("b", "d")) == b"bc"
        assert keys(store.range("b")) == b"bcde"
        assert keys(store.range(b"", b"c")) == b"ab"
        assert keys(store.range(end="c")) == b"ab"
        assert keys(store.range(prefix="c")) == b"c"
        assert keys(store.range(prefix="")) == b"abcde"
        assert keys(store.range("d", "b")) == b""
        assert keys(store.range(descending=True, limit=2)) == b"ed"
        store.put("a", "Z")
        newest = store.range(sort_by="mod_revision", descending=True, limit=1)
        assert keys(newest) == b"a"
        assert (newest.more, newest.count) == (True, 5)
        assert keys(store.range(sort_by="value")) == b"bcdea"
        assert store.range(count_only=True, limit=1).count == 5
        page = store.range(limit=2, without_count=True)
        assert (keys(page), page.more, page.count) == (b"ab", True, 0)


def test_deletes_take_a_key_a_range_or_a_prefix(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "data") as store:
        for key in ("a", "b", "c", "x/1", "x/2", "y"):
            store.put(key, "v")
        assert store.delete("a", prev_kv=True).previous[0].value == b"v"
        assert store.delete("a").deleted == 0
        assert store.delete_range("a", b"\0").deleted == 0  # nothing is below it
        assert store.delete_range("", "c").deleted == 1
        assert store.delete_prefix("x/").deleted == 2
        assert [pair.key for pair in store.range()] == [b"c", b"y"]
        assert store.delete_prefix("").deleted == 2


def test_a_scan_shows_one_revision_whatever_is_written(tmp_path: Path) -> None:
    """Goal: pages fit together. Method: change what is not read yet between pages."""
    with kvstore.open(tmp_path / "data") as store:
        for number in range(10):
            store.put(f"k{number}", "old")
        for descending in (False, True):
            revision = store.range(limit=1).revision
            scan = store.scan(prefix="k", page_pairs_max=3, descending=descending)
            seen = [next(scan)]
            store.delete("k5")
            store.put("k7", "new")
            store.put("k77", "new")
            seen += scan
            expected = list(store.range(prefix="k", revision=revision))
            assert seen == (expected[::-1] if descending else expected)
            store.put("k5", "old")


def test_a_scan_behaves_at_the_edges(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "data") as store:
        assert list(store.scan()) == []
        store.put(b"\x00", "lowest")
        store.put(b"\xff\xff", "highest")
        both = [b"\x00", b"\xff\xff"]
        assert [pair.key for pair in store.scan(page_pairs_max=1)] == both
        descending = store.scan(page_pairs_max=1, descending=True)
        assert [pair.key for pair in descending] == both[::-1]
        assert [it.key for it in store.scan(prefix=b"\xff", page_pairs_max=1)] == [
            b"\xff\xff"
        ]
        assert [it.value for it in store.scan(keys_only=True)] == [b"", b""]


def test_a_scan_says_when_its_revision_was_compacted(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "data") as store:
        for number in range(4):
            store.put(f"k{number}", "v")
        scan = store.scan(page_pairs_max=2)
        next(scan)
        newest = store.put("k9", "v").revision
        store.compact(newest)
        with pytest.raises(kvstore.Compacted):
            list(scan)


def test_an_asyncio_scan_can_be_left_early(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with kvstore.open_async(tmp_path / "data") as store:
            await asyncio.gather(*(store.put(f"k{n}", "v") for n in range(5)))
            async for pair in store.scan(page_pairs_max=2):
                if pair.key == b"k2":
                    break
            assert len([pair async for pair in store.scan(page_pairs_max=2)]) == 5

    asyncio.run(scenario())


@pytest.mark.process
def test_a_child_of_a_fork_is_refused(tmp_path: Path) -> None:
    """Goal: it has no thread that could answer, so it must not wait for one. Method: in
    a process of its own, because this one has threads that a fork would not."""
    outcome = subprocess.run(
        [sys.executable, "-c", FORKING, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (outcome.returncode, outcome.stdout) == (0, "refused\nserved\n")


def test_a_member_is_its_own_client(tmp_path: Path) -> None:
    """Goal: the embedding service needs no connection to itself, and closing such a
    client leaves the member alone."""
    path = tmp_path / "data"
    kvstore.found(
        path,
        node_id=1,
        cluster_id=kvstore.new_cluster_id(),
        members={1: "127.0.0.1:7401"},
    )

    async def scenario() -> None:
        config = kvstore.Config(data_dir=path, listen="127.0.0.1:0")
        async with kvstore.Node(config) as node:
            async with kvstore.client_of(node) as store:
                written = await store.put("k", "v")
                assert written.header.node_id == 1
            with pytest.raises(kvstore.Closed):
                await store.get("k")
            async with kvstore.AsyncClient(node.address) as client:
                assert await client.get("k") is not None

    asyncio.run(scenario())


def test_a_client_of_a_node_that_is_not_entered_yet_waits_for_it(
    tmp_path: Path,
) -> None:
    """Goal: a service may set up its parts in any order."""
    path = tmp_path / "data"
    kvstore.open(path).close()

    async def scenario() -> None:
        node = kvstore.Node(kvstore.Config(data_dir=path, network=False))
        async with kvstore.client_of(node) as store:
            with pytest.raises(kvstore.Unavailable, match="not entered yet"):
                await store.put("early", "v", timeout_s=0.05)
            with pytest.raises(kvstore.Unavailable, match="not entered yet"):
                await store.status()
            put = asyncio.create_task(store.put("k", "v"))
            async with node:
                await put
                assert await store.get("early") is None
                assert (await store.status()).role == "leader"

    asyncio.run(scenario())
