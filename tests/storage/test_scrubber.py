"""The scrubber: finds damage, reports it once, and is not felt."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic

import lmdb
import pytest

from kvstore.raft.messages import Entry, HardState
from kvstore.replica.interfaces import Identity
from kvstore.storage import scrubber
from kvstore.storage.environment import Environment, Transaction
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.log_format import BASE_KEY, HARD_STATE_KEY, entry_key
from kvstore.storage.record import Finding, RecordCodec, RecordType
from kvstore.storage.scrubber import Scrubber, ScrubDatabase, ScrubTarget
from kvstore.types import NodeId, Term
from tests.storage.damage import Place, change, flip_on_disk, get

Make = Callable[..., list[Entry]]
Wait = Callable[[Callable[[], bool]], None]
FAST = 1e9
HARD_STATES = (Place("hs_a", HARD_STATE_KEY), Place("hs_b", HARD_STATE_KEY))
BASE = Place("meta", BASE_KEY)


class Store:
    """A store of plain records, all whole at first."""

    def __init__(self, path: Path, identity: Identity, records: int) -> None:
        self.codec = RecordCodec(identity, "state", "heads", RecordType.HEAD)
        self.environment = Environment.open(
            path, store="state", databases=("heads",), create=True
        )
        self.target = ScrubTarget(
            environment=self.environment, databases=(ScrubDatabase.of(self.codec),)
        )

        def fill(txn: Transaction) -> None:
            database = self.environment.database("heads")
            for number in range(records):
                txn.put(self.key(number), self.value(number), db=database)

        self.environment.write(fill)

    def key(self, number: int) -> bytes:
        return b"key %06d" % number

    def place(self, number: int) -> Place:
        return Place("heads", self.key(number))

    def value(self, number: int) -> bytes:
        return self.codec.encode(
            self.key(number),
            record_type=RecordType.HEAD,
            term=1,
            index=number,
            body=b"body of %d" % number,
        )

    def damage(self, number: int) -> None:
        value = bytearray(self.value(number))
        value[-1] ^= 1
        self.put(number, bytes(value))

    def put(self, number: int, value: bytes) -> None:
        change(self.environment, self.place(number), value)


@pytest.fixture
def store(tmp_path: Path, identity: Identity) -> Iterator[Store]:
    made = Store(tmp_path / "state", identity, 2000)
    yield made
    made.environment.close()


def scrub(
    *targets: ScrubTarget,
    pause_s: float = 0.0,
    records_per_second_max: float = FAST,
    bytes_per_second_max: float = FAST,
    on_finding: Callable[[Finding], None] | None = None,
) -> Scrubber:
    """A scrubber that does not spare anybody, unless told to."""
    return Scrubber(
        targets,
        pause_s=pause_s,
        records_per_second_max=records_per_second_max,
        bytes_per_second_max=bytes_per_second_max,
        on_finding=on_finding,
    )


def tours(running: Scrubber, number: int = 0) -> int:
    return running.status().tours[number].tours_completed


def test_tour_checks_every_record_once(store: Store, wait_until: Wait) -> None:
    """Goal: slices join without gap or overlap: the count is exact."""
    with scrub(store.target, pause_s=3600) as running:
        wait_until(lambda: tours(running) == 1)
        (tour,) = running.status().tours
    assert tour.store == "state"
    assert tour.records_checked_in_tour == tour.records_checked == 2000
    assert tour.progress == 1.0
    assert tour.corrupt_records == 0
    assert 0 < tour.last_tour_seconds < 10
    assert running.status().findings == ()


def test_damaged_records_are_found_and_named(store: Store, wait_until: Wait) -> None:
    """Goal: the first, the last, and those around the border of a slice."""
    damaged = [0, 63, 64, 1000, 1999]
    for number in damaged:
        store.damage(number)
    called: list[Finding] = []
    with scrub(store.target, pause_s=3600, on_finding=called.append) as running:
        wait_until(lambda: tours(running) == 1)
        status = running.status()
    assert [bytes.fromhex(found.key_hex) for found in status.findings] == [
        store.key(number) for number in damaged
    ]
    assert status.tours[0].corrupt_records == 5
    assert tuple(called) == status.findings
    assert {(found.store, found.database) for found in called} == {("state", "heads")}
    assert all("fails its checksum" in found.what for found in called)


def test_finding_is_reported_once_until_it_is_mended(
    store: Store, wait_until: Wait
) -> None:
    """Goal: later tours do not repeat a finding; a new damage after mending is new."""
    store.damage(7)
    called: list[Finding] = []
    with scrub(store.target, on_finding=called.append) as running:
        wait_until(lambda: tours(running) >= 3)
        assert len(called) == len(running.status().findings) == 1
        assert running.status().tours[0].corrupt_records == 1
        store.put(7, store.value(7))
        seen = tours(running)
        wait_until(lambda: tours(running) >= seen + 3)
        assert running.status().tours[0].corrupt_records == 0
        store.damage(7)
        wait_until(lambda: len(called) == 2)
        assert running.status().tours[0].corrupt_records == 1


def test_damage_that_passes_is_not_reported(store: Store, wait_until: Wait) -> None:
    """Goal: what is mended or deleted between two looks was no damage.

    The check fails on one record twice, then lets it pass: three more looks are due.
    """
    looks: list[bytes] = []

    def check(txn: Transaction, key: bytes, value: bytes) -> None:
        if key == store.key(100):
            looks.append(key)
            if len(looks) <= 3:
                raise store.codec.corruption(key, "looks bad")

    target = ScrubTarget(
        environment=store.environment,
        databases=(ScrubDatabase(name="heads", check=check),),
    )
    with scrub(target, pause_s=3600) as running:
        wait_until(lambda: tours(running) == 1)
        assert running.status().findings == ()
    assert len(looks) == 4


def test_record_deleted_meanwhile_is_not_reported(
    store: Store, wait_until: Wait
) -> None:
    """Goal: as above, with a record that is gone at the second look."""
    seen, gone = Event(), Event()

    def check(txn: Transaction, key: bytes, value: bytes) -> None:
        if key == store.key(100):
            seen.set()
            assert gone.wait(10)  # in every look that comes before the deletion
            raise store.codec.corruption(key, "looks bad")

    target = ScrubTarget(
        environment=store.environment,
        databases=(ScrubDatabase(name="heads", check=check),),
    )
    with scrub(target, pause_s=3600) as running:
        assert seen.wait(10)
        change(store.environment, store.place(100), None)
        gone.set()
        wait_until(lambda: tours(running) == 1)
        assert running.status().findings == ()


def test_pace_is_bounded_by_records(store: Store, wait_until: Wait) -> None:
    """Goal: 2,000 records at 10,000 a second take 0.2 s, less the last slice."""
    with scrub(store.target, pause_s=3600, records_per_second_max=10_000) as running:
        wait_until(lambda: tours(running) == 1)
    assert running.status().tours[0].last_tour_seconds >= (2000 - 64) / 10_000


def test_pace_is_bounded_by_bytes(store: Store, wait_until: Wait) -> None:
    """Goal: the cap in bytes holds by itself."""
    size = len(store.key(0)) + len(store.value(0))
    with scrub(
        store.target, pause_s=3600, bytes_per_second_max=10_000 * size
    ) as running:
        wait_until(lambda: tours(running) == 1)
    assert running.status().tours[0].last_tour_seconds >= (2000 - 64) / 10_000


def test_slices_are_small(
    store: Store, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: no reading transaction covers more than a slice, in records or in time."""
    slices: list[int] = []
    real = scrubber._read_slice

    def observed(
        environment: Environment, database: ScrubDatabase, after: bytes | None
    ) -> scrubber._Slice:
        slice_ = real(environment, database, after)
        slices.append(slice_.records)
        return slice_

    monkeypatch.setattr(scrubber, "_read_slice", observed)
    with scrub(store.target, pause_s=3600) as running:
        wait_until(lambda: tours(running) == 1)
    assert sum(slices) == 2000
    assert max(slices) <= 64


@pytest.mark.parametrize("busy", ["pausing between tours", "pacing inside a tour"])
def test_close_is_prompt(store: Store, wait_until: Wait, busy: str) -> None:
    """Goal: a node that stops does not wait for the scrubber's patience."""
    slow = busy == "pacing inside a tour"
    running = scrub(
        store.target, pause_s=3600, records_per_second_max=1 if slow else FAST
    )
    running.start()
    wait_until(lambda: running.status().tours[0].records_checked > 0)
    began = monotonic()
    running.close()
    assert monotonic() - began < 1
    running.close()
    assert running.status().tours[0].progress > 0


def test_scrubber_that_never_started_can_be_closed(store: Store) -> None:
    """Goal: a start that failed elsewhere can still clean up."""
    scrub(store.target).close()


def test_status_before_the_first_tour(store: Store) -> None:
    """Goal: the status is total, from the first moment."""
    (tour,) = scrub(store.target).status().tours
    assert tour.progress == 0.0
    assert tour.tours_completed == tour.records_checked == 0
    assert tour.last_tour_seconds == 0


def test_findings_and_counts_are_bounded(
    store: Store, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a store that is rotten throughout costs neither memory nor hours."""
    monkeypatch.setattr(scrubber, "CORRUPT_PER_DATABASE_MAX", 300)
    monkeypatch.setattr(scrubber, "_REREAD_PAUSE_S", 0)
    for number in range(600):
        store.damage(number)
    with scrub(store.target, pause_s=3600) as running:
        wait_until(lambda: tours(running) == 1)
        status = running.status()
    assert len(status.findings) == 100
    assert 300 <= status.tours[0].corrupt_records <= 300 + 64


@pytest.fixture
def log(tmp_path: Path, identity: Identity, make_entries: Make) -> Iterator[LMDBLog]:
    """An open log of 500 entries."""
    LMDBLog.create(tmp_path / "raft", identity)
    opened = LMDBLog.open(tmp_path / "raft", identity)
    opened.append(HardState(term=Term(2), vote=NodeId(3)), make_entries(1, 500))
    yield opened
    opened.close()


def findings_of_one_tour(log: LMDBLog, wait_until: Wait) -> list[Place]:
    with scrub(log.scrub_target(), pause_s=3600) as running:
        wait_until(lambda: tours(running) == 1)
        found = running.status().findings
    return [Place(it.database, bytes.fromhex(it.key_hex)) for it in found]


def test_whole_log_has_no_findings_while_it_is_written(
    log: LMDBLog, make_entries: Make, wait_until: Wait
) -> None:
    """Goal: no false alarm from appends and replaced tails, and writers are not held.

    300 appends run beside tours without pause; each must pass in reasonable time.
    """
    rng = random.Random(2)
    with scrub(log.scrub_target()) as running:
        for term in range(3, 303):
            first = log.last_index + 1 - rng.randrange(5)
            entries = make_entries(first, first + rng.randrange(6), term=term)
            began = monotonic()
            log.append(HardState(term=Term(term), vote=None), entries)
            assert monotonic() - began < 2
        seen = tours(running)
        wait_until(lambda: tours(running) >= seen + 2)
        status = running.status()
    assert status.findings == ()
    assert status.tours[0].store == "raft"
    assert status.tours[0].tours_completed >= 2
    assert status.tours[0].records_checked_in_tour <= 2 * log.last_index + 3


@pytest.mark.parametrize(
    "place",
    [
        Place("log", entry_key(250)),
        Place("hdr", entry_key(250)),
        Place("log", entry_key(500)),
        Place("hdr", entry_key(500)),
        *HARD_STATES,
        BASE,
    ],
    ids=lambda place: f"{place.database}-{place.key.hex()}",
)
def test_flipped_bit_on_disk_is_one_finding(
    log: LMDBLog, wait_until: Wait, place: Place
) -> None:
    """Goal: each kind of record, damaged under a running store, is found, alone.

    The file is changed in place, so that the store sees what rot on a medium shows it.
    """
    flip_on_disk(log.environment.path, get(log.environment, place))
    assert findings_of_one_tour(log, wait_until) == [place]


def test_lost_write_is_found_though_every_checksum_is_valid(
    log: LMDBLog, make_entries: Make, wait_until: Wait
) -> None:
    """Goal: whole, older records are betrayed by the chain and by their neighbours."""
    entry, header = (Place(name, entry_key(499)) for name in ("log", "hdr"))
    hard_state = HARD_STATES[1]
    lost = (entry, header, hard_state)
    older = {place: get(log.environment, place) for place in lost}
    log.append(HardState(term=Term(5), vote=None), make_entries(498, 500, term=5))
    assert findings_of_one_tour(log, wait_until) == []

    change(log.environment, entry, older[entry])
    assert findings_of_one_tour(log, wait_until) == [entry]
    change(log.environment, header, older[header])
    assert findings_of_one_tour(log, wait_until) == [
        header,
        Place("hdr", entry_key(500)),
    ]
    change(log.environment, hard_state, older[hard_state])
    assert hard_state in findings_of_one_tour(log, wait_until)


@pytest.mark.parametrize(
    ("missing", "found"),
    [
        ([Place("log", entry_key(9))], [Place("hdr", entry_key(9))]),
        (
            [Place("hdr", entry_key(9))],
            [Place("log", entry_key(9)), Place("hdr", entry_key(10))],
        ),
        (
            [Place("log", entry_key(9)), Place("hdr", entry_key(9))],
            [Place("hdr", entry_key(10))],
        ),
        (
            [Place("log", entry_key(500)), Place("hdr", entry_key(500))],
            list(HARD_STATES),
        ),
        ([HARD_STATES[0]], [HARD_STATES[1]]),
        ([BASE], list(HARD_STATES)),
    ],
)
def test_missing_record_is_found_by_who_relies_on_it(
    log: LMDBLog, wait_until: Wait, missing: list[Place], found: list[Place]
) -> None:
    """Goal: no tour comes by what is not there, and it shows all the same."""
    for place in missing:
        change(log.environment, place, None)
    assert findings_of_one_tour(log, wait_until) == found


@pytest.mark.parametrize("database", ["log", "hdr", "hs_a", "meta"])
def test_stray_record_is_found(log: LMDBLog, wait_until: Wait, database: str) -> None:
    """Goal: what nobody wrote is damage too."""
    stray = Place(database, b"stray")
    change(log.environment, stray, b"noise")
    assert findings_of_one_tour(log, wait_until) == [stray]


def test_two_stores_are_toured_in_turn(
    store: Store, log: LMDBLog, wait_until: Wait
) -> None:
    """Goal: one scrubber, a status for each store."""
    store.damage(5)
    with scrub(log.scrub_target(), store.target) as running:
        wait_until(lambda: tours(running, 1) >= 2)
        status = running.status()
    assert [tour.store for tour in status.tours] == ["raft", "state"]
    assert [tour.corrupt_records for tour in status.tours] == [0, 1]
    assert status.tours[0].tours_completed >= 2


def test_page_that_lmdb_refuses_ends_the_tour_of_its_database(
    store: Store, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: damage between records is a finding at the last key that can be reached."""

    def check(txn: Transaction, key: bytes, value: bytes) -> None:
        if key == store.key(300):
            raise lmdb.CorruptedError("mdb_cursor_get")

    target = ScrubTarget(
        environment=store.environment,
        databases=(ScrubDatabase(name="heads", check=check),),
    )
    with scrub(target, pause_s=3600) as running:
        wait_until(lambda: tours(running) == 1)
        status = running.status()
    (finding,) = status.findings
    assert bytes.fromhex(finding.key_hex) == store.key(299)
    assert "damaged: mdb_cursor_get" in finding.what
    assert status.tours[0].corrupt_records == 1
