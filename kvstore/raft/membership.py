"""Who belongs to a cluster, and how that changes: joint consensus (section 6).

A configuration is a value. Every entry of kind ``CONFIGURATION`` holds a whole one, and
a node's configuration is that of the last such entry in its log, else of the snapshot
that its log continues: a function of both, never a fact of its own (mutants M36, M40).

Every change passes through a joint configuration, in which elections and commitment
need a majority of the old voters *and* one of the new; a single-server change without
it lost committed entries once (the bug of 2015; M37), and has more rules. A leader
leaves the joint configuration by itself as soon as it is committed, also if another one
entered it (M42).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from kvstore.errors import CorruptionError, MembershipRefused
from kvstore.types import NODE_ID_MAX, UNKNOWN_INCARNATION, Incarnation, NodeId

MEMBERS_MAX = 64
"""Voters and learners together. Far above what is of use: a quorum of seven is slow."""
REMOVED_MAX = 65_536
"""Spent ids that a configuration remembers."""


class MemberRole(Enum):
    """What a member takes part in."""

    VOTER = "voter"
    LEARNER = "learner"
    """Receives everything, counts for nothing."""
    OUTGOING = "outgoing"
    """A voter of the old half of a joint configuration only: about to leave."""


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """What everybody knows of one member."""

    address: str
    """``host:port`` at which it serves."""
    incarnation: Incarnation = UNKNOWN_INCARNATION
    """Of its data directory; 0 until the member was first heard."""
    promotable: bool = True
    """Of a learner: the leader makes it a voter once it has caught up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The members of a cluster. Ids are in ascending order everywhere."""

    voters: tuple[NodeId, ...]
    """Of the new half, while joint."""
    outgoing: tuple[NodeId, ...] = ()
    """Voters of the old half, complete; empty unless joint."""
    learners: tuple[NodeId, ...] = ()
    learners_next: tuple[NodeId, ...] = ()
    """Voters of the old half that become learners when the joint one is left."""
    members: Mapping[NodeId, MemberInfo] = field(default_factory=dict)
    """Of every id above."""
    removed: tuple[NodeId, ...] = ()
    """Ids that were members once: never used again."""
    leases: bool = False
    """Leaders may answer reads by their lease alone. All members must agree on it: it
    forbids a follower to campaign early."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "members", MappingProxyType(dict(sorted(self.members.items())))
        )

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    @property
    def halves(self) -> tuple[tuple[NodeId, ...], ...]:
        """The sets of voters of which each needs a majority."""
        return (self.voters, self.outgoing) if self.outgoing else (self.voters,)

    @property
    def all_voters(self) -> tuple[NodeId, ...]:
        """Voters of either half."""
        return tuple(sorted({*self.voters, *self.outgoing}))

    @property
    def everybody(self) -> tuple[NodeId, ...]:
        """All whom a leader replicates to, itself included."""
        return tuple(
            sorted({*self.voters, *self.outgoing, *self.learners, *self.learners_next})
        )

    def is_voter(self, node_id: NodeId) -> bool:
        """Whether its vote counts in either half."""
        return node_id in self.voters or node_id in self.outgoing

    def role(self, node_id: NodeId) -> MemberRole | None:
        """What the member is; None of a stranger."""
        if node_id in self.voters:
            return MemberRole.VOTER
        if node_id in self.outgoing:
            return MemberRole.OUTGOING
        if node_id in self.learners:
            return MemberRole.LEARNER
        return None

    # ------------------------------------------------------------------ change

    def enter_joint(self, changes: Iterable[Change]) -> Configuration:
        """The joint configuration between this one and the one with ``changes``.

        Raises:
            MembershipRefused: the changes make no sense together, or here.
        """
        if self.is_joint:
            raise MembershipRefused("a change of members is under way already")
        draft = _Draft(self)
        for change in changes:
            draft.apply(change)
        return draft.joint()

    def leave_joint(self) -> Configuration:
        """The configuration that a joint one leads to."""
        assert self.is_joint
        learners = tuple(sorted({*self.learners, *self.learners_next}))
        stay = {*self.voters, *learners}
        gone = {node for node in self.outgoing if node not in stay}
        return replace(
            self,
            outgoing=(),
            learners=learners,
            learners_next=(),
            members={n: info for n, info in self.members.items() if n in stay},
            removed=tuple(sorted({*self.removed, *gone})),
        )

    def with_info(self, node_id: NodeId, info: MemberInfo) -> Configuration:
        """The same members, of which one is known better. Not a change of members."""
        assert node_id in self.members
        return replace(self, members={**self.members, node_id: info})

    # ---------------------------------------------------------------- encoding

    def encode(self) -> bytes:
        """As it is stored and sent: JSON, for it is rare, and people read it."""
        facts: dict[str, object] = {"voters": self.voters}
        for name in ("outgoing", "learners", "learners_next", "removed"):
            if ids := getattr(self, name):
                facts[name] = ids
        facts["members"] = {
            str(node): [info.address, info.incarnation, info.promotable]
            for node, info in self.members.items()
        }
        if self.leases:
            facts["leases"] = True
        return json.dumps(facts, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Configuration:
        """Read back what :meth:`encode` made.

        Raises:
            CorruptionError: it is no configuration.
        """
        try:
            facts = json.loads(data)
            return cls(
                voters=_ids(facts["voters"]),
                outgoing=_ids(facts.get("outgoing", ())),
                learners=_ids(facts.get("learners", ())),
                learners_next=_ids(facts.get("learners_next", ())),
                removed=_ids(facts.get("removed", ())),
                leases=bool(facts.get("leases", False)),
                members={
                    NodeId(int(node)): MemberInfo(
                        str(info[0]), Incarnation(int(info[1])), bool(info[2])
                    )
                    for node, info in facts["members"].items()
                },
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise CorruptionError(
                "an entry of the log is no configuration", store="raft"
            ) from error


NOBODY = Configuration(voters=())
"""Of a node that was told of no members yet: it waits for a leader to find it."""


# ------------------------------------------------------------------------- changes


@dataclass(frozen=True, slots=True)
class AddLearner:
    """Begin to replicate to a new member, which counts for nothing yet."""

    node_id: NodeId
    info: MemberInfo


@dataclass(frozen=True, slots=True)
class Promote:
    """Make a learner a voter."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class Demote:
    """Make a voter a learner."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a member out, for ever."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class SetLeases:
    """Switch leader leases on or off."""

    leases: bool


Change = AddLearner | Promote | Demote | Remove | SetLeases


class _Draft:
    """The new half of a joint configuration, as changes build it."""

    def __init__(self, before: Configuration) -> None:
        self._before = before
        self._voters = set(before.voters)
        self._learners = set(before.learners)
        self._learners_next: set[NodeId] = set()
        self._members = dict(before.members)
        self._removed = set(before.removed)
        self._leases = before.leases

    def apply(self, change: Change) -> None:
        match change:
            case AddLearner(node_id, info):
                self._add_learner(node_id, info)
            case Promote(node_id):
                if node_id not in self._learners:
                    self._refuse(node_id, "is not a learner")
                self._learners.discard(node_id)
                self._voters.add(node_id)
            case Demote(node_id):
                if node_id not in self._voters:
                    self._refuse(node_id, "is not a voter")
                self._voters.discard(node_id)
                if node_id in self._before.voters:
                    # It stays a voter of the old half until that is left.
                    self._learners_next.add(node_id)
                else:
                    self._learners.add(node_id)
                info = self._members[node_id]
                self._members[node_id] = replace(info, promotable=False)
            case Remove(node_id):
                self._remove(node_id)
            case SetLeases(leases):
                self._leases = leases

    def _add_learner(self, node_id: NodeId, info: MemberInfo) -> None:
        if not 1 <= node_id <= NODE_ID_MAX:
            self._refuse(node_id, f"cannot be: ids are 1 to {NODE_ID_MAX}")
        if node_id in self._removed:
            self._refuse(
                node_id, "was a member once: an id is never used again, choose another"
            )
        if node_id in self._members:
            self._refuse(node_id, "is a member already")
        for other, known in self._members.items():
            if known.address == info.address:
                self._refuse(node_id, f"has the address of member {other}")
        self._learners.add(node_id)
        self._members[node_id] = info

    def _remove(self, node_id: NodeId) -> None:
        if node_id not in self._voters | self._learners:
            self._refuse(node_id, "is not a member")
        if node_id not in self._before.voters:
            # Nobody counts on it: it is gone at once, its info with it. Also a learner
            # that an earlier change of these made a voter, of the new half alone.
            self._learners.discard(node_id)
            del self._members[node_id]
            self._removed.add(node_id)
        self._voters.discard(node_id)

    def joint(self) -> Configuration:
        if not self._voters:
            raise MembershipRefused("the last voter must stay: there would be none")
        if len(self._members) > MEMBERS_MAX:
            raise MembershipRefused(f"a cluster has at most {MEMBERS_MAX} members")
        if len(self._removed) > REMOVED_MAX:
            raise MembershipRefused(
                f"{REMOVED_MAX} ids were removed from this cluster, the most there can "
                "be: restore a snapshot into a new one"
            )
        before = self._before
        return Configuration(
            voters=tuple(sorted(self._voters)),
            outgoing=before.voters,
            learners=tuple(sorted(self._learners)),
            learners_next=tuple(sorted(self._learners_next)),
            members=self._members,
            removed=tuple(sorted(self._removed)),
            leases=self._leases,
        )

    @staticmethod
    def _refuse(node_id: NodeId, why: str) -> None:
        raise MembershipRefused(f"node {node_id} {why}")


def _ids(numbers: Iterable[int]) -> tuple[NodeId, ...]:
    return tuple(sorted(NodeId(int(number)) for number in numbers))
