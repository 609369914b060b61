"""How a script founds its cluster: members, logs that are there already, options."""

from collections.abc import Mapping
from dataclasses import fields

from kvstore.errors import ConfigError
from kvstore.raft.membership import NOBODY, Configuration, MemberInfo
from kvstore.raft.messages import Entry, EntryKind, HardState
from kvstore.raft.options import RaftOptions
from kvstore.simulation.arguments import Arguments, Mistake, number
from kvstore.simulation.cluster import Cluster
from kvstore.simulation.stage import Stage
from kvstore.storage.memory_log import MemoryLog
from kvstore.types import LogIndex, NodeId, Term

NODES_MAX = 16
"""Nodes in a script; more would not be read."""
DEFAULTS: Mapping[str, int] = {
    "election_timeout_ticks": 10,
    "heartbeat_interval_ticks": 1,
    "evidence_election_ticks_max": 2,
    "lease_ms": 70,
}
"""Options of the core where scripts want smaller numbers."""


def found(stage: Stage, arguments: Arguments) -> None:
    """``nodes COUNT``: found the cluster, and start every node of it."""
    if stage.is_set:
        raise Mistake("the nodes are there already: one cluster a script")
    count = number(arguments.word("how many nodes"), "nodes")
    if not 1 <= count <= NODES_MAX:
        raise Mistake(f"expected 1 to {NODES_MAX} nodes, found {count}")
    ids = [NodeId(each) for each in range(1, count + 1)]
    voters = [NodeId(it) for it in arguments.numbers("voters") or ids]
    observers = [NodeId(it) for it in arguments.numbers("observers") or []]
    learners = [NodeId(it) for it in arguments.numbers("learners") or []]
    if strangers := {*voters, *learners, *observers} - {*ids}:
        raise Mistake(f"there is no node {min(strangers)}: there are 1 to {count}")
    founding = Configuration(
        voters=tuple(sorted(voters)),
        learners=tuple(sorted([*learners, *observers])),
        members={
            **{it: member_info(it, promotable=True) for it in [*voters, *learners]},
            **{it: member_info(it, promotable=False) for it in observers},
        },
        leases=arguments.choice("leases", ("on", "off"), "off") == "on",
    )
    disks = {
        each: _disk(
            founding if each in founding.members else NOBODY,
            log=arguments.numbers(f"{each}.log") or [],
            term=arguments.number(f"{each}.term") or 0,
            vote=arguments.number(f"{each}.vote"),
        )
        for each in ids
    }
    stage.set(Cluster(disks, _options(arguments)))


def member_info(node: NodeId, *, promotable: bool = True) -> MemberInfo:
    """What everybody knows of a node in a script."""
    return MemberInfo(f"n{node}:1", promotable=promotable)


def _disk(
    configuration: Configuration, *, log: list[int], term: int, vote: int | None
) -> MemoryLog:
    if log != sorted(log) or 0 in log:
        raise Mistake(f"expected terms from 1 that never fall, found {log}")
    return MemoryLog(
        HardState(
            term=Term(max([term, *log])), vote=None if vote is None else NodeId(vote)
        ),
        entries=[
            Entry(Term(it), LogIndex(at), EntryKind.COMMANDS, b"x%d" % it)
            for at, it in enumerate(log, 1)
        ],
        configuration=configuration,
    )


def _options(arguments: Arguments) -> RaftOptions:
    known = {field.name for field in fields(RaftOptions)}
    chosen = dict(DEFAULTS)
    for name, value in arguments.options().items():
        if name not in known:
            raise Mistake(f"there is no option {name}=; see RaftOptions")
        chosen[name] = number(value, f"{name}=")
    try:
        return RaftOptions(**chosen)
    except ConfigError as error:
        raise Mistake(str(error)) from error
