"""What clients ask of a simulated cluster, over a network that loses some of it.

Requests go to any node, up or not, and so do repetitions; every answer that reaches its
client is judged by the oracle when it arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from kvstore.errors import (
    DeadlineExceeded,
    KVStoreError,
    OutcomeUnknown,
    Unavailable,
)
from kvstore.pb import kv_pb2
from kvstore.raft.observed import require
from kvstore.simulation.oracle import Oracle
from kvstore.simulation.seat import Seat
from kvstore.simulation.wishes import COUNTER, EVERYTHING
from kvstore.simulation.workload import Client, Read, Workload, Write
from kvstore.simulation.world import Clients
from kvstore.state_machine.reads import read_range_at_once
from kvstore.types import LogIndex, NodeId, Ticket

if TYPE_CHECKING:
    from kvstore.replica.effects import Read as ReadEffect
    from kvstore.replica.replica import Replica
    from kvstore.simulation.member import SimMember
    from kvstore.simulation.states import WatchedState
    from kvstore.simulation.world import World

TRAVEL_US = 300
"""One way between a client and a node, on average."""
PATIENCE_US = 600_000
"""How long a client waits for an answer."""
PATIENCE_TICKS = 40
"""How long a node has to find a leader for a request."""
LEASED = 0.7
"""How many linearizable reads trust a lease, where leaders have one."""
TO_THE_LEADER = 0.5
"""How often a client knows whom to ask."""


@dataclass(slots=True)
class Request:
    """One that a client waits for."""

    client: Client | Probe
    operation: Write | Read
    node_id: NodeId
    is_answered: bool = False
    """A node has answered; the answer is on its way, or lost."""


@dataclass(slots=True)
class Answer:
    """What a node says. An error, or results."""

    error: KVStoreError | None = None
    results: bytes = b""
    """Of a write."""
    read: tuple[kv_pb2.Result, ...] = ()
    revision: int = 0
    consistency: kv_pb2.Consistency = kv_pb2.LINEARIZABLE
    fresh_us: int | None = None


class Probe:
    """Asks one node until it answers: whether it serves."""

    __slots__ = ("_ask", "_operation", "is_answered")

    def __init__(
        self, operation: Write | Read, ask: Callable[[Probe, Write | Read], None]
    ) -> None:
        self._ask = ask
        self._operation = operation
        self.is_answered = False
        ask(self, operation)

    def answered(self, operation: Write | Read, results: object) -> None:
        """It serves."""
        del operation, results
        self.is_answered = True

    def failed(self, operation: Write | Read, error: KVStoreError) -> None:
        """Not yet: once more."""
        del operation, error
        self._ask(self, self._operation)


class Traffic(Clients):
    """All clients of a run, and their network."""

    def __init__(self, world: World, *, operations: int) -> None:
        """``operations``: of all clients together, repetitions not counted."""
        self._world = world
        self._random = world.streams.workload
        swarm = world.swarm
        self.workload = Workload(
            world.streams.make("wishes"),
            clients=swarm.clients,
            operations=operations // swarm.clients + 1,
        )
        self.oracle = Oracle(
            clock_rate_min=min([1.0, *[it.rate for it in world.seats.values()]])
        )
        self._open: dict[Ticket, Request] = {}
        self._think_rate = 1 / swarm.think_us
        self._travel_rate = 1 / TRAVEL_US
        self._probes: list[Probe] = []
        self.is_calm = False
        """Clients ask those that can answer, and nothing they say is lost."""

    def begin(self) -> None:
        """Have every client ask from now on."""
        for client in self.workload.clients:
            self._think(client)

    def _think(self, client: Client) -> None:
        def due() -> None:
            operation = client.next_operation()
            if operation is not None:
                self._ask(client, operation)
            if not client.is_done:
                self._think(client)

        delay_us = 1 + int(self._random.expovariate(self._think_rate))
        self._world.agenda.after(delay_us, due)

    def _travel_us(self) -> int:
        return 20 + int(self._random.expovariate(self._travel_rate))

    def _is_lost(self) -> bool:
        lost = self._world.swarm.lost_replies
        return bool(lost) and not self.is_calm and self._random.random() < lost

    # -------------------------------------------------------------------- asking

    def _ask(
        self, client: Client | Probe, operation: Write | Read, seat: Seat | None = None
    ) -> None:
        world = self._world
        if isinstance(operation, Read):
            operation = self._trusting(operation)
        seat = seat or self._choose()
        ticket = world.next_ticket()
        self._open[ticket] = Request(client, operation, seat.member.node_id)
        self.oracle.now_us = world.agenda.now_us
        if isinstance(operation, Write):
            self.oracle.write_asked(ticket, operation.commands, count=operation.count)
        else:
            self.oracle.read_asked(ticket, operation.ranges, operation.options)
        if self._is_lost():
            world.journal.noted(world, f"request #{ticket} is lost")
        else:
            world.agenda.after(
                self._travel_us(), partial(self._arrives, ticket, seat, operation)
            )
        world.agenda.after(PATIENCE_US, partial(self._loses_patience, ticket))

    def _trusting(self, operation: Read) -> Read:
        """Where leaders have leases, many reads trust them."""
        linearizable = operation.options.consistency == kv_pb2.LINEARIZABLE
        if not (linearizable and self._world.swarm.leases):
            return operation
        if self._random.random() < LEASED:
            options = kv_pb2.ReadOptions(consistency=kv_pb2.LEASE)
            return replace(operation, options=options)
        return operation

    def _choose(self) -> Seat:
        world, random = self._world, self._random
        leader = world.leader()
        if leader is not None and random.random() < TO_THE_LEADER:
            return leader
        seats = [seat for seat in world.seats.values() if not seat.is_removed]
        if self.is_calm:
            seats = [it for it in seats if it.is_up and not it.is_wiped] or seats
        return random.choice(seats)

    def _arrives(self, ticket: Ticket, seat: Seat, operation: Write | Read) -> None:
        request = self._open.get(ticket)
        if request is None or request.is_answered:
            return  # the connection broke on the way
        if not seat.is_up:
            error = Unavailable("the connection was refused")
            self._answer(ticket, Answer(error=error))
            return

        def turn(replica: Replica) -> None:
            self._world.journal.wanted(self._world, seat, ticket, operation)
            try:
                if isinstance(operation, Write):
                    replica.submit(
                        ticket,
                        operation.commands,
                        count=operation.count,
                        patience_ticks=PATIENCE_TICKS,
                    )
                else:
                    replica.read(
                        ticket, operation.options, patience_ticks=PATIENCE_TICKS
                    )
            except KVStoreError as error:
                self._answer(ticket, Answer(error=error))

        self._world.act(seat, turn)

    # ----------------------------------------------------------------- answering

    def _answer(self, ticket: Ticket, answer: Answer) -> None:
        """A node has answered: once."""
        request = self._open.get(ticket)
        if request is None:
            return  # its client has given up
        require(not request.is_answered, "a request was answered twice (LIN)", ticket)
        request.is_answered = True
        if self._is_lost():
            self._world.journal.noted(self._world, f"answer #{ticket} is lost")
        else:
            self._world.agenda.after(
                self._travel_us(), partial(self._hears, ticket, answer)
            )

    def _hears(self, ticket: Ticket, answer: Answer) -> None:
        request = self._open.pop(ticket, None)
        if request is None:
            return
        oracle, operation, client = self.oracle, request.operation, request.client
        oracle.now_us = self._world.agenda.now_us
        self._world.journal.heard(self._world, ticket, operation, answer.error)
        if answer.error is not None:
            self._fails(ticket, request, answer.error)
        elif isinstance(operation, Write):
            oracle.write_answered(ticket, answer.results)
            results = kv_pb2.ResultBatch.FromString(answer.results).results
            client.answered(operation, results)
        else:
            oracle.read_answered(
                ticket,
                answer.read,
                revision=answer.revision,
                consistency=answer.consistency,
                fresh_us=answer.fresh_us,
            )
            client.answered(operation, answer.read)

    def _fails(self, ticket: Ticket, request: Request, error: KVStoreError) -> None:
        if isinstance(request.operation, Write):
            self.oracle.write_failed(ticket, error)
        else:
            self.oracle.read_failed(ticket, error)
        request.client.failed(request.operation, error)

    def _loses_patience(self, ticket: Ticket) -> None:
        request = self._open.pop(ticket, None)
        if request is not None:
            self._world.reached["a client lost patience"] += 1
            self._world.journal.noted(self._world, f"client gives up #{ticket}")
            self._fails(ticket, request, DeadlineExceeded("no answer in time"))

    # ------------------------------------------------------- what the world tells

    def committed(self, member: SimMember, index: LogIndex) -> None:
        """The ghost log reaches up to ``index``, and ``member`` holds it."""
        for entry in member.entries(self.oracle.committed_index, index):
            self.oracle.committed(entry)

    def responded(self, member: SimMember, ticket: Ticket, results: bytes) -> None:
        """A write was applied."""
        del member
        self._answer(ticket, Answer(results=results))

    def failed(self, member: SimMember, ticket: Ticket, error: KVStoreError) -> None:
        """A request, or a change of the members, ended without a result."""
        del member
        self._answer(ticket, Answer(error=error))

    def serves(self, member: SimMember, work: ReadEffect) -> None:
        """Reads are due, from the state as it is."""
        seat = self._world.seats[member.node_id]
        fresh_us = None if work.fresh_ms is None else seat.moment_us(work.fresh_ms)
        for ticket in work.tickets:
            request = self._open.get(ticket)
            if request is None:
                continue
            assert isinstance(request.operation, Read)
            answer = Answer(
                read=member.read(request.operation.ranges),
                revision=member.state.progress.revision,
                consistency=work.consistency,
                fresh_us=fresh_us,
            )
            self._answer(ticket, answer)

    def crashed(self, node_id: NodeId) -> None:
        """Clients see their connections to a node close."""
        for ticket, request in self._open.items():
            if request.node_id == node_id and not request.is_answered:
                error: KVStoreError = Unavailable("the connection broke")
                if isinstance(request.operation, Write):
                    error = OutcomeUnknown("the connection broke")
                self._answer(ticket, Answer(error=error))

    # -------------------------------------------------------------------- the end

    @property
    def is_idle(self) -> bool:
        """Nobody waits for anything, or wants more."""
        return not self._open and self.workload.is_done

    def waiting(self) -> list[str]:
        """Who waits for whom, for people."""
        waits = [
            f"{ticket} at {it.node_id}{' (answered)' * it.is_answered}"
            for ticket, it in self._open.items()
        ]
        return waits or [it.name for it in self.workload.clients if not it.is_done]

    @property
    def is_probed(self) -> bool:
        """Whether all that was probed has answered."""
        return bool(self._probes) and all(it.is_answered for it in self._probes)

    def probe(self, node_ids: Iterable[NodeId]) -> None:
        """Ask each node to write something, and what it then is."""
        if self._probes:
            return
        for node_id in node_ids:
            ask = partial(self._ask, seat=self._world.seats[node_id])
            put = kv_pb2.Put(key=b"probe", value=b"of %d" % node_id)
            batch = kv_pb2.CommandBatch(commands=[kv_pb2.Command(put=put)])
            write = Write(number=1, commands=batch.SerializeToString(), count=1)
            read = Read(
                number=2,
                ranges=(kv_pb2.Range(key=b"probe"),),
                options=kv_pb2.ReadOptions(),
            )
            self._probes += [Probe(write, ask), Probe(read, ask)]

    def finish(self, state: WatchedState) -> None:
        """Compare what a member holds in the end with what the log came to."""
        held = read_range_at_once(state, EVERYTHING)
        self.oracle.finish(held.kvs, revision=state.progress.revision)
        low, high = self.workload.counter_bounds()
        held_count = self.oracle.model.stores[-1].get(COUNTER)
        count = 0 if held_count is None else int(held_count.value.split()[0])
        require(
            low <= count <= high,
            "the counter is not the number of acknowledged additions (SES)",
            *(low, count, high),
        )
