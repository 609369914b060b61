"""What is durable, what is being written, and what may not be said before it is.

The whole durability rule of the core lives here. Dissertation section 3.8: "each server
persists its current term and vote ... and new log entries before they are counted
towards the entries' commitment". So a message that speaks for a term, a vote or log
entries waits until exactly these are durable, however they came to be written:

* a granted vote: for term and vote;
* a request for a vote: for term and vote, and for the log that it boasts of. (Were a
  candidate to lose in a crash what it had boasted of, a vote given to it before could
  still elect it after, without entries that its voter had committed.)
* an acknowledgement of entries: for the term and these entries (mutants M18, M19);
* a heartbeat's answer: for the term.

Refusals, pre-votes and what leaders send bind nobody and leave at once.
"""

from kvstore.raft.log import RaftLog
from kvstore.raft.messages import HardState, Message, Snapshot
from kvstore.types import LogIndex, ReadyNumber


class Persistence:
    """The write in flight, at most one, and the messages that wait for a write."""

    __slots__ = (
        "_durable",
        "_handed_out",
        "_installing",
        "_waiting",
        "in_flight",
        "snapshot",
    )

    def __init__(self, hard_state: HardState) -> None:
        self._durable = hard_state
        self._handed_out = hard_state
        self._waiting: list[tuple[LogIndex, Message]] = []
        self.in_flight: ReadyNumber | None = None
        """The Ready whose ``persisted`` is awaited."""
        self.snapshot: Snapshot | None = None
        """To be installed by the next write."""
        self._installing: Snapshot | None = None

    def send_when_durable(self, message: Message, index: LogIndex) -> None:
        """Send once the current term and vote, and the log to ``index``, are safe."""
        self._waiting.append((index, message))

    def drop_waiting(self) -> None:
        """What waits speaks for a term or a candidacy that is over.

        An acknowledgement of an earlier term must not leave later: its entries may be
        replaced by then. A request for votes may boast of entries that were.
        """
        self._waiting.clear()

    def has_write(self, log: RaftLog, hard_state: HardState) -> bool:
        """Whether a write can begin: there is something to write, and none in flight.

        Hard states are compared by identity: the core builds a new one only to change
        term or vote, and neither ever changes back.
        """
        return self.in_flight is None and (
            log.has_unwritten
            or hard_state is not self._handed_out
            or self.snapshot is not None
        )

    def has_released(self, log: RaftLog, hard_state: HardState) -> bool:
        """Whether a message need wait no longer."""
        if not self._can_release(hard_state):
            return False
        stable = log.stable_index
        return any(index <= stable for index, _ in self._waiting)

    def release(self, log: RaftLog, hard_state: HardState) -> list[Message]:
        """Messages that wait for nothing any more, in order."""
        if not self._can_release(hard_state):
            return []
        stable = log.stable_index
        released = [message for index, message in self._waiting if index <= stable]
        self._waiting = [item for item in self._waiting if item[0] > stable]
        return released

    def _can_release(self, hard_state: HardState) -> bool:
        # Behind a snapshot that is not installed yet, nothing is durable.
        return (
            bool(self._waiting)
            and hard_state is self._durable
            and self.snapshot is None
            and self._installing is None
        )

    def begin(self, number: ReadyNumber, hard_state: HardState) -> HardState | None:
        """A Ready is handed out with all there is to write. The hard state, if new."""
        assert self.in_flight is None
        self.in_flight = number
        self._installing, self.snapshot = self.snapshot, None
        new = None if hard_state is self._handed_out else hard_state
        self._handed_out = hard_state
        return new

    def take_waiting(self) -> tuple[Message, ...]:
        """Every message that waits: the write that begins covers them all."""
        waiting = tuple([message for _, message in self._waiting])
        self._waiting.clear()
        return waiting

    def finished(self, number: ReadyNumber) -> Snapshot | None:
        """The write in flight is durable. The snapshot that it installed, if one."""
        assert number == self.in_flight, (number, self.in_flight)
        self.in_flight = None
        self._durable = self._handed_out
        installed, self._installing = self._installing, None
        return installed

    @property
    def is_installing(self) -> bool:
        """Whether a snapshot waits to be installed, or is being."""
        return self.snapshot is not None or self._installing is not None

    def is_durable(self, hard_state: HardState) -> bool:
        return hard_state is self._durable
