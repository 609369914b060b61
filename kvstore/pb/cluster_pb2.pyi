from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Member(_message.Message):
    __slots__ = ("node_id", "address", "incarnation", "voter", "outgoing")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VOTER_FIELD_NUMBER: _ClassVar[int]
    OUTGOING_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    address: str
    incarnation: int
    voter: bool
    outgoing: bool
    def __init__(self, node_id: _Optional[int] = ..., address: _Optional[str] = ..., incarnation: _Optional[int] = ..., voter: _Optional[bool] = ..., outgoing: _Optional[bool] = ...) -> None: ...

class PeerProgress(_message.Message):
    __slots__ = ("node_id", "match_index", "state", "recently_active")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RECENTLY_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    match_index: int
    state: str
    recently_active: bool
    def __init__(self, node_id: _Optional[int] = ..., match_index: _Optional[int] = ..., state: _Optional[str] = ..., recently_active: _Optional[bool] = ...) -> None: ...

class ScrubTour(_message.Message):
    __slots__ = ("store", "tours_completed", "records_checked_in_tour", "records_checked", "progress", "corrupt_records", "last_tour_seconds")
    STORE_FIELD_NUMBER: _ClassVar[int]
    TOURS_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    RECORDS_CHECKED_IN_TOUR_FIELD_NUMBER: _ClassVar[int]
    RECORDS_CHECKED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_RECORDS_FIELD_NUMBER: _ClassVar[int]
    LAST_TOUR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    store: str
    tours_completed: int
    records_checked_in_tour: int
    records_checked: int
    progress: float
    corrupt_records: int
    last_tour_seconds: float
    def __init__(self, store: _Optional[str] = ..., tours_completed: _Optional[int] = ..., records_checked_in_tour: _Optional[int] = ..., records_checked: _Optional[int] = ..., progress: _Optional[float] = ..., corrupt_records: _Optional[int] = ..., last_tour_seconds: _Optional[float] = ...) -> None: ...

class ScrubFinding(_message.Message):
    __slots__ = ("store", "database", "key_hex", "what")
    STORE_FIELD_NUMBER: _ClassVar[int]
    DATABASE_FIELD_NUMBER: _ClassVar[int]
    KEY_HEX_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    store: str
    database: str
    key_hex: str
    what: str
    def __init__(self, store: _Optional[str] = ..., database: _Optional[str] = ..., key_hex: _Optional[str] = ..., what: _Optional[str] = ...) -> None: ...

class ScrubStatus(_message.Message):
    __slots__ = ("tours", "findings")
    TOURS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    tours: _containers.RepeatedCompositeFieldContainer[ScrubTour]
    findings: _containers.RepeatedCompositeFieldContainer[ScrubFinding]
    def __init__(self, tours: _Optional[_Iterable[_Union[ScrubTour, _Mapping]]] = ..., findings: _Optional[_Iterable[_Union[ScrubFinding, _Mapping]]] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("cluster_id", "node_id", "role", "term", "leader_id", "commit_index", "applied_index", "last_log_index", "revision", "compact_revision", "raft_store_bytes", "state_store_bytes", "members", "peers", "scrub", "uptime_seconds", "version", "leader_changes", "format_version", "cpu_seconds", "memory_bytes", "epoch", "joint", "incarnation", "address", "first_log_index", "removed", "snapshot_bytes_sent", "leases", "anonymous_memory_bytes", "sessions", "transferee", "state_id", "last_log_term")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMPACT_REVISION_FIELD_NUMBER: _ClassVar[int]
    RAFT_STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STATE_STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    SCRUB_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEADER_CHANGES_FIELD_NUMBER: _ClassVar[int]
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    JOINT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FIRST_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    TRANSFEREE_FIELD_NUMBER: _ClassVar[int]
    STATE_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    node_id: int
    role: str
    term: int
    leader_id: int
    commit_index: int
    applied_index: int
    last_log_index: int
    revision: int
    compact_revision: int
    raft_store_bytes: int
    state_store_bytes: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    peers: _containers.RepeatedCompositeFieldContainer[PeerProgress]
    scrub: ScrubStatus
    uptime_seconds: float
    version: str
    leader_changes: int
    format_version: int
    cpu_seconds: float
    memory_bytes: int
    epoch: int
    joint: bool
    incarnation: int
    address: str
    first_log_index: int
    removed: _containers.RepeatedScalarFieldContainer[int]
    snapshot_bytes_sent: int
    leases: bool
    anonymous_memory_bytes: int
    sessions: int
    transferee: int
    state_id: bytes
    last_log_term: int
    def __init__(self, cluster_id: _Optional[bytes] = ..., node_id: _Optional[int] = ..., role: _Optional[str] = ..., term: _Optional[int] = ..., leader_id: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., last_log_index: _Optional[int] = ..., revision: _Optional[int] = ..., compact_revision: _Optional[int] = ..., raft_store_bytes: _Optional[int] = ..., state_store_bytes: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[PeerProgress, _Mapping]]] = ..., scrub: _Optional[_Union[ScrubStatus, _Mapping]] = ..., uptime_seconds: _Optional[float] = ..., version: _Optional[str] = ..., leader_changes: _Optional[int] = ..., format_version: _Optional[int] = ..., cpu_seconds: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., epoch: _Optional[int] = ..., joint: _Optional[bool] = ..., incarnation: _Optional[int] = ..., address: _Optional[str] = ..., first_log_index: _Optional[int] = ..., removed: _Optional[_Iterable[int]] = ..., snapshot_bytes_sent: _Optional[int] = ..., leases: _Optional[bool] = ..., anonymous_memory_bytes: _Optional[int] = ..., sessions: _Optional[int] = ..., transferee: _Optional[int] = ..., state_id: _Optional[bytes] = ..., last_log_term: _Optional[int] = ...) -> None: ...

class ChangeMembershipRequest(_message.Message):
    __slots__ = ("add", "promote", "remove", "replace", "set_leases", "timeout_ms")
    ADD_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    SET_LEASES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    add: AddMember
    promote: int
    remove: int
    replace: ReplaceMember
    set_leases: bool
    timeout_ms: int
    def __init__(self, add: _Optional[_Union[AddMember, _Mapping]] = ..., promote: _Optional[int] = ..., remove: _Optional[int] = ..., replace: _Optional[_Union[ReplaceMember, _Mapping]] = ..., set_leases: _Optional[bool] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class AddMember(_message.Message):
    __slots__ = ("node_id", "address", "learner_only")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEARNER_ONLY_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    address: str
    learner_only: bool
    def __init__(self, node_id: _Optional[int] = ..., address: _Optional[str] = ..., learner_only: _Optional[bool] = ...) -> None: ...

class ReplaceMember(_message.Message):
    __slots__ = ("old_node_id", "added")
    OLD_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    old_node_id: int
    added: AddMember
    def __init__(self, old_node_id: _Optional[int] = ..., added: _Optional[_Union[AddMember, _Mapping]] = ...) -> None: ...

class ChangeMembershipResponse(_message.Message):
    __slots__ = ("members", "leader_id")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    leader_id: int
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., leader_id: _Optional[int] = ...) -> None: ...

class TransferLeadershipRequest(_message.Message):
    __slots__ = ("to", "timeout_ms")
    TO_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    to: int
    timeout_ms: int
    def __init__(self, to: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class TransferLeadershipResponse(_message.Message):
    __slots__ = ("leader_id", "term")
    LEADER_ID_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    leader_id: int
    term: int
    def __init__(self, leader_id: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class SaveSnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotPart(_message.Message):
    __slots__ = ("data", "size_bytes")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    size_bytes: int
    def __init__(self, data: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...
