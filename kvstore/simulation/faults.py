"""What goes wrong, when, and for whom: each kind of fault by a clock of its own.

Faults stay within what the cluster must survive. At most a minority of the voters is
spoiled (wiped or rotten) at a time, until it was replaced; everything else, all members
down at once included, only takes time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kvstore.raft.quorum import has_quorum
from kvstore.simulation.network import Link
from kvstore.simulation.rot import RottenLog
from kvstore.simulation.seat import Seat
from kvstore.simulation.swarm import LEASE_RATE_SPREAD, Fault, strikes_of
from kvstore.types import NodeId

if TYPE_CHECKING:
    import random

    from kvstore.simulation.reshaping import Reshaping
    from kvstore.simulation.world import World

CRASH_AT_WRITE = 0.03
"""How likely a member ends at a log write that begins."""


class Faults:
    """Of one world, from :meth:`begin` to :meth:`end`."""

    def __init__(self, world: World, reshaping: Reshaping) -> None:
        self._world = world
        self._reshaping = reshaping
        self._ended = False
        swarm = world.swarm
        self._fault_rate = 1 / swarm.strike_us
        self._outage_rate = 1 / swarm.outage_us

    def begin(self) -> None:
        """Start every clock of a fault that the swarm has."""
        swarm = self._world.swarm
        for fault, strike in self._strikes().items():
            if swarm.has(fault):
                stream = self._world.streams.make(f"fault/{fault.value}")
                self._schedule(strike, stream)
        if swarm.has(Fault.CRASH_AT_WRITE):
            stream = self._world.streams.make("fault/crash-at-write")
            self._world.on_write = partial(self._write_began, stream)
        if swarm.has(Fault.CLOCK_RATE):
            self._set_rates()

    def end(self) -> None:
        """No further fault begins; what is down or cut stays so."""
        self._ended = True
        self._world.on_write = None

    def _strikes(self) -> dict[Fault, Callable[[random.Random], None]]:
        return {
            Fault.REPLAY: self._replay,
            Fault.DISCONNECT: self._disconnect,
            Fault.PARTITION: self._partition,
            Fault.ONE_WAY: self._one_way,
            Fault.FLAPPING: self._flap,
            Fault.CRASH: self._crash,
            Fault.POWER_CUT: self._power_cut,
            Fault.PAUSE: self._pause,
            Fault.CLOCK_JUMP: self._jump,
            Fault.SLOW_DISK: self._stall,
            Fault.DISK_ERROR: self._disk_error,
            Fault.ROT: self._rot,
            Fault.WIPE: self._wipe,
            Fault.IMPATIENCE: self._lose_patience,
        }

    def _schedule(
        self, strike: Callable[[random.Random], None], stream: random.Random
    ) -> None:
        def due() -> None:
            if not self._ended:
                strike(stream)
                self._schedule(strike, stream)

        self._world.agenda.after(1 + int(stream.expovariate(self._fault_rate)), due)

    def _outage_us(self, stream: random.Random) -> int:
        return 1_000 + int(stream.expovariate(self._outage_rate))

    def _victim(self, stream: random.Random) -> Seat | None:
        """Somebody that is up: often the leader, whose faults matter most."""
        world = self._world
        leader = world.leader()
        if leader is not None and stream.random() < world.swarm.bias:
            return leader
        running = world.running()
        return stream.choice(running) if running else None

    def _note(self, what: str) -> None:
        self._world.journal.noted(self._world, what)

    def _struck(self, fault: Fault) -> None:
        self._world.reached[strikes_of(fault)] += 1

    # ------------------------------------------------------------------ network

    def _replay(self, stream: random.Random) -> None:
        """Messages of long ago come once more."""
        count = stream.choice([1, 5, 20])
        self._note(f"up to {count} old messages come again")
        for _ in range(count):
            message = self._world.network.recall()
            if message is not None:
                self._world.deliver(message)
        self._struck(Fault.REPLAY)

    def _disconnect(self, stream: random.Random) -> None:
        seats = self._world.running()
        victim = self._victim(stream)
        others = [seat for seat in seats if seat is not victim]
        if victim is not None and others:
            a, b = victim.member.node_id, stream.choice(others).member.node_id
            self._struck(Fault.DISCONNECT)
            self._note(f"the connections of {a} and {b} break")
            self._world.disconnect(a, b)

    def _partition(self, stream: random.Random) -> None:
        ids = sorted(self._world.seats)
        groups = self._groups(ids, stream)
        links = [
            (a, b)
            for a in ids
            for b in ids
            if a != b and not any(a in group and b in group for group in groups)
        ]
        parts = " | ".join([_listed(group) for group in groups])
        self._struck(Fault.PARTITION)
        self._cut(links, stream, f"the network falls apart: {parts}")

    def _groups(self, ids: list[NodeId], stream: random.Random) -> list[list[NodeId]]:
        """Who hears whom. Groups may share members: a bridge, or a ring in which each
        sees a majority and none sees all.
        """
        shuffled = stream.sample(ids, len(ids))
        victim = self._victim(stream)
        alone = victim.member.node_id if victim is not None else shuffled[0]
        half = (len(ids) + 1) // 2
        match stream.choice(["alone", "halves", "bridge", "ring"]):
            case "alone":
                return [[alone], [it for it in ids if it != alone]]
            case "halves":
                return [shuffled[:half], shuffled[half:]]
            case "bridge":
                return [shuffled[:half], shuffled[half - 1 :]]
            case _:
                around = shuffled + shuffled
                return [around[i : i + half] for i in range(len(ids))]

    def _one_way(self, stream: random.Random) -> None:
        """A node is heard and hears nothing, or the other way round."""
        victim = self._victim(stream)
        if victim is None:
            return
        node = victim.member.node_id
        others = [it for it in sorted(self._world.seats) if it != node]
        others = stream.sample(others, stream.randint(1, max(1, len(others))))
        hears = stream.random() < 0.5
        links = [(it, node) if hears else (node, it) for it in others]
        verb = "hears nothing of" if hears else "is not heard by"
        self._struck(Fault.ONE_WAY)
        self._cut(links, stream, f"{node} {verb} {_listed(others)}")

    def _flap(self, stream: random.Random) -> None:
        """One link comes and goes."""
        ids = sorted(self._world.seats)
        if len(ids) < 2:
            return
        self._struck(Fault.FLAPPING)
        a, b = stream.sample(ids, 2)
        duration_us = self._outage_us(stream)
        what = f"no link between {a} and {b}"
        cut = partial(self._cut_for, [(a, b), (b, a)], duration_us // 5, what)
        for start in range(5):
            self._world.agenda.after(2 * start * duration_us // 5 + 1, cut)

    def _cut(self, links: list[Link], stream: random.Random, what: str) -> None:
        self._cut_for(links, self._outage_us(stream), what)

    def _cut_for(self, links: list[Link], duration_us: int, what: str) -> None:
        if self._ended:
            return
        self._note(f"{what} ({_ms(duration_us)})")
        self._world.network.cut(links)
        self._world.agenda.after(duration_us, partial(self._mend, links, what))

    def _mend(self, links: list[Link], what: str) -> None:
        self._world.network.mend(links)
        if not self._ended:
            self._note(f"over: {what}")

    def _lose_patience(self, stream: random.Random) -> None:
        """Followers take their leader's silence for death."""
        self._struck(Fault.IMPATIENCE)
        self._note("followers lose patience with their leader")
        for seat in self._world.running():
            if not seat.is_up:
                continue  # by what was done to the one before
            leader = seat.replica.raft.leader_id
            if leader not in (None, seat.member.node_id) and stream.random() < 0.7:
                assert leader is not None
                self._world.disconnect(seat.member.node_id, leader)

    # ---------------------------------------------------------------- processes

    def _crash(self, stream: random.Random) -> None:
        victim = self._victim(stream)
        if victim is not None:
            self._struck(Fault.CRASH)
            self._crash_one(victim, stream)

    def _crash_one(self, seat: Seat, stream: random.Random) -> None:
        # The journal hears of the crash itself, and of what is lost, from the world.
        world = self._world
        world.reached["a member crashed"] += 1
        if seat is world.leader():
            world.reached["the leader crashed"] += 1
        world.crash(
            seat,
            write_is_lost=stream.random() < 0.5,
            notice=stream.random() < 0.5,
        )
        self._restart_later(seat, self._outage_us(stream))

    def _restart_later(self, seat: Seat, delay_us: int) -> None:
        self._world.agenda.after(delay_us, partial(self._restart, seat))

    def _restart(self, seat: Seat) -> None:
        if not (seat.is_up or seat.is_dead or seat.is_removed or self._ended):
            self._world.start(seat)

    def _power_cut(self, stream: random.Random) -> None:
        """All members end at once."""
        if stream.random() < 0.5:
            return  # rarer than others: nothing else goes on meanwhile
        self._struck(Fault.POWER_CUT)
        self._note("all members lose power")
        for seat in self._world.running():
            self._crash_one(seat, stream)

    def _write_began(self, stream: random.Random, seat: Seat) -> None:
        """A crash at the moment that matters most: something is to become durable."""
        if stream.random() < CRASH_AT_WRITE:
            self._struck(Fault.CRASH_AT_WRITE)
            self._note(f"{seat.member.node_id} ends as it begins to write")
            self._world.agenda.after(0, partial(self._crash_writer, seat, stream))

    def _crash_writer(self, seat: Seat, stream: random.Random) -> None:
        if not self._ended:  # else nobody would start it again
            self._crash_one(seat, stream)

    def _pause(self, stream: random.Random) -> None:
        victim = self._victim(stream)
        if victim is None or victim.is_paused:
            return
        self._struck(Fault.PAUSE)
        everybody = stream.random() < 0.1
        for seat in self._world.running() if everybody else [victim]:
            self._world.pause(seat)
            self._world.agenda.after(
                self._outage_us(stream), partial(self._world.resume, seat)
            )

    # ------------------------------------------------------------------- clocks

    def _set_rates(self) -> None:
        world, random = self._world, self._world.streams.clock
        if world.swarm.leases:
            low, high = 1 - LEASE_RATE_SPREAD, 1 + LEASE_RATE_SPREAD
        else:
            low, high = 0.5, 2.0
        for seat in world.seats.values():
            seat.set_rate(random.uniform(low, high), world.agenda.now_us)
            self._note(f"clock of {seat.member.node_id} runs {seat.rate:.2f} as fast")

    def _jump(self, stream: random.Random) -> None:
        """A machine slept: its clock goes on, its ticks do not."""
        victim = self._victim(stream)
        if victim is not None:
            duration_us = self._outage_us(stream)
            self._note(f"clock of {victim.member.node_id} jumps {_ms(duration_us)}")
            self._struck(Fault.CLOCK_JUMP)
            victim.jump(duration_us)

    # -------------------------------------------------------------------- disks

    def _stall(self, stream: random.Random) -> None:
        """A disk stands still for a while: no write ends."""
        victim = self._victim(stream)
        if victim is not None:
            duration_us, node = self._outage_us(stream), victim.member.node_id
            self._note(f"disk of {node} stands still for {_ms(duration_us)}")
            self._struck(Fault.SLOW_DISK)
            victim.stalled_until_us = self._world.agenda.now_us + duration_us

    def _disk_error(self, stream: random.Random) -> None:
        """The next write fails, or all do until there is room again."""
        victim = self._victim(stream)
        if victim is None:
            return
        self._struck(Fault.DISK_ERROR)
        if stream.random() < 0.7:
            victim.disk_fails = True
            self._note(f"the next write of {victim.member.node_id} fails")
        else:
            victim.disk_is_full = True
            self._note(f"disk of {victim.member.node_id} is full")
        self._world.agenda.after(
            self._outage_us(stream), partial(self._disk_recovers, victim)
        )

    def _disk_recovers(self, seat: Seat) -> None:
        seat.disk_is_full = seat.disk_fails = False
        if not self._ended:
            self._note(f"disk of {seat.member.node_id} works again")
        self._restart(seat)

    def _rot(self, stream: random.Random) -> None:
        """An entry, once durable, cannot be read any more."""
        seat = self._victim(stream)
        if seat is None or not self._may_spoil(seat):
            return
        log = seat.member.log
        if log.last_index < log.first_index or not isinstance(log, RottenLog):
            return
        index = stream.randint(log.first_index, log.last_index)
        self._note(f"entry {index} of {seat.member.node_id} rots on disk")
        log.rot(index)
        self._struck(Fault.ROT)
        self._spoil(seat)

    def _wipe(self, stream: random.Random) -> None:
        """A member loses its directory, and comes back under its old id."""
        seat = self._victim(stream)
        if seat is None or not self._may_spoil(seat):
            return
        world = self._world
        self._note(f"{seat.member.node_id} loses its directory")
        world.crash(seat, write_is_lost=True)
        self._struck(Fault.WIPE)
        self._spoil(seat)
        world.wipe(seat)
        self._restart_later(seat, self._outage_us(stream))

    def _spoil(self, seat: Seat) -> None:
        seat.is_spoiled = True
        self._reshaping.replace_soon(seat)

    def _may_spoil(self, seat: Seat) -> bool:
        """Whether all can be recovered without this one, and those spoiled before."""
        if seat.is_spoiled or seat.is_removed:
            return False
        world = self._world
        whole = {
            it.member.node_id
            for it in world.seats.values()
            if it is not seat and not (it.is_spoiled or it.is_removed or it.is_dead)
        }
        configurations = [it.member.configuration for it in world.seats.values()]
        return not any(it.is_joint for it in configurations) and all(
            has_quorum(it.halves, sorted(whole)) and seat.member.node_id in it.voters
            for it in configurations
            if it.voters
        )


def _listed(ids: list[NodeId]) -> str:
    return ",".join([str(it) for it in ids])


def _ms(duration_us: int) -> str:
    return f"{duration_us // 1_000} ms"
