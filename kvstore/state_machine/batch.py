"""Carry out the commands of one entry, one after the other.

Commands of a session differ in one thing: the reply to each is kept, and a command
whose reply is there is not carried out again. What is kept must be the same on every
member, whoever waits for results and however large a response may be there. So such a
command has its result made in any case, and the reply is kept only if it is whole and
small (``REPLY_BYTES_MAX``): then it is the same under every larger bound, too.
"""

from collections.abc import Sequence
from itertools import islice

from kvstore.errors import (
    Busy,
    Compacted,
    FutureRevision,
    InvalidRequest,
    KVStoreError,
    OutcomeUnknown,
)
from kvstore.pb import kv_pb2
from kvstore.state_machine.commands import (
    LogEntry,
    check_key_storable,
    check_numbered,
    check_start_storable,
    error_to_pb,
    refuse_unset,
)
from kvstore.state_machine.limits import (
    BATCH_RESULTS_BYTES_MAX,
    KEY_BYTES_STORABLE_MAX,
)
from kvstore.state_machine.reads import Budget, pair_bytes
from kvstore.state_machine.sessions import REPLY_BYTES_MAX, TOO_LARGE, Session
from kvstore.state_machine.transactions import apply_delete, apply_txn
from kvstore.state_machine.view import StateView, VersionId
from kvstore.state_machine.writes import fill_pair, put_key
from kvstore.types import LeaseId, LogIndex, Revision


class Batch:
    """The commands of one entry, and where the store stands among them."""

    __slots__ = (
        "_entry",
        "_response_bytes_max",
        "_results_bytes",
        "_session_timeout_ms",
        "_view",
        "compact_revision",
        "revision",
    )

    def __init__(
        self,
        view: StateView,
        entry: LogEntry,
        *,
        response_bytes_max: int,
        session_timeout_ms: int,
    ) -> None:
        self._view = view
        self._entry = entry
        self._response_bytes_max = response_bytes_max
        self._session_timeout_ms = session_timeout_ms
        self._results_bytes = 0
        self.revision = view.progress.revision
        self.compact_revision = view.progress.compact_revision

    def run(
        self, commands: Sequence[kv_pb2.Command], results: list[kv_pb2.Result] | None
    ) -> None:
        """Carry out every command. Plain puts, the most frequent, stay in this loop.

        Raises as ``machine.apply`` does.
        """
        view, new_result = self._view, kv_pb2.Result
        following = iter(commands)
        for command in following:
            result = None if results is None else new_result()
            if results is not None and result is not None:
                results.append(result)
            if command.HasField("put"):
                put = command.put
                key = put.key
                if 0 < len(key) <= KEY_BYTES_STORABLE_MAX and (
                    result is None or not put.prev_kv
                ):
                    revision = Revision(self.revision + 1)
                    at = VersionId(revision, 0)
                    put_key(view, at, key, put.value, LeaseId(put.lease))
                    self.revision = revision
                    if result is not None:
                        result.put.revision = revision
                    continue
            elif command.HasField("session_commands"):
                header = command.session_commands
                its_own = list(islice(following, header.count))
                self._run_session(header, its_own, result, results)
                continue
            budget = self._new_budget(self._response_bytes_max)
            try:
                self._carry_out(command, result, budget)
            except (InvalidRequest, Busy) as error:
                # Refused before anything was changed or answered.
                _refuse(result, error)
            else:
                self._bound(result, budget)

    # ------------------------------------------------------------------ sessions

    def _run_session(
        self,
        header: kv_pb2.SessionCommands,
        commands: Sequence[kv_pb2.Command],
        result: kv_pb2.Result | None,
        results: list[kv_pb2.Result] | None,
    ) -> None:
        """Carry out a header and the commands that it speaks for."""
        try:
            session = self._view.sessions.use(
                header.session_id,
                index=self._entry.index,
                first_number=header.first_number,
                count=len(commands),
                acknowledged=header.acknowledged,
            )
        except InvalidRequest as error:
            _refuse(result, error)
            if results is not None:
                refusal = kv_pb2.Result(error=error_to_pb(error))
                for _ in commands:
                    results.append(kv_pb2.Result())
                    results[-1].CopyFrom(refusal)
            return
        self._answer_session(result, session.id)
        self._run_numbered(session, header.first_number, commands, results)

    def _run_numbered(
        self,
        session: Session,
        first_number: int,
        commands: Sequence[kv_pb2.Command],
        results: list[kv_pb2.Result] | None,
    ) -> None:
        """As the loop of :meth:`run`, and one run is kept for puts in a row."""
        view, sessions, new_result = self._view, self._view.sessions, kv_pb2.Result
        newest = session.newest
        puts = 0  # carried out, and not yet kept
        for number, command in enumerate(commands, first_number):
            result = None if results is None else new_result()
            if results is not None and result is not None:
                results.append(result)
            if number > newest and command.HasField("put"):
                put = command.put
                key = put.key
                if (
                    0 < len(key) <= KEY_BYTES_STORABLE_MAX
                    and not put.prev_kv
                    and (puts or sessions.has_room(session))
                ):
                    revision = Revision(self.revision + 1)
                    at = VersionId(revision, 0)
                    put_key(view, at, key, put.value, LeaseId(put.lease))
                    self.revision = revision
                    puts += 1
                    if result is not None:
                        result.put.revision = revision
                    continue
            if puts:
                self._keep_puts(session, number - puts, puts)
                puts = 0
            self._run_once(session, number, command, result)
        if puts:
            self._keep_puts(session, first_number + len(commands) - puts, puts)

    def _keep_puts(self, session: Session, first: int, count: int) -> None:
        """The last ``count`` revisions are of these puts."""
        revision = Revision(self.revision - count + 1)
        self._view.sessions.keep_puts(session, first, count, revision)

    def _run_once(
        self,
        session: Session,
        number: int,
        command: kv_pb2.Command,
        result: kv_pb2.Result | None,
    ) -> None:
        """Carry out a command of a session, or answer as it was answered."""
        try:
            reply = session.reply(number)
            if reply is None:
                self._view.sessions.check_room(session)
        except (InvalidRequest, Busy) as error:
            _refuse(result, error)  # not a reply: nothing was carried out
            return
        if reply is None:
            self._run_first(session, number, command, result)
        elif result is not None:
            _repeat(result, reply, number)
            self._bound(result, self._new_budget(0))

    def _run_first(
        self,
        session: Session,
        number: int,
        command: kv_pb2.Command,
        result: kv_pb2.Result | None,
    ) -> None:
        """Carry out a command and keep its reply, that it was refused too."""
        answer = kv_pb2.Result() if result is None else result
        budget = self._new_budget(max(self._response_bytes_max, REPLY_BYTES_MAX))
        before = budget.bytes_left
        try:
            check_numbered(command)
            self._carry_out(command, answer, budget)
        except InvalidRequest as error:
            _refuse(answer, error)
        reply = TOO_LARGE
        # Whole and small: whatever the bounds, the answer is this one.
        if not budget.has_cut and before - budget.bytes_left <= REPLY_BYTES_MAX:
            # The order of a map's items is nobody's choice otherwise.
            encoded = answer.SerializeToString(deterministic=True)
            if len(encoded) <= REPLY_BYTES_MAX:
                reply = encoded
        self._view.sessions.keep(session, number, reply)
        self._bound(result, budget)

    def _answer_session(self, result: kv_pb2.Result | None, session_id: int) -> None:
        if result is not None:
            result.session.session_id = session_id
            result.session.timeout_ms = self._session_timeout_ms

    def _expire(self, request: kv_pb2.ExpireSessions) -> None:
        # Of another term: whoever proposed it leads no more, and what it had measured
        # says nothing of a leader that counts from its own election.
        if request.term == self._entry.term:
            for it in request.sessions:
                self._view.sessions.expire(it.session_id, LogIndex(it.index))

    # --------------------------------------------------------------- one command

    def _carry_out(
        self, command: kv_pb2.Command, result: kv_pb2.Result | None, budget: Budget
    ) -> None:
        """Raises ``InvalidRequest`` or ``Busy`` before it changes or answers."""
        match command.WhichOneof("command"):
            case "put":
                self._put(command.put, result, budget)
            case "delete_range":
                self._delete(command.delete_range, result, budget)
            case "txn":
                self.revision = apply_txn(
                    self._view,
                    command.txn,
                    revision=self.revision,
                    compact_revision=self.compact_revision,
                    result=None if result is None else result.txn,
                    budget=budget,
                )
            case "compact":
                self._compact(Revision(command.compact.revision))
                if result is not None:
                    result.compact.revision = self.revision
            case "compaction_step":
                # Every entry takes its share of the sweep; this one does only that.
                if result is not None:
                    result.compact.revision = self.revision
            case "open_session":
                opened = self._view.sessions.open(self._entry.index)
                self._answer_session(result, opened.id)
            case "close_session":
                self._view.sessions.close(command.close_session.session_id)
                self._answer_session(result, command.close_session.session_id)
            case "expire_sessions":
                self._expire(command.expire_sessions)
                self._answer_session(result, 0)
            case _:
                refuse_unset(command, "a command")

    def _put(
        self, put: kv_pb2.Put, result: kv_pb2.Result | None, budget: Budget
    ) -> None:
        check_key_storable(put.key)
        revision = Revision(self.revision + 1)
        at = VersionId(revision, 0)
        head = put_key(self._view, at, put.key, put.value, LeaseId(put.lease))
        self.revision = revision
        if result is not None:
            result.put.revision = revision
            if put.prev_kv and head is not None and head.create_revision:
                pair = fill_pair(result.put.prev_kv, self._view, put.key, head)
                budget.bytes_left -= pair_bytes(pair)

    def _delete(
        self,
        request: kv_pb2.DeleteRange,
        result: kv_pb2.Result | None,
        budget: Budget,
    ) -> None:
        check_start_storable(request.key, request.range_end)
        deleted = apply_delete(
            self._view,
            request,
            revision=Revision(self.revision + 1),
            position=0,
            result=None if result is None else result.delete_range,
            budget=budget,
        )
        self.revision = Revision(self.revision + (deleted > 0))
        if result is not None:
            result.delete_range.revision = self.revision

    def _compact(self, wanted: Revision) -> None:
        if wanted <= self.compact_revision:
            raise Compacted(
                f"revision {wanted} was compacted already: "
                f"history starts at {self.compact_revision}",
                compact_revision=self.compact_revision,
            )
        if wanted > self.revision:
            raise FutureRevision(
                f"revision {wanted} is in the future: the store is at {self.revision}",
                current_revision=self.revision,
            )
        self.compact_revision = wanted

    # --------------------------------------------------------- bounds on results

    def _new_budget(self, bytes_max: int) -> Budget:
        return Budget(
            bytes_max, overdraft_max=BATCH_RESULTS_BYTES_MAX - self._results_bytes
        )

    def _bound(self, result: kv_pb2.Result | None, budget: Budget) -> None:
        """Give up a result, not the command, past the bound of the whole batch."""
        if result is None:
            return
        size = result.ByteSize()
        if budget.is_overdrawn or self._results_bytes + size > BATCH_RESULTS_BYTES_MAX:
            _answer_unknown(
                result,
                "applied, but the results of its batch pass "
                f"{BATCH_RESULTS_BYTES_MAX} bytes: read what it did",
            )
        else:
            self._results_bytes += size


def _refuse(result: kv_pb2.Result | None, error: KVStoreError) -> None:
    if result is not None:
        result.error.CopyFrom(error_to_pb(error))


def _repeat(result: kv_pb2.Result, reply: Revision | bytes, number: int) -> None:
    """Answer as before."""
    if not isinstance(reply, bytes):
        result.put.revision = reply
    elif reply != TOO_LARGE:
        result.MergeFromString(reply)
    else:
        _answer_unknown(
            result,
            f"command {number} was applied when it first came, but its result was too "
            f"large to keep (more than {REPLY_BYTES_MAX} bytes): read what it did",
        )


def _answer_unknown(result: kv_pb2.Result, message: str) -> None:
    """Answer for a command that was applied, and whose result is not at hand."""
    result.Clear()
    result.error.CopyFrom(error_to_pb(OutcomeUnknown(message)))
