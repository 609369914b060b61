"""What happens in a run, told to whoever listens: for traces and for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.raft.events import (
    BecameCandidate,
    BecamePreCandidate,
    Event,
    PeerStateChanged,
    SteppedDown,
    VoteRefused,
)
from kvstore.types import LogIndex, NodeId, Ticket

if TYPE_CHECKING:
    from random import Random

    from kvstore.errors import KVStoreError
    from kvstore.raft.messages import InstallSnapshot
    from kvstore.replica.messages import PeerMessage
    from kvstore.simulation.member import SimMember
    from kvstore.simulation.seat import Seat
    from kvstore.simulation.workload import Read as ClientRead
    from kvstore.simulation.workload import Write
    from kvstore.simulation.world import World


class Journal:
    """Told of each thing as it begins, at the world's present time. Listens to none;
    whoever wants to hear of something overrides its method.
    """

    def begins(self, world: World) -> None:
        """Before anything else."""

    def chance(self, node_id: NodeId, life: int, random: Random) -> Random:
        """The chance of a member that is about to start; another in its place, if it
        draws the same.
        """
        del node_id, life
        return random

    # Inputs of members, in the order in which they reach them.

    def restarted(self, world: World, seat: Seat, *, survives: int) -> None:
        """``survives``: so many commits of the state are lost at most."""

    def joined(self, world: World, node_id: NodeId) -> None:
        """There is a new node, which belongs to nobody yet; it starts next."""

    def wiped(self, world: World, node_id: NodeId) -> None:
        """A member that is down lost its directory."""

    def crashed(self, world: World, seat: Seat, *, write_is_lost: bool) -> None:
        """A process ended."""

    def paused(self, world: World, seat: Seat) -> None:
        """From now on what reaches a member waits."""

    def resumed(self, world: World, seat: Seat) -> None:
        """It goes on with what has waited."""

    def disconnected(self, world: World, seat: Seat, peer: NodeId) -> None:
        """A member sees its connection to ``peer`` close."""

    def ticked(self, world: World, seat: Seat, count: int) -> None:
        """A member's timer fired."""

    def wrote(self, world: World, seat: Seat) -> None:
        """A log write ends."""

    def worked(self, world: World, seat: Seat) -> None:
        """The state machine does a piece of its work."""

    def committed(self, world: World, seat: Seat) -> None:
        """A state is committed."""

    def delivers(self, world: World, message: PeerMessage) -> None:
        """A message reaches its receiver."""

    def received(self, world: World, message: PeerMessage) -> None:
        """Its receiver looks at it: at once, unless that is paused."""

    def exported(self, world: World, message: InstallSnapshot) -> None:
        """A snapshot is made, and sets out."""

    def transferred(
        self, world: World, seat: Seat, peer: NodeId, reached: LogIndex
    ) -> None:
        """A leader hears that a transfer is over."""

    def asked(self, world: World, seat: Seat, line: str) -> None:
        """Somebody wants something of a member: the line of a script that says what."""

    def wanted(
        self, world: World, seat: Seat, ticket: Ticket, operation: Write | ClientRead
    ) -> None:
        """A client's request reaches a member."""

    # And what comes of them.

    def heard(
        self,
        world: World,
        ticket: Ticket,
        operation: Write | ClientRead,
        error: KVStoreError | None,
    ) -> None:
        """An answer reaches its client."""

    def sent(self, world: World, message: PeerMessage) -> None:
        """A message leaves."""

    def lost(self, world: World, message: PeerMessage, why: str) -> None:
        """A message, or a copy of it, does not reach its receiver."""

    def happened(self, world: World, member: SimMember, event: Event) -> None:
        """The core did something."""

    def noted(self, world: World, what: str) -> None:
        """Anything else: a fault, in one short sentence."""

    def violated(self, world: World, what: str) -> None:
        """The run ends here: something must not be."""


def names_of(event: Event) -> tuple[str, ...]:
    """What a run counts an event of the core as: its kind, and its reason."""
    name = type(event).__name__
    match event:
        case SteppedDown() | VoteRefused() | BecamePreCandidate():
            return name, f"{name}: {event.reason.value}"
        case BecameCandidate(reason=reason) if reason is not None:
            return name, f"{name}: {reason.value}"
        case PeerStateChanged():
            return name, f"{name}: {event.cause.name}"
        case _:
            return (name,)
