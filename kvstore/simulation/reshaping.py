"""Members come and go, and the lead is handed around: all that operators do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvstore.errors import KVStoreError
from kvstore.raft.membership import (
    AddLearner,
    Change,
    Configuration,
    Demote,
    MemberInfo,
    Promote,
    Remove,
)
from kvstore.raft.quorum import has_quorum
from kvstore.simulation.seat import Seat
from kvstore.simulation.swarm import Fault, strikes_of
from kvstore.types import Incarnation, NodeId, Ticket

if TYPE_CHECKING:
    import random

    from kvstore.simulation.world import World

LOOK_US = 40_000
"""How often an operator looks whether a member is to be replaced."""
PATIENCE_TICKS = 40
VOTERS_MAX = 5
VOTERS_MIN = 2
MEMBERS_MAX = 12
"""Ids in one run, those that are gone included."""


class Reshaping:
    """Of one world. Replaces who is spoiled; changes more if the swarm has it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._to_replace: dict[NodeId, NodeId] = {}
        """Who is spoiled, by whom it is replaced; 0 while nobody was found."""
        self._ended = False

    def begin(self) -> None:
        """Look after the members from now on."""
        world = self._world
        world.agenda.after(LOOK_US, self._look)
        for fault, act in (
            (Fault.MEMBERS, self._change_at_random),
            (Fault.TRANSFER, self._transfer),
        ):
            if world.swarm.has(fault):
                self._schedule(act, world.streams.make(f"fault/{fault.value}"))

    def end(self) -> None:
        """No change for its own sake any more; replacements go on."""
        self._ended = True

    def _schedule(
        self, act: Callable[[random.Random], None], stream: random.Random
    ) -> None:
        rate = 1 / self._world.swarm.strike_us

        def due() -> None:
            if not self._ended:
                act(stream)
                self._schedule(act, stream)

        self._world.agenda.after(1 + int(stream.expovariate(rate)), due)

    def replace_soon(self, seat: Seat) -> None:
        """A member lost what it had promised: somebody will take its place."""
        self._to_replace.setdefault(seat.member.node_id, NodeId(0))
        self._note(f"{seat.member.node_id} is to be replaced")

    def _note(self, what: str) -> None:
        self._world.journal.noted(self._world, what)

    @property
    def is_done(self) -> bool:
        """Whether nobody waits to be replaced."""
        return not self._to_replace

    # ------------------------------------------------------------- replacements

    def _look(self) -> None:
        self._world.agenda.after(LOOK_US, self._look)
        leader = self._leader()
        if leader is None:
            return
        configuration = leader.replica.raft.configuration
        for old in sorted(self._to_replace):
            self._replace(leader, configuration, old)
            return

    def _replace(self, leader: Seat, configuration: Configuration, old: NodeId) -> None:
        raft = leader.replica.raft
        if old in configuration.removed:
            if raft.commit_index >= raft.configuration_index:
                del self._to_replace[old]
                self._world.reached["a lost member was replaced"] += 1
                self._note(f"{old} is replaced")
            return
        if old not in configuration.members:
            del self._to_replace[old]
            return
        new = self._to_replace[old]
        if not configuration.is_voter(old) or new in configuration.voters:
            self._propose(leader, [Remove(old)])
        elif not new or new in configuration.removed:
            joined = self._join()
            if joined is not None:
                self._to_replace[old] = joined
        elif new not in configuration.members:
            self._propose(leader, [_addition(new)])

    def _join(self) -> NodeId | None:
        world = self._world
        if len(world.seats) >= MEMBERS_MAX:
            return None
        node_id = NodeId(max(world.seats) + 1)
        self._note(f"{node_id} is set up, and waits to be added")
        world.join(node_id)
        world.reached["a node joined"] += 1
        return node_id

    def _leader(self) -> Seat | None:
        """A leader that can begin a change now."""
        leader = self._world.leader()
        if leader is None or leader.is_paused:
            return None
        return leader if leader.replica.raft.can_change_members else None

    def _propose(self, leader: Seat, changes: list[Change]) -> None:
        world = self._world
        ticket = Ticket(world.next_ticket())
        world.journal.asked(world, leader, _change_line(leader, changes))
        try:
            world.act(
                leader,
                lambda replica: replica.change_members(
                    ticket, changes, patience_ticks=PATIENCE_TICKS
                ),
            )
        except KVStoreError as error:
            world.reached[f"a change was refused: {type(error).__name__}"] += 1
            self._note(f"the change is refused: {type(error).__name__}")
        else:
            world.reached["a change of members began"] += 1

    # ------------------------------------------------------------------ at random

    def _change_at_random(self, stream: random.Random) -> None:
        leader = self._leader()
        if leader is None or self._to_replace:
            return
        configuration = leader.replica.raft.configuration
        if configuration.is_joint:
            return
        changes = self._draw(configuration, stream)
        if changes and self._is_survivable(configuration, changes):
            self._world.reached[strikes_of(Fault.MEMBERS)] += 1
            self._propose(leader, changes)

    def _draw(
        self, configuration: Configuration, stream: random.Random
    ) -> list[Change]:
        voters, learners = list(configuration.voters), list(configuration.learners)
        kinds = ["add", "add"] if len(voters) < VOTERS_MAX else []
        if len(voters) > VOTERS_MIN:
            kinds += ["remove", "demote"]
        if learners:
            kinds += ["promote", "drop"]
        if not kinds:
            return []
        match stream.choice(kinds):
            case "add":
                joined = self._join()
                return [] if joined is None else [_addition(joined)]
            case "remove":
                return [Remove(stream.choice(voters))]
            case "demote":
                return [Demote(stream.choice(voters))]
            case "promote":
                return [Promote(stream.choice(learners))]
            case _:
                return [Remove(stream.choice(learners))]

    def _is_survivable(
        self, configuration: Configuration, changes: list[Change]
    ) -> bool:
        """Whether a majority that is whole is left, before and after."""
        whole = [
            seat.member.node_id
            for seat in self._world.seats.values()
            if not (seat.is_spoiled or seat.is_removed or seat.is_dead)
        ]
        try:
            joint = configuration.enter_joint(changes)
        except KVStoreError:
            return False
        return has_quorum(joint.halves, whole)

    def _transfer(self, stream: random.Random) -> None:
        world = self._world
        leader = world.leader()
        if leader is None or leader.is_paused:
            return
        voters = [None, *leader.replica.raft.configuration.voters]
        to = stream.choice(voters)
        ticket = Ticket(world.next_ticket())
        what = f"transfer {leader.member.node_id}" + (f" to={to}" if to else "")
        world.journal.asked(world, leader, what)
        try:
            world.act(
                leader,
                lambda replica: replica.transfer(
                    ticket, to, patience_ticks=PATIENCE_TICKS
                ),
            )
        except KVStoreError as error:
            world.reached["a transfer was refused"] += 1
            self._note(f"the transfer is refused: {type(error).__name__}")
        else:
            world.reached[strikes_of(Fault.TRANSFER)] += 1


def _addition(node_id: NodeId) -> AddLearner:
    return AddLearner(node_id, MemberInfo(f"n{node_id}:1", Incarnation(node_id)))


def _change_line(leader: Seat, changes: list[Change]) -> str:
    """As a script has it."""
    words = [f"conf {leader.member.node_id}"]
    for change in changes:
        match change:
            case AddLearner(node_id):
                words.append(f"add-learner={node_id}")
            case Promote(node_id):
                words.append(f"promote={node_id}")
            case Demote(node_id):
                words.append(f"demote={node_id}")
            case Remove(node_id):
                words.append(f"remove={node_id}")
            case _:
                raise AssertionError(change)
    return " ".join(words)
