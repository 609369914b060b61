"""Reads every record of every store, over and over, and reports damage it finds.

A record that nobody reads rots unseen, until the day the last other copy is gone. The
scrubber finds it while the other members still hold it; what to do about it is decided
elsewhere.

It must not be felt. One thread reads small slices, each in a reading transaction of its
own (a long one would keep freed pages from being reused), each followed by a pause that
holds the pace under two caps. A slice resumes after the last key seen, so a store may
change under it: what is written behind it is checked by the next tour.

Evidence before alarm: a suspect is read three more times, in new transactions, and is
reported only if it is damaged every time. That rules out a record which was replaced or
deleted meanwhile.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Lock, Thread
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from kvstore.errors import CorruptionError, NewerFormat
from kvstore.storage.environment import Environment, Transaction
from kvstore.storage.record import Finding, RecordCodec

FINDINGS_MAX = 100
"""Newest findings kept for the status."""
CORRUPT_PER_DATABASE_MAX = 1_000
"""A tour leaves a database after so many: memory is bounded, and the case is clear."""
REREADS = 3

# About half a millisecond: the interpreter belongs to this thread meanwhile.
_SLICE_RECORDS_MAX = 64
_SLICE_S = 0.001
_SLICE_BYTES_MAX = 1 << 20
_REREAD_PAUSE_S = 0.01


class RecordCheck(Protocol):
    """Checks one record; the scrubber knows no bodies."""

    def __call__(self, txn: Transaction, key: bytes, value: bytes, /) -> None:
        """Raise ``CorruptionError`` if the record, or its relation to others, is bad.

        Everything it looks up must come from ``txn``.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubDatabase:
    """One database to tour."""

    name: str
    check: RecordCheck

    @classmethod
    def of(cls, codec: RecordCodec) -> Self:
        """A database of which checksum and type are all there is to check."""

        def check(_txn: Transaction, key: bytes, value: bytes) -> None:
            codec.body(key, value)

        return cls(name=codec.database, check=check)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubTarget:
    """One store to tour. The environment outlives the scrubber."""

    environment: Environment
    databases: tuple[ScrubDatabase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubTour:
    """How far one store's tours have come."""

    store: str
    tours_completed: int
    records_checked_in_tour: int
    """In the running tour, or in the last one while none runs."""
    records_checked: int
    """In all, since the scrubber was started."""
    progress: float
    """Of the running tour, from 0 to 1; an estimate, for the store changes."""
    corrupt_records: int
    """Different records found damaged in the last whole tour or since."""
    last_tour_seconds: float
    """0 before the first tour has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubStatus:
    """A snapshot for the status call."""

    tours: tuple[ScrubTour, ...]
    findings: tuple[Finding, ...]
    """The newest, oldest first; at most ``FINDINGS_MAX``."""


class Scrubber:
    """Tours its targets in a thread of its own, from ``start`` until ``close``."""

    def __init__(
        self,
        targets: Sequence[ScrubTarget],
        *,
        bytes_per_second_max: float = 20 << 20,
        records_per_second_max: float = 5_000,
        pause_s: float = 60.0,
        on_finding: Callable[[Finding], None] | None = None,
    ) -> None:
        """The first tour starts at once, later ones ``pause_s`` after the one before.

        A record costs up to 7 us of CPU, so 5,000 a second are 4 % of a core.

        ``on_finding`` runs on the scrubber's thread, once for each record newly found
        damaged, and again only after a tour found it whole in between.
        """
        assert bytes_per_second_max > 0
        assert records_per_second_max > 0
        self._bytes_per_second_max = bytes_per_second_max
        self._records_per_second_max = records_per_second_max
        self._pause_s = pause_s
        self._on_finding = on_finding
        self._stop = Event()
        self._lock = Lock()  # guards what status() reads
        self._tours = [_Tour(target) for target in targets]
        self._findings: deque[Finding] = deque(maxlen=FINDINGS_MAX)
        self._thread = Thread(target=self._run, name="kvstore-scrubber", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop and wait for the thread, for some milliseconds. Twice is fine."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def status(self) -> ScrubStatus:
        """Progress and findings up to now. Any thread."""
        with self._lock:
            return ScrubStatus(
                tours=tuple(tour.snapshot() for tour in self._tours),
                findings=tuple(self._findings),
            )

    def _run(self) -> None:
        while not self._stop.is_set():
            for tour in self._tours:
                self._go_round(tour)
            self._stop.wait(self._pause_s)

    def _go_round(self, tour: "_Tour") -> None:
        records_expected = _count(tour.target)
        with self._lock:
            tour.begin(records_expected)
        for database in tour.target.databases:
            self._go_through(tour, database)
            if self._stop.is_set():
                return
        with self._lock:
            tour.end()

    def _go_through(self, tour: "_Tour", database: ScrubDatabase) -> None:
        """Check all records of one database, slice by slice."""
        after: bytes | None = None
        found = 0
        while not self._stop.is_set():
            began = monotonic()
            slice_ = _read_slice(tour.target.environment, database, after)
            for key in slice_.suspects:
                look = partial(_look, tour.target.environment, database, key)
                found += self._confirm(tour, database, key, look)
            if slice_.torn:
                # LMDB cannot get from last_key to the next record: not to be passed.
                look = partial(_step, tour.target.environment, database, after)
                self._confirm(tour, database, slice_.last_key or b"", look)
            with self._lock:
                tour.count(slice_.records)
            if slice_.ended or found >= CORRUPT_PER_DATABASE_MAX:
                return
            after = slice_.last_key
            due = began + max(
                slice_.records / self._records_per_second_max,
                slice_.bytes / self._bytes_per_second_max,
            )
            # At least a moment: the thread must not take the interpreter's lock again
            # before somebody else had it.
            self._stop.wait(max(due - monotonic(), 0.000_1))

    def _confirm(
        self,
        tour: "_Tour",
        database: ScrubDatabase,
        key: bytes,
        look: Callable[[], str | None],
    ) -> bool:
        """Read a suspect again; report it if ``look`` finds it damaged each time."""
        what: str | None = None
        for _ in range(REREADS):
            if self._stop.wait(_REREAD_PAUSE_S):
                return False
            what = look()
            if what is None:
                return False
        assert what is not None
        finding = Finding(
            store=tour.target.environment.store,
            database=database.name,
            key_hex=key.hex(),
            what=what,
        )
        with self._lock:
            is_new = tour.add_corrupt((database.name, key))
            if is_new:
                self._findings.append(finding)
        if is_new and self._on_finding is not None:
            self._on_finding(finding)
        return True


class _Tour:
    """The counters of one target. The scrubber's lock guards them."""

    def __init__(self, target: ScrubTarget) -> None:
        self.target = target
        self._tours_completed = 0
        self._records_in_tour = 0
        self._records_before = 0
        self._records_expected = 0
        self._corrupt: set[tuple[str, bytes]] = set()
        self._corrupt_before: set[tuple[str, bytes]] = set()
        self._began = 0.0
        self._running = False
        self._last_tour_s = 0.0

    def begin(self, records_expected: int) -> None:
        self._records_before += self._records_in_tour
        self._records_in_tour = 0
        self._corrupt_before, self._corrupt = self._corrupt, set()
        self._records_expected = records_expected
        self._began = monotonic()
        self._running = True

    def count(self, records: int) -> None:
        self._records_in_tour += records

    def end(self) -> None:
        self._running = False
        self._tours_completed += 1
        self._corrupt_before = set()
        self._last_tour_s = monotonic() - self._began

    def add_corrupt(self, place: tuple[str, bytes]) -> bool:
        """Note a damaged record; whether it was not known."""
        is_new = place not in self._corrupt and place not in self._corrupt_before
        self._corrupt.add(place)
        return is_new

    def snapshot(self) -> ScrubTour:
        expected = max(self._records_expected, self._records_in_tour)
        progress = self._records_in_tour / expected if expected else 0.0
        return ScrubTour(
            store=self.target.environment.store,
            tours_completed=self._tours_completed,
            records_checked_in_tour=self._records_in_tour,
            records_checked=self._records_before + self._records_in_tour,
            progress=progress if self._running else float(self._tours_completed > 0),
            corrupt_records=len(self._corrupt | self._corrupt_before),
            last_tour_seconds=self._last_tour_s,
        )


@dataclass(slots=True)
class _Slice:
    """What one reading transaction covered."""

    last_key: bytes | None
    suspects: list[bytes] = field(default_factory=list)
    """Keys of records that failed their check."""
    records: int = 0
    bytes: int = 0
    ended: bool = False
    """No record follows, or none can be reached."""
    torn: bool = False
    """LMDB found a bad page after ``last_key``."""


def _read_slice(
    environment: Environment, database: ScrubDatabase, after: bytes | None
) -> _Slice:
    """Check the records after ``after`` until time, records or bytes are used up."""
    slice_ = _Slice(after)
    try:
        with environment.read() as txn:
            _check_slice(txn, environment, database, slice_)
    except CorruptionError:
        slice_.torn = slice_.ended = True
    return slice_


def _check_slice(
    txn: Transaction, environment: Environment, database: ScrubDatabase, slice_: _Slice
) -> None:
    deadline = monotonic() + _SLICE_S
    cursor = txn.cursor(db=environment.database(database.name))
    if slice_.last_key is None:
        more = cursor.first()
    else:
        more = cursor.set_range(slice_.last_key + b"\0")  # the least key behind it
    while more:
        key, value = cursor.item()
        try:
            database.check(txn, key, value)
        except (CorruptionError, NewerFormat):
            slice_.suspects.append(key)
        slice_.last_key = key
        slice_.records += 1
        slice_.bytes += len(key) + len(value)
        if (
            slice_.records >= _SLICE_RECORDS_MAX
            or slice_.bytes >= _SLICE_BYTES_MAX
            or monotonic() >= deadline
        ):
            return
        more = cursor.next()
    slice_.ended = True


def _look(environment: Environment, database: ScrubDatabase, key: bytes) -> str | None:
    """What is wrong with one record now; None if it is whole or gone."""
    try:
        with environment.read() as txn:
            value = txn.get(key, db=environment.database(database.name))
            if value is not None:
                database.check(txn, key, value)
    except (CorruptionError, NewerFormat) as error:
        return str(error)
    return None


def _step(
    environment: Environment, database: ScrubDatabase, after: bytes | None
) -> str | None:
    """What LMDB says of the pages after ``after``; None if it can read on now."""
    try:
        with environment.read() as txn:
            _check_slice(txn, environment, database, _Slice(after))
    except CorruptionError as error:
        return str(error)
    return None


def _count(target: ScrubTarget) -> int:
    """Records in all databases; 0 if LMDB cannot tell."""
    environment = target.environment
    try:
        with environment.read() as txn:
            return sum(
                txn.stat(environment.database(database.name))["entries"]
                for database in target.databases
            )
    except CorruptionError:
        return 0
