"""What can go wrong around a cluster of local processes, with advice.

These are not errors of the store, so they stand beside ``kvstore.errors`` and not under
it: none of them says anything about whether a write was applied.

::

    ClusterError
    ├─ NotACluster      the directory holds no cluster of ours
    ├─ ClusterExists    the directory already holds one
    ├─ ClusterBusy      another command changes the cluster right now
    ├─ UnknownNode      no node has that number or role
    ├─ NodeFailed       a node's process would not start, or ended by itself
    └─ NotReady         a deadline passed first
"""


class ClusterError(Exception):
    """Base of the tree. ``advice`` says what to do next, as one sentence."""

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class NotACluster(ClusterError):
    """The directory holds no cluster made by this package."""


class ClusterExists(ClusterError):
    """A cluster was founded in the directory before."""


class ClusterBusy(ClusterError):
    """Another command holds the cluster's lock."""


class UnknownNode(ClusterError):
    """A selector names no node: a wrong number, or no node has the role now."""


class NodeFailed(ClusterError):
    """A node's process could not be started, or ended unasked."""


class NotReady(ClusterError):
    """What was waited for did not happen before the deadline."""
