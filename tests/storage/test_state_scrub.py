"""The scrubber over the state: each damaged record, and records that do not fit."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct

import pytest

from kvstore.replica.interfaces import Identity
from kvstore.state_machine.view import Head, VersionId
from kvstore.storage.environment import DATA_FILE
from kvstore.storage.lmdb_state import LMDBState
from kvstore.storage.scrubber import Scrubber
from kvstore.storage.state_format import StateCodecs, version_key
from kvstore.types import LeaseId, Revision
from tests.state_machine.model import apply, compact, delete, op, put, step, txn
from tests.storage.damage import Place, positions
from tests.storage.state_store import (
    KEYS,
    LONG,
    PROGRESS,
    RECORDS,
    change,
    content_of,
    create,
    end_reading,
    head_of,
    on_disk,
    stored,
    version_at,
)

Wait = Callable[[Callable[[], bool]], None]
Found = list[tuple[str, bytes]]


@pytest.fixture
def state(tmp_path: Path, identity: Identity) -> Iterator[LMDBState]:
    create(tmp_path / "state", identity)
    opened = LMDBState.open(tmp_path / "state", identity)
    yield opened
    opened.close()


@pytest.fixture
def findings(state: LMDBState, wait_until: Wait) -> Callable[[], dict[Place, str]]:
    """``findings()``: those of one tour, with what they say."""

    def tour() -> dict[Place, str]:
        with Scrubber(
            [state.scrub_target()],
            pause_s=3600,
            records_per_second_max=1e9,
            bytes_per_second_max=1e9,
        ) as running:
            wait_until(lambda: running.status().tours[0].tours_completed == 1)
            status = running.status()
        (done,) = status.tours
        assert done.store == "state"
        assert done.corrupt_records == len(status.findings)
        assert {it.store for it in status.findings} <= {"state"}
        return {
            Place(it.database, bytes.fromhex(it.key_hex)): it.what
            for it in status.findings
        }

    return tour


Findings = Callable[[], dict[Place, str]]


def commit(state: LMDBState, *commands: object) -> None:
    state.begin()
    apply(state, *commands)  # type: ignore[arg-type]
    state.commit()


def test_a_whole_state_has_no_findings(state: LMDBState, findings: Findings) -> None:
    """Goal: every record in its role passes: tombstones, survivors, long keys."""
    assert findings() == {}


# -------------------------------------------------------------- flipped bits


@pytest.mark.parametrize("kind", list(RECORDS))
def test_a_flipped_bit_is_one_finding(
    state: LMDBState, findings: Findings, kind: str
) -> None:
    """Goal: the record is named, and nobody else is blamed for it."""
    place = RECORDS[kind]
    on_disk(state, place).flip()
    assert list(findings()) == [place]
    assert "fails its checksum" in findings()[place]


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("kind", list(RECORDS))
def test_a_flipped_bit_of_a_key_is_found(
    state: LMDBState, findings: Findings, kind: str, bit: int
) -> None:
    """Goal: under the key that it has now, or by who misses it under the old one.

    A key out of order is met by a tour, but no search finds it again to confirm it.
    """
    place = RECORDS[kind]
    on_disk(state, place).flip(len(place.key) - 1, bit)
    damaged = Place(place.database, place.key[:-1] + bytes([place.key[-1] ^ 1 << bit]))
    found = findings()
    assert found
    for where, what in found.items():
        if where == damaged:
            assert "fails its checksum" in what
        else:
            assert "missing" in what or "different revisions" in what


def test_a_key_that_became_another_one_is_found(
    state: LMDBState, findings: Findings
) -> None:
    """Goal: with two records of one key, the key that is gone betrays it."""
    place = head_of(b"c")
    on_disk(state, place).flip(0)  # now b"b"
    assert "is missing, but its version" in findings()[version_at(14)]


_LOWER = Struct("<H")


def test_a_page_that_forgot_records_is_found(
    state: LMDBState, findings: Findings
) -> None:
    """Goal: a flipped bit in a page's header, which hides heads that are whole.

    No reader can tell: the page says that it has fewer records, and they are in order.
    But the versions of the hidden keys are there.
    """
    content = content_of(state, head_of(b"e"))
    file = state.environment.path / DATA_FILE
    data = file.read_bytes()
    with file.open("r+b") as handle:
        for at in positions(data, content):
            page = at - at % 4096
            # mp_lower, the end of the page's table of records: two bytes a record.
            lower = _LOWER.unpack_from(data, page + 12)[0]
            handle.seek(page + 12)
            handle.write(_LOWER.pack(lower - 2 * 3))
    assert state.head(b"e") is None
    end_reading(state)
    found = findings()
    assert Place("kv", version_at(13).key) in found
    assert all("is missing, but its version" in what for what in found.values())


# ---------------------------------------------------------------- lost writes


def test_an_older_head_is_found(state: LMDBState, findings: Findings) -> None:
    """Goal: a lost write of heads: the versions written since are newer."""
    older = stored(state, head_of(b"c"))
    commit(state, put(b"c", b"c3"), put(b"c", b"c4"))
    change(state, head_of(b"c"), older)
    found = findings()
    assert list(found) == [version_at(15), version_at(16)]
    assert all("is older than a version of its key" in it for it in found.values())


def test_an_older_head_whose_version_was_swept_is_found(
    state: LMDBState, findings: Findings
) -> None:
    """Goal: as above, when compaction went on meanwhile: seen from both sides."""
    older = stored(state, head_of(b"c"))
    commit(state, put(b"c", b"c3"), compact(15))
    change(state, head_of(b"c"), older)
    found = findings()
    assert list(found) == [version_at(15), head_of(b"c")]
    assert "is older than a version of its key" in found[version_at(15)]
    assert "names version" in found[head_of(b"c")]
    assert "which is missing" in found[head_of(b"c")]


def test_a_missing_head_is_found_by_its_versions(
    state: LMDBState, findings: Findings
) -> None:
    """Goal: a key that every reader takes for absent is not lost in silence."""
    change(state, head_of(b"a"), None)
    found = findings()
    assert list(found) == [version_at(3), version_at(7), version_at(12)]
    assert all("is missing, but its version" in what for what in found.values())


@pytest.mark.parametrize(
    ("lost", "found", "says"),
    [
        (version_at(12), [head_of(b"a")], "names version"),
        (version_at(7), [version_at(12)], "follows version"),
        # Below the compacted revision, and yet what version 7 follows.
        (version_at(3), [version_at(7)], "follows version"),
        (version_at(9), [head_of(b"d")], "names version"),
        (version_at(8), [version_at(9)], "follows version"),
        (version_at(10), [head_of(KEYS[-2])], "names version"),
        (version_at(14), [head_of(b"c"), PROGRESS], ""),
    ],
)
def test_a_missing_version_is_found_by_who_follows_it(
    state: LMDBState, findings: Findings, lost: Place, found: list[Place], says: str
) -> None:
    """Goal: a lost write of versions shows before somebody reads the past."""
    change(state, lost, None)
    actual = findings()
    assert list(actual) == found
    assert all(says in what for what in actual.values())


def test_what_compaction_took_is_not_missed(
    state: LMDBState, findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: no false alarm at any step of a sweep, nor after a new life of a key."""
    monkeypatch.setattr(
        "kvstore.state_machine.compaction.COMPACTION_RECORDS_PER_ENTRY", 1
    )
    commit(
        state,
        put(b"d", b"new life"),
        delete(b"d"),
        put(b"d", b"another"),
        put(b"d", b"and on"),
        txn([], [op(put(b"t1")), op(delete(b"b")), op(put(b"t2"))]),
    )
    commit(state, compact(state.progress.revision))
    assert findings() == {}
    while state.progress.compaction_pending:
        commit(state, step())
        assert findings() == {}
    commit(state, put(b"b"), put(b"d"))
    assert findings() == {}


def test_a_progress_that_does_not_fit_history_is_found(
    state: LMDBState, findings: Findings
) -> None:
    """Goal: as at opening, so that a node that never restarts notices too."""
    older = stored(state, PROGRESS)
    commit(state, put(b"k"))
    change(state, PROGRESS, older)
    found = findings()
    assert list(found) == [PROGRESS]
    assert "of different revisions" in found[PROGRESS]


@pytest.mark.parametrize(
    "differs",
    [
        {"create_revision": 4},
        {"version": 9},
        {"lease": 5},
        {"at": VersionId(Revision(6), 0)},
    ],
)
def test_a_head_that_contradicts_its_version_is_found(
    state: LMDBState, findings: Findings, identity: Identity, differs: dict[str, int]
) -> None:
    """Goal: two whole records that cannot both be right; also another key's version."""
    real = state.head(b"c")
    assert real is not None
    fields = {name: getattr(real, name) for name in Head.__slots__} | differs
    head = Head(
        fields["at"],
        Revision(fields["create_revision"]),
        fields["version"],
        LeaseId(fields["lease"]),
    )
    change(state, head_of(b"c"), StateCodecs.of(identity).encode_head(b"c", b"c", head))
    found = findings()
    assert head_of(b"c") in found
    assert "say different things" in found[head_of(b"c")]


# ------------------------------------------------------------------- the rest


@pytest.mark.parametrize(
    "place",
    [
        Place("kv", b"stray"),
        Place("kv", bytes(12)),
        Place("heads", b"stray"),
        Place("heads", LONG + b"#" * 32),
        Place("meta", b"stray"),
    ],
)
def test_a_stray_record_is_found(
    state: LMDBState, findings: Findings, place: Place
) -> None:
    """Goal: what nobody wrote is damage too."""
    change(state, place, b"noise")
    assert list(findings()) == [place]


def test_a_damaged_neighbour_is_passed_over(
    state: LMDBState, findings: Findings
) -> None:
    """Goal: one fault is one finding, though others look at the record as well."""
    for place in (head_of(b"a"), version_at(14), version_at(7)):
        on_disk(state, place).flip()
    assert set(findings()) == {head_of(b"a"), version_at(14), version_at(7)}


def test_a_damaged_progress_blames_nobody_else(
    state: LMDBState, findings: Findings
) -> None:
    """Goal: whether a missing version was swept cannot be said then."""
    on_disk(state, PROGRESS).flip()
    change(state, version_at(7), None)
    assert list(findings()) == [PROGRESS]


def test_a_state_that_is_written_has_no_findings(
    state: LMDBState, wait_until: Wait
) -> None:
    """Goal: no false alarm beside writes, deletes and sweeps, seen at any commit."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with Scrubber(
        [state.scrub_target()],
        pause_s=0.0,
        records_per_second_max=1e9,
        bytes_per_second_max=1e9,
    ) as running:
        for number in range(150):
            commands = [put(b"%02d" % rng.randrange(60)) for _ in range(20)]
            if number % 3 == 0:
                first = rng.randrange(60)
                commands.append(delete(b"%02d" % first, b"%02d" % (first + 4)))
            if number % 10 == 9:
                revision = state.progress.revision
                commands.append(compact(revision - rng.randrange(50)))
            commit(state, *commands)
        seen = running.status().tours[0].tours_completed
        wait_until(lambda: running.status().tours[0].tours_completed >= seen + 2)
        status = running.status()
    assert status.findings == ()
    assert status.tours[0].corrupt_records == 0


def test_the_places_of_these_tests_are_real(state: LMDBState) -> None:
    """Goal: a test that damages nothing proves nothing."""
    assert version_at(7).key == version_key(VersionId(Revision(7), 0))
    for place in RECORDS.values():
        assert stored(state, place)
