"""Traces of the real core, checked step by step against the specification.

A :class:`SpecificationChecker` is fed like
:class:`~kvstore.raft.invariants.ClusterChecker`, with the same calls and one more:
:meth:`~SpecificationChecker.message_delivered`, just before a node is handed a message.
It knows nothing of the other nodes' states when it judges one: whatever a node does
must follow from its own state and from what it was told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kvstore.raft.invariants import Member
from kvstore.raft.messages import Entry, EntryId, HardState, Message
from kvstore.raft.node import RaftNode, Role
from kvstore.raft.observed import DurableView
from kvstore.raft.ready import ReadState
from kvstore.simulation.specification.logs import EVERYTHING
from kvstore.simulation.specification.reads import check_answer
from kvstore.simulation.specification.rules import Log, Members
from kvstore.simulation.specification.sent import check_sent
from kvstore.simulation.specification.state import (
    Disk,
    Ledger,
    Life,
    SpecificationViolation,
    is_durable,
    last_durable,
    require,
)
from kvstore.simulation.specification.steps import check_step
from kvstore.simulation.specification.told import receive
from kvstore.types import LogIndex, NodeId

__all__ = ["SpecificationChecker", "SpecificationViolation"]


class SpecificationChecker:
    """Watches one cluster for its whole life.

    Every method raises :class:`SpecificationViolation` if a step is not allowed; its
    text begins with the action, and says which guard forbids it.
    """

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._lives: dict[NodeId, Life] = {}
        """Of a node that is down, the last one."""
        self._disks: dict[NodeId, Disk] = {}
        self._applied: dict[NodeId, LogIndex] = {}
        self._reads: dict[tuple[NodeId, int], tuple[int, LogIndex]] = {}
        self._committed_index = LogIndex(0)
        self.steps = 0
        """How many it has checked."""

    @property
    def committed_index(self) -> LogIndex:
        """The highest index that any node ever committed."""
        return self._committed_index

    # ------------------------------------------------------------------ members

    def check(self, members: Mapping[NodeId, Member]) -> None:
        """Check a step of every member."""
        for node_id in sorted(members):
            self.check_member(node_id, members)

    def check_member(self, node_id: NodeId, members: Mapping[NodeId, Member]) -> None:
        """Check what a member did since the last call: one input, and what followed.

        Call it after every input. O(what changed).
        """
        self._ledger.now += 1
        self.steps += 1
        member = members[node_id]
        node, durable = member.node, member.durable
        life = self._lives.get(node_id)
        self._check_persist(node_id, life, durable)
        if node is None:
            return
        if life is None or life.node is not node:
            self._lives[node_id] = self._begin(node, durable)
            return
        check_step(life, self._ledger)
        self._committed_index = max(self._committed_index, life.commit_index)

    def _begin(self, node: RaftNode, durable: DurableView) -> Life:
        """Restart: a node is what its disk says, and has committed what it applied."""
        action, node_id = "Restart", node.node_id
        require(
            HardState(term=node.term, vote=node.vote) == durable.hard_state
            and node.last_index == durable.last_index
            and node.log.floor.index == durable.first_index - 1,
            *(action, "a node starts from its disk", node_id, durable.hard_state),
        )
        require(
            node.role is Role.FOLLOWER
            and node.commit_index == self._applied.get(node_id, 0),
            *(action, "a node starts as a follower of nobody", node_id, node.role),
            *(node.commit_index, self._applied.get(node_id)),
        )
        floor = node.log.floor
        terms = [
            durable.term(LogIndex(index))
            for index in range(durable.first_index, durable.last_index + 1)
        ]
        log = Log(terms, floor)
        if node_id not in self._disks:
            self._note_found(log, durable)
        self._check_found(node_id, log)
        members = [(floor.index, Members.parse(durable.base_configuration))]
        members += [(at, Members.parse(data)) for at, data in durable.configurations()]
        self._disks[node_id] = Disk(durable.hard_state, log.last)
        return Life(
            node=node,
            durable=durable,
            term=node.term,
            vote=node.vote,
            role=node.role,
            log=log,
            floor=floor.index,
            members=members,
            commit_index=node.commit_index,
            hard_states=[durable.hard_state],
        )

    def _note_found(self, log: Log, durable: DurableView) -> None:
        """A disk that had a log before anybody watched."""
        first, end = durable.first_index, LogIndex(durable.last_index + 1)
        while first < end:
            for entry in durable.entries(first, end, EVERYTHING):
                previous = log.term(entry.index - 1)
                self._ledger.entered(entry, previous, "Restart")
                first = LogIndex(entry.index + 1)

    def _check_found(self, node_id: NodeId, log: Log) -> None:
        contents, previous = self._ledger.contents, log.base.term
        for index, term in enumerate(log.terms, log.base.index + 1):
            content = contents.get((term, index))
            require(
                content is not None and content[0] == previous,
                *("Restart", "a disk holds what never was in a log", node_id),
                *(term, index),
            )
            previous = term

    def _check_persist(
        self, node_id: NodeId, life: Life | None, durable: DurableView
    ) -> None:
        """Persist: a write makes durable what was so in memory, and loses nothing."""
        disk = self._disks.get(node_id)
        if disk is None or life is None:
            return
        action, now = "Persist", durable.hard_state
        if now is not disk.hard_state:
            if now != disk.hard_state:
                require(
                    now in life.hard_states,
                    *(action, "a term and a vote that the node never had"),
                    *(node_id, now, life.hard_states),
                )
                del life.hard_states[: life.hard_states.index(now)]
            disk.hard_state = now
        before, last = disk.last, durable.last_index
        if last == before.index and durable.term(last) == before.term:
            return
        after = last_durable(durable)
        log = life.log
        require(
            after in life.replaced
            or (after.index >= log.base.index and log.holds(after.term, after.index)),
            *(action, "entries that the node's log never held", node_id, after),
        )
        require(
            before.index < log.base.index
            or not log.holds(before.term, before.index)
            or is_durable(durable, before.term, before.index),
            *(action, "a write took away what the log holds", node_id, before, after),
        )
        disk.last = after

    # ----------------------------------------------------------------- messages

    def message_delivered(
        self, message: Message, members: Mapping[NodeId, Member]
    ) -> None:
        """A message is about to be handed to its receiver.

        Checks first what that did before. Nothing if ``members`` does not know it, or
        not as a node that is up.
        """
        life = self._lives.get(message.to)
        member = members.get(message.to)
        if life is None or member is None or life.node is not member.node:
            return
        self.check_member(message.to, members)
        life.input = message
        receive(life, message, self._ledger)

    def message_sent(self, message: Message, durable: DurableView) -> None:
        """A message leaves; ``durable`` is its sender's."""
        self._ledger.now += 1
        life = self._lives[message.sender]
        check_sent(life, message, durable, self._ledger)

    # -------------------------------------------------------------------- state

    def handed_out(self, node_id: NodeId, entries: Iterable[Entry]) -> None:
        """Apply: entries go to the state machine, in order, each once."""
        life = self._lives[node_id]
        applied = self._applied.get(node_id, LogIndex(0))
        for entry in entries:
            facts = (node_id, entry.term, entry.index)
            require(
                entry.index == applied + 1,
                *("Apply", "entries are applied in order", *facts, applied),
            )
            require(
                entry.index <= life.commit_index
                and life.log.holds(entry.term, entry.index),
                *("Apply", "only committed entries are", *facts, life.commit_index),
            )
            require(
                is_durable(life.durable, entry.term, entry.index),
                *("Apply", "only what is durable here, too", *facts),
            )
            applied = entry.index
        self._applied[node_id] = applied

    def installed(self, node_id: NodeId, last: EntryId) -> None:
        """A snapshot's state took the place of a node's own."""
        require(
            last.index > self._applied.get(node_id, 0),
            *("InstallSnapshot", "it sets back what was applied", node_id, last),
        )
        self._applied[node_id] = last.index

    def restarted(self, node_id: NodeId, applied_index: LogIndex) -> None:
        """A node starts again from a state that has applied ``applied_index``."""
        self._applied[node_id] = applied_index

    # -------------------------------------------------------------------- reads

    def read_asked(self, node_id: NodeId, request_id: int) -> None:
        """A read starts now."""
        ledger, life = self._ledger, self._lives[node_id]
        ledger.now += 1
        self._reads[node_id, request_id] = (ledger.now, life.commit_index)

    def read_answered(self, node_id: NodeId, state: ReadState) -> None:
        """A read may be served at an index, or was rejected. Leases are not judged."""
        asked = self._reads.pop((node_id, state.request_id), None)
        require(
            asked is not None,
            *("ReadIndex", "answered what nobody asked, or twice", node_id, state),
        )
        assert asked is not None
        if not (state.rejected or state.lease):
            check_answer(self._lives[node_id], *asked, state)
