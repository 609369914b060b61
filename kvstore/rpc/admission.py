"""Who may open a stream to a member, and what is said to whom may not.

Each stream begins with a *hello* in its metadata: which member of which cluster speaks,
from which data directory, where it serves, and whom it means to reach. The receiver
accepts, or refuses with a kind that the sender understands: a member that was removed,
or that lost its disk, must not go on as if nothing had happened.

There is no proof in a hello. It tells members apart that are wired wrongly; it keeps
nobody out.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import grpc

from kvstore.config import check_address
from kvstore.errors import (
    ConfigError,
    ForeignDirectory,
    IdentityLost,
    KVStoreError,
    Removed,
    Unavailable,
)
from kvstore.raft.membership import Configuration
from kvstore.replica.admission import Standing, standing
from kvstore.replica.interfaces import Identity
from kvstore.types import (
    INCARNATION_MAX,
    NODE_ID_MAX,
    UNKNOWN_INCARNATION,
    Incarnation,
    NodeId,
)

SERVICE = "kvstore.v1.Peer"
CLUSTER_METADATA_KEY = "kvstore-cluster"
FROM_METADATA_KEY = "kvstore-from"
TO_METADATA_KEY = "kvstore-to"
INCARNATION_METADATA_KEY = "kvstore-incarnation"
"""Of the sender's data directory."""
TO_INCARNATION_METADATA_KEY = "kvstore-to-incarnation"
"""Of the receiver's, as the sender's configuration has it; 0 is not known."""
ADDRESS_METADATA_KEY = "kvstore-address"
"""Where the sender serves, so that it can be answered before it is known."""
REFUSAL_METADATA_KEY = "kvstore-refusal"
"""In the trailing metadata of a refused stream: a ``RefusalKind``."""

_REASONS_LOGGED_MAX = 100
_ADDRESS_CHARACTERS_MAX = 300

_logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]


class RefusalKind(Enum):
    """Why a stream is refused, as far as its sender must act on it."""

    FOREIGN = "foreign"
    """Of another cluster, or meant for another member: wired wrongly."""
    REMOVED = "removed"
    """The sender was a member once. For good: its id is spent."""
    IDENTITY_LOST = "identity-lost"
    """The sender's id belongs to another data directory. For good, too."""
    UNKNOWN = "unknown"
    """Not now. It may try again."""


FINAL = frozenset({RefusalKind.REMOVED, RefusalKind.IDENTITY_LOST})
"""Kinds after which a member stops."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A stream is not accepted."""

    kind: RefusalKind
    reason: str
    """For people."""

    def error(self) -> KVStoreError:
        """What the refused member raises."""
        match self.kind:
            case RefusalKind.REMOVED:
                return Removed(self.reason)
            case RefusalKind.IDENTITY_LOST:
                return IdentityLost(self.reason)
            case RefusalKind.FOREIGN:
                return ForeignDirectory(self.reason)
            case RefusalKind.UNKNOWN:
                return Unavailable(self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who opens a stream, and whom it means."""

    cluster: str
    """Cluster id in hexadecimal."""
    sender: NodeId
    to: NodeId
    incarnation: Incarnation = UNKNOWN_INCARNATION
    to_incarnation: Incarnation = UNKNOWN_INCARNATION
    address: str

    def encode(self) -> tuple[tuple[str, str], ...]:
        """As metadata."""
        return (
            (CLUSTER_METADATA_KEY, self.cluster),
            (FROM_METADATA_KEY, str(self.sender)),
            (TO_METADATA_KEY, str(self.to)),
            (INCARNATION_METADATA_KEY, str(self.incarnation)),
            (TO_INCARNATION_METADATA_KEY, str(self.to_incarnation)),
            (ADDRESS_METADATA_KEY, self.address),
        )

    @classmethod
    def decode(cls, metadata: Mapping[str, object]) -> "Hello | Refusal":
        """Read back what :meth:`encode` made."""
        sender = _number(metadata.get(FROM_METADATA_KEY), NODE_ID_MAX)
        to = _number(metadata.get(TO_METADATA_KEY), NODE_ID_MAX)
        incarnation = _number(metadata.get(INCARNATION_METADATA_KEY), INCARNATION_MAX)
        expected = _number(metadata.get(TO_INCARNATION_METADATA_KEY), INCARNATION_MAX)
        address = str(metadata.get(ADDRESS_METADATA_KEY, ""))
        if not sender or not to or incarnation is None or expected is None:
            return Refusal(RefusalKind.UNKNOWN, "the stream does not say who speaks")
        try:
            check_address("address", address[:_ADDRESS_CHARACTERS_MAX], port_min=1)
        except ConfigError as error:
            return Refusal(RefusalKind.UNKNOWN, str(error))
        return cls(
            cluster=str(metadata.get(CLUSTER_METADATA_KEY, "")),
            sender=NodeId(sender),
            to=NodeId(to),
            incarnation=Incarnation(incarnation),
            to_incarnation=Incarnation(expected),
            address=address,
        )


Admit = Callable[[Hello], Refusal | None]
"""Why a member that speaks to the right one is refused; None: it is not."""


def refusal_by(
    settled: Configuration, latest: Configuration, hello: Hello
) -> Refusal | None:
    """Judge a member of our cluster, as :func:`~kvstore.replica.admission.standing`."""
    sender = hello.sender
    match standing(settled, latest, sender, hello.incarnation):
        case Standing.ADMITTED:
            return None
        case Standing.REMOVED:
            reason = f"member {sender} was removed from the cluster: its id is spent"
            return Refusal(RefusalKind.REMOVED, reason)
        case Standing.REPLACED:
            kind, knows = RefusalKind.IDENTITY_LOST, "knows"
        case Standing.DOUBTED:
            kind, knows = RefusalKind.UNKNOWN, "is about to know"
    reason = (
        f"member {sender} speaks from another data directory than the cluster {knows}: "
        "if its disk was lost, remove it and add a new member under a new id"
    )
    return Refusal(kind, reason)


def refusal_in(
    details: str | None, trailing: Iterable[tuple[str, str | bytes]] | None
) -> Refusal | None:
    """The refusal with which a call ended; None if it ended otherwise."""
    # Pairs, whatever class the version of gRPC gives them.
    kind = dict(trailing or ()).get(REFUSAL_METADATA_KEY)
    try:
        return Refusal(RefusalKind(kind), details or "")
    except ValueError:  # none, or one that only a newer version knows
        return None


class Gate:
    """Where streams of peers come in, of whatever method."""

    def __init__(
        self,
        identity: Identity,
        *,
        admit: Admit,
        on_refused: Callable[[Refusal], None],
    ) -> None:
        """``on_refused``: a peer's configuration disowns *our* data directory."""
        self._identity = identity
        self._admit = admit
        self._on_refused = on_refused
        self._logged: set[str] = set()

    def judge(self, hello: Hello) -> Refusal | None:
        """Why a stream that says ``hello`` is refused; None: it is not."""
        own = self._identity
        if hello.cluster != own.cluster_id.hex():
            return Refusal(
                RefusalKind.FOREIGN, f"this is a member of {own.cluster_id.hex()}"
            )
        if hello.to != own.node_id:
            return Refusal(RefusalKind.FOREIGN, f"this is member {own.node_id}")
        if hello.sender == own.node_id:
            return Refusal(RefusalKind.FOREIGN, f"this is member {own.node_id} itself")
        if hello.to_incarnation not in (UNKNOWN_INCARNATION, own.incarnation):
            reason = (
                f"member {own.node_id} is known by another data directory than the one "
                "it runs on: if that one was lost, remove the member and add a new one "
                "under a new id"
            )
            self._on_refused(Refusal(RefusalKind.IDENTITY_LOST, reason))
            return Refusal(RefusalKind.UNKNOWN, reason)
        return self._admit(hello)

    async def enter(self, context: Context) -> Hello:
        """Who opens this stream; one that is refused ends here."""
        # The stubs type the items as what the synchronous API gives.
        hello = Hello.decode(dict(context.invocation_metadata() or ()))
        refusal = hello if isinstance(hello, Refusal) else self.judge(hello)
        if refusal is not None:
            await self.refuse(context, refusal)
        assert isinstance(hello, Hello)
        return hello

    async def refuse(self, context: Context, refusal: Refusal) -> None:
        """End a stream; its sender learns why."""
        # The sender tries every second: only what changes is news.
        if refusal.reason not in self._logged:
            if len(self._logged) < _REASONS_LOGGED_MAX:
                self._logged.add(refusal.reason)
            log(
                logging.WARNING,
                "peer stream refused",
                node=self._identity.node_id,
                address=context.peer(),
                reason=refusal.reason,
            )
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            refusal.reason,
            ((REFUSAL_METADATA_KEY, refusal.kind.value),),
        )


def _number(text: object, maximum: int) -> int | None:
    if isinstance(text, str) and text.isascii() and text.isdecimal():
        number = int(text[:20])
        if len(text) < 20 and number <= maximum:
            return number
    return None


def log(level: int, event: str, **fields: object) -> None:
    """One event of a stream between members, with its fields."""
    # The attribute that the server's formatters read; rpc does not know the server.
    _logger.log(level, event, extra={"kvstore_fields": fields}, stacklevel=2)
