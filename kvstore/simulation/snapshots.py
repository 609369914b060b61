"""Snapshots on their way from a leader to peers that lag behind its log."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kvstore.raft.messages import InstallSnapshot
from kvstore.simulation.states import WatchedState
from kvstore.types import LogIndex, NodeId

if TYPE_CHECKING:
    from kvstore.replica.replica import Replica
    from kvstore.simulation.member import SimMember
    from kvstore.simulation.world import World

EXPORT_US = 2_000
TRANSFER_US = 10_000
"""On average."""
BREAKS = 0.3
"""How likely a transfer breaks and goes on where it was."""
BREAKS_MAX = 10
"""After so many it is given up."""


@dataclass(slots=True)
class Transfer:
    """One export on its way to one peer."""

    member: SimMember
    message: InstallSnapshot
    state: WatchedState
    number: int
    life: int
    """Of the sender."""
    breaks: int = 0


class Transfers:
    """Of all members. Each is sent until it is there, given up, or stopped."""

    __slots__ = ("_under_way", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: dict[tuple[NodeId, NodeId], int] = {}
        """By sender and peer; the number tells a transfer from the one before."""

    def begin(self, member: SimMember, peer: NodeId) -> None:
        """A peer needs the state."""
        world = self._world
        key = (member.node_id, peer)
        number = self._under_way.get(key, 0) + 1
        self._under_way[key] = number
        life = member.life
        delay_us = EXPORT_US + int(world.streams.network.random() * EXPORT_US)
        world.agenda.after(delay_us, partial(self._export, member, peer, number, life))

    def stop(self, member: SimMember, peer: NodeId) -> None:
        """The peer needs none any more, or the member does not lead."""
        key = (member.node_id, peer)
        if key in self._under_way:
            self._under_way[key] += 1
        member.release(peer)

    def sender_ended(self, member: SimMember) -> None:
        """Nothing comes from a process that is gone."""
        for key in self._under_way:
            if key[0] == member.node_id:
                self._under_way[key] += 1

    def _is_on(self, member: SimMember, peer: NodeId, number: int, life: int) -> bool:
        return (
            member.replica is not None
            and member.life == life
            and self._under_way[member.node_id, peer] == number
        )

    def _export(self, member: SimMember, peer: NodeId, number: int, life: int) -> None:
        if not self._is_on(member, peer, number, life):
            return
        world = self._world
        seat = world.seats[member.node_id]
        if seat.is_paused:
            retry = partial(self._export, member, peer, number, life)
            world.agenda.after(EXPORT_US, retry)
            return
        message = member.export(peer)
        world.watch.exported(member)
        world.journal.exported(world, message)
        state = member.state.clone()
        self._travel(Transfer(member, message, state, number, life))

    def _travel(self, transfer: Transfer) -> None:
        network = self._world.streams.network
        delay_us = 1 + int(network.expovariate(1 / TRANSFER_US))
        breaks = network.random() < BREAKS
        self._world.agenda.after(delay_us, partial(self._due, transfer, breaks))

    def _due(self, transfer: Transfer, breaks: bool) -> None:
        world, member, message = self._world, transfer.member, transfer.message
        if not self._is_on(member, message.to, transfer.number, transfer.life):
            return
        receiver = world.seats.get(message.to)
        is_lost = (
            breaks
            or receiver is None
            or not receiver.is_up
            or world.network.is_cut((member.node_id, message.to))
            or not receiver.member.takes_snapshot(message)
        )
        if not is_lost:
            self._arrive(member, message, transfer.state)
        elif transfer.breaks < BREAKS_MAX:
            world.reached["a snapshot's transfer broke"] += 1
            world.journal.noted(world, f"the snapshot for {message.to} is held up")
            transfer.breaks += 1
            self._travel(transfer)
        else:
            self._ended(member, message.to, LogIndex(0))

    def _arrive(
        self, member: SimMember, message: InstallSnapshot, state: WatchedState
    ) -> None:
        world, last = self._world, message.snapshot.last
        receiver = world.seats[message.to]
        receiver.member.stage(message, state)
        world.deliver(message)
        self._ended(member, message.to, last.index)

    def _ended(self, member: SimMember, peer: NodeId, reached: LogIndex) -> None:
        world = self._world
        self._under_way[member.node_id, peer] += 1
        member.release(peer)
        seat = world.seats[member.node_id]

        def end(replica: Replica) -> None:
            world.journal.transferred(world, seat, peer, reached)
            replica.snapshot_ended(peer, reached)

        world.act(seat, end)
