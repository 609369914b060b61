"""Traces of runs: complete, the same every time, and readable; the run is the same.

``pytest tests/simulation/test_trace.py --rewrite`` writes down what the short run's
timeline is now.
"""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from kvstore.simulation.run import Outcome, simulate
from kvstore.simulation.seat import Seat
from kvstore.simulation.streams import Streams
from kvstore.simulation.swarm import Fault, draw
from kvstore.simulation.timeline import LAST, LEGEND, WIDTH, timeline
from kvstore.simulation.trace import Tracer, TraceRecord
from kvstore.simulation.world import World
from tests import walks

STEPS = 600
GOLDEN = Path(__file__).with_name("timeline.txt")
KEYS = ["time_us", "name", "nid", "state", "role", "log", "conf", "msg", "prop"]


def traced(
    seed: int, *, nodes: int | None = None, faults: Iterable[Fault] | None = None
) -> tuple[Outcome, list[str]]:
    lines: list[str] = []
    outcome = simulate(
        seed,
        random.Random,
        nodes=nodes,
        faults=faults,
        steps=STEPS,
        journal=Tracer(lines.append),
    )
    return outcome, lines


def trace(seed: int) -> str:
    """All of a trace, in short."""
    return hashlib.sha256("".join(traced(seed)[1]).encode()).hexdigest()


def records(lines: list[str]) -> list[TraceRecord]:
    return [json.loads(line) for line in lines]


# -------------------------------------------------------------------------- traces


@pytest.mark.parametrize("seed", range(6))
def test_each_line_is_one_whole_record(seed: int) -> None:
    _, lines = traced(seed)
    assert all(line.endswith("}\n") and line.count("\n") == 1 for line in lines)
    then_us = 0
    for record in records(lines):
        assert list(record) == [key for key in KEYS if key in record]
        assert record["name"]
        assert record["time_us"] >= then_us
        then_us = record["time_us"]
        if "nid" in record:
            assert record["nid"].isdigit()
            assert {"state", "role", "log"} <= set(record)
        if "msg" in record:
            assert record["name"].startswith(("Send", "Receive", "Lose"))
            assert record["msg"]["type"].startswith("Msg")


def test_what_arrives_was_sent() -> None:
    """Goal: the trace is complete. Method: no message comes from nowhere."""
    seen: Counter[str] = Counter()
    for seed in range(8):
        sent = set()
        for record in records(traced(seed)[1]):
            if "msg" not in record:
                continue
            message = json.dumps(record["msg"])
            name = record["name"]
            seen[name] += 1
            if name.startswith("Send"):
                sent.add(message)
                assert record["nid"] == record["msg"]["from"]
            elif name.startswith("Receive"):
                assert message in sent
                assert record["nid"] == record["msg"]["to"]
    for verb in ("Send", "Receive"):
        for noun in (
            "AppendEntriesRequest",
            "AppendEntriesResponse",
            "RequestVoteRequest",
            "RequestVoteResponse",
            "Snapshot",
        ):
            assert seen[verb + noun], seen


def test_a_trace_is_the_same_every_time() -> None:
    """Twice in one process, and under other hash seeds."""
    assert trace(3) == trace(3) != trace(4)
    assert walks.traces_under_hash_seeds(__name__, 3) == {trace(3)}


@pytest.mark.parametrize("seed", range(6))
def test_a_tracer_changes_nothing(seed: int) -> None:
    outcome, _ = traced(seed)
    assert outcome == simulate(seed, random.Random, steps=STEPS)


FAULTS = {
    Fault.LOSS: '"Lose',
    Fault.REPLAY: "old messages come again",
    Fault.DISCONNECT: "the connections of . and . break",
    Fault.PARTITION: r"the network falls apart: [\d, |]+",
    Fault.ONE_WAY: "hears nothing of|is not heard by",
    Fault.FLAPPING: "no link between",
    Fault.CRASH: '"Crash"',
    Fault.CRASH_AT_WRITE: "ends as it begins to write",
    Fault.POWER_CUT: "all members lose power",
    Fault.PAUSE: '"Pause"',
    Fault.CLOCK_RATE: "clock of . runs",
    Fault.CLOCK_JUMP: r"clock of . jumps \d+ ms",
    Fault.SLOW_DISK: "disk of . stands still for",
    Fault.DISK_ERROR: "disk of . is full|the next write of . fails",
    Fault.ROT: "entry .* rots",
    Fault.WIPE: "loses its directory",
    Fault.IMPATIENCE: "lose patience",
    Fault.LOST_REPLIES: "request #.* is lost",
    Fault.MEMBERS: '"Ask"',
    Fault.TRANSFER: '"line":"transfer',
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.value)
def test_a_fault_is_told_if_and_only_if_there_is_one(fault: Fault) -> None:
    told = re.compile(FAULTS[fault])
    for seed in range(40):
        outcome, lines = traced(seed, nodes=3, faults=[fault])
        found = any(told.search(line) for line in lines[1:])
        if not outcome.faults:
            before_the_end = "".join(lines).partition("the faults end")[0]
            assert not told.search(before_the_end.partition("\n")[2])
        elif found:
            return
    pytest.fail(f"{fault.value} is never told")


# ------------------------------------------------------------------------ timelines


def short_run() -> list[str]:
    """A leader is cut off and crashes, another follows; the old one comes back."""
    lines: list[str] = []
    streams = Streams(1, random.Random)
    swarm = draw(streams.swarm, nodes=3, faults=())
    world = World(swarm, streams, Tracer(lines.append))
    journal = world.journal
    world.boot()
    old = _next_leader(world, above=0)
    id_ = old.member.node_id
    others = [it for it in world.seats if it != id_]
    links = [(id_, it) for it in others]
    journal.noted(world, f"{id_} is not heard by {others[0]},{others[1]}")
    world.network.cut(links)
    world.crash(old, write_is_lost=True)
    new = _next_leader(world, above=1)
    world.network.mend(links)
    world.start(old)
    bystander = next(it for it in world.seats.values() if it not in (old, new))
    world.pause(bystander)
    while old.replica.raft.commit_index < new.replica.raft.last_index:
        world.step()
    world.resume(bystander)
    while bystander.replica.raft.commit_index < new.replica.raft.last_index:
        world.step()
    journal.violated(world, "nothing at all (I0): this is how a run would end")
    return lines


def _next_leader(world: World, *, above: int) -> Seat:
    """Once it has committed something of its term, which is above this."""
    while True:
        world.step()
        leader = world.leader()
        if leader is not None and leader.replica.raft.term > above:
            raft = leader.replica.raft
            if raft.commit_index == raft.last_index:
                return leader


def test_the_timeline_of_a_short_run(request: pytest.FixtureRequest) -> None:
    """Golden: read the file, and understand what happened."""
    text = "\n".join(timeline(short_run())) + "\n"
    if request.config.getoption("rewrite"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
    for word in ("LEADS term 1", "CRASH", "LEADS term 2", "RESTARTS", "PAUSE", "!! "):
        assert word in text


@pytest.mark.parametrize("seed", range(8))
def test_a_timeline_fits_on_a_screen(seed: int) -> None:
    _, lines = traced(seed)
    shown = list(timeline(lines))
    everything = list(timeline(lines, 1_000_000))
    assert max(map(len, everything)) <= WIDTH
    assert not any(line != line.rstrip() for line in everything)
    heading = [*LEGEND, ""]
    assert shown[: len(heading)] == heading
    count = len(shown) - len(heading) - 2
    assert LAST - 10 < count <= LAST
    assert shown[-count:] == everything[-count:], "the last lines are those of all"
    assert re.match(r" +\d+\.\d\d  ", shown[-count]), "no turn is torn apart"


def test_a_timeline_of_nothing_is_empty() -> None:
    assert list(timeline([])) == []


def test_many_nodes_have_seven_columns_and_the_others_are_told_across() -> None:
    _, lines = traced(2, nodes=9, faults=())
    everything = list(timeline(lines, 1_000_000))
    (names,) = [line for line in everything if line.strip().startswith("ms ")]
    assert len(names.split()) == 1 + 7
    assert any("-- 9: " in line or "-- 8: " in line for line in everything)


def test_heartbeats_are_counted_unless_they_change_something() -> None:
    _, lines = traced(1, faults=())
    heard = sum('"Receive' in line and '"MsgHeartbeat' in line for line in lines)
    shown = list(timeline(lines, 1_000_000))
    assert any(re.search(r"\.\. \d+ heartbeats", line) for line in shown)
    single = [line for line in shown if "> heartbeat" in line]
    assert 0 < len(single) < heard / 2
