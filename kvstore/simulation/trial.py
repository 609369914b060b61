"""One thing more goes wrong when all is well: what it does then shows best.

Two cuts of one direction, which half the world does not notice. A leader that is heard
and hears nobody keeps everybody quiet and commits nothing, unless it steps down of its
own accord (CheckQuorum, etcd#3866). A follower that does not hear its leader must not
depose it, while all others do (stickiness, dissertation section 4.2.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.raft.observed import require
from kvstore.raft.quorum import has_quorum
from kvstore.simulation.swarm import ELECTION_TICKS, TICK_US, Fault

if TYPE_CHECKING:
    from kvstore.simulation.healing import Healing
    from kvstore.simulation.seat import Seat
    from kvstore.simulation.world import World

TIMEOUT_US = ELECTION_TICKS * TICK_US
DEAF_TIMEOUTS_MAX = 100
"""How long it may take until somebody else leads."""
PARTED_TIMEOUTS = 12
"""How long a follower does not hear its leader."""
FAST_US = 1_000
"""Messages and writes that take no longer on average elect nobody by their delay."""


class Trial:
    """Of one run, once all is well."""

    def __init__(self, world: World, healing: Healing) -> None:
        self._world = world
        self._healing = healing
        self._random = world.streams.make("trial")

    def run(self) -> None:
        """One trial, if the majority can do without one more member; then heal again.

        Raises:
            InvariantViolation: it fails.
        """
        leader = self._world.leader()
        assert leader is not None
        others = [it for it in self._healing.core if it is not leader]
        if self._random.random() < 0.5:
            if self._can_do_without(leader):
                self._deafen(leader, others)
        elif others and self._is_steady():
            lonely = self._random.choice(others)
            if self._can_do_without(lonely):
                self._part(leader, lonely)

    def _can_do_without(self, seat: Seat) -> bool:
        ids = [it.member.node_id for it in self._healing.core if it is not seat]
        configuration = seat.replica.raft.configuration
        return has_quorum(configuration.halves, ids)

    def _is_steady(self) -> bool:
        """Whether nobody takes a leader for dead that only is slow."""
        swarm = self._world.swarm
        return (
            not swarm.faults & {Fault.CLOCK_RATE, Fault.SLOW_DISK, Fault.SLOW_STATE}
            and max(swarm.delay_us, swarm.fsync_us) <= FAST_US
        )

    def _deafen(self, leader: Seat, others: list[Seat]) -> None:
        world, node = self._world, leader.member.node_id
        world.reached["a leader was deaf"] += 1
        world.journal.noted(world, f"{node} leads, and hears nobody")
        links = [(it.member.node_id, node) for it in others]
        world.network.settle(self._healing.parted + links)
        end_us = world.agenda.now_us + DEAF_TIMEOUTS_MAX * TIMEOUT_US
        while world.leader() in (leader, None):
            require(
                world.agenda.now_us < end_us,
                "a leader that hears nobody is not replaced (LIVE)",
                node,
            )
            world.step()
        world.network.settle(self._healing.parted)
        self._healing.wait()

    def _part(self, leader: Seat, lonely: Seat) -> None:
        world, node = self._world, lonely.member.node_id
        world.reached["a follower did not hear its leader"] += 1
        world.journal.noted(world, f"{node} does not hear its leader")
        link = (leader.member.node_id, node)
        world.network.settle([*self._healing.parted, link])
        term = leader.replica.raft.term
        end_us = world.agenda.now_us + PARTED_TIMEOUTS * TIMEOUT_US
        while world.agenda.now_us < end_us:
            world.step()
        require(
            leader.is_up and leader.replica.raft.term == term,
            "one follower that hears no leader deposes it (LIVE)",
            *(node, term, leader.member.node_id),
        )
        world.network.settle(self._healing.parted)
        self._healing.wait()
