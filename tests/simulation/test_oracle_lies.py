"""A lie that a client could be told is noticed, among much that is true.

Each lie is one way in which a cluster can be wrong. A run is honest up to some moment;
then it lies, once or always from there on, and must not reach its end.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from kvstore.errors import Unavailable
from kvstore.pb import kv_pb2
from kvstore.raft.messages import Entry, EntryKind
from kvstore.raft.observed import InvariantViolation
from kvstore.simulation.workload import Read, Write
from kvstore.state_machine import machine
from kvstore.storage.memory_state import MemoryState
from kvstore.types import LogIndex
from tests.simulation.single_log import STRONG, Asked, SingleLog

HONEST_ENTRIES = 40


class Liar(SingleLog):
    """Tells the truth as long as its log is short."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, operations=80)
        self.lies = 0

    @property
    def may_lie(self) -> bool:
        return self.oracle.committed_index > HONEST_ENTRIES

    @property
    def may_lie_once(self) -> bool:
        return self.may_lie and not self.lies

    def what_if(self, data: bytes, state: MemoryState) -> list[kv_pb2.Result]:
        """What a batch would come to, on a copy."""
        index = LogIndex(state.progress.index + 1)
        entry = Entry(self.term, index, EntryKind.COMMANDS, data)
        return machine.apply(state.clone(), entry, want_results=True)

    def reply(self, results: Sequence[kv_pb2.Result]) -> bytes:
        return kv_pb2.ResultBatch(results=results).SerializeToString()


def plain_writes(writes: list[Asked]) -> list[tuple[Asked, Write]]:
    """Those without a session, whose clients still wait."""
    found = []
    for it in writes:
        if isinstance(it.operation, Write) and not it.is_over:
            batch = kv_pb2.CommandBatch.FromString(it.operation.commands)
            if batch.commands[0].HasField("put") or batch.commands[0].HasField("txn"):
                found.append((it, it.operation))
    return found


PLAIN = {"put", "txn", "delete_range"}


def kinds_in(data: bytes) -> set[str]:
    """Of the commands of an entry."""
    commands = kv_pb2.CommandBatch.FromString(data).commands
    return {command.WhichOneof("command") or "" for command in commands}


class LosesAWrite(Liar):
    """It answers a write that the log does not have."""

    def write(self, writes: list[Asked]) -> None:
        for asked, operation in plain_writes(writes):
            if self.may_lie_once:
                self.lies += 1
                results = self.what_if(operation.commands, self.state)
                writes.remove(asked)
                self.respond(asked, self.reply(results))
        if writes:
            super().write(writes)


class LosesAnEffect(Liar):
    """An entry is in the log, and changes nothing."""

    def apply(self, entry: Entry) -> list[kv_pb2.Result]:
        before = self.state.clone()
        results = super().apply(entry)
        if self.may_lie_once and self.state.progress.revision > (
            before.progress.revision
        ):
            self.lies += 1
            before.progress = replace(before.progress, index=entry.index)
            self.state = before
        return results


class AppliesTwice(Liar):
    """An entry is in the log once, and takes effect twice."""

    def apply(self, entry: Entry) -> list[kv_pb2.Result]:
        results = super().apply(entry)
        before = self.state.progress
        if self.may_lie_once and kinds_in(entry.data) <= PLAIN:
            again = replace(entry, index=LogIndex(entry.index + 1))
            machine.apply(self.state, again, want_results=True)
            self.lies += self.state.progress.revision > before.revision
            self.state.progress = replace(self.state.progress, index=before.index)
        return results


class LogsTwice(Liar):
    """A batch that was sent once is in the log twice."""

    def append(self, data: bytes) -> list[kv_pb2.Result]:
        results = super().append(data)
        if self.may_lie_once and kinds_in(data) <= PLAIN:
            self.lies += 1
            super().append(data)
        return results


class InventsACommand(Liar):
    """The log has what nobody asked for."""

    def own(self) -> None:
        if self.may_lie_once:
            self.lies += 1
            put = kv_pb2.Put(key=b"k1", value=b"nobody's")
            command = kv_pb2.Command(put=put)
            batch = kv_pb2.CommandBatch(commands=[command])
            self.append(batch.SerializeToString())
        super().own()


class DamagesAnEntry(Liar):
    """A bit of an entry is not what was sent."""

    def append(self, data: bytes) -> list[kv_pb2.Result]:
        if self.may_lie_once and b"k" in data:
            self.lies += 1
            data = data.replace(b"k", b"j", 1)
        return super().append(data)


class AppliesInAnotherOrder(Liar):
    """The batches of an entry take effect in another order than in the log."""

    def apply(self, entry: Entry) -> list[kv_pb2.Result]:
        results = super().apply(entry)
        commands = kv_pb2.CommandBatch.FromString(entry.data).commands
        is_plain = kinds_in(entry.data) == {"put"} and len(commands) > 1
        if not (self.may_lie_once and is_plain):
            return results
        self.state = self.past[-2].clone()
        self.lies += 1
        backwards = kv_pb2.CommandBatch(commands=list(commands)[::-1])
        data = backwards.SerializeToString()
        results = machine.apply(
            self.state, replace(entry, data=data), want_results=True
        )
        return results[::-1]


class RefusesAndCommits(Liar):
    """It says that a write has failed for certain, and carries it out later."""

    def write(self, writes: list[Asked]) -> None:
        for asked, _ in plain_writes(writes):
            if self.may_lie_once:
                self.lies += 1
                self.fail(asked, Unavailable("refused"))
        super().write(writes)


class CommitsAndRefuses(Liar):
    """It carries a write out, and then says that it has failed for certain.

    One without a session: of one that was sent more than once, another sending may be
    the one in the log.
    """

    def respond(self, asked: Asked, reply: bytes) -> None:
        if self.may_lie_once and plain_writes([asked]):
            self.lies += 1
            self.fail(asked, Unavailable("refused"))
            return
        super().respond(asked, reply)


class ForgetsReplies(Liar):
    """Commands of sessions that come again are carried out again."""

    def apply(self, entry: Entry) -> list[kv_pb2.Result]:
        if self.may_lie:
            for session in self.state.sessions:
                self.lies += bool(session.runs)
                session.runs.clear()
                session._firsts.clear()
        return super().apply(entry)


class KeepsSessions(Liar):
    """A session that the log ended is open still. It shows once it is used."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.ended: set[int] = set()

    def apply(self, entry: Entry) -> list[kv_pb2.Result]:
        commands = kv_pb2.CommandBatch.FromString(entry.data).commands
        used = {command.session_commands.session_id for command in commands}
        self.lies += len(self.ended & used)
        before = self.state.sessions.clone()
        results = super().apply(entry)
        ended = {it.id for it in before} - {it.id for it in self.state.sessions}
        if self.may_lie and ended and len(commands) == 1:
            self.ended |= ended
            self.state.sessions = before
        return results


class ChangesResults(Liar):
    """It answers something else than what a write came to."""

    def respond(self, asked: Asked, reply: bytes) -> None:
        if self.may_lie_once:
            batch = kv_pb2.ResultBatch.FromString(reply)
            changed = [result for result in batch.results if self.change(result)]
            self.lies += bool(changed)
            reply = batch.SerializeToString()
        super().respond(asked, reply)

    def change(self, result: kv_pb2.Result) -> bool:
        raise NotImplementedError


class AnswersAnotherRevision(ChangesResults):
    def change(self, result: kv_pb2.Result) -> bool:
        lies = result.HasField("put")
        if lies:
            result.put.revision += 1
        return lies


class RepeatsAnotherReply(AnswersAnotherRevision):
    """A command of a session is carried out once, but answered otherwise at last."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.logged: set[tuple[int, int]] = set()
        self.repeats: set[int] = set()

    def write(self, writes: list[Asked]) -> None:
        for asked in writes:
            assert isinstance(asked.operation, Write)
            batch = kv_pb2.CommandBatch.FromString(asked.operation.commands)
            header = batch.commands[0].session_commands
            key = header.session_id, header.first_number
            if key in self.logged and header.first_number:
                self.repeats.add(asked.ticket)
            self.logged.add(key)
        super().write(writes)

    def respond(self, asked: Asked, reply: bytes) -> None:
        if asked.ticket in self.repeats:
            super().respond(asked, reply)
        else:
            SingleLog.respond(self, asked, reply)


class AnswersThatItSwapped(ChangesResults):
    """A compare and swap that failed is said to have succeeded."""

    def change(self, result: kv_pb2.Result) -> bool:
        lies = result.HasField("txn") and not result.txn.succeeded
        if lies:
            result.txn.succeeded = True
        return lies


class AnswersAnotherPrevious(ChangesResults):
    def change(self, result: kv_pb2.Result) -> bool:
        lies = result.HasField("put") and result.put.HasField("prev_kv")
        if lies:
            result.put.prev_kv.version += 1
        return lies


class AnswersAnotherCount(ChangesResults):
    def change(self, result: kv_pb2.Result) -> bool:
        lies = result.HasField("delete_range")
        if lies:
            result.delete_range.deleted += 1
        return lies


class AnswersWithAnError(ChangesResults):
    """What took effect is said to have been refused."""

    def change(self, result: kv_pb2.Result) -> bool:
        lies = result.HasField("put") or result.HasField("txn")
        if lies:
            result.error.code = "InvalidRequest"
        return lies


class AnswersForAnother(Liar):
    """One client hears what another one's write came to."""

    held: tuple[Asked, bytes] | None = None

    def respond(self, asked: Asked, reply: bytes) -> None:
        if self.may_lie and self.held is None:
            self.held = asked, reply
            return
        if self.held is not None and not self.lies and reply != self.held[1]:
            self.lies += 1
            other, reply_of_other = self.held
            super().respond(other, reply)
            reply = reply_of_other
        super().respond(asked, reply)


class AnswersTwice(Liar):
    def respond(self, asked: Asked, reply: bytes) -> None:
        super().respond(asked, reply)
        if self.may_lie_once:
            self.lies += 1
            self.oracle.write_answered(asked.ticket, reply)


class ReadsThePast(Liar):
    """A read that asked for the newest state is served from an older one."""

    def state_for(self, read: Read) -> MemoryState:
        state = super().state_for(read)
        if self.may_lie and read.options.consistency in STRONG:
            # Far enough back to lie below what was acknowledged.
            older = self.past[-HONEST_ENTRIES // 2]
            self.lies += older.progress.revision < state.progress.revision
            return older
        return state


class ReadsWhatIsNotCommitted(Liar):
    """A read sees a write that is not in the log yet."""

    def state_for(self, read: Read) -> MemoryState:
        state = super().state_for(read)
        for asked in self.waiting:
            if self.may_lie_once and isinstance(asked.operation, Write):
                ahead = self.state.clone()
                index = LogIndex(ahead.progress.index + 1)
                data = asked.operation.commands
                entry = Entry(self.term, index, EntryKind.COMMANDS, data)
                machine.apply(ahead, entry, want_results=False)
                if ahead.progress.revision > self.state.progress.revision:
                    self.lies += 1
                    return ahead
        return state


class ForgetsWhatAClientSaw(Liar):
    """A session read is served from a state before the one that its client knows."""

    def state_for(self, read: Read) -> MemoryState:
        least = read.options.revision_min
        if self.may_lie_once and least and self.past[1].progress.revision < least:
            self.lies += 1
            return self.past[1]
        return super().state_for(read)


class ShowsAnotherValue(Liar):
    """A pair that is read is not the one that was written."""

    def state_for(self, read: Read) -> MemoryState:
        state = super().state_for(read)
        for request in read.ranges:
            head = state.head(request.key)
            shows = not (request.revision or request.count_only or request.range_end)
            if (
                self.may_lie_once
                and shows
                and head is not None
                and (head.create_revision)
            ):
                self.lies += 1
                state = state.clone()
                version = state.version(head.at)
                assert version is not None
                other = replace(version, value=version.value + b"!")
                state._versions[head.at] = other
        return state


LIES: list[tuple[Callable[[int], Liar], str]] = [
    (LosesAWrite, "DUR"),
    (LosesAnEffect, "LIN|SES|DUR"),
    (AppliesTwice, "LIN|SES|DUR"),
    (LogsTwice, "LIN|UNK"),
    (InventsACommand, "LIN"),
    (DamagesAnEntry, "LIN"),
    (AppliesInAnotherOrder, "LIN|SES|DUR"),
    (RefusesAndCommits, "UNK"),
    (CommitsAndRefuses, "UNK"),
    (ForgetsReplies, "LIN|SES"),
    (RepeatsAnotherReply, "SES"),
    (KeepsSessions, "LIN|SES|DUR"),
    (AnswersAnotherRevision, "LIN|SES"),
    (AnswersThatItSwapped, "LIN|SES"),
    (AnswersAnotherPrevious, "LIN|SES"),
    (AnswersAnotherCount, "LIN|SES"),
    (AnswersWithAnError, "LIN|SES"),
    (AnswersForAnother, "LIN|SES|DUR"),
    (AnswersTwice, "LIN"),
    (ReadsThePast, "LIN"),
    (ReadsWhatIsNotCommitted, "LIN"),
    (ForgetsWhatAClientSaw, "LIN"),
    (ShowsAnotherValue, "LIN"),
]


@pytest.mark.parametrize(("lie", "names"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_a_lie_is_noticed(lie: Callable[[int], Liar], names: str) -> None:
    """Goal: in every run that tells it, not in some."""
    violations = [outcome(lie(seed)) for seed in range(8)]
    told = [it for it in violations if it is not None]
    assert len(told) >= 4
    for says in told:
        assert any(f"({name})" in says for name in names.split("|")), says


def outcome(run: Liar) -> str | None:
    """How a run was refuted; None if it told no lie."""
    try:
        run.run()
    except InvariantViolation as violation:
        says = str(violation)
    else:
        says = ""
    assert bool(says) == bool(run.lies), says or "a lie was believed"
    return says or None
