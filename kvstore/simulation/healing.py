"""The end of a run: the faults stop, and a majority must come to its senses.

A random majority is healed. Whoever does not belong to it stays down, or cut off, for
ever: a cluster must not need all. Within a bounded time the majority has one leader and
no change of members under way, serves whoever asks, and holds the same state
everywhere, in which every acknowledged write is; and it does not change leaders without
need (TigerBeetle's VOPR ends its runs so).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.raft.observed import InvariantViolation, require
from kvstore.raft.quorum import has_quorum
from kvstore.simulation.network import Link
from kvstore.simulation.seat import Seat
from kvstore.simulation.swarm import ELECTION_TICKS, TICK_US
from kvstore.simulation.trial import Trial
from kvstore.state_machine.digest import state_hash

if TYPE_CHECKING:
    from kvstore.simulation.faults import Faults
    from kvstore.simulation.reshaping import Reshaping
    from kvstore.simulation.traffic import Traffic
    from kvstore.simulation.world import World

TIMEOUTS_MAX = 400
"""Election timeouts until all must be well. Slow disks have hundreds of entries to
write, one after the other."""
ELECTIONS_MAX = 8
"""Elections that it may take."""
TIMEOUT_US = ELECTION_TICKS * TICK_US
"""T, by the world's clock."""
LOOK_US = TICK_US


class Healing:
    """Of one run, once."""

    def __init__(
        self, world: World, faults: Faults, reshaping: Reshaping, traffic: Traffic
    ) -> None:
        self._world = world
        self._faults = faults
        self._reshaping = reshaping
        self._traffic = traffic
        self._others: list[Seat] = []
        """Those that stay lost."""
        self.parted: list[Link] = []
        """Links on which nothing passes any more."""

    def run(self) -> None:
        """Heal, wait, compare.

        Raises:
            InvariantViolation: it does not come to its senses, or has lost something.
        """
        world = self._world
        self._calm_down()
        core = self._choose_core()
        self._others = [it for it in world.seats.values() if it not in core]
        ids = ",".join([str(seat.member.node_id) for seat in self.core])
        world.journal.noted(world, f"the faults end: {ids} must come to their senses")
        self._part_from_others()
        self._bring_up()
        elections = world.reached["Elected"]
        self.wait()
        Trial(world, self).run()
        took = world.reached["Elected"] - elections
        require(
            took <= ELECTIONS_MAX,
            "leaders change without end, and nothing is wrong any more (LIVE)",
            took,
        )
        self._compare()

    @property
    def core(self) -> list[Seat]:
        """Those that must be well in the end; who joins by now is one of them."""
        return [it for it in self._world.seats.values() if it not in self._others]

    # ------------------------------------------------------------------- healing

    def _calm_down(self) -> None:
        world = self._world
        self._faults.end()
        self._reshaping.end()
        self._traffic.is_calm = True
        self._traffic.workload.stop()
        for seat in world.seats.values():
            seat.disk_fails = seat.disk_is_full = False
            seat.stalled_until_us = 0

    def _choose_core(self) -> list[Seat]:
        """A majority, whatever of the changes under way comes to hold."""
        world, random = self._world, self._world.streams.make("core")
        whole = [
            seat
            for seat in world.seats.values()
            if not (seat.is_spoiled or seat.is_removed or seat.is_dead)
        ]
        configurations = [
            seat.member.configuration
            for seat in world.seats.values()
            if seat.member.configuration.voters
        ]
        for seat in random.sample(whole, len(whole)):
            rest = [it for it in whole if it is not seat]
            ids = [it.member.node_id for it in rest]
            if random.random() < 0.5 and all(
                has_quorum(it.halves, ids) for it in configurations
            ):
                whole = rest
        return whole

    def _part_from_others(self) -> None:
        world, random = self._world, self._world.streams.make("others")
        inside = [seat.member.node_id for seat in self.core]
        outside = [seat.member.node_id for seat in self._others]
        for a in inside:
            for b in outside:
                self.parted += [(a, b), (b, a)]
        world.network.settle(self.parted)
        for seat in self._others:
            if random.random() < 0.5:
                world.crash(seat, write_is_lost=True)

    def _bring_up(self) -> None:
        world = self._world
        for seat in self.core:
            if not seat.is_up:
                world.start(seat)
            world.resume(seat)

    # ------------------------------------------------------------------- waiting

    def wait(self) -> None:
        """Until all is well."""
        world = self._world
        deadline_us = world.agenda.now_us + TIMEOUTS_MAX * TIMEOUT_US
        looks_at_us = 0
        while True:
            if world.agenda.now_us >= looks_at_us:
                looks_at_us = world.agenda.now_us + LOOK_US
                missing = self._missing()
                if not missing:
                    return
                require(
                    world.agenda.now_us < deadline_us,
                    "a healthy majority does not come to its senses (LIVE)",
                    *missing,
                )
            if not world.step():
                raise InvariantViolation("nothing happens any more (LIVE)")

    def _missing(self) -> list[str]:
        """What is not well yet."""
        leader = self._world.leader()
        if leader is None or leader not in self.core:
            return ["nobody leads"]
        raft = leader.replica.raft
        if raft.configuration.is_joint or raft.commit_index < raft.configuration_index:
            return ["a change of members is under way"]
        if not self._traffic.is_idle:
            return ["clients wait", *self._traffic.waiting()]
        behind = [
            str(seat.member.node_id)
            for seat in self._members(leader)
            if not (
                seat.is_up
                and seat.member.applied_index == raft.last_index
                and seat.replica.raft.leader_id == leader.member.node_id
            )
        ]
        if behind:
            return ["members are behind", *behind]
        if not self._traffic.is_probed:
            self._traffic.probe([seat.member.node_id for seat in self._members(leader)])
            return ["probes are not answered"]
        return []

    def _members(self, leader: Seat) -> list[Seat]:
        """Those of the majority that belong to the cluster in the end."""
        everybody = leader.replica.raft.configuration.everybody
        return [seat for seat in self.core if seat.member.node_id in everybody]

    # ----------------------------------------------------------------- comparing

    def _compare(self) -> None:
        leader = self._world.leader()
        assert leader is not None
        hashes = {
            seat.member.node_id: state_hash(seat.member.state)
            for seat in self._members(leader)
        }
        require(
            len(set(hashes.values())) == 1,
            "states differ, though all is applied (I12)",
            *sorted(hashes),
        )
        for seat in self._members(leader):
            self._traffic.finish(seat.member.state)
