"""A run as a schedule: every input of every member, as lines that a script can have.

Replayed from the first to the last line, they bring a cluster that is moved by hand
(:mod:`replicas`) to the same end; so what matters among them can be looked for
(:mod:`shrinking`). What only decides when things happen, as pauses, cuts and delays, is
in the order of the lines already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from kvstore.pb import kv_pb2
from kvstore.raft.messages import InstallSnapshot
from kvstore.replica.messages import PeerMessage
from kvstore.simulation import batches
from kvstore.simulation.cluster import TICK_MS
from kvstore.simulation.commands import LEVELS
from kvstore.simulation.describe import Describer
from kvstore.simulation.founding import option_words
from kvstore.simulation.journal import Journal
from kvstore.simulation.replicas import ReplicaDraws
from kvstore.simulation.traffic import PATIENCE_TICKS
from kvstore.simulation.workload import Write
from kvstore.types import LogIndex, NodeId, Ticket

if TYPE_CHECKING:
    from random import Random

    from kvstore.simulation.seat import Seat
    from kvstore.simulation.workload import Read
    from kvstore.simulation.world import World

LEVEL_NAMES = {value: name for name, value in LEVELS.items()}


@dataclass(slots=True)
class Line:
    """One input of one member."""

    number: int
    """From 0, in the order of the run."""
    node_id: NodeId
    text: str
    """As a script has it; of a delivery, which :attr:`message` names, only its ends."""
    message: str | None = None
    """What arrives, in words."""
    draws: list[int] = field(default_factory=list)
    """What the member drew in the course of it."""


class Recorder(Journal):
    """Writes down one run."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.founding = ""
        """The first line: members and options."""
        self.left_out: list[str] = []
        """What no script can say, and happened."""
        self._last: dict[NodeId, Line] = {}
        self._clocks: dict[NodeId, int] = {}
        self._clock_matters = False

    def begins(self, world: World) -> None:
        """The founding members, all started at once."""
        swarm = world.swarm
        words = [f"replicas {swarm.nodes}", *option_words(swarm.replica_options)]
        if swarm.leases:
            words.append("leases=on")
        self.founding = " ".join(words)
        self._clock_matters = swarm.leases

    def chance(self, node_id: NodeId, life: int, random: Random) -> Random:
        """What a member draws from now on is written down."""
        # In the script, each has a life before its first one here.
        names = ReplicaDraws(node_id, life + 1)
        return cast("Random", _Recorded(random, names, self._last))

    def _add(self, seat: Seat, text: str, message: str | None = None) -> None:
        node = seat.member.node_id
        self._catch_up(node, seat.member.clock_ms)
        self._append(node, text, message)

    def _append(self, node: NodeId, text: str, message: str | None = None) -> None:
        line = Line(len(self.lines), node, text, message)
        self.lines.append(line)
        self._last[node] = line

    def _catch_up(self, node: NodeId, clock_ms: int) -> None:
        ahead_ms = clock_ms - self._clocks.get(node, 0)
        if ahead_ms > (0 if self._clock_matters else 2 * TICK_MS):
            self._append(node, f"clock {node} +{ahead_ms}")
            self._clocks[node] = clock_ms

    # ------------------------------------------------------------------- inputs

    def restarted(self, world: World, seat: Seat, *, survives: int) -> None:
        """Whoever had ended is started again."""
        del world
        member = seat.member
        node = member.node_id
        if not member.life:
            # A script starts it, too; what it drew then is not what it drew here.
            self._append(node, f"crash {node} lose=nothing")
        self._append(node, f"restart {node}" + " lose=state" * bool(survives))

    def joined(self, world: World, node_id: NodeId) -> None:
        """It is started by the same line."""
        del world
        self._append(node_id, f"join {node_id}")

    def wiped(self, world: World, node_id: NodeId) -> None:
        """Scripts know of no second directory."""
        del world
        self.left_out.append(f"{node_id} was wiped")

    def crashed(self, world: World, seat: Seat, *, write_is_lost: bool) -> None:
        """The write in flight, too, if it is lost."""
        del world
        lose = "write" if write_is_lost else "nothing"
        node = seat.member.node_id
        self._append(node, f"crash {node} lose={lose}")

    def disconnected(self, world: World, seat: Seat, peer: NodeId) -> None:
        """A member sees a connection close."""
        del world
        self._add(seat, f"disconnect {seat.member.node_id}->{peer}")

    def ticked(self, world: World, seat: Seat, count: int) -> None:
        """Each tick moves the clock of a script, too."""
        del world
        node = seat.member.node_id
        self._append(node, f"tick {node}" + f" {count}" * (count > 1))
        self._clocks[node] = self._clocks.get(node, 0) + count * TICK_MS

    def wrote(self, world: World, seat: Seat) -> None:
        """A log write ends, well or not."""
        del world
        if not (seat.disk_fails or seat.disk_is_full):
            self._add(seat, f"fsync {seat.member.node_id}")

    def worked(self, world: World, seat: Seat) -> None:
        """One piece of the state machine's work."""
        del world
        self._add(seat, f"work {seat.member.node_id}")

    def committed(self, world: World, seat: Seat) -> None:
        """A state is committed."""
        del world
        self._add(seat, f"commit {seat.member.node_id}")

    def received(self, world: World, message: PeerMessage) -> None:
        """A message arrives, for the first time or again."""
        text = f"deliver {message.sender}->{message.to} type={type(message).__name__}"
        self._add(world.seats[message.to], text, in_words(message))

    def exported(self, world: World, message: InstallSnapshot) -> None:
        """A snapshot sets out."""
        seat = world.seats[message.sender]
        self._add(seat, f"snapshot {message.sender}->{message.to}")

    def transferred(
        self, world: World, seat: Seat, peer: NodeId, reached: LogIndex
    ) -> None:
        """A leader hears that a transfer is over."""
        del world
        self._add(
            seat, f"snapshot-ended {seat.member.node_id}->{peer} reached={reached}"
        )

    def asked(self, world: World, seat: Seat, line: str) -> None:
        """A change of the members, or of the lead."""
        del world
        self._add(seat, line)

    def wanted(
        self, world: World, seat: Seat, ticket: Ticket, operation: Write | Read
    ) -> None:
        """A client writes or reads; a script always reads everything."""
        del world, ticket
        node = seat.member.node_id
        if isinstance(operation, Write):
            said = batches.words(operation.commands)
            self._add(seat, f"write {node} {said} patience={PATIENCE_TICKS}")
            return
        options: kv_pb2.ReadOptions = operation.options
        level = LEVEL_NAMES[options.consistency]
        words = [f"read {node} level={level} patience={PATIENCE_TICKS}"]
        if options.staleness_ms_max:
            words.append(f"ms={options.staleness_ms_max}")
        if options.revision_min:
            words.append(f"revision={options.revision_min}")
        self._add(seat, " ".join(words))


class _Recorded:
    """Draws as it is asked to, and says what."""

    def __init__(
        self, random: Random, names: ReplicaDraws, last: dict[NodeId, Line]
    ) -> None:
        self._random = random
        self._names = names
        self._last = last

    def randrange(self, stop: int) -> int:
        """From [0, stop)."""
        drawn = self._random.randrange(stop)
        self._last[self._names.node_id].draws.append(drawn)
        return drawn

    def randint(self, low: int, high: int) -> int:
        """From [low, high]."""
        drawn = self._random.randint(low, high)
        self._last[self._names.node_id].draws.append(drawn - low)
        return drawn

    def getrandbits(self, count: int) -> int:
        """Only to name things: as in the script, to know its messages by."""
        self._random.getrandbits(count)  # what follows is drawn as ever
        return self._names.getrandbits(count)


def in_words(message: PeerMessage) -> str:
    """A message, told from others of its link."""
    request: int = getattr(message, "request_id", 0)
    return f"{Describer(batches.describe).message(message)} {request}"
