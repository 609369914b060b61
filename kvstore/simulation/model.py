"""What commands mean, written a second time and in the plainest way.

A deliberately dumb twin of :mod:`kvstore.state_machine`, made from what is documented
(``proto/kv.proto``, ``docs/guarantees.md``, decision 0024). It shares no code with what
it checks: dictionaries, a whole copy of the store for every revision there ever was,
every reply for ever. It answers by looking.

Left out is what only bounds a node's work: limits on requests and answers, on open
sessions and on the room for their replies. A run that reaches one cannot be judged.
Errors have no wording here.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kvstore.errors import (
    Compacted,
    FutureRevision,
    InvalidRequest,
    KVStoreError,
    OutcomeUnknown,
    SessionExpired,
)
from kvstore.pb import kv_pb2
from kvstore.types import LogIndex, Revision, Term

SESSION_TIMEOUT_MS = 600_000
"""What clients are told by default."""
REPLY_BYTES_MAX = 4096
"""A reply above is not kept (``docs/guarantees.md``, unknown outcomes). Each pair in it
counts for 64 bytes beside key and value, if that is more than it takes encoded."""
_PAIR_BYTES = 64
_NUMBER_MAX = (1 << 63) - 1
_ALL = b"\0"
"""As a range's end: every key from its start on."""


class Pair(NamedTuple):
    """One key at one revision."""

    value: bytes
    create: int
    mod: int
    version: int
    lease: int

    def to_pb(self, key: bytes, *, with_value: bool = True) -> kv_pb2.KeyValue:
        """As it travels."""
        return kv_pb2.KeyValue(
            key=key,
            value=self.value if with_value else b"",
            create_revision=self.create,
            mod_revision=self.mod,
            version=self.version,
            lease=self.lease,
        )


Store = dict[bytes, Pair]


class Change(NamedTuple):
    """One key that one command changed."""

    revision: int
    key: bytes
    is_delete: bool


class _Session:
    """What is remembered of one client."""

    __slots__ = ("acknowledged", "last_index", "replies")

    def __init__(self, index: LogIndex) -> None:
        self.last_index = index
        self.acknowledged = 0
        self.replies: dict[int, kv_pb2.Result] = {}


class Model:
    """The store and its sessions after some log, and everything before."""

    def __init__(self, *, session_timeout_ms: int = SESSION_TIMEOUT_MS) -> None:
        self.stores: list[Store] = [{}]
        """By revision. Nobody changes one."""
        self.changes: list[Change] = []
        """In order of history."""
        self.compact_revision = 0
        self.repeated = 0
        """Commands of sessions that came again, and were not carried out again."""
        self._session_timeout_ms = session_timeout_ms
        self._sessions: dict[int, _Session] = {}
        self._last_session_id = 0
        self._index = LogIndex(0)
        self._term = Term(0)

    @property
    def revision(self) -> Revision:
        """Of the store now."""
        return Revision(len(self.stores) - 1)

    def apply(
        self,
        commands: Sequence[kv_pb2.Command],
        *,
        index: LogIndex = LogIndex(0),  # noqa: B008 - a NewType
        term: Term = Term(0),  # noqa: B008
    ) -> list[kv_pb2.Result]:
        """Carry out commands of the entry at ``index``; one result each.

        ``index`` and ``term`` matter to sessions alone. A header and the commands that
        it speaks for must come together.
        """
        self._index, self._term = index, term
        results: list[kv_pb2.Result] = []
        at = 0
        while at < len(commands):
            command = commands[at]
            at += 1
            if command.HasField("session_commands"):
                header = command.session_commands
                its_own = commands[at : at + header.count]
                results += self._of_session(header, its_own)
                at += len(its_own)
            else:
                results.append(self._command(command))
        return results

    # ------------------------------------------------------------------ sessions

    def _of_session(
        self, header: kv_pb2.SessionCommands, commands: Sequence[kv_pb2.Command]
    ) -> list[kv_pb2.Result]:
        session = self._sessions.get(header.session_id)
        last = header.first_number + len(commands) - 1
        if session is None:
            refused = error_result(SessionExpired(""))
            return [refused] * (1 + len(commands))
        if max(last, header.acknowledged) > _NUMBER_MAX:
            refused = error_result(InvalidRequest(""))
            return [refused] * (1 + len(commands))
        session.last_index = self._index
        if header.acknowledged > session.acknowledged:
            session.acknowledged = header.acknowledged
            session.replies = {
                number: reply
                for number, reply in session.replies.items()
                if number > header.acknowledged
            }
        results = [self._session_result(header.session_id)]
        for number, command in enumerate(commands, header.first_number):
            results.append(self._once(session, number, command))
        return results

    def _once(
        self, session: _Session, number: int, command: kv_pb2.Command
    ) -> kv_pb2.Result:
        if number <= session.acknowledged:
            self.repeated += 1
            return error_result(InvalidRequest(""))
        reply = session.replies.get(number)
        if reply is not None:
            self.repeated += 1
            if _reply_bytes(reply) > REPLY_BYTES_MAX:
                return error_result(OutcomeUnknown(""))
            return reply
        kind = command.WhichOneof("command")
        if kind in ("put", "delete_range", "txn", "compact", "compaction_step"):
            reply = self._command(command)
        else:
            reply = error_result(InvalidRequest(""))
        session.replies[number] = reply
        return reply

    def _session_result(self, session_id: int) -> kv_pb2.Result:
        return kv_pb2.Result(
            session=kv_pb2.SessionResult(
                session_id=session_id, timeout_ms=self._session_timeout_ms
            )
        )

    def _open(self) -> kv_pb2.Result:
        self._last_session_id += 1
        self._sessions[self._last_session_id] = _Session(self._index)
        return self._session_result(self._last_session_id)

    def _close(self, session_id: int) -> kv_pb2.Result:
        if session_id not in self._sessions:
            raise SessionExpired("")
        del self._sessions[session_id]
        return self._session_result(session_id)

    def _expire(self, request: kv_pb2.ExpireSessions) -> kv_pb2.Result:
        for it in request.sessions if request.term == self._term else ():
            session = self._sessions.get(it.session_id)
            if session is not None and session.last_index == it.index:
                del self._sessions[it.session_id]
        return self._session_result(0)

    # --------------------------------------------------------------- one command

    def _command(self, command: kv_pb2.Command) -> kv_pb2.Result:
        try:
            return self._carry_out(command)
        except InvalidRequest as error:
            return error_result(error)

    def _carry_out(self, command: kv_pb2.Command) -> kv_pb2.Result:
        match command.WhichOneof("command"):
            case "put":
                _need_key(command.put.key)
                store, changes = self.stores[-1].copy(), list[Change]()
                put = _put(store, command.put, self.revision + 1, changes)
                self._keep(store, changes)
                return kv_pb2.Result(put=put)
            case "delete_range":
                _need_key(command.delete_range.key)
                store, changes = self.stores[-1].copy(), []
                new = self.revision + 1
                deleted = _delete(store, command.delete_range, new, changes)
                self._keep(store, changes)
                deleted.revision = self.revision
                return kv_pb2.Result(delete_range=deleted)
            case "txn":
                branches = self._decide(command.txn, [])
                result = kv_pb2.Result()
                store, changes = self.stores[-1].copy(), []
                self._run(command.txn, branches, result.txn, store, changes)
                self._keep(store, changes)
                return result
            case "compact":
                self._compact(command.compact.revision)
                revision = self.revision
                return kv_pb2.Result(compact=kv_pb2.CompactResult(revision=revision))
            case "compaction_step":
                revision = self.revision
                return kv_pb2.Result(compact=kv_pb2.CompactResult(revision=revision))
            case "open_session":
                return self._open()
            case "close_session":
                return self._close(command.close_session.session_id)
            case "expire_sessions":
                return self._expire(command.expire_sessions)
            case _:
                raise InvalidRequest("")

    def _compact(self, revision: int) -> None:
        if revision <= self.compact_revision:
            raise Compacted("", compact_revision=self.compact_revision)
        if revision > self.revision:
            raise FutureRevision("", current_revision=self.revision)
        self.compact_revision = revision

    # -------------------------------------- decide on the store as it was; then write

    def _decide(self, txn: kv_pb2.Txn, branches: list[bool]) -> list[bool]:
        for compare in txn.compare:
            _need_key(compare.key)
        # Every comparison is looked at: one that makes no sense refuses the command.
        outcomes = [_holds(self.stores[-1], compare) for compare in txn.compare]
        succeeded = all(outcomes)
        branches.append(succeeded)
        for operation in txn.success if succeeded else txn.failure:
            match operation.WhichOneof("operation"):
                case "txn":
                    self._decide(operation.txn, branches)
                case "range":
                    _need_key(operation.range.key)
                    self._check_revision(
                        operation.range.revision, self.revision, self.compact_revision
                    )
                case "put":
                    _need_key(operation.put.key)
                case "delete_range":
                    _need_key(operation.delete_range.key)
                case _:
                    raise InvalidRequest("")
        return branches

    def _keep(self, store: Store, changes: list[Change]) -> None:
        """A command is through: its changes, if it made any, are one revision."""
        if changes:
            self.stores.append(store)
            self.changes += changes

    def _run(
        self,
        txn: kv_pb2.Txn,
        branches: list[bool],
        result: kv_pb2.TxnResult,
        store: Store,
        changes: list[Change],
    ) -> None:
        result.succeeded = branches.pop(0)
        new = self.revision + 1
        for operation in txn.success if result.succeeded else txn.failure:
            answer = result.results.add()
            match operation.WhichOneof("operation"):
                case "put":
                    answer.put.CopyFrom(_put(store, operation.put, new, changes))
                case "delete_range":
                    deleted = _delete(store, operation.delete_range, new, changes)
                    deleted.revision = self.revision + bool(changes)
                    answer.delete_range.CopyFrom(deleted)
                case "range":
                    at = operation.range.revision
                    seen = self.stores[at] if at > 0 else store
                    now = self.revision + bool(changes)
                    answer.range.CopyFrom(_select(seen, operation.range, now))
                case "txn":
                    self._run(operation.txn, branches, answer.txn, store, changes)
                case other:
                    raise AssertionError(other)
        result.revision = self.revision + bool(changes)

    # --------------------------------------------------------------------- reads

    def range(
        self,
        request: kv_pb2.Range,
        *,
        revision: int | None = None,
        compact_revision: int | None = None,
    ) -> kv_pb2.RangeResult:
        """What a read returns from the state as it was at ``revision``; None is now.

        ``compact_revision``: below that history was gone at the time; None is as now.

        Raises:
            InvalidRequest: ``Compacted``, ``FutureRevision``, or there is no key.
        """
        newest = self.revision if revision is None else revision
        floor = self.compact_revision if compact_revision is None else compact_revision
        _need_key(request.key)
        self._check_revision(request.revision, newest, floor)
        at = request.revision if request.revision > 0 else newest
        return _select(self.stores[at], request, newest)

    @staticmethod
    def _check_revision(wanted: int, newest: int, compact_revision: int) -> None:
        if wanted > newest:
            raise FutureRevision("", current_revision=newest)
        if 0 < wanted < compact_revision:
            raise Compacted("", compact_revision=compact_revision)

    def kept(self) -> list[tuple[int, bytes]]:
        """(revision, key) of the records that stay when compaction has ended."""
        newest: dict[bytes, int] = {}
        for number, change in enumerate(self.changes):
            if change.revision <= self.compact_revision:
                newest[change.key] = number
        return [
            (change.revision, change.key)
            for number, change in enumerate(self.changes)
            if change.revision > self.compact_revision
            or (newest[change.key] == number and not change.is_delete)
        ]


def error_result(error: KVStoreError) -> kv_pb2.Result:
    """A command that failed, without the wording of its error."""
    code, details = type(error).__name__, error.details()
    return kv_pb2.Result(error=kv_pb2.Error(code=code, details=details))


def is_same(answer: kv_pb2.Result, expected: kv_pb2.Result) -> bool:
    """Whether an answer says what the model says, in whatever words."""
    if not answer.HasField("error"):
        return answer == expected
    return (
        answer.error.code == expected.error.code
        and answer.error.details == expected.error.details
    )


def is_inside(key: bytes, start: bytes, end: bytes) -> bool:
    """Whether a request for ``start`` and ``range_end`` names a key."""
    if not end:
        return key == start
    return start <= key and (end == _ALL or key < end)


# ------------------------------------------------------------------------ one step


def _need_key(key: bytes) -> None:
    if not key:
        raise InvalidRequest("")


def _holds(store: Store, compare: kv_pb2.Compare) -> bool:
    pair = store.get(compare.key)
    match compare.WhichOneof("target"):
        case "value":
            if pair is None:
                return False
            order = (pair.value > compare.value) - (pair.value < compare.value)
        case "version":
            order = (pair.version if pair else 0) - compare.version
        case "create_revision":
            order = (pair.create if pair else 0) - compare.create_revision
        case "mod_revision":
            order = (pair.mod if pair else 0) - compare.mod_revision
        case _:
            raise InvalidRequest("")
    match compare.result:
        case kv_pb2.Compare.EQUAL:
            return order == 0
        case kv_pb2.Compare.GREATER:
            return order > 0
        case kv_pb2.Compare.LESS:
            return order < 0
        case kv_pb2.Compare.NOT_EQUAL:
            return order != 0
        case other:
            raise AssertionError(other)


def _put(
    store: Store, request: kv_pb2.Put, revision: int, changes: list[Change]
) -> kv_pb2.PutResult:
    result = kv_pb2.PutResult(revision=revision)
    old = store.get(request.key)
    create, version = (revision, 1) if old is None else (old.create, old.version + 1)
    if old is not None and request.prev_kv:
        result.prev_kv.CopyFrom(old.to_pb(request.key))
    pair = Pair(request.value, create, revision, version, request.lease)
    store[request.key] = pair
    changes.append(Change(revision, request.key, is_delete=False))
    return result


def _delete(
    store: Store, request: kv_pb2.DeleteRange, revision: int, changes: list[Change]
) -> kv_pb2.DeleteRangeResult:
    result = kv_pb2.DeleteRangeResult()
    for key in sorted(store):
        if not is_inside(key, request.key, request.range_end):
            continue
        pair = store.pop(key)
        result.deleted += 1
        if request.prev_kv:
            result.prev_kvs.append(pair.to_pb(key))
        changes.append(Change(revision, key, is_delete=True))
    return result


def _select(store: Store, request: kv_pb2.Range, revision: int) -> kv_pb2.RangeResult:
    found = [
        (key, store[key])
        for key in sorted(store)
        if is_inside(key, request.key, request.range_end)
    ]
    result = kv_pb2.RangeResult(revision=revision)
    if not request.without_count:
        result.count = len(found)
    if request.count_only:
        return result
    if request.sort_order or request.sort_target:
        # Stable, also when reversed: equal ones stay in key order.
        found.sort(
            key={
                kv_pb2.Range.KEY: lambda it: it[0],
                kv_pb2.Range.VERSION: lambda it: it[1].version,
                kv_pb2.Range.CREATE: lambda it: it[1].create,
                kv_pb2.Range.MOD: lambda it: it[1].mod,
                kv_pb2.Range.VALUE: lambda it: it[1].value,
            }[request.sort_target],
            reverse=request.sort_order == kv_pb2.Range.DESCEND,
        )
    chosen = found[: request.limit] if request.limit else found
    for key, pair in chosen:
        result.kvs.append(pair.to_pb(key, with_value=not request.keys_only))
    result.more = len(chosen) < len(found)
    return result


def _reply_bytes(result: kv_pb2.Result) -> int:
    """What a reply counts for where it would be kept."""
    pairs = _pairs(result)
    counted = sum(_PAIR_BYTES + len(pair.key) + len(pair.value) for pair in pairs)
    return max(result.ByteSize(), counted)


def _pairs(result: kv_pb2.Result) -> list[kv_pb2.KeyValue]:
    match result.WhichOneof("result"):
        case "put":
            return [result.put.prev_kv] if result.put.HasField("prev_kv") else []
        case "delete_range":
            return list(result.delete_range.prev_kvs)
        case "range":
            return list(result.range.kvs)
        case "txn":
            return [pair for each in result.txn.results for pair in _pairs(each)]
        case _:
            return []
