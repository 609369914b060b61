"""The durable log under damage, crashes and threads."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread

import pytest

from kvstore.errors import CorruptionError, KVStoreError, NewerFormat
from kvstore.raft.membership import NOBODY
from kvstore.raft.messages import Entry, EntryId, EntryKind, HardState, Snapshot
from kvstore.replica.interfaces import Identity
from kvstore.storage import lmdb_log
from kvstore.storage.environment import Environment
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.storage.log_format import (
    BASE_KEY,
    DATABASES,
    HARD_STATE_KEY,
    LogCodecs,
    LogEnd,
    StoredHardState,
    entry_key,
)
from kvstore.types import ClusterId, LogIndex, NodeId, Term
from tests.storage.damage import Place, change, flip_on_disk, get

Make = Callable[..., list[Entry]]
UNLIMITED = 1 << 40
WHAT_TO_DO = "the other members still hold this data: replace this member"


@pytest.fixture
def path(tmp_path: Path, identity: Identity, make_entries: Make) -> Path:
    """A closed log of ten entries, the last five of term 2, with a vote."""
    raft = tmp_path / "raft"
    LMDBLog.create(raft, identity)
    log = LMDBLog.open(raft, identity)
    log.append(HardState(term=Term(1), vote=None), make_entries(1, 5))
    log.append(HardState(term=Term(2), vote=NodeId(3)), make_entries(6, 10, term=2))
    log.close()
    return raft


@contextmanager
def opened(path: Path) -> Iterator[Environment]:
    """The store behind the log's back."""
    environment = Environment.open(path, store="raft", databases=DATABASES)
    yield environment
    environment.close()


def read(path: Path, place: Place) -> bytes:
    with opened(path) as environment:
        return get(environment, place)


def write(path: Path, place: Place, record: bytes | None) -> None:
    """As a lost or stray write would; None deletes."""
    with opened(path) as environment:
        change(environment, place, record)


LAST = entry_key(10)
HARD_STATES = (Place("hs_a", HARD_STATE_KEY), Place("hs_b", HARD_STATE_KEY))


@pytest.mark.parametrize(
    "place",
    [
        Place("log", LAST),
        Place("log", entry_key(1)),
        Place("hdr", LAST),
        Place("hdr", entry_key(4)),
        Place("meta", BASE_KEY),
    ],
    ids=lambda place: f"{place.database}-{place.key[-1:].hex()}",
)
def test_flipped_bit_on_disk_is_refused_and_named(
    path: Path, identity: Identity, place: Place
) -> None:
    """Goal: a log that cannot be trusted does not open; the message says why and how.

    The bit is flipped in the file, under LMDB, which does not notice.
    """
    flip_on_disk(path, read(path, place))
    with pytest.raises(CorruptionError) as caught:
        LMDBLog.open(path, identity)
    assert caught.value.database == place.database
    assert caught.value.key_hex == place.key.hex()
    assert caught.value.store == "raft"
    assert f"record {place.key.hex()} of raft/{place.database}" in str(caught.value)
    assert "fails its checksum" in str(caught.value)
    assert WHAT_TO_DO in str(caught.value)


@pytest.mark.parametrize("damaged", ["hs_a", "hs_b"])
def test_one_damaged_hard_state_is_mended_from_the_other(
    path: Path,
    identity: Identity,
    make_entries: Make,
    damaged: str,
) -> None:
    """Goal: one fault costs neither the vote nor the member, and is reported once."""
    flip_on_disk(path, read(path, Place(damaged, HARD_STATE_KEY)))
    log = LMDBLog.open(path, identity)
    assert log.hard_state == HardState(term=Term(2), vote=NodeId(3))
    (finding,) = log.findings
    assert (finding.store, finding.database) == ("raft", damaged)
    assert finding.key_hex == HARD_STATE_KEY.hex()
    assert "replaced from the other copy" in finding.what
    log.append(None, make_entries(11, 12, term=2))
    log.close()
    again = LMDBLog.open(path, identity)
    assert again.findings == ()
    assert again.last_index == 12
    again.close()


def test_both_hard_states_damaged_is_refused(path: Path, identity: Identity) -> None:
    """Goal: a member that may have forgotten its vote must not vote again."""
    for place in HARD_STATES:
        flip_on_disk(path, read(path, place))
    with pytest.raises(CorruptionError, match=WHAT_TO_DO) as caught:
        LMDBLog.open(path, identity)
    assert caught.value.database == "hs_a"


@pytest.mark.parametrize("stale", [0, 1])
def test_stale_hard_state_is_mended_from_the_newer(
    path: Path, identity: Identity, make_entries: Make, stale: int
) -> None:
    """Goal: a whole but older copy (a lost write) is not mistaken for the truth."""
    place = HARD_STATES[stale]
    older = read(path, place)
    log = LMDBLog.open(path, identity)
    log.append(HardState(term=Term(3), vote=NodeId(1)), make_entries(11, 11, term=3))
    log.close()
    write(path, place, older)
    log = LMDBLog.open(path, identity)
    assert log.hard_state == HardState(term=Term(3), vote=NodeId(1))
    assert [finding.database for finding in log.findings] == [place.database]
    assert "older than its copy by 1" in log.findings[0].what
    log.close()
    again = LMDBLog.open(path, identity)
    assert again.findings == ()
    again.close()


@pytest.mark.parametrize(
    ("damage", "database", "what"),
    [
        ({Place("log", LAST): None}, "log", "is missing"),
        ({Place("hdr", LAST): None}, "hdr", "is missing"),
        ({Place("log", LAST): None, Place("hdr", LAST): None}, "log", "is missing"),
        ({Place("log", entry_key(5)): None}, "log", "without gaps"),
        ({Place("hdr", entry_key(5)): None}, "hdr", "without gaps"),
        ({Place("log", entry_key(1)): None}, "log", "is missing"),
        ({Place("log", entry_key(11)): b"x"}, "log", "without gaps"),
        (
            {Place("log", entry_key(5)): None, Place("log", entry_key(12)): b"x"},
            "log",
            "beyond the end",
        ),
        ({Place("meta", BASE_KEY): None}, "meta", "is missing"),
        (dict.fromkeys(HARD_STATES), "hs_a", "is missing"),
    ],
)
def test_missing_and_stray_records_are_refused(
    path: Path,
    identity: Identity,
    damage: dict[Place, bytes | None],
    database: str,
    what: str,
) -> None:
    """Goal: the log is whole from its base to the end that the hard state names."""
    for place, record in damage.items():
        write(path, place, record)
    with pytest.raises(CorruptionError, match=what) as caught:
        LMDBLog.open(path, identity)
    assert caught.value.database == database
    assert WHAT_TO_DO in str(caught.value)


def replace_tail(
    path: Path, identity: Identity, make_entries: Make, *places: Place
) -> None:
    """Replace entries 8 to 10 in term 3, then bring back old records in ``places``."""
    old = [read(path, place) for place in places]
    log = LMDBLog.open(path, identity)
    log.append(HardState(term=Term(3), vote=None), make_entries(8, 10, term=3))
    log.close()
    for place, value in zip(places, old, strict=True):
        write(path, place, value)


@pytest.mark.parametrize(
    ("places", "database"),
    [
        ([Place("log", entry_key(9))], "log"),
        ([Place("hdr", entry_key(9))], "hdr"),
        ([Place("log", entry_key(9)), Place("hdr", entry_key(9))], "hdr"),
        ([Place("log", LAST), Place("hdr", LAST)], "hdr"),
    ],
)
def test_stale_record_with_a_valid_checksum_is_refused(
    path: Path,
    identity: Identity,
    make_entries: Make,
    places: list[Place],
    database: str,
) -> None:
    """Goal: a lost write leaves an older record that is whole; the chain betrays it."""
    replace_tail(path, identity, make_entries, *places)
    with pytest.raises(CorruptionError) as caught:
        LMDBLog.open(path, identity)
    assert caught.value.database == database


def test_stale_tail_that_fits_the_chain_is_refused(
    path: Path, identity: Identity, make_entries: Make
) -> None:
    """Goal: even if all of the tail went back, the hard state names the true end."""
    places = [Place(name, entry_key(i)) for name in ("log", "hdr") for i in (8, 9, 10)]
    replace_tail(path, identity, make_entries, *places)
    with pytest.raises(CorruptionError, match="not the end of the log that the hard"):
        LMDBLog.open(path, identity)


@pytest.mark.parametrize("database", ["log", "hdr"])
def test_damage_beyond_what_opening_checks_is_found_by_reading(
    path: Path,
    identity: Identity,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
) -> None:
    """Goal: no damaged entry, or entry whose header is damaged, is ever returned."""
    monkeypatch.setattr(lmdb_log, "VERIFIED_ON_OPEN_MAX", 2)
    flip_on_disk(path, read(path, Place(database, entry_key(4))))
    log = LMDBLog.open(path, identity)
    with pytest.raises(CorruptionError) as caught:
        log.entries(LogIndex(1), LogIndex(11), UNLIMITED)
    assert caught.value.key_hex == entry_key(4).hex()
    assert caught.value.database == database
    assert len(log.entries(LogIndex(1), LogIndex(4), UNLIMITED)) == 3
    if database == "hdr":
        with pytest.raises(CorruptionError):
            log.term(LogIndex(4))
    else:
        assert log.term(LogIndex(4)) == 1
    log.close()


def test_log_of_another_member_is_refused(path: Path, identity: Identity) -> None:
    """Goal: a copied store does not open under another identity."""
    for other in (
        Identity(cluster_id=identity.cluster_id, node_id=NodeId(8)),
        Identity(cluster_id=ClusterId(b"d" * 16), node_id=identity.node_id),
    ):
        with pytest.raises(CorruptionError):
            LMDBLog.open(path, other)


def test_unknown_mode_is_a_newer_format(path: Path, identity: Identity) -> None:
    """Goal: a member that lost promises, by the word of a newer kvstore, stays out."""
    codecs = LogCodecs.of(identity)
    stored = StoredHardState(
        HardState(term=Term(2), vote=None), 9, LogEnd(10, 2, bytes(16)), 0
    )
    value = codecs.encode_hard_state(0, stored)
    record = codecs.hard_states[0].decode(HARD_STATE_KEY, value)
    body = bytearray(record.body)
    body[24] = 1  # the mode
    value = codecs.hard_states[0].encode(
        HARD_STATE_KEY, record_type=record.type, term=2, index=9, body=bytes(body)
    )
    write(path, HARD_STATES[0], value)
    with pytest.raises(NewerFormat, match="mode 1"):
        LMDBLog.open(path, identity)


def test_log_that_was_never_created_is_refused(
    tmp_path: Path, identity: Identity
) -> None:
    """Goal: an empty disk is not an empty log."""
    with pytest.raises(CorruptionError, match=r"data\.mdb is missing"):
        LMDBLog.open(tmp_path / "raft", identity)


def test_terms_outside_the_cache_are_read(
    path: Path,
    identity: Identity,
    make_entries: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Goal: the cache of terms is bounded, and invisible."""
    monkeypatch.setattr(lmdb_log, "TERMS_CACHED_MAX", 8)
    monkeypatch.setattr(lmdb_log, "VERIFIED_ON_OPEN_MAX", 4)
    log = LMDBLog.open(path, identity)
    for index in range(11, 60):
        log.append(None, make_entries(index, index, term=2))
        assert len(log._terms) <= 9
    assert [log.term(LogIndex(i)) for i in range(60)] == [0] + [1] * 5 + [2] * 54
    log.close()


def test_reader_never_sees_a_half_replaced_tail(
    path: Path, identity: Identity, make_entries: Make
) -> None:
    """Goal: reading beside a writer that replaces tails gives whole, linked answers."""
    log = LMDBLog.open(path, identity)
    done = Event()
    failures: list[KVStoreError] = []
    answers = 0

    def read_on() -> None:
        nonlocal answers
        while not done.is_set():
            end = log.last_index
            try:
                found = log.entries(LogIndex(1), LogIndex(end + 1), UNLIMITED)
                log.term(end)
            except LookupError:
                continue  # the tail was cut after we looked at its end
            except KVStoreError as error:
                failures.append(error)
                return
            assert [entry.index for entry in found] == list(range(1, len(found) + 1))
            assert all(a.term <= b.term for a, b in pairwise(found))
            answers += 1

    reader = Thread(target=read_on)
    reader.start()
    rng = random.Random(1)
    for term in range(3, 300):
        first = log.last_index + 1 - rng.randrange(min(5, log.last_index))
        entries = make_entries(first, first + rng.randrange(5), term=term)
        log.append(HardState(term=Term(term), vote=None), entries)
    done.set()
    reader.join(10)
    assert failures == []
    assert answers > 0
    log.close()


APPENDER = """
import sys
from pathlib import Path
from test_lmdb_log import append_one
from kvstore.storage.lmdb_log import LMDBLog
from kvstore.replica.interfaces import Identity
log = LMDBLog.open(
    Path(sys.argv[1]), Identity(cluster_id=bytes(range(16)), node_id=7)
)
for number in range(int(sys.argv[2]), 1_000_000):
    append_one(log, number)
    print(number, flush=True)
"""


def append_one(log: LMDBLog, number: int) -> None:
    """Append number ``number`` of a sequence that depends on nothing else.

    Each writes 1 to 8 entries of up to 3 KB and a vote; every third cuts a tail off.
    """
    rng = random.Random(number)
    cut = rng.randrange(min(4, log.last_index) + 1) if number % 3 == 0 else 0
    first = log.last_index + 1 - cut
    entries = [
        Entry(
            Term(number),
            LogIndex(index),
            EntryKind.COMMANDS,
            rng.randbytes(rng.randrange(3000)),
        )
        for index in range(first, first + rng.randrange(1, 9))
    ]
    log.append(HardState(term=Term(number), vote=NodeId(number)), entries)


@pytest.mark.slow
def test_killed_writer_leaves_a_whole_log(
    tmp_path: Path, identity: Identity, make_entries: Make
) -> None:
    """Goal: after SIGKILL at any moment the log opens, holding every acknowledged
    append and at most the one that was under way, each whole.

    A second log, which replays the same sequence in this process, says what must be
    there. It does not show what a power cut does: the page cache survives a kill.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    victim, model_path = tmp_path / "raft", tmp_path / "model"
    for path in (victim, model_path):
        LMDBLog.create(path, identity)
    model = LMDBLog.open(model_path, identity)
    done = 0
    for _ in range(15):
        process = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(victim), str(done + 1)],
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(Path(__file__).parent)},
        )
        assert process.stdout is not None
        acknowledged = done
        for _ in range(rng.randrange(1, 60)):
            acknowledged = int(process.stdout.readline())
        Event().wait(rng.random() * 0.002)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines()
        process.wait(10)
        process.stdout.close()
        acknowledged = max([acknowledged, *(int(line) for line in rest if line)])

        log = LMDBLog.open(victim, identity)
        assert log.findings == ()
        stored = int(log.hard_state.term)
        assert stored in (acknowledged, acknowledged + 1)
        for number in range(done + 1, stored + 1):
            append_one(model, number)
        done = stored
        assert log.hard_state == model.hard_state
        end = LogIndex(model.last_index + 1)
        assert log.last_index == model.last_index
        everything = log.entries(LogIndex(1), end, UNLIMITED)
        assert everything == model.entries(LogIndex(1), end, UNLIMITED)
        log.close()
    model.close()


# -------------------------------------------- configurations, compaction, snapshots


@pytest.fixture
def reconfigured(tmp_path: Path, identity: Identity, make_entries: Make) -> Path:
    """A closed log of six entries, of which 2 and 5 are configurations."""
    raft = tmp_path / "conf"
    LMDBLog.create(raft, identity)
    entries = make_entries(1, 6)
    for index in (2, 5):
        entries[index - 1] = Entry(
            Term(1), LogIndex(index), EntryKind.CONFIGURATION, NOBODY.encode()
        )
    log = LMDBLog.open(raft, identity)
    log.append(HardState(term=Term(1), vote=None), entries)
    log.close()
    return raft


@pytest.mark.parametrize(
    ("index", "what"), [(2, "is missing"), (5, "not the newest configuration")]
)
def test_lost_configuration_is_refused(
    reconfigured: Path, identity: Identity, index: int, what: str
) -> None:
    """Goal: no member goes by a configuration that was replaced."""
    write(reconfigured, Place("conf", entry_key(index)), None)
    with pytest.raises(CorruptionError, match=what) as caught:
        LMDBLog.open(reconfigured, identity)
    assert caught.value.database == "conf"


def test_stale_configuration_is_refused(
    reconfigured: Path, identity: Identity, make_entries: Make
) -> None:
    """Goal: a record of an entry that was replaced does not pass for the new one's."""
    place = Place("conf", entry_key(5))
    stale = read(reconfigured, place)
    log = LMDBLog.open(reconfigured, identity)
    log.append(HardState(term=Term(2), vote=None), make_entries(5, 6, term=2))
    log.close()
    write(reconfigured, place, stale)
    with pytest.raises(CorruptionError, match="names another entry"):
        LMDBLog.open(reconfigured, identity)


def test_compaction_goes_on_with_the_appends(
    path: Path, identity: Identity, make_entries: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: no transaction deletes more than its share, and nothing is left behind."""
    monkeypatch.setattr(lmdb_log, "FORGOTTEN_PER_APPEND_MAX", 3)
    log = LMDBLog.open(path, identity)
    log.compact(LogIndex(8))
    seen = [log.first_index]
    for index in range(11, 15):
        log.append(None, make_entries(index, index, term=2))
        seen.append(log.first_index)
    assert seen == [4, 7, 9, 9, 9]
    log.close()
    again = LMDBLog.open(path, identity)
    assert (again.first_index, again.last_index) == (9, 14)
    again.close()


def test_chain_names_the_log(path: Path, identity: Identity, tmp_path: Path) -> None:
    """Goal: members that hold one log agree on its chain, wherever it begins."""
    log = LMDBLog.open(path, identity)
    other_path = tmp_path / "other"
    other_identity = Identity(cluster_id=identity.cluster_id, node_id=NodeId(8))
    LMDBLog.create(other_path, other_identity)
    other = LMDBLog.open(other_path, other_identity)
    other.install(
        HardState(term=Term(2), vote=None),
        Snapshot(
            last=EntryId(log.term(LogIndex(6)), LogIndex(6)),
            configuration=NOBODY.encode(),
        ),
        chain=log.chain(LogIndex(6)),
        snapshot_id=b"id",
    )
    other.append(None, log.entries(LogIndex(7), LogIndex(11), UNLIMITED))
    for index in range(6, 11):
        assert other.chain(LogIndex(index)) == log.chain(LogIndex(index))
    log.close()
    other.close()


def test_an_install_is_remembered_until_it_is_finished(
    path: Path, identity: Identity
) -> None:
    """Goal: whoever opens the log after a crash knows which state belongs to it."""
    last = EntryId(Term(2), LogIndex(12))
    log = LMDBLog.open(path, identity)
    assert log.installing is None
    log.install(
        None,
        Snapshot(last=last, configuration=NOBODY.encode()),
        chain=bytes(16),
        snapshot_id=b"id",
    )
    log.close()
    log = LMDBLog.open(path, identity)
    assert log.installing == (b"id", last)
    log.finish_install()
    log.finish_install()
    assert log.installing is None
    log.close()
    log = LMDBLog.open(path, identity)
    assert log.installing is None
    log.close()
