"""Names for the numbers that must not be mistaken for one another.

Each is a ``NewType``: free at run time, and a ``Term`` passed as a ``LogIndex`` is a
type error. Standard library only; every package may import this module.
"""

from typing import NewType

NodeId = NewType("NodeId", int)
"""A member of a cluster. 1 to 2**63 - 1; never reused after a member lost its disk."""

ClusterId = NewType("ClusterId", bytes)
"""16 random bytes drawn when a cluster is founded."""

Term = NewType("Term", int)
"""Raft term; at most one leader each (Raft paper section 5.1). Starts at 0."""

LogIndex = NewType("LogIndex", int)
"""Position in the Raft log. The first entry has index 1; 0 is before the log."""

Revision = NewType("Revision", int)
"""Number of a write transaction that changed the store. 0 is the empty store."""

LeaseId = NewType("LeaseId", int)
"""A lease that keys can be attached to; 0 is none."""

ReadyNumber = NewType("ReadyNumber", int)
"""Number of one batch of work that the Raft core handed out."""

Ticket = NewType("Ticket", int)
"""Names one request inside a replica until it is answered."""

Epoch = NewType("Epoch", int)
"""Which history of the store: from 1, raised by each restore. Revisions of two epochs
do not compare."""

Incarnation = NewType("Incarnation", int)
"""Names one data directory of a member, so that a member which lost its disk is told
from itself. 1 to 2**63 - 1, drawn at random when the directory is made."""

SessionId = NewType("SessionId", int)
"""A client's session: the log index of the entry that opened it."""

CLUSTER_ID_BYTES = 16
FIRST_EPOCH = Epoch(1)
UNKNOWN_INCARNATION = Incarnation(0)
EPOCH_MAX = 2**15 - 1
INCARNATION_MAX = 2**63 - 1
NODE_ID_MAX = 2**63 - 1
