"""Who leads, by what several members say of themselves."""

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Standing(Protocol):
    """What one member says: ``StatusResponse`` of cluster.proto, or the like."""

    @property
    def node_id(self) -> int: ...

    @property
    def role(self) -> str: ...

    @property
    def term(self) -> int: ...

    @property
    def leader_id(self) -> int: ...


_Standing = TypeVar("_Standing", bound=Standing)


def followed_leader(
    standings: Iterable[_Standing], *, members: int
) -> _Standing | None:
    """The leader that a majority of all ``members`` follows in its term, else None.

    A deposed leader that has not heard of its fall yet calls itself leader too; the
    majority tells them apart. Members that did not answer follow nobody.
    """
    known = list(standings)
    for leader in known:
        if leader.role != "leader":
            continue
        followers = sum(
            1
            for each in known
            if each.term == leader.term and each.leader_id == leader.node_id
        )
        if followers > members // 2:
            return leader
    return None
