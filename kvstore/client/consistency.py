"""How a read is confirmed, and what a client remembers to never read backwards."""

from dataclasses import dataclass
from enum import Enum

from kvstore.errors import EpochChanged, InvalidRequest
from kvstore.pb import kv_pb2

STALENESS_MS_MAX = (1 << 32) - 1
"""The largest bound that travels: seven weeks."""


class Consistency(Enum):
    """What a read promises. Which level suits what: ``docs/guarantees.md``."""

    LINEARIZABLE = "linearizable"
    """Sees every write that was acknowledged before the read began. The leader confirms
    it with a majority (Raft dissertation, section 6.4)."""
    LEASE = "lease"
    """The same, provided that clocks run at about one rate: the leader's lease confirms
    it. In a cluster without leases it is ``LINEARIZABLE``."""
    FOLLOWER = "follower"
    """``LINEARIZABLE``, served by the node that the client is connected to."""
    BOUNDED = "bounded"
    """Sees every write acknowledged ``staleness_ms`` before the read began."""
    SESSION = "session"
    """Sees all that this client wrote and read before, at whatever node."""
    STALE = "stale"
    """Some committed state, of the node that the client is connected to."""


@dataclass(frozen=True, slots=True)
class ReadLevel:
    """A level with its bound. Reads of one level can share a request."""

    consistency: Consistency = Consistency.LINEARIZABLE
    staleness_ms: int = 0
    """``BOUNDED`` only: 1 or more. 0 elsewhere."""

    @property
    def of_later_pages(self) -> "ReadLevel":
        """For what is read on as of the revision that a read at this level returned.

        Any state that has the revision will do. A node that the client turns to in the
        middle may not have it yet: ``SESSION`` waits for it.
        """
        weak = self.consistency in (Consistency.BOUNDED, Consistency.STALE)
        return ReadLevel(Consistency.SESSION) if weak else self


LINEARIZABLE = ReadLevel()


def read_level(
    consistency: Consistency | None,
    staleness_ms: int | None,
    default: ReadLevel = LINEARIZABLE,
) -> ReadLevel:
    """The level that a caller asks for; what it leaves out is the default's.

    Raises:
        InvalidRequest: the bound is missing, senseless, or of a level without one.
    """
    if consistency is None and staleness_ms is None:
        return default
    wanted = default.consistency if consistency is None else consistency
    if wanted is not Consistency.BOUNDED:
        if staleness_ms is not None:
            raise InvalidRequest("staleness_ms goes with Consistency.BOUNDED alone")
        return ReadLevel(wanted)
    bound_ms = default.staleness_ms if staleness_ms is None else staleness_ms
    if not 1 <= bound_ms <= STALENESS_MS_MAX:
        raise InvalidRequest(
            f"Consistency.BOUNDED needs staleness_ms from 1 to {STALENESS_MS_MAX}"
        )
    return ReadLevel(wanted, bound_ms)


class Seen:
    """The newest state that this client saw, for reads that must see no older one.

    Revisions of two epochs do not compare: when a reply comes from another epoch, the
    next ``SESSION`` read is told so once, and what was seen before is forgotten.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.epoch = 0
        """0: none seen yet."""
        self._untold = False

    def note(self, epoch: int, revision: int) -> None:
        """A reply came from that state."""
        if epoch == self.epoch:
            self.revision = max(self.revision, revision)
        elif epoch:
            self._untold = self._untold or self.epoch != 0
            self.epoch, self.revision = epoch, revision

    def raise_change(self) -> None:
        """Before a ``SESSION`` read is sent, and before its reply is believed.

        Raises:
            EpochChanged: another epoch was seen since, and nobody was told yet.
        """
        if self._untold:
            self._untold = False
            raise EpochChanged(
                "the store was restored from a backup since this client last used it: "
                "forget what was read, and read anew",
                epoch=self.epoch,
            )

    def told(self, change: EpochChanged) -> None:
        """A node refused the revision as of another epoch, and the caller hears it."""
        if change.epoch != self.epoch:
            self.epoch, self.revision = change.epoch, 0
        self._untold = False


def options_to_pb(level: ReadLevel, seen: Seen) -> kv_pb2.ReadOptions:
    """As it travels. What was seen goes along where the level asks for it."""
    name = level.consistency.name
    if level.consistency is Consistency.SESSION:
        return kv_pb2.ReadOptions(
            consistency=name, revision_min=seen.revision, epoch=seen.epoch
        )
    return kv_pb2.ReadOptions(consistency=name, staleness_ms_max=level.staleness_ms)


def consistency_from_pb(number: int) -> Consistency:
    """A level that this version does not know is taken for the weakest."""
    return _BY_NUMBER.get(number, Consistency.STALE)


_BY_NUMBER = {kv_pb2.Consistency.Value(it.name): it for it in Consistency}
