"""A durable, embeddable, replicated key-value store on Raft."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore.client.asynchronous import AsyncClient as AsyncClient
    from kvstore.client.blocking import Client as Client
    from kvstore.client.consistency import Consistency as Consistency
    from kvstore.client.results import CompactResult as CompactResult
    from kvstore.client.results import DeleteResult as DeleteResult
    from kvstore.client.results import KeyValue as KeyValue
    from kvstore.client.results import Leadership as Leadership
    from kvstore.client.results import MemberAddress as MemberAddress
    from kvstore.client.results import NodeStatus as NodeStatus
    from kvstore.client.results import PutResult as PutResult
    from kvstore.client.results import RangeResult as RangeResult
    from kvstore.client.results import ResponseHeader as ResponseHeader
    from kvstore.client.results import TxnResult as TxnResult
    from kvstore.client.transactions import Compare as Compare
    from kvstore.client.transactions import Op as Op
    from kvstore.config import Config as Config
    from kvstore.embedded import client_of as client_of
    from kvstore.embedded import open as open  # noqa: A004 - as of a file
    from kvstore.embedded import open_async as open_async
    from kvstore.errors import Behind as Behind
    from kvstore.errors import Busy as Busy
    from kvstore.errors import ChangePending as ChangePending
    from kvstore.errors import Closed as Closed
    from kvstore.errors import Compacted as Compacted
    from kvstore.errors import ConfigError as ConfigError
    from kvstore.errors import CorruptionError as CorruptionError
    from kvstore.errors import DamagedDirectory as DamagedDirectory
    from kvstore.errors import DamagedSnapshot as DamagedSnapshot
    from kvstore.errors import DataDirectoryError as DataDirectoryError
    from kvstore.errors import DeadlineExceeded as DeadlineExceeded
    from kvstore.errors import DirectoryLocked as DirectoryLocked
    from kvstore.errors import DirectoryNotFounded as DirectoryNotFounded
    from kvstore.errors import EpochChanged as EpochChanged
    from kvstore.errors import ForeignDirectory as ForeignDirectory
    from kvstore.errors import FutureRevision as FutureRevision
    from kvstore.errors import IdentityLost as IdentityLost
    from kvstore.errors import InvalidRequest as InvalidRequest
    from kvstore.errors import KVStoreError as KVStoreError
    from kvstore.errors import LeadershipLost as LeadershipLost
    from kvstore.errors import MembershipRefused as MembershipRefused
    from kvstore.errors import NewerFormat as NewerFormat
    from kvstore.errors import NotLeader as NotLeader
    from kvstore.errors import OutcomeUnknown as OutcomeUnknown
    from kvstore.errors import ProposalDropped as ProposalDropped
    from kvstore.errors import Removed as Removed
    from kvstore.errors import RequestTooLarge as RequestTooLarge
    from kvstore.errors import SessionExpired as SessionExpired
    from kvstore.errors import Unavailable as Unavailable
    from kvstore.founding import found as found
    from kvstore.founding import new_cluster_id as new_cluster_id
    from kvstore.server.node import Node as Node

# Errors are at home in kvstore.errors.
_HOMES = {
    "AsyncClient": "kvstore.client.asynchronous",
    "Client": "kvstore.client.blocking",
    "CompactResult": "kvstore.client.results",
    "Compare": "kvstore.client.transactions",
    "Config": "kvstore.config",
    "Consistency": "kvstore.client.consistency",
    "DeleteResult": "kvstore.client.results",
    "KeyValue": "kvstore.client.results",
    "Leadership": "kvstore.client.results",
    "MemberAddress": "kvstore.client.results",
    "Node": "kvstore.server.node",
    "NodeStatus": "kvstore.client.results",
    "Op": "kvstore.client.transactions",
    "PutResult": "kvstore.client.results",
    "RangeResult": "kvstore.client.results",
    "ResponseHeader": "kvstore.client.results",
    "TxnResult": "kvstore.client.results",
    "client_of": "kvstore.embedded",
    "found": "kvstore.founding",
    "new_cluster_id": "kvstore.founding",
    "open": "kvstore.embedded",
    "open_async": "kvstore.embedded",
}

__all__ = [
    "AsyncClient",
    "Behind",
    "Busy",
    "ChangePending",
    "Client",
    "Closed",
    "CompactResult",
    "Compacted",
    "Compare",
    "Config",
    "ConfigError",
    "Consistency",
    "CorruptionError",
    "DamagedDirectory",
    "DamagedSnapshot",
    "DataDirectoryError",
    "DeadlineExceeded",
    "DeleteResult",
    "DirectoryLocked",
    "DirectoryNotFounded",
    "EpochChanged",
    "ForeignDirectory",
    "FutureRevision",
    "IdentityLost",
    "InvalidRequest",
    "KVStoreError",
    "KeyValue",
    "Leadership",
    "LeadershipLost",
    "MemberAddress",
    "MembershipRefused",
    "NewerFormat",
    "Node",
    "NodeStatus",
    "NotLeader",
    "Op",
    "OutcomeUnknown",
    "ProposalDropped",
    "PutResult",
    "RangeResult",
    "Removed",
    "RequestTooLarge",
    "ResponseHeader",
    "SessionExpired",
    "TxnResult",
    "Unavailable",
    "client_of",
    "found",
    "new_cluster_id",
    "open",
    "open_async",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562): ``kvstore.raft`` needs no gRPC."""
    if name not in __all__:
        raise AttributeError(f"module 'kvstore' has no attribute {name!r}")
    found: object = getattr(import_module(_HOMES.get(name, "kvstore.errors")), name)
    return found


def __dir__() -> list[str]:
    """The public names too, loaded or not."""
    return sorted({*globals(), *__all__})
