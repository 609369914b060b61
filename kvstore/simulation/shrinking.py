"""From a run that breaks something to the few lines that do.

Delta debugging (Zeller and Hildebrandt 2002) on the lines of a
:class:`~kvstore.simulation.recording.Recorder`: leave some out, replay the rest, and
keep what still ends in the same violation. A line that can no longer be done is passed
over; of a message that is not there any more, the next of its kind arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kvstore.errors import KVStoreError
from kvstore.simulation.arguments import Mistake
from kvstore.simulation.commands import execute
from kvstore.simulation.recording import Line, Recorder, in_words
from kvstore.simulation.stage import Stage
from kvstore.simulation.verdict import Verdict, sentence_of
from kvstore.simulation.wire import Selector
from kvstore.types import NodeId

if TYPE_CHECKING:
    from kvstore.replica.messages import PeerMessage
    from kvstore.simulation.cluster import Cluster

REPLAYS_MAX = 4_000
"""Replays in all, after which the best so far is taken."""
PROGRESS_EVERY = 50
COMPOUND = ("stabilize",)
"""Commands that do many things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """The schedule that is left."""

    script: str
    """As a file: a claim, and one block of commands."""
    violation: str
    """What it ends in."""
    lines: int
    """Of the script."""
    inputs: int
    """Of members, before."""
    replays: int


class Replay:
    """One try of some lines, on a cluster of its own."""

    def __init__(self, founding: str) -> None:
        self.stage = Stage()
        self.done: list[Line] = []
        """What was done, each as a script must say it."""
        self._founding = founding

    def run(self, lines: Sequence[Line]) -> str | None:
        """The violation that they end in, if they do."""
        verdict = Verdict()
        with verdict:
            execute(self.stage, self._founding)
            for line in lines:
                self._try(line)
        return verdict.violation

    @property
    def _cluster(self) -> Cluster:
        return self.stage.replicas

    def _try(self, line: Line) -> None:
        done = self._worded(line)
        if done is None:
            return
        host = self._cluster.hosts.get(line.node_id)
        if host is not None:
            host.draws.next.extend(line.draws)
        before = len(self.done)
        self.done += done
        try:
            for each in done:
                execute(self.stage, each.text)
        except Mistake:
            if line.text.startswith(COMPOUND):
                raise  # half of it was done
            # It fits no more: nothing was done.
            del self.done[before:]
        except KVStoreError as error:
            # It was refused; but the member has had its turn.
            said = f"expect-error {type(error).__name__} {done[-1].text}"
            self.done[-1] = replace(done[-1], text=said)
        if host is not None and (left := len(host.draws.next)):
            # A restart has taken the draws along.
            self._cluster.hosts[line.node_id].draws.next.clear()
            if len(self.done) > before:
                drawn = line.draws[: len(line.draws) - left]
                self.done[before] = replace(self.done[before], draws=drawn)

    def _worded(self, line: Line) -> list[Line] | None:
        """The lines that bring a message to its receiver; others are as they are."""
        if line.message is None:
            return [line]
        words = line.text.split()
        sender, _, to = words[1].partition("->")
        kind = words[2].removeprefix("type=")
        selector = Selector(
            sender=NodeId(int(sender)), to=NodeId(int(to)), kinds=frozenset([kind])
        )
        wire = self._cluster.wire
        there = wire.find(selector)
        place = _place(there, line.message)
        if place is None:
            again = [it for it in reversed(wire.gone) if selector.matches(it)]
            place = _place(again, line.message)
            if place is not None:
                back = f"again {line.text.removeprefix('deliver ')}{_skip(place)}"
                place = len(there)
                here = f"{line.text}{_skip(place)}"
                return [replace(line, text=back), replace(line, text=here, draws=[])]
        if place is None:
            if not there:
                return None
            place = 0
        return [replace(line, text=f"{line.text}{_skip(place)} count=1")]


def _place(messages: Sequence[PeerMessage], wanted: str) -> int | None:
    for place, message in enumerate(messages):
        if in_words(message) == wanted:
            return place
    return None


def _skip(place: int) -> str:
    return f" skip={place}" if place else ""


Progress = Callable[[int, int], None]
"""Told of the lines that are left, and of the replays so far."""


class Shrinker:
    """Of one recorded run."""

    def __init__(
        self, recorder: Recorder, violation: str, progress: Progress | None = None
    ) -> None:
        self._recorder = recorder
        self._wanted = sentence_of(violation)
        self._progress = progress
        self._replays = 0
        self._founding = recorder.founding
        self._best: list[Line] = []

    def run(self, claim: str) -> Shrunk | None:
        """Shrink it; None if the lines as a whole do not end in the violation."""
        best = self._test(self._recorder.lines)
        if best is None:
            return None
        best = self._without_kinds(best)
        best = self._bisected(best)
        best = self._without_draws(best)
        best = self._without_options(best)
        best = self._simplified(best)
        before = 0
        while before != len(best):
            before = len(best)
            best = self._stabilized(best)
            best = self._bisected(best)
        return self._worded(best, claim)

    def _test(self, lines: Sequence[Line]) -> list[Line] | None:
        """What is done of these lines until the violation; None if it does not come."""
        if self._replays >= REPLAYS_MAX:
            return None
        self._replays += 1
        if self._progress is not None and not self._replays % PROGRESS_EVERY:
            self._progress(len(self._best), self._replays)
        replay = Replay(self._founding)
        violation = replay.run(lines)
        if violation is None or sentence_of(violation) != self._wanted:
            return None
        kept = _originals(replay.done, lines)
        if not self._best or len(kept) <= len(self._best):
            self._best = kept
        return kept

    def _without_kinds(self, lines: list[Line]) -> list[Line]:
        """Leave out all of one kind, or all of one member, at a time."""
        for kind in sorted({line.text.split()[0] for line in lines}):
            rest = [it for it in lines if it.text.split()[0] != kind]
            lines = self._test(rest) or lines
        for node in sorted({line.node_id for line in lines}):
            lines = self._test([it for it in lines if it.node_id != node]) or lines
        return lines

    def _bisected(self, lines: list[Line]) -> list[Line]:
        size = max(1, len(lines) // 2)
        while size:
            start = 0
            while start < len(lines):
                rest = lines[:start] + lines[start + size :]
                found = self._test(rest)
                if found is None:
                    start += size
                else:
                    lines = found
            size //= 2
        return lines

    def _without_draws(self, lines: list[Line]) -> list[Line]:
        """Each member draws its own number, as a script has it by default."""
        return self._test([replace(it, draws=[]) for it in lines]) or lines

    def _without_options(self, lines: list[Line]) -> list[Line]:
        """Each option of the members as a script has it by default."""
        kind, count, *options = self._founding.split()
        for option in options:
            before = self._founding
            fewer = [it for it in before.split()[2:] if it != option]
            self._founding = " ".join([kind, count, *fewer])
            found = self._test(lines)
            if found is None:
                self._founding = before
            else:
                lines = found
        return lines

    def _simplified(self, lines: list[Line]) -> list[Line]:
        """Lines that say the same shorter, or less."""
        place = 0
        while place < len(lines):
            for text in _simpler(lines[place]):
                simple = replace(lines[place], text=text)
                found = self._test([*lines[:place], simple, *lines[place + 1 :]])
                if found is not None:
                    lines = found
                    break
            place += 1
        return lines

    def _stabilized(self, lines: list[Line]) -> list[Line]:
        """Let "do all there is to do" take the place of as many lines as possible."""
        size = len(lines)
        while size > 1:
            start = 0
            while start + size <= len(lines):
                part = lines[start : start + size]
                if any(it.text.startswith(COMPOUND) for it in part):
                    start += 1
                    continue
                for candidate in _stand_ins(part):
                    rest = [*lines[:start], *candidate, *lines[start + size :]]
                    found = self._test(rest)
                    if found is not None:
                        lines = found
                        break
                else:
                    start += max(1, size // 2)
                    continue
                start += 1
            size = size * 2 // 3
        return lines

    # -------------------------------------------------------------------- in words

    def _worded(self, lines: list[Line], claim: str) -> Shrunk:
        replay = Replay(self._founding)
        violation = replay.run(lines)
        assert violation is not None
        words = list(_with_draws(replay.done, self._founding))
        text = "\n".join([f"# claim: {claim}", "", *_merged(words), "----", ""])
        return Shrunk(
            script=text,
            violation=violation,
            lines=text.count("\n"),
            inputs=len(self._recorder.lines),
            replays=self._replays,
        )


def _originals(done: Sequence[Line], lines: Sequence[Line]) -> list[Line]:
    """The lines of which something was done."""
    kept = {it.number for it in done}
    return [it for it in lines if it.number in kept]


def _simpler(line: Line) -> Iterator[str]:
    """Other words for a line, the simplest first."""
    name, *words = line.text.split()
    if name == "write":
        yield f"write {words[0]} put:k:v{line.number}"
    if words and words[-1].startswith("patience="):
        yield " ".join([name, *words[:-1]])
    if name == "restart" and len(words) > 1:
        yield f"restart {words[0]}"


def _stand_ins(part: Sequence[Line]) -> Iterator[list[Line]]:
    """What a few lines may be said by, shorter."""
    number, nodes = part[0].number, sorted({it.node_id for it in part})
    settled = Line(part[1].number, nodes[0], "stabilize")
    yield [settled]
    if len(part) > 2:
        for node in nodes:
            yield [Line(number, node, f"campaign {node}"), settled]


def _with_draws(done: Sequence[Line], founding: str) -> Iterator[str]:
    yield founding
    for line in done:
        if line.draws:
            yield f"draw {line.node_id} " + " ".join(map(str, line.draws))
        yield line.text


def _merged(words: Sequence[str]) -> Iterator[str]:
    """Ticks of one member that follow each other are one line."""
    ticks, node = 0, ""
    for text in [*words, ""]:
        name, _, rest = text.partition(" ")
        who, _, count = rest.partition(" ")
        if name == "tick" and (not ticks or who == node):
            node, ticks = who, ticks + int(count or 1)
            continue
        if ticks:
            yield f"tick {node} {ticks}"
            ticks = 0
        if name == "tick":
            node, ticks = who, int(count or 1)
        elif text:
            yield text
