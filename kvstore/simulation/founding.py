"""How a script founds its cluster: members, logs that are there already, options."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from kvstore.errors import ConfigError
from kvstore.raft.membership import NOBODY, Configuration, MemberInfo
from kvstore.raft.messages import Entry, EntryKind, HardState
from kvstore.raft.options import RaftOptions
from kvstore.replica.options import ReplicaOptions
from kvstore.simulation.arguments import Arguments, Mistake, number
from kvstore.simulation.cluster import Cluster
from kvstore.simulation.replicas import Replicas
from kvstore.simulation.rot import RottenLog
from kvstore.simulation.stage import Stage
from kvstore.storage.memory_log import MemoryLog
from kvstore.types import (
    UNKNOWN_INCARNATION,
    Incarnation,
    LogIndex,
    NodeId,
    Term,
)

NODES_MAX = 16
"""Nodes in a script; more would not be read."""
DEFAULTS: Mapping[str, int] = {
    "election_timeout_ticks": 10,
    "heartbeat_interval_ticks": 1,
    "evidence_election_ticks_max": 2,
    "lease_ms": 70,
}
"""Options of the core where scripts want smaller numbers."""


REPLICA_DEFAULTS: Mapping[str, int] = {
    "orphan_ticks": 6,
    "forwarded_patience_ticks": 20,
    "leaderless_patience_ticks": 25,
    "read_retry_ticks": 6,
    "chore_interval_ticks": 10,
}
"""Options of replicas likewise."""


def found(stage: Stage, arguments: Arguments) -> None:
    """``nodes COUNT``: found a cluster of consensus alone, and start every node."""
    ids = _ids(stage, arguments)
    disks = _disks(ids, arguments)
    options = _raft_options(arguments.options())
    stage.set(Cluster(disks, options))


def found_replicas(stage: Stage, arguments: Arguments) -> None:
    """``replicas COUNT``: found a cluster of whole replicas, and start each."""
    ids = _ids(stage, arguments)
    disks = _disks(ids, arguments, are_known=True)
    stage.set(Replicas(disks, replica_options(arguments.options())))


def join(stage: Stage, arguments: Arguments) -> None:
    """``join N``: one more replica, which belongs to nobody yet."""
    replicas = stage.replicas
    node = NodeId(number(arguments.word("a node"), "a node"))
    if node in replicas.hosts or not 1 <= node <= NODES_MAX:
        raise Mistake(f"expected a node that is not there yet, up to {NODES_MAX}")
    replicas.join(node, RottenLog(configuration=NOBODY))


def _ids(stage: Stage, arguments: Arguments) -> list[NodeId]:
    if stage.is_set:
        raise Mistake("the nodes are there already: one cluster a script")
    count = number(arguments.word("how many nodes"), "nodes")
    if not 1 <= count <= NODES_MAX:
        raise Mistake(f"expected 1 to {NODES_MAX} nodes, found {count}")
    return [NodeId(each) for each in range(1, count + 1)]


def _disks(
    ids: list[NodeId], arguments: Arguments, *, are_known: bool = False
) -> dict[NodeId, MemoryLog]:
    voters = [NodeId(it) for it in arguments.numbers("voters") or ids]
    observers = [NodeId(it) for it in arguments.numbers("observers") or []]
    learners = [NodeId(it) for it in arguments.numbers("learners") or []]
    if strangers := {*voters, *learners, *observers} - {*ids}:
        raise Mistake(f"there is no node {min(strangers)}: there are 1 to {len(ids)}")
    founding = Configuration(
        voters=tuple(sorted(voters)),
        learners=tuple(sorted([*learners, *observers])),
        members={
            it: member_info(it, promotable=it not in observers, is_known=are_known)
            for it in [*voters, *learners, *observers]
        },
        leases=arguments.choice("leases", ("on", "off"), "off") == "on",
    )
    return {
        each: _disk(
            founding if each in founding.members else NOBODY,
            log=arguments.numbers(f"{each}.log") or [],
            term=arguments.number(f"{each}.term") or 0,
            vote=arguments.number(f"{each}.vote"),
        )
        for each in ids
    }


def member_info(
    node: NodeId, *, promotable: bool = True, is_known: bool = False
) -> MemberInfo:
    """What everybody knows of a node in a script; ``is_known``: its directory, too."""
    incarnation = Incarnation(node) if is_known else UNKNOWN_INCARNATION
    return MemberInfo(f"n{node}:1", incarnation, promotable)


def _disk(
    configuration: Configuration, *, log: list[int], term: int, vote: int | None
) -> RottenLog:
    if log != sorted(log) or 0 in log:
        raise Mistake(f"expected terms from 1 that never fall, found {log}")
    return RottenLog(
        HardState(
            term=Term(max([term, *log])), vote=None if vote is None else NodeId(vote)
        ),
        entries=[
            Entry(Term(it), LogIndex(at), EntryKind.COMMANDS, b"x%d" % it)
            for at, it in enumerate(log, 1)
        ],
        configuration=configuration,
    )


def _raft_options(given: Mapping[str, str]) -> RaftOptions:
    known = {field.name for field in fields(RaftOptions)}
    chosen = dict(DEFAULTS)
    for name, value in given.items():
        if name not in known:
            raise Mistake(f"there is no option {name}=; see RaftOptions")
        chosen[name] = number(value, f"{name}=")
    try:
        return RaftOptions(**chosen)
    except ConfigError as error:
        raise Mistake(str(error)) from error


def replica_options(given: Mapping[str, str]) -> ReplicaOptions:
    """Of words; the core's among them. Raises :class:`Mistake`."""
    own = {field.name for field in fields(ReplicaOptions)} - {"raft", "history"}
    raft = _raft_options({it: text for it, text in given.items() if it not in own})
    chosen: dict[str, Any] = dict(REPLICA_DEFAULTS)
    for name in sorted(own & {*given}):
        chosen[name] = number(given[name], f"{name}=")
    try:
        return ReplicaOptions(raft=raft, **chosen)
    except ConfigError as error:
        raise Mistake(str(error)) from error


def option_words(options: ReplicaOptions) -> list[str]:
    """What ``replicas`` must be told for its options to be these."""
    usual = replica_options({})
    words = []
    for found_in, expected in ((options, usual), (options.raft, usual.raft)):
        for field in fields(found_in):
            value = getattr(found_in, field.name)
            if isinstance(value, int) and value != getattr(expected, field.name):
                words.append(f"{field.name}={value}")
    return words
