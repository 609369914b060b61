"""What clients must have been told, decided from the log that was committed.

A run knows the one order in which commands took effect: the ghost log, every entry that
any node ever committed. So no order need be searched for, as a checker of histories
must. The oracle carries out the ghost log on a :class:`~kvstore.simulation.model.Model`
as it grows, and compares each answer when it comes:

====  =====================================================================
name  what must hold
====  =====================================================================
LIN   a result is what the command came to at its place in the log, a read
      shows what was there at the revision that it states; whatever was
      acknowledged before an operation began comes before it
SES   a command of a session is carried out once, and answered alike
DUR   a write that was answered is in the log
UNK   a write that is said to have failed for certain is not, nor ever will be
====  =====================================================================

A batch is found in the log by its bytes. Batches with the same bytes, as those of a
session that are sent again, are told apart by their results alone: give every other
command something of its own. No batch may begin with the whole of another one.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message

from kvstore.errors import InvalidRequest, KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryKind
from kvstore.raft.observed import InvariantViolation, require
from kvstore.simulation.model import Model, error_result, is_same
from kvstore.types import LogIndex

_LEADERS_OWN = ("compact", "compaction_step", "expire_sessions")
"""What a leader proposes of its own accord, each in an entry of its own."""
_CONFIRMED = (kv_pb2.LINEARIZABLE, kv_pb2.FOLLOWER)
_STRONG = (*_CONFIRMED, kv_pb2.LEASE)
_NO_ANSWER = ("CorruptionError", "Busy")
"""A range may fail so: definite, and says nothing of the store."""


@dataclass(slots=True)
class _Place:
    """Where a batch is in the ghost log."""

    index: LogIndex
    results: Sequence[kv_pb2.Result]
    repeats: bool
    """A command in it had come before."""
    is_taken: bool = False
    """One of those who sent it has been answered from here."""


@dataclass(slots=True)
class _Batch:
    """All that were sent with the same bytes."""

    encoded: bytes
    commands: Sequence[kv_pb2.Command]
    sent: int = 0
    refused: int = 0
    """Of these, how many failed for certain."""
    places: list[_Place] = field(default_factory=list)


@dataclass(slots=True)
class _Write:
    """A client waits for its end."""

    batch: _Batch
    floor: LogIndex
    """Of the ghost log when it was asked for: its own place is above."""


@dataclass(slots=True)
class _Read:
    """A client waits for its end."""

    ranges: Sequence[kv_pb2.Range]
    options: kv_pb2.ReadOptions
    floor: LogIndex
    """The highest index that anybody was told of before."""
    asked_us: int


class Oracle:
    """Judges all answers of one run. Costs about 10 µs a command.

    Every method raises ``InvariantViolation`` for what must not be. Tell it of
    committed entries before the answers that came of them, and of a request before it
    reaches a node. A node passes a batch on once at most: a network that doubles what a
    client sent makes a batch be in the log more often than it was sent.
    """

    def __init__(
        self, model: Model | None = None, *, clock_rate_min: float = 1.0
    ) -> None:
        """``clock_rate_min``: of the slowest member's clock, in seconds a second; for
        ``BOUNDED`` reads, which trust it.
        """
        assert 0 < clock_rate_min <= 1
        self.model = model or Model()
        self.now_us = 0
        """The world's time, for whoever moves it. Staleness is judged by it."""
        self.reached: Counter[str] = Counter()
        """What was judged, and how often: a run in which nothing was is no proof."""
        self._clock_rate_min = clock_rate_min
        self._batches: dict[bytes, _Batch] = {}
        self._by_first: dict[bytes, list[_Batch]] = {}
        """By the encoded first command."""
        self._writes: dict[int, _Write] = {}
        self._reads: dict[int, _Read] = {}
        self._revisions = [0]
        """By log index."""
        self._compacted = [0]
        """By log index: the compact revision."""
        self._told = LogIndex(0)
        self._told_at: list[tuple[int, LogIndex]] = []
        """When which index became the highest that somebody was told of."""

    @property
    def committed_index(self) -> LogIndex:
        """Of the last entry that it was told of."""
        return LogIndex(len(self._revisions) - 1)

    # ------------------------------------------------------------- the ghost log

    def committed(self, entry: Entry) -> None:
        """The next entry of the ghost log. In order of index, each once."""
        assert entry.index == self.committed_index + 1, entry.index
        if entry.kind is EntryKind.COMMANDS:
            self._carry_out(entry)
        self._revisions.append(self.model.revision)
        self._compacted.append(self.model.compact_revision)

    def _carry_out(self, entry: Entry) -> None:
        data, at = entry.data, 0
        while at < len(data):
            batch = self._batch_at(data, at)
            if batch is None:
                self._carry_out_own(entry, at)
                return
            before = self.model.repeated
            results = self.model.apply(
                batch.commands, index=entry.index, term=entry.term
            )
            repeats = self.model.repeated > before
            batch.places.append(_Place(entry.index, results, repeats))
            self._check_count(batch)
            at += len(batch.encoded)

    def _batch_at(self, data: bytes, at: int) -> _Batch | None:
        for batch in self._by_first.get(_first_command(data, at), ()):
            if data.startswith(batch.encoded, at):
                return batch
        return None

    def _carry_out_own(self, entry: Entry, at: int) -> None:
        commands: Sequence[kv_pb2.Command]
        try:
            commands = kv_pb2.CommandBatch.FromString(entry.data).commands
        except DecodeError:
            commands = ()
        kinds = [command.WhichOneof("command") for command in commands]
        require(
            not at and len(kinds) == 1 and kinds[0] in _LEADERS_OWN,
            "a command was committed that nobody asked for (LIN)",
            *(entry.index, at, kinds),
        )
        self.model.apply(commands, index=entry.index, term=entry.term)
        self.reached[f"a leader's own {kinds[0]}"] += 1

    @staticmethod
    def _check_count(batch: _Batch) -> None:
        if len(batch.places) > batch.sent - batch.refused:
            raise _violation(
                "a write that had failed for certain was carried out (UNK)"
                if batch.refused
                else "a write was carried out more often than it was sent (LIN)",
                *_shown(batch),
            )

    # -------------------------------------------------------------------- writes

    def write_asked(self, ticket: int, commands: bytes, *, count: int) -> None:
        """A client sends an encoded ``CommandBatch`` of ``count`` commands, now.

        Each time that it is sent is a ticket of its own.
        """
        batch = self._batches.get(commands)
        if batch is None:
            batch = self._batches[commands] = self._new_batch(commands)
        assert len(batch.commands) == count > 0
        assert ticket not in self._writes
        batch.sent += 1
        self._writes[ticket] = _Write(batch, self.committed_index)

    def _new_batch(self, encoded: bytes) -> _Batch:
        batch = _Batch(encoded, kv_pb2.CommandBatch.FromString(encoded).commands)
        alike = self._by_first.setdefault(_first_command(encoded, 0), [])
        for other in alike:
            assert not encoded.startswith(other.encoded)
            assert not other.encoded.startswith(encoded)
        alike.append(batch)
        return batch

    def write_answered(self, ticket: int, results: bytes) -> None:
        """A node answers, with an encoded ``ResultBatch``."""
        write = self._writes.pop(ticket, None)
        if write is None:
            raise _violation("a write was answered twice (LIN)", ticket)
        batch = write.batch
        answers = kv_pb2.ResultBatch.FromString(results).results
        free = [
            place
            for place in batch.places
            if not place.is_taken and place.index > write.floor
        ]
        if not free:
            raise _violation(
                "a write was answered that is not in the log (DUR)",
                *(ticket, *_shown(batch)),
            )
        for place in free:
            if _first_difference(answers, place.results) is None:
                place.is_taken = True
                self._tell(place.index)
                self.reached["a write was answered"] += 1
                if place.repeats:
                    self.reached["a repeated command was answered"] += 1
                return
        place = free[0]
        raise _violation(
            "a repeated command was not answered as it was at first (SES)"
            if any(it.repeats for it in free)
            else "a result is not what the command came to (LIN)",
            *(ticket, place.index),
            *_difference(batch.commands, answers, place.results),
        )

    def write_failed(self, ticket: int, error: KVStoreError) -> None:
        """A node, or the client's patience, ends it; ``error.definite`` says how."""
        write = self._writes.pop(ticket, None)
        if write is None:
            raise _violation("a write was answered twice (LIN)", ticket)
        if not error.definite:
            self.reached["a write's outcome is unknown"] += 1
            return
        self.reached["a write failed for certain"] += 1
        write.batch.refused += 1
        self._check_count(write.batch)

    # --------------------------------------------------------------------- reads

    def read_asked(
        self, ticket: int, ranges: Sequence[kv_pb2.Range], options: kv_pb2.ReadOptions
    ) -> None:
        """A client begins to read, all at one moment and level."""
        assert ticket not in self._reads
        self._reads[ticket] = _Read(ranges, options, self._told, self.now_us)

    def read_answered(
        self,
        ticket: int,
        results: Sequence[kv_pb2.Result],
        *,
        revision: int,
        consistency: kv_pb2.Consistency,
        fresh_us: int | None = None,
    ) -> None:
        """A node answers, from its state at ``revision``.

        ``consistency`` is how it says that the read was confirmed; ``fresh_us``, that
        all that was acknowledged before that moment of the world's time is in the
        answer.
        """
        read = self._reads.pop(ticket, None)
        if read is None:
            raise _violation("a read was answered twice (LIN)", ticket)
        asked = read.options.consistency
        require(
            consistency in _CONFIRMED
            or consistency == asked
            or (consistency == kv_pb2.LEASE and asked not in _CONFIRMED),
            "a read was confirmed by less than it asked for (LIN)",
            *(ticket, kv_pb2.Consistency.Name(asked)),
            kv_pb2.Consistency.Name(consistency),
        )
        require(
            asked != kv_pb2.SESSION or revision >= read.options.revision_min,
            "a read misses what its client has seen (LIN)",
            *(ticket, revision, read.options.revision_min),
        )
        floor = self._floor(read, consistency)
        if fresh_us is not None:
            floor = max(floor, self._told_before(fresh_us))
        index = self._check_read(ticket, read, results, revision, floor)
        self._tell(index)
        level, gave = map(kv_pb2.Consistency.Name, (asked, consistency))
        self.reached[f"a {level} read was answered"] += 1
        self.reached[f"a read was confirmed as {gave}"] += 1

    def _floor(self, read: _Read, confirmed: kv_pb2.Consistency) -> LogIndex:
        """The index that a read's state must have reached."""
        if confirmed in _STRONG:
            return read.floor
        if confirmed != kv_pb2.BOUNDED:
            return LogIndex(0)
        # Members read their clocks in whole milliseconds.
        bound_us = (read.options.staleness_ms_max + 1) * 1_000
        return self._told_before(
            read.asked_us - int(bound_us / self._clock_rate_min) - 1
        )

    def _check_read(
        self,
        ticket: int,
        read: _Read,
        answers: Sequence[kv_pb2.Result],
        revision: int,
        floor: LogIndex,
    ) -> LogIndex:
        """Returns the first index whose state answers so."""
        first = bisect_left(self._revisions, revision)
        behind = bisect_right(self._revisions, revision)
        require(
            first < behind,
            "a read saw a state that never was (LIN)",
            *(ticket, revision, self._revisions[-1]),
        )
        first = max(first, floor)
        require(
            first < behind,
            "a read misses what was acknowledged before it began (LIN)",
            *(ticket, revision, self._revisions[floor]),
        )
        expected: list[kv_pb2.Result] = []
        while first < behind:
            # States of one revision differ only in what history is left.
            compacted = self._compacted[first]
            expected = [self._expect(it, revision, compacted) for it in read.ranges]
            for number, answer in enumerate(answers[: len(expected)]):
                if answer.error.code in _NO_ANSWER:
                    expected[number] = answer
            if _first_difference(answers, expected) is None:
                return LogIndex(first)
            first = bisect_right(self._compacted, compacted, first)
        raise _violation(
            "a read does not show what was there (LIN)",
            *(ticket, revision),
            *_difference(read.ranges, answers, expected),
        )

    def _expect(
        self, request: kv_pb2.Range, revision: int, compact_revision: int
    ) -> kv_pb2.Result:
        try:
            found = self.model.range(
                request, revision=revision, compact_revision=compact_revision
            )
        except InvalidRequest as error:
            return error_result(error)
        return kv_pb2.Result(range=found)

    def read_failed(self, ticket: int, error: KVStoreError) -> None:
        """A node, or the client's patience, ends it. Nothing was read."""
        if self._reads.pop(ticket, None) is None:
            raise _violation("a read was answered twice (LIN)", ticket, error)
        self.reached["a read failed"] += 1

    # ---------------------------------------------------------- what is known, when

    def _tell(self, index: LogIndex) -> None:
        """Somebody has heard of the state at ``index``."""
        if index > self._told:
            self._told = index
            self._told_at.append((self.now_us, index))

    def _told_before(self, moment_us: int) -> LogIndex:
        """The highest index that somebody was told of before a moment."""
        place = bisect_left(self._told_at, (moment_us, LogIndex(0)))
        return self._told_at[place - 1][1] if place else LogIndex(0)

    # -------------------------------------------------------------------- the end

    def finish(self, pairs: Iterable[kv_pb2.KeyValue], *, revision: int) -> None:
        """All is healed and applied: what one member holds in the end.

        Once for each member. Each write that was answered is in it, once, and none that
        failed for certain, for so it is with the ghost log.
        """
        expected = [
            pair.to_pb(key) for key, pair in sorted(self.model.stores[-1].items())
        ]
        held = sorted(pairs, key=lambda pair: pair.key)
        if held != expected or revision != self.model.revision:
            raise _violation(
                "a member does not hold what the log came to (DUR)",
                *(revision, self.model.revision),
                *["held " + _line(pair) for pair in held if pair not in expected],
                *["not held " + _line(pair) for pair in expected if pair not in held],
            )


# -------------------------------------------------------------------------- helpers


def _violation(what: str, *facts: object) -> InvariantViolation:
    """As ``require`` raises, for facts that take time to put into words."""
    return InvariantViolation(what + ": " + ", ".join([str(fact) for fact in facts]))


def _first_command(data: bytes, at: int) -> bytes:
    """The encoded command that begins at ``at`` in encoded batches; empty if none.

    Field 1 of a ``CommandBatch``: a tag, a length as a varint, and so many bytes.
    """
    end, size, shift = at + 1, 0, 0
    while end < len(data):
        byte = data[end]
        end += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return data[at : end + size]
        shift += 7
    return b""


def _first_difference(
    answers: Sequence[kv_pb2.Result], expected: Sequence[kv_pb2.Result]
) -> int | None:
    """Which answer is not as expected; None if all are."""
    for number, (answer, wanted) in enumerate(zip(answers, expected, strict=False)):
        if not is_same(answer, wanted):
            return number
    both = min(len(answers), len(expected))
    return None if len(answers) == len(expected) else both


def _difference(
    requests: Sequence[Message],
    answers: Sequence[kv_pb2.Result],
    expected: Sequence[kv_pb2.Result],
) -> Iterator[str]:
    """What was asked, what was answered, and what should have been."""
    number = _first_difference(answers, expected)
    assert number is not None
    yield f"number {number} of {len(expected)}, {len(answers)} answered"
    for what, messages in (
        ("asked", requests),
        ("answered", answers),
        ("expected", expected),
    ):
        if number < len(messages):
            yield f"{what} {_line(messages[number])}"


def _shown(batch: _Batch) -> Iterator[str]:
    yield f"sent {batch.sent} times, {batch.refused} of them failed for certain"
    yield f"in the log at {[place.index for place in batch.places]}"
    yield from (_line(command) for command in batch.commands)


def _line(message: Message) -> str:
    return text_format.MessageToString(message, as_one_line=True)
