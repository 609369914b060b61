"""Changes of the members and of the lead that somebody waits for."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kvstore.errors import (
    DeadlineExceeded,
    KVStoreError,
    LeadershipLost,
    Unavailable,
)
from kvstore.raft.membership import Change
from kvstore.raft.node import RaftNode
from kvstore.types import Incarnation, LogIndex, NodeId, Term, Ticket


@dataclass(slots=True)
class WaitingChange:
    """A change of the members under way."""

    ticket: Ticket
    term: Term
    index: LogIndex
    """Of the joint configuration's entry."""
    deadline_tick: int


@dataclass(slots=True)
class WaitingTransfer:
    """A transfer of the lead under way."""

    ticket: Ticket
    term: Term
    to: NodeId
    wanted: bool
    """That one and no other was asked for."""
    deadline_tick: int


class Membership:
    """What a replica owes to those who change its cluster."""

    def __init__(self, raft: RaftNode) -> None:
        self._raft = raft
        self._changes: list[WaitingChange] = []
        self._transfers: list[WaitingTransfer] = []
        self._identified: dict[NodeId, Incarnation] = {}

    def change(
        self, ticket: Ticket, changes: Iterable[Change], deadline_tick: int
    ) -> None:
        """Begin a change; ``settled`` will name the ticket.

        Raises:
            NotLeader, ChangePending, MembershipRefused: nothing was changed.
        """
        entry = self._raft.propose_changes(changes)
        self._changes.append(
            WaitingChange(ticket, entry.term, entry.index, deadline_tick)
        )

    def transfer(self, ticket: Ticket, to: NodeId | None, deadline_tick: int) -> None:
        """Begin to hand over; ``settled`` will name the ticket.

        Raises:
            NotLeader, MembershipRefused, Unavailable: nothing was begun.
        """
        raft = self._raft
        target = raft.transfer(to)
        if target is None:
            raise Unavailable("no other voter is close enough to take the lead")
        self._transfers.append(
            WaitingTransfer(ticket, raft.term, target, to is not None, deadline_tick)
        )

    def identified(self, node_id: NodeId, incarnation: Incarnation) -> None:
        """A member's data directory became known; a leader has it recorded."""
        info = self._raft.configuration.members.get(node_id)
        if info is not None and not info.incarnation:
            self._identified[node_id] = incarnation

    def record_identities(self) -> None:
        """At a leader: put what became known in the configuration, one at a time."""
        raft = self._raft
        if not (self._identified and raft.can_change_members):
            return
        node_id, incarnation = next(iter(sorted(self._identified.items())))
        del self._identified[node_id]
        info = raft.configuration.members.get(node_id)
        if info is None or info.incarnation:
            return
        raft.propose_info(node_id, replace(info, incarnation=incarnation))

    def settled(self, tick: int) -> list[tuple[Ticket, KVStoreError | None]]:
        """Take out what is done, or can no longer be told from here."""
        if not (self._changes or self._transfers):
            return []
        done: list[tuple[Ticket, KVStoreError | None]] = []
        for change in self._changes[:]:
            settled, error = self._change_state(change, tick)
            if settled:
                self._changes.remove(change)
                done.append((change.ticket, error))
        for transfer in self._transfers[:]:
            settled, error = self._transfer_state(transfer, tick)
            if settled:
                self._transfers.remove(transfer)
                done.append((transfer.ticket, error))
        return done

    def _change_state(
        self, change: WaitingChange, tick: int
    ) -> tuple[bool, KVStoreError | None]:
        raft = self._raft
        if raft.term != change.term:
            return True, LeadershipLost(
                "the leader changed during the change of members: look at them"
            )
        if tick >= change.deadline_tick:
            return True, DeadlineExceeded(
                "the change of members is under way and goes on: look at them"
            )
        # In this term the log only grows, so the entry that left it follows.
        index = raft.configuration_index
        left = index > change.index and not raft.configuration.is_joint
        return left and raft.commit_index >= index, None

    def _transfer_state(
        self, transfer: WaitingTransfer, tick: int
    ) -> tuple[bool, KVStoreError | None]:
        raft = self._raft
        if raft.is_leader and transfer.to == raft.node_id:
            return True, None  # it leads already
        leader = raft.leader_id
        if raft.term > transfer.term and leader is not None:
            if leader == transfer.to or not transfer.wanted:
                return True, None
            return True, Unavailable(f"node {leader} leads instead: ask again")
        given_up = raft.term == transfer.term and raft.transferee != transfer.to
        if given_up or tick >= transfer.deadline_tick:
            # It may have been told to campaign, and not have heard of it yet.
            return True, DeadlineExceeded(
                f"node {transfer.to} did not take the lead in time; it may yet"
            )
        return False, None

    def close(self) -> list[tuple[Ticket, KVStoreError]]:
        """The node stops: nobody can say how it ends."""
        tickets = [it.ticket for it in self._changes]
        tickets += [it.ticket for it in self._transfers]
        self._changes, self._transfers = [], []
        return [
            (ticket, LeadershipLost("the node stopped during the change"))
            for ticket in tickets
        ]
