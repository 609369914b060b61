"""The log of one member, on a disk."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from kvstore.errors import CorruptionError
from kvstore.raft.messages import Entry, EntryKind, HardState
from kvstore.replica.interfaces import Identity
from kvstore.simulation.mutants.noticing import require
from kvstore.simulation.mutants.scenarios.crashing import deaths
from kvstore.storage.environment import Environment, Transaction
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.log_format import HEADERS, LOG, entry_key
from kvstore.types import CLUSTER_ID_BYTES, ClusterId, LogIndex, NodeId, Term

OWNER = Identity(cluster_id=ClusterId(bytes(CLUSTER_ID_BYTES)), node_id=NodeId(1))


def hard_state_is_one_write() -> None:
    """A member votes in a new term, and dies at every step of that."""
    before = HardState(term=Term(1), vote=NodeId(2))
    after = HardState(term=Term(2), vote=NodeId(3))

    def make(path: Path) -> None:
        with opened(path) as log:
            log.append(before, ())

    def act(path: Path) -> None:
        with opened(path) as log:
            log.append(after, entries(1, 2))

    for path in each_death(make, act):
        with opened(path) as log:
            require(
                log.hard_state in (before, after),
                "a crash leaves a vote that was never given (I2)",
                *(before, log.hard_state, after),
            )
            require(
                (log.hard_state == after) == (log.last_index == 1),
                "a crash leaves half of a write (I9)",
                *(log.hard_state, log.last_index),
            )


def refused_write_is_the_last() -> None:
    """The medium refuses a write once, and would take the next."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "raft"
        LMDBLog.create(path, OWNER)
        with opened(path) as log:
            log.append(HardState(term=Term(1), vote=None), entries(1, 1))
            with refusing_once():
                told = raises_os_error(lambda: log.append(None, entries(2, 1)))
            require(told, "a write that the medium refused passes for durable (DUR)")
            require(
                raises_os_error(lambda: log.append(None, entries(2, 1))),
                "a medium that refused a write is trusted with the next (DUR)",
            )


@contextmanager
def refusing_once() -> Iterator[None]:
    """The next commit of any environment fails, as a sync does whose pages are lost."""
    begin_write = Environment.begin_write

    class Refusing:
        def __init__(self, txn: Transaction) -> None:
            self._txn = txn

        def __getattr__(self, name: str) -> object:
            return getattr(self._txn, name)

        def commit(self) -> None:
            self._txn.abort()
            Environment.begin_write = begin_write  # type: ignore[method-assign]
            raise OSError(errno.EIO, "fdatasync")

    def begin(environment: Environment) -> object:
        return Refusing(begin_write(environment))

    Environment.begin_write = begin  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Environment.begin_write = begin_write  # type: ignore[method-assign]


def damaged_entry_stays_promised() -> None:
    """A bit of an acknowledged entry in the middle of the log has turned."""
    for index in (3, 5):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "raft"
            LMDBLog.create(path, OWNER)
            with opened(path) as log:
                log.append(HardState(term=Term(1), vote=None), entries(1, 1, count=5))
                damage(log, LOG, index)
            require(
                refuses_to_open(path),
                "a member whose log is damaged goes on without its entries (I9 DUR)",
                index,
            )


def lost_entry_is_missed() -> None:
    """The last entry, or its header, is not there: a torn write, or a lost one."""
    for database in (LOG, HEADERS):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "raft"
            LMDBLog.create(path, OWNER)
            with opened(path) as log:
                log.append(HardState(term=Term(1), vote=None), entries(1, 1, count=3))
                lose(log, database, 3)
            require(
                refuses_to_open(path),
                "a log that lost its end passes for whole (I9 I13)",
                database,
            )


def damage(log: LMDBLog, database: str, index: int) -> None:
    """Turn a bit in the middle of a record."""
    environment = log.environment
    key, into = entry_key(index), environment.database(database)

    def work(txn: Transaction) -> None:
        value = bytearray(txn.get(key, db=into) or b"")
        value[-1] ^= 1
        txn.put(key, bytes(value), db=into)

    environment.write(work)


def lose(log: LMDBLog, database: str, index: int) -> None:
    """Take a record away."""
    into = log.environment.database(database)
    log.environment.write(lambda txn: txn.delete(entry_key(index), db=into))


def entries(start: int, term: int, *, count: int = 1) -> list[Entry]:
    """Entries of one term from an index on."""
    return [
        Entry(Term(term), LogIndex(index), EntryKind.COMMANDS, b"entry %d" % index)
        for index in range(start, start + count)
    ]


@contextmanager
def opened(path: Path) -> Iterator[LMDBLog]:
    """The log at ``path``; closed again."""
    log = LMDBLog.open(path, OWNER)
    try:
        yield log
    finally:
        log.close()


def each_death(
    make: Callable[[Path], None], act: Callable[[Path], None]
) -> Iterator[Path]:
    """What ``act`` leaves of a log that ``make`` made, for each death on the way."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        paths = [place]

        def run() -> None:
            act(paths[-1])

        def fresh(number: int) -> Path:
            path = place / str(number)
            LMDBLog.create(path, OWNER)
            make(path)
            return path

        paths.append(fresh(0))
        for point in deaths(run):
            yield paths[-1]
            paths.append(fresh(point + 1))
        yield paths[-1]


def refuses_to_open(path: Path) -> bool:
    """Whether opening says that the log is damaged."""
    try:
        LMDBLog.open(path, OWNER).close()
    except CorruptionError:
        return True
    return False


def raises_os_error(act: Callable[[], None]) -> bool:
    """Whether the medium is said to have refused."""
    try:
        act()
    except OSError:
        return True
    return False
