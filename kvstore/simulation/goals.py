"""Rare states that a batch of seeds must really reach: else its silence says little.

A run without violations proves nothing about what never happened in it. So each state
that a bug could hide in is a goal (Antithesis calls them "sometimes assertions"), with
the share of seeds that it is reached in at least. The shares are about a quarter of
what is measured: what fails is a state that is hardly reached any more, after a change
to the simulator or to what it runs, and not an unlucky range of seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.simulation.swarm import Fault, is_counted, strikes_of

if TYPE_CHECKING:
    from kvstore.simulation.run import Outcome

DEMANDED_FROM_SEEDS = 200
"""Fewer say too little about what is rare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One rare state."""

    name: str
    per_thousand: int
    """Of so many seeds, in how many it must be reached: 1 to 1,000."""
    times: Callable[[Outcome], int]
    """How often one run was there."""

    def least(self, seeds: int) -> int:
        """In how many of ``seeds`` it must be reached: 0 of fewer than 200, or if so
        few may well be without.
        """
        if seeds < DEMANDED_FROM_SEEDS:
            return 0
        return self.per_thousand * seeds // 1_000


def _goal(name: str, per_thousand: int, key: str = "") -> Goal:
    """Counted by the run itself, as ``key`` or under its name."""
    counted = key or name
    return Goal(
        name=name,
        per_thousand=per_thousand,
        times=lambda outcome: outcome.reached[counted],
    )


GOALS: tuple[Goal, ...] = (
    # Leaders.
    _goal("the leader crashed", 150),
    _goal(
        "a leader heard of a higher term",
        200,
        "SteppedDown: a message of a higher term",
    ),
    _goal(
        "a leader or candidate lost touch with a quorum",
        100,
        "SteppedDown: no quorum was heard for an election timeout",
    ),
    _goal(
        "a leader's disk stood still",
        45,
        "SteppedDown: its disk did not finish a write for an election timeout",
    ),
    _goal("a leader was removed", 40, "SteppedDown: it is a voter no longer"),
    _goal(
        "a candidate met a leader of its term",
        120,
        "SteppedDown: a leader of its own term",
    ),
    _goal("a candidate was refused", 140, "SteppedDown: a quorum refused its vote"),
    _goal(
        "a voter was loyal to a leader it had heard",
        150,
        "VoteRefused: a leader was heard within an election timeout",
    ),
    _goal(
        "a vote was refused to a log that is behind",
        170,
        "VoteRefused: the candidate's log is behind this node's",
    ),
    _goal(
        "a vote was refused in a term that is over",
        200,
        "VoteRefused: the campaign's term is over",
    ),
    _goal(
        "a vote was refused, being given",
        110,
        "VoteRefused: this node voted for another in the term, or knows its leader",
    ),
    _goal(
        "a restarted voter kept its promise of a lease",
        50,
        "VoteRefused: this node may have promised a lease before it restarted",
    ),
    _goal(
        "a campaign as the leader's connection closed",
        140,
        "BecamePreCandidate: the leader's connection closed",
    ),
    _goal(
        "the lead was handed over", 110, "BecameCandidate: the leader handed over to it"
    ),
    _goal("a handover came to nothing", 35, "HandoverEnded"),
    _goal("a transfer was refused", 4),
    # Logs and snapshots.
    _goal("uncommitted entries were replaced", 120, "EntriesReplaced"),
    _goal("an append did not fit a log", 200, "PeerStateChanged: REJECTED"),
    _goal("an append went unanswered", 200, "PeerStateChanged: STALLED"),
    _goal("what a member needs was compacted", 75, "PeerStateChanged: TOO_FAR_BEHIND"),
    _goal("a snapshot was installed", 75),
    _goal("a snapshot brought nothing new", 4, "SnapshotIgnored"),
    _goal("a snapshot's transfer broke", 50),
    # Disks and processes.
    _goal("crash with a write in flight", 180),
    _goal("a commit of the state was lost", 85),
    _goal("a disk refused a write", 75),
    _goal("damage was found", 45),
    *[
        _goal(f"struck by {fault.value}", 60, strikes_of(fault))
        for fault in Fault
        if is_counted(fault)
    ],
    # Members.
    _goal("a change of members began", 180),
    _goal("a change was refused: ChangePending", 4),
    _goal("a lost member was replaced", 130),
    _goal("a removed member left", 60),
    # Clients.
    _goal("a repeated command was answered", 230),
    _goal("a write failed for certain", 210),
    _goal("a write's outcome is unknown", 240),
    _goal("a client lost patience", 110),
    _goal("sessions were expired", 75, "a leader's own expire_sessions"),
    _goal("reads could not be confirmed", 210, "ReadsRejected"),
    *[
        _goal(f"a {level} read was answered", 240)
        for level in (
            "LINEARIZABLE",
            "FOLLOWER",
            "LEASE",
            "BOUNDED",
            "SESSION",
            "STALE",
        )
    ],
    _goal("a read by lease alone", 70, "a read was confirmed as LEASE"),
    _goal("a bounded read without asking", 220, "a read was confirmed as BOUNDED"),
)
