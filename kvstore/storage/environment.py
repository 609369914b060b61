"""One LMDB environment, opened the only way this project opens one.

Never ``writemap`` (a full disk is then a SIGBUS) and never ``sync=False`` (a power cut
then loses everything since the last sync, and may tear the tree). LMDB itself has no
page checksums; records carry their own (``record.py``), and opening walks the tree.

What nothing in here can see: that the newest *meta* page was lost or altered so that an
older one is taken for it. The store then is, whole and consistent, what it was one
commit earlier. Only a witness outside of the file could tell.

A write transaction must begin and end on the *same* thread: LMDB's writer mutex belongs
to a thread, a commit from another one appears to succeed, and the next ``begin`` then
hangs for ever. So each store has one dedicated writer thread. Reading transactions may
run on any thread; keep them short, for pages that a reader can see are not reused and
the file never shrinks.

Errors. ``lmdb.Error`` never leaves this module, except for those that only a defect of
ours can cause (a key too long, a handle misused):

- damage found by LMDB: ``CorruptionError``;
- the medium or the operating system refused: ``OSError`` with its ``errno``. After a
  failed commit nothing is known about what is durable (fsyncgate: the next fsync
  succeeds without having written), so the environment refuses every later write;
- no space, and the map at its largest: ``OSError`` with ``ENOSPC``. The transaction is
  aborted, nothing of it is stored, and later ones may succeed.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock, get_ident
from typing import Final, NoReturn, Self, TypeAlias, TypeVar

import lmdb
from lmdb.verify import VerifyError, verify

from kvstore.errors import Closed, CorruptionError

MAP_BYTES_START = 1 << 30
"""First size of the memory map. It is address space: the file grows by what is used."""
MAP_BYTES_MAX = 1 << 42
"""The map never grows beyond this (4 TiB, a thirtieth of the x86-64 address space)."""
GROW_AT = 0.8
"""Used part of the map from which it is doubled before the next write transaction."""
VERIFY_BYTES_MAX = 256 << 20
"""A larger file opens without a walk through its tree (about 5 s for each GiB)."""

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"

_READERS_MAX = 126
_DATABASES_MAX = 16
ADVICE = (
    "the other members still hold this data: replace this member under a new node id, "
    "or restore the whole cluster from a backup"
)
"""What an operator does about a store that this node cannot mend itself."""

# Errors that mean that pages do not say what LMDB wrote. BadTxn is what every call gets
# after a first such error in a transaction.
_DAMAGE: Final = (
    lmdb.BadChecksumError,
    lmdb.BadDbiError,  # the root record of a database changed under us
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
    lmdb.ProblemError,
    lmdb.VersionMismatchError,
)

T = TypeVar("T")

# py-lmdb names the type of a database handle, but as if it were private.
Database = lmdb._Database  # noqa: SLF001
Transaction: TypeAlias = "lmdb.Transaction[bytes]"


class Environment:
    """An open LMDB environment: databases, transactions, growth, typed errors."""

    __slots__ = (
        "_closed",
        "_databases",
        "_env",
        "_failure",
        "_gate",
        "_map_bytes",
        "_map_bytes_max",
        "_page_bytes",
        "_reader_threads",
        "_writer_thread",
        "path",
        "store",
    )

    def __init__(
        self, env: lmdb.Environment, path: Path, *, store: str, map_bytes_max: int
    ) -> None:
        """Takes over an open environment; :meth:`open` is how to get one."""
        self.path = path
        self.store = store
        """Name of the store, for errors and for the checksums of its records."""
        self._env = env
        self._databases: dict[str, Database] = {}
        self._map_bytes = env.info()["map_size"]
        self._map_bytes_max = map_bytes_max
        self._page_bytes = env.stat()["psize"]
        # set_mapsize unmaps the file under readers on other threads, which LMDB leaves
        # to its user to prevent; so it waits until no reading transaction is open.
        self._gate = Condition(Lock())
        self._reader_threads: list[int] = []
        self._writer_thread: int | None = None
        self._failure: OSError | None = None
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        store: str,
        databases: Iterable[str],
        create: bool = False,
        metasync: bool = True,
        map_bytes: int = MAP_BYTES_START,
        map_bytes_max: int = MAP_BYTES_MAX,
        verify_bytes_max: int = VERIFY_BYTES_MAX,
    ) -> Self:
        """Open the environment in directory ``path``, with the databases named.

        ``create``: make what is missing, durably. Without it, whatever is missing was
        lost. ``metasync=False``: the newest commit may be lost in a power cut, whole;
        only for a store that can be rebuilt from the log.

        Raises:
            CorruptionError: the file is missing, damaged or cut short, or a database is
                missing. Definite.
            OSError: the operating system refused.
        """
        data_path = path / DATA_FILE
        if not create and not data_path.is_file():
            raise _damage(store, path, f"{DATA_FILE} is missing")
        if create and not path.is_dir():
            path.mkdir()
            fsync_directory(path.parent)
        file_bytes = data_path.stat().st_size if data_path.exists() else 0
        if 0 < file_bytes <= verify_bytes_max:
            _verify(store, path)
        with _translated(store, path):
            env = lmdb.open(
                os.fspath(path),
                map_size=_map_size(map_bytes, file_bytes),
                max_dbs=_DATABASES_MAX,
                max_readers=_READERS_MAX,
                metasync=metasync,
                create=create,
                readahead=False,
            )
        environment = cls(env, path, store=store, map_bytes_max=map_bytes_max)
        try:
            environment._open_databases(databases, file_bytes, create=create)
        except BaseException:
            env.close()
            raise
        return environment

    def database(self, name: str) -> Database:
        """The handle of one of the databases that ``open`` named."""
        return self._databases[name]

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A reading transaction, for a ``with`` block. Not to be nested on one thread.

        Raises:
            Closed: the environment was closed.
            CorruptionError, OSError: see the module, also for what the block does.
        """
        thread = get_ident()
        with self._gate:
            assert thread not in self._reader_threads, (
                "nested reads can deadlock growth"
            )
            self._check_open()
            self._reader_threads.append(thread)
        try:
            with _translated(self.store, self.path), self._env.begin() as txn:
                yield txn
        finally:
            with self._gate:
                self._reader_threads.remove(thread)
                self._gate.notify_all()

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in one write transaction and commit it: durable on return.

        ``work`` may be run again in a new transaction, after the map was grown, so it
        must change nothing but the transaction.

        Raises:
            OSError, CorruptionError, Closed: see the module. Nothing is stored, except
                that after an ``OSError`` other than ``ENOSPC`` nobody can know.
        """
        while True:
            txn = self.begin_write()
            try:
                with _translated(self.store, self.path):
                    result = work(txn)
            except lmdb.MapFullError:
                self.abort(txn)
                self.grow()
                continue
            except BaseException:
                self.abort(txn)
                raise
            try:
                self.commit(txn)
            except lmdb.MapFullError:
                self.grow()
                continue
            return result

    def begin_write(self) -> Transaction:
        """Begin a write transaction; grows a map that is nearly full first.

        End it on this thread with :meth:`commit` or :meth:`abort`. ``MapFullError`` can
        still come out of its operations; then abort, :meth:`grow` and start over.

        Raises:
            OSError: an earlier commit failed, so that the medium is not to be trusted.
            CorruptionError, Closed: see the module.
        """
        if self._failure is not None:
            raise OSError(
                self._failure.errno,
                f"the {self.store} store refuses to write after a failed commit "
                f"({self._failure.strerror}): restart the node",
            )
        self._check_open()
        assert self._writer_thread is None, "one write transaction at a time"
        if self.used_bytes > GROW_AT * self._map_bytes < self._map_bytes_max:
            self.grow()
        with _translated(self.store, self.path):
            txn = self._env.begin(write=True)
        self._writer_thread = get_ident()
        return txn

    def commit(self, txn: Transaction) -> None:
        """Commit what :meth:`begin_write` returned; durable on return.

        Raises:
            lmdb.MapFullError: nothing was stored; :meth:`grow` and start over.
            OSError: ``ENOSPC``: nothing was stored. Any other: unknown, and every later
                write is refused.
        """
        assert self._writer_thread == get_ident(), "commit on another thread than begin"
        self._writer_thread = None
        try:
            with _translated(self.store, self.path):
                txn.commit()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                self._failure = error
            raise

    def abort(self, txn: Transaction) -> None:
        """Drop what :meth:`begin_write` returned."""
        assert self._writer_thread == get_ident(), "abort on another thread than begin"
        self._writer_thread = None
        txn.abort()

    def copy(self, txn: Transaction, fd: int) -> None:
        """Write what a reading transaction sees to a file, compactly; not synced.

        Raises:
            CorruptionError, OSError: as the block of :meth:`read` does.
        """
        with _translated(self.store, self.path):
            self._env.copyfd(fd, compact=True, txn=txn)

    def sync(self) -> None:
        """Make every commit durable, the newest too (see ``metasync``).

        Raises:
            OSError: the medium refused; nobody knows what is durable.
        """
        self._check_open()
        with _translated(self.store, self.path):
            self._env.sync(True)

    def grow(self) -> None:
        """Double the map. Waits for open reading transactions to end.

        Raises:
            OSError: ``ENOSPC``: the map is at its maximum. Definite.
        """
        size = min(2 * self._map_bytes, self._map_bytes_max)
        if size <= self._map_bytes:
            raise OSError(
                errno.ENOSPC,
                f"the {self.store} store has reached its largest size, "
                f"{self._map_bytes_max} bytes",
            )
        with self._gate:
            assert get_ident() not in self._reader_threads, "growth waits for ourselves"
            self._gate.wait_for(lambda: not self._reader_threads)
            self._check_open()
            with _translated(self.store, self.path):
                self._env.set_mapsize(size)
            self._map_bytes = size

    def translate(self, error: lmdb.Error) -> NoReturn:
        """Raise what the module promises in place of LMDB's own error.

        For operations of a transaction from :meth:`begin_write`; a ``MapFullError`` is
        raised as it is.
        """
        with _translated(self.store, self.path):
            raise error

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that hold, or once held, pages. Never shrinks."""
        self._check_open()
        return int(self._env.info()["last_pgno"] + 1) * self._page_bytes

    @property
    def map_bytes(self) -> int:
        """Present size of the map."""
        return self._map_bytes

    def close(self) -> None:
        """Close; waits for open reading transactions. Twice is fine."""
        with self._gate:
            self._gate.wait_for(lambda: not self._reader_threads)
            assert self._writer_thread is None, "closed with a write transaction open"
            self._closed = True
            self._env.close()

    def _open_databases(
        self, names: Iterable[str], file_bytes: int, *, create: bool
    ) -> None:
        if 0 < file_bytes < self.used_bytes:
            # Reading a page beyond the end of the file is a SIGBUS. The pages may all
            # be free ones, which LMDB need not have written; only a walk can tell.
            _verify(self.store, self.path)
        for name in names:
            try:
                with _translated(self.store, self.path):
                    self._databases[name] = self._env.open_db(
                        name.encode(), create=create
                    )
            except lmdb.NotFoundError as error:
                raise _damage(
                    self.store, self.path, f"database {name!r} is missing"
                ) from error
        if create:
            fsync_directory(self.path)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the {self.store} store was closed")


def fsync_directory(path: Path) -> None:
    """Make the creation, renaming and removal of entries of ``path`` durable.

    Raises:
        OSError: the medium refused.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _translated(store: str, path: Path) -> Iterator[None]:
    """Turn what LMDB raises into the errors that the module promises."""
    try:
        yield
    except _DAMAGE as error:
        raise _damage(store, path, str(error)) from error
    except lmdb.PanicError as error:
        # A meta page could not be written, or only partly (LMDB gives no errno here).
        raise OSError(errno.EIO, f"{store} store: {error}", os.fspath(path)) from error
    except lmdb.Error as error:
        if error.code <= 0:
            raise  # MapFull and NotFound are handled by callers; the rest is our bug
        raise OSError(error.code, f"{store} store: {error}", os.fspath(path)) from error


def _verify(store: str, path: Path) -> None:
    """Walk the tree of a file at rest, without LMDB, which trusts what it maps."""
    try:
        problems: list[str] = verify(os.fspath(path))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise _damage(store, path, f"{DATA_FILE}: {problems[0]}{more}")


def _damage(store: str, path: Path, what: str) -> CorruptionError:
    return CorruptionError(
        f"the {store} store in {path} is damaged: {what}; {ADVICE}",
        store=store,
        actual=what,
    )


def _map_size(map_bytes: int, file_bytes: int) -> int:
    """The first doubling of ``map_bytes`` that leaves room to write."""
    while file_bytes > GROW_AT * map_bytes:
        map_bytes *= 2
    return map_bytes
