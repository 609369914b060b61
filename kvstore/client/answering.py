"""What becomes of operations that were answered, or will not be.

Which are sent again is decided here and nowhere else.
"""

import asyncio
from collections.abc import Callable, Sequence

from kvstore.client.consistency import Consistency, Seen
from kvstore.client.outbox import Pending
from kvstore.client.results import ResponseHeader, header_from_pb
from kvstore.client.session import Sessions
from kvstore.client.transport import Transport
from kvstore.errors import (
    Busy,
    Closed,
    CorruptionError,
    DeadlineExceeded,
    EpochChanged,
    InvalidRequest,
    KVStoreError,
    LeadershipLost,
    OutcomeUnknown,
    SessionExpired,
    Unavailable,
)
from kvstore.pb import kv_pb2
from kvstore.rpc.errors import clone, error_from_pb

ON_ITS_WAY_S = 0.1
"""A node gives up this long before its client, for its answer to come in time."""
_REPEATED = LeadershipLost | DeadlineExceeded
"""Unknown outcomes after which a write with a number is sent again."""
_CLOSED_MEANWHILE = "it was closed during the call; nothing was applied"


class Answering:
    """Settles requests: each operation is answered, or handed to ``repeat``.

    ``repeat`` takes an operation and a pause in seconds after which it goes again.
    """

    def __init__(
        self,
        transport: Transport,
        sessions: Sessions | None,
        *,
        repeat: Callable[[Pending, float], None],
        backoff_s: Callable[[int], float],
    ) -> None:
        self.seen = Seen()
        self._transport = transport
        self._sessions = sessions
        self._repeat_after = repeat
        self._backoff_s = backoff_s
        self._closed = False

    def close(self) -> None:
        """From now on nothing goes again."""
        self._closed = True

    def settle(
        self,
        group: list[Pending],
        headers: Sequence[int],
        response: kv_pb2.OperateResponse | None,
        error: KVStoreError | None,
    ) -> bool:
        """Answer a group. Returns whether another node should be asked from now on."""
        if response is not None and response.HasField("error"):
            error = error_from_pb(response.error)
        if response is not None and error is None:
            results: Sequence[kv_pb2.Result] = response.results.results
            if len(results) == len(headers) + len(group):
                # What is said of a session is said of each command of it, too.
                results = _without(results, headers)
                header = header_from_pb(response.header)
                return self._settle_results(group, results, header)
            error = OutcomeUnknown(f"{len(results)} results to {len(group)} operations")
        assert error is not None
        return self._settle_refused(group, headers, error)

    def _settle_results(
        self,
        group: list[Pending],
        results: Sequence[kv_pb2.Result],
        header: ResponseHeader,
    ) -> bool:
        self.seen.note(header.epoch, header.revision)
        if group[0].level is not None and (
            group[0].level.consistency is Consistency.SESSION
        ):
            try:
                self.seen.raise_change()
            except EpochChanged as change:
                return self._settle_refused(group, (), change)
        elsewhere = False
        for pending, result in zip(group, results, strict=True):
            if result.HasField("error"):
                error = error_from_pb(result.error)
                elsewhere = elsewhere or _is_better_elsewhere(error)
                self.settle_error(pending, error, answers_number=True)
            elif not pending.waiting.done():
                pending.waiting.set_result((result, header))
        return elsewhere

    def _settle_refused(
        self, group: list[Pending], headers: Sequence[int], error: KVStoreError
    ) -> bool:
        """The same answer for all, unless one of them is at fault for it."""
        if isinstance(error, EpochChanged):
            self.seen.told(error)
        elif (
            isinstance(error, InvalidRequest)
            and not isinstance(error, SessionExpired)
            and len(group) > 1
        ):
            self._part(group, headers, error)
            return False
        for pending in group:
            self.settle_error(pending, error)
        if isinstance(error, _REPEATED) and group[0].number:
            deadline = max([pending.deadline for pending in group])
            left_s = deadline - asyncio.get_running_loop().time()
            return left_s > 2 * ON_ITS_WAY_S
        return _is_better_elsewhere(error)

    def _part(
        self, group: list[Pending], headers: Sequence[int], error: InvalidRequest
    ) -> None:
        """One operation made the node refuse all: the others go again at once.

        Safe, because the refusal is definite. If it does not say which one is at fault,
        each goes alone.
        """
        place_at_fault = error.command_index
        if place_at_fault in headers:
            place_at_fault = None
        elif place_at_fault is not None:
            place_at_fault -= sum(1 for place in headers if place < place_at_fault)
        named = place_at_fault is not None and place_at_fault < len(group)
        for place, pending in enumerate(group):
            if named and place == place_at_fault:
                self.settle_error(pending, error)
                continue
            pending.alone = not named
            pending.left = False
            self._repeat_after(pending, 0.0)

    def settle_error(
        self,
        pending: Pending,
        error: KVStoreError,
        *,
        answers_number: bool = False,
    ) -> None:
        """Answer one, or send it again.

        ``answers_number``: it is what the write's number got when it was applied,
        now or earlier, and not only what became of this attempt.
        """
        if pending.waiting.done():
            return
        if isinstance(error, SessionExpired) and pending.session is not None:
            assert self._sessions is not None
            self._sessions.lost(pending.session)
            answers_number = False
            if not pending.in_doubt:
                # This was the only attempt that may have been applied, and it was not,
                # nor will be: a session that is gone never comes back, so no other
                # number of another session can double it.
                pending.forget_number()
                self._repeat(pending, error)
                return
        elif self._may_repeat(pending, error):
            self._repeat(pending, error)
            return
        if pending.in_doubt and error.definite and not answers_number:
            # The last attempt was not applied; of an earlier one nobody can tell.
            message = f"{error}; an earlier attempt may have been applied"
            pending.waiting.set_exception(OutcomeUnknown(message))
            return
        copy = clone(error)
        copy.__cause__ = error.__cause__
        pending.waiting.set_exception(copy)

    def _may_repeat(self, pending: Pending, error: KVStoreError) -> bool:
        """Whether sending again is safe and can help."""
        if isinstance(error, Closed | CorruptionError) and not self._transport.recovers:
            return False
        if isinstance(error, Closed):
            return True  # the node closed before the request: another may take it
        if pending.is_read:
            return error.retryable or not error.definite
        if not error.definite:
            # Under a number it is applied once; without, what may have been is not
            # sent again.
            return pending.number > 0 and isinstance(error, _REPEATED)
        # Damage does not mend by writing.
        return error.retryable and not isinstance(error, CorruptionError)

    def _repeat(self, pending: Pending, error: KVStoreError) -> None:
        """Send again after a pause."""
        pending.left = False
        if not (error.definite or pending.is_read):
            pending.in_doubt = True
        if self._closed:
            closed: KVStoreError = Closed(_CLOSED_MEANWHILE)
            if pending.in_doubt:
                closed = OutcomeUnknown(f"{error}; the client was closed meanwhile")
            pending.waiting.set_exception(closed)
            return
        if isinstance(error, Busy) and not pending.in_doubt:
            # An open number keeps the replies of all after it, of which there may be
            # too many already.
            pending.forget_number()
        pending.cause = str(error)
        pending.attempts += 1
        pause_s = self._backoff_s(pending.attempts)
        self._repeat_after(pending, pause_s)


def _is_better_elsewhere(error: KVStoreError) -> bool:
    """Whether another node may do better than the one that said this."""
    if isinstance(error, Busy):
        return False
    return isinstance(error, Unavailable | CorruptionError | Closed)


def _without(
    results: Sequence[kv_pb2.Result], headers: Sequence[int]
) -> Sequence[kv_pb2.Result]:
    """The results of the operations alone."""
    if not headers:
        return results
    if len(headers) == 1:
        return results[1:]  # a header comes first
    return [it for place, it in enumerate(results) if place not in set(headers)]
