"""LMDB environments: growth, typed errors, and refusing what cannot be trusted."""

import errno
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import cast

import lmdb
import pytest

from kvstore.errors import Closed, CorruptionError
from kvstore.storage.environment import (
    Environment,
    Transaction,
    fsync_directory,
)

SMALL = 1 << 20
DAMAGED = r"the raft store in .* is damaged: .* replace this member"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    """A store that may grow from 1 MiB to 8 MiB."""
    opened = Environment.open(
        tmp_path / "env",
        store="raft",
        databases=("a", "b"),
        create=True,
        map_bytes=SMALL,
        map_bytes_max=8 * SMALL,
    )
    yield opened
    opened.close()


def put(
    environment: Environment, first: int, count: int, value_bytes: int = 1000
) -> None:
    """Write ``count`` records in one transaction."""
    database = environment.database("a")

    def work(txn: Transaction) -> None:
        for number in range(first, first + count):
            txn.put(number.to_bytes(8, "big"), b"v" * value_bytes, db=database)

    environment.write(work)


def count(environment: Environment) -> int:
    with environment.read() as txn:
        return int(txn.stat(environment.database("a"))["entries"])


def test_written_data_is_there_after_reopening(tmp_path: Path) -> None:
    """Goal: commit, close, open without ``create``."""
    path = tmp_path / "env"
    with_data = Environment.open(path, store="raft", databases=("a",), create=True)
    put(with_data, 0, 3)
    with_data.close()
    again = Environment.open(path, store="raft", databases=("a",))
    assert count(again) == 3
    again.close()


def test_map_doubles_before_it_is_full(environment: Environment) -> None:
    """Goal: small transactions never meet MapFull; the map grows in time."""
    for batch in range(60):
        put(environment, batch * 50, 50)
        assert environment.used_bytes <= environment.map_bytes
    assert count(environment) == 3000
    assert SMALL < environment.map_bytes <= 8 * SMALL


def test_transaction_larger_than_the_map_is_run_again(environment: Environment) -> None:
    """Goal: MapFull inside a transaction grows the map and starts it over."""
    runs = 0
    database = environment.database("a")

    def work(txn: Transaction) -> int:
        nonlocal runs
        runs += 1
        for number in range(3000):
            txn.put(number.to_bytes(8, "big"), b"v" * 1000, db=database)
        return number

    assert environment.write(work) == 2999
    assert runs > 1
    assert count(environment) == 3000


def test_full_store_says_no_space_and_lives_on(environment: Environment) -> None:
    """Goal: at the largest size nothing is stored, nothing breaks, deletes work."""
    put(environment, 0, 10)
    with pytest.raises(OSError, match="largest size, 8388608 bytes") as caught:
        put(environment, 10, 10_000)
    assert caught.value.errno == errno.ENOSPC
    assert count(environment) == 10
    database = environment.database("a")
    environment.write(lambda txn: txn.delete((3).to_bytes(8, "big"), db=database))
    put(environment, 20, 5)
    assert count(environment) == 14


def test_growth_waits_for_readers(environment: Environment) -> None:
    """Goal: the file is never unmapped under a reader on another thread."""
    put(environment, 0, 10)
    reading, release, grown = Event(), Event(), Event()
    seen = []

    def read() -> None:
        with environment.read() as txn:
            reading.set()
            release.wait(10)
            seen.append(txn.get((3).to_bytes(8, "big"), db=environment.database("a")))

    def grow() -> None:
        environment.grow()
        grown.set()

    threads = [Thread(target=read), Thread(target=grow)]
    threads[0].start()
    assert reading.wait(10)
    threads[1].start()
    assert not grown.wait(0.05)
    release.set()
    for thread in threads:
        thread.join(10)
    assert grown.is_set()
    assert seen == [b"v" * 1000]
    assert environment.map_bytes == 2 * SMALL
    assert count(environment) == 10


def test_nested_reads_and_foreign_commits_are_our_bugs(
    environment: Environment,
) -> None:
    """Goal: what would deadlock or hang later fails at once."""
    with (
        environment.read(),
        pytest.raises(AssertionError, match="nested"),
        environment.read(),
    ):
        pass
    txn = environment.begin_write()
    failures: list[AssertionError] = []

    def commit() -> None:
        with pytest.raises(AssertionError, match="another thread") as caught:
            environment.commit(txn)
        failures.append(caught.value)

    thread = Thread(target=commit)
    thread.start()
    thread.join(10)
    assert len(failures) == 1
    environment.abort(txn)
    put(environment, 0, 1)


def test_failing_work_stores_nothing(environment: Environment) -> None:
    """Goal: any exception aborts the transaction and comes through."""

    def work(txn: Transaction) -> None:
        txn.put(b"key", b"value", db=environment.database("a"))
        raise LookupError("no")

    with pytest.raises(LookupError):
        environment.write(work)
    assert count(environment) == 0
    put(environment, 0, 1)


def failure(kind: type[lmdb.Error], code: int) -> lmdb.Error:
    """An error as LMDB's binding raises it: the constructor alone sets no code."""
    error = kind("mdb_txn_commit")
    error.__dict__["code"] = code
    return error


class FailingTransaction:
    """Fails to commit as LMDB does when the disk does."""

    def __init__(self, real: Transaction, error: lmdb.Error) -> None:
        self._real = real
        self._error = error

    def commit(self) -> None:
        self._real.abort()
        raise self._error


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (failure(lmdb.Error, errno.EIO), errno.EIO),
        (failure(lmdb.PanicError, -30795), errno.EIO),
        (failure(lmdb.Error, errno.EFBIG), errno.EFBIG),
    ],
)
def test_after_a_failed_commit_no_write_is_accepted(
    environment: Environment, error: lmdb.Error, number: int
) -> None:
    """Goal: the next fsync would succeed and prove nothing, so it is not tried."""
    txn = environment.begin_write()
    with pytest.raises(OSError, match="raft store") as caught:
        environment.commit(cast("Transaction", FailingTransaction(txn, error)))
    assert caught.value.errno == number
    with pytest.raises(OSError, match="restart the node") as caught:
        environment.begin_write()
    assert caught.value.errno == number
    assert count(environment) == 0


def test_full_disk_does_not_end_the_store(environment: Environment) -> None:
    """Goal: ENOSPC leaves nothing behind and may pass."""
    txn = environment.begin_write()
    error = failure(lmdb.DiskError, errno.ENOSPC)
    with pytest.raises(OSError, match="raft store") as caught:
        environment.commit(cast("Transaction", FailingTransaction(txn, error)))
    assert caught.value.errno == errno.ENOSPC
    put(environment, 0, 1)
    assert count(environment) == 1


REFUSED_BY_THE_KERNEL = """
import sys
from pathlib import Path
from kvstore.storage.environment import Environment
environment = Environment.open(Path(sys.argv[1]), store="raft", databases=("a",))
database = environment.database("a")
for attempt in range(2):
    try:
        environment.write(lambda txn: txn.put(b"big", b"x" * 4_000_000, db=database))
    except OSError as error:
        print(type(error).__name__, error.errno, error.strerror)
"""


def test_refusal_by_the_kernel_is_an_os_error(
    environment: Environment, tmp_path: Path
) -> None:
    """Goal: a real failing write, not a simulated one: a file size limit."""
    environment.close()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    done = subprocess.run(
        [sys.executable, "-c", REFUSED_BY_THE_KERNEL, str(tmp_path / "env")],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    # EIO if the kernel wrote a part first, which LMDB sees as a short write.
    assert first.startswith((f"OSError {errno.EFBIG} ", f"OSError {errno.EIO} "))
    assert "refuses to write after a failed commit" in second


def test_closed_environment_says_so(environment: Environment) -> None:
    """Goal: a late caller gets a typed error; closing twice is fine."""
    environment.close()
    environment.close()
    with pytest.raises(Closed, match="raft store was closed"), environment.read():
        pass
    with pytest.raises(Closed):
        environment.begin_write()
    with pytest.raises(Closed):
        _ = environment.used_bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a closed environment with 2,000 records, without free pages."""
    created = Environment.open(
        tmp_path / "env", store="raft", databases=("a",), create=True
    )
    put(created, 0, 2000)
    created.close()
    return tmp_path / "env"


def reopen(path: Path, *databases: str) -> None:
    Environment.open(path, store="raft", databases=databases or ("a",)).close()


def damage(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray((path / "data.mdb").read_bytes())
    change(content)
    (path / "data.mdb").write_bytes(content)


def test_missing_file_is_not_created(path: Path) -> None:
    """Goal: what is missing was lost; an empty store in its place would hide that."""
    (path / "data.mdb").unlink()
    with pytest.raises(CorruptionError, match=r"data\.mdb is missing.*replace this"):
        reopen(path)
    assert not (path / "data.mdb").exists()


def test_missing_database_is_damage(path: Path) -> None:
    """Goal: as above, inside the file."""
    with pytest.raises(CorruptionError, match="database 'b' is missing"):
        reopen(path, "a", "b")
    reopen(path)


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.9])
def test_truncated_file_is_refused(path: Path, keep: float) -> None:
    """Goal: an error, where reading the lost pages would be a fatal signal."""
    damage(path, lambda data: data.__delitem__(slice(int(keep * len(data)), None)))
    with pytest.raises(CorruptionError, match=DAMAGED):
        reopen(path)


def test_truncated_large_file_is_refused(path: Path) -> None:
    """Goal: also when the file is too large for a walk at every opening."""
    damage(path, lambda data: data.__delitem__(slice(len(data) // 2, None)))
    with pytest.raises(CorruptionError, match="beyond EOF"):
        Environment.open(path, store="raft", databases=("a",), verify_bytes_max=0)


@pytest.mark.parametrize("page", [0, 1])
def test_zeroed_meta_page_is_refused(path: Path, page: int) -> None:
    """Goal: LMDB's two meta pages are no redundancy; losing one is noticed."""
    zeros = bytes(4096)
    damage(
        path,
        lambda data: data.__setitem__(slice(4096 * page, 4096 * (page + 1)), zeros),
    )
    with pytest.raises(CorruptionError, match=DAMAGED):
        reopen(path)


def test_lost_page_write_is_refused(path: Path) -> None:
    """Goal: a page of zeros inside the tree, which LMDB alone would abort on."""
    middle = 4096 * 200
    damage(
        path, lambda data: data.__setitem__(slice(middle, middle + 4096), bytes(4096))
    )
    with pytest.raises(CorruptionError, match=DAMAGED):
        reopen(path)


def test_foreign_file_is_refused(path: Path) -> None:
    """Goal: something that is no LMDB file at all."""
    (path / "data.mdb").write_bytes(b"hello world " * 1000)
    with pytest.raises(CorruptionError, match=DAMAGED):
        reopen(path)


def test_large_file_opens_with_room_in_the_map(path: Path) -> None:
    """Goal: the map fits the file, whatever it was configured to start with."""
    opened = Environment.open(path, store="raft", databases=("a",), map_bytes=SMALL)
    assert opened.map_bytes > opened.used_bytes
    put(opened, 5000, 10)
    opened.close()


def test_directory_can_be_synced_and_its_absence_shows(tmp_path: Path) -> None:
    """Goal: new entries can be made durable; a wrong path is an error."""
    fsync_directory(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync_directory(tmp_path / "none")
