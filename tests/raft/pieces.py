"""What tests of the core are written in: options, entries, and looks at a node."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from kvstore.raft.membership import Configuration, MemberInfo
from kvstore.raft.messages import Entry, EntryId, EntryKind, Message
from kvstore.raft.node import RaftNode
from kvstore.raft.options import RaftOptions
from kvstore.types import LogIndex, NodeId, Term

M = TypeVar("M")

OPTIONS = RaftOptions(
    election_timeout_ticks=10,
    heartbeat_interval_ticks=1,
    evidence_election_ticks_max=2,
    lease_ms=70,
)
"""As in etcd's tests: T is 10 ticks and a heartbeat 1."""
TICK_MS = 10
"""By the clock of :class:`~tests.raft.cluster.Cluster` and of a bench."""


def entry_id(term: int, index: int) -> EntryId:
    return EntryId(Term(term), LogIndex(index))


def founded(
    voters: Iterable[int], *, learners: Iterable[int] = (), leases: bool = False
) -> Configuration:
    """A configuration with made-up addresses, whose learners stay what they are."""
    voters = sorted(voters)
    ids = sorted({*voters, *learners})
    return Configuration(
        voters=tuple(NodeId(voter) for voter in voters),
        learners=tuple(NodeId(learner) for learner in sorted(learners)),
        members={NodeId(i): info(i, promotable=i in voters) for i in ids},
        leases=leases,
    )


def info(node_id: int, *, promotable: bool = True) -> MemberInfo:
    """What is known of a member, made up."""
    return MemberInfo(f"127.0.0.1:{7000 + node_id}", promotable=promotable)


def entries_of(terms: Sequence[int], *, first: int = 1) -> tuple[Entry, ...]:
    """One entry a term given, named after its place so that no two are alike."""
    return tuple(
        Entry(
            Term(term),
            LogIndex(index),
            EntryKind.COMMANDS,
            b"%d@%d" % (term, index),
        )
        for index, term in enumerate(terms, first)
    )


def log_terms(raft: RaftNode) -> list[int]:
    """The terms of a node's log, from the oldest entry held on."""
    log = raft.log
    held = range(log.first_index, log.last_index + 1)
    return [int(log.term(LogIndex(index))) for index in held]


def of_kind(messages: Iterable[Message], kind: type[M]) -> list[M]:
    return [message for message in messages if isinstance(message, kind)]
