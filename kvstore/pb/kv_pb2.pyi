from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINEARIZABLE: _ClassVar[Consistency]
    LEASE: _ClassVar[Consistency]
    FOLLOWER: _ClassVar[Consistency]
    BOUNDED: _ClassVar[Consistency]
    SESSION: _ClassVar[Consistency]
    STALE: _ClassVar[Consistency]
LINEARIZABLE: Consistency
LEASE: Consistency
FOLLOWER: Consistency
BOUNDED: Consistency
SESSION: Consistency
STALE: Consistency

class KeyValue(_message.Message):
    __slots__ = ("key", "value", "create_revision", "mod_revision", "version", "lease")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CREATE_REVISION_FIELD_NUMBER: _ClassVar[int]
    MOD_REVISION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., create_revision: _Optional[int] = ..., mod_revision: _Optional[int] = ..., version: _Optional[int] = ..., lease: _Optional[int] = ...) -> None: ...

class ResponseHeader(_message.Message):
    __slots__ = ("cluster_id", "node_id", "term", "revision", "epoch", "consistency", "staleness_ms")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    node_id: int
    term: int
    revision: int
    epoch: int
    consistency: Consistency
    staleness_ms: int
    def __init__(self, cluster_id: _Optional[bytes] = ..., node_id: _Optional[int] = ..., term: _Optional[int] = ..., revision: _Optional[int] = ..., epoch: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., staleness_ms: _Optional[int] = ...) -> None: ...

class ReadOptions(_message.Message):
    __slots__ = ("consistency", "staleness_ms_max", "revision_min", "epoch")
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    STALENESS_MS_MAX_FIELD_NUMBER: _ClassVar[int]
    REVISION_MIN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    consistency: Consistency
    staleness_ms_max: int
    revision_min: int
    epoch: int
    def __init__(self, consistency: _Optional[_Union[Consistency, str]] = ..., staleness_ms_max: _Optional[int] = ..., revision_min: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Put(_message.Message):
    __slots__ = ("key", "value", "lease", "prev_kv")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    PREV_KV_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    lease: int
    prev_kv: bool
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., lease: _Optional[int] = ..., prev_kv: _Optional[bool] = ...) -> None: ...

class DeleteRange(_message.Message):
    __slots__ = ("key", "range_end", "prev_kv")
    KEY_FIELD_NUMBER: _ClassVar[int]
    RANGE_END_FIELD_NUMBER: _ClassVar[int]
    PREV_KV_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    range_end: bytes
    prev_kv: bool
    def __init__(self, key: _Optional[bytes] = ..., range_end: _Optional[bytes] = ..., prev_kv: _Optional[bool] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("key", "range_end", "limit", "revision", "sort_order", "sort_target", "keys_only", "count_only", "without_count", "options")
    class SortOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NONE: _ClassVar[Range.SortOrder]
        ASCEND: _ClassVar[Range.SortOrder]
        DESCEND: _ClassVar[Range.SortOrder]
    NONE: Range.SortOrder
    ASCEND: Range.SortOrder
    DESCEND: Range.SortOrder
    class SortTarget(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KEY: _ClassVar[Range.SortTarget]
        VERSION: _ClassVar[Range.SortTarget]
        CREATE: _ClassVar[Range.SortTarget]
        MOD: _ClassVar[Range.SortTarget]
        VALUE: _ClassVar[Range.SortTarget]
    KEY: Range.SortTarget
    VERSION: Range.SortTarget
    CREATE: Range.SortTarget
    MOD: Range.SortTarget
    VALUE: Range.SortTarget
    KEY_FIELD_NUMBER: _ClassVar[int]
    RANGE_END_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SORT_ORDER_FIELD_NUMBER: _ClassVar[int]
    SORT_TARGET_FIELD_NUMBER: _ClassVar[int]
    KEYS_ONLY_FIELD_NUMBER: _ClassVar[int]
    COUNT_ONLY_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_COUNT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    range_end: bytes
    limit: int
    revision: int
    sort_order: Range.SortOrder
    sort_target: Range.SortTarget
    keys_only: bool
    count_only: bool
    without_count: bool
    options: ReadOptions
    def __init__(self, key: _Optional[bytes] = ..., range_end: _Optional[bytes] = ..., limit: _Optional[int] = ..., revision: _Optional[int] = ..., sort_order: _Optional[_Union[Range.SortOrder, str]] = ..., sort_target: _Optional[_Union[Range.SortTarget, str]] = ..., keys_only: _Optional[bool] = ..., count_only: _Optional[bool] = ..., without_count: _Optional[bool] = ..., options: _Optional[_Union[ReadOptions, _Mapping]] = ...) -> None: ...

class Compare(_message.Message):
    __slots__ = ("result", "key", "version", "create_revision", "mod_revision", "value")
    class Result(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        EQUAL: _ClassVar[Compare.Result]
        GREATER: _ClassVar[Compare.Result]
        LESS: _ClassVar[Compare.Result]
        NOT_EQUAL: _ClassVar[Compare.Result]
    EQUAL: Compare.Result
    GREATER: Compare.Result
    LESS: Compare.Result
    NOT_EQUAL: Compare.Result
    RESULT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATE_REVISION_FIELD_NUMBER: _ClassVar[int]
    MOD_REVISION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    result: Compare.Result
    key: bytes
    version: int
    create_revision: int
    mod_revision: int
    value: bytes
    def __init__(self, result: _Optional[_Union[Compare.Result, str]] = ..., key: _Optional[bytes] = ..., version: _Optional[int] = ..., create_revision: _Optional[int] = ..., mod_revision: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("range", "put", "delete_range", "txn")
    RANGE_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_RANGE_FIELD_NUMBER: _ClassVar[int]
    TXN_FIELD_NUMBER: _ClassVar[int]
    range: Range
    put: Put
    delete_range: DeleteRange
    txn: Txn
    def __init__(self, range: _Optional[_Union[Range, _Mapping]] = ..., put: _Optional[_Union[Put, _Mapping]] = ..., delete_range: _Optional[_Union[DeleteRange, _Mapping]] = ..., txn: _Optional[_Union[Txn, _Mapping]] = ...) -> None: ...

class Txn(_message.Message):
    __slots__ = ("compare", "success", "failure")
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    compare: _containers.RepeatedCompositeFieldContainer[Compare]
    success: _containers.RepeatedCompositeFieldContainer[Operation]
    failure: _containers.RepeatedCompositeFieldContainer[Operation]
    def __init__(self, compare: _Optional[_Iterable[_Union[Compare, _Mapping]]] = ..., success: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., failure: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ...) -> None: ...

class Compact(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class CompactionStep(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OpenSession(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SessionCommands(_message.Message):
    __slots__ = ("session_id", "first_number", "count", "acknowledged")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    first_number: int
    count: int
    acknowledged: int
    def __init__(self, session_id: _Optional[int] = ..., first_number: _Optional[int] = ..., count: _Optional[int] = ..., acknowledged: _Optional[int] = ...) -> None: ...

class CloseSession(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    def __init__(self, session_id: _Optional[int] = ...) -> None: ...

class SessionActivity(_message.Message):
    __slots__ = ("session_id", "index")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    index: int
    def __init__(self, session_id: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class ExpireSessions(_message.Message):
    __slots__ = ("sessions", "term")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionActivity]
    term: int
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionActivity, _Mapping]]] = ..., term: _Optional[int] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("put", "delete_range", "txn", "compact", "open_session", "session_commands", "close_session", "compaction_step", "expire_sessions")
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_RANGE_FIELD_NUMBER: _ClassVar[int]
    TXN_FIELD_NUMBER: _ClassVar[int]
    COMPACT_FIELD_NUMBER: _ClassVar[int]
    OPEN_SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    CLOSE_SESSION_FIELD_NUMBER: _ClassVar[int]
    COMPACTION_STEP_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    put: Put
    delete_range: DeleteRange
    txn: Txn
    compact: Compact
    open_session: OpenSession
    session_commands: SessionCommands
    close_session: CloseSession
    compaction_step: CompactionStep
    expire_sessions: ExpireSessions
    def __init__(self, put: _Optional[_Union[Put, _Mapping]] = ..., delete_range: _Optional[_Union[DeleteRange, _Mapping]] = ..., txn: _Optional[_Union[Txn, _Mapping]] = ..., compact: _Optional[_Union[Compact, _Mapping]] = ..., open_session: _Optional[_Union[OpenSession, _Mapping]] = ..., session_commands: _Optional[_Union[SessionCommands, _Mapping]] = ..., close_session: _Optional[_Union[CloseSession, _Mapping]] = ..., compaction_step: _Optional[_Union[CompactionStep, _Mapping]] = ..., expire_sessions: _Optional[_Union[ExpireSessions, _Mapping]] = ...) -> None: ...

class CommandBatch(_message.Message):
    __slots__ = ("commands",)
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedCompositeFieldContainer[Command]
    def __init__(self, commands: _Optional[_Iterable[_Union[Command, _Mapping]]] = ...) -> None: ...

class PutResult(_message.Message):
    __slots__ = ("revision", "prev_kv")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PREV_KV_FIELD_NUMBER: _ClassVar[int]
    revision: int
    prev_kv: KeyValue
    def __init__(self, revision: _Optional[int] = ..., prev_kv: _Optional[_Union[KeyValue, _Mapping]] = ...) -> None: ...

class DeleteRangeResult(_message.Message):
    __slots__ = ("revision", "deleted", "prev_kvs")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    PREV_KVS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    deleted: int
    prev_kvs: _containers.RepeatedCompositeFieldContainer[KeyValue]
    def __init__(self, revision: _Optional[int] = ..., deleted: _Optional[int] = ..., prev_kvs: _Optional[_Iterable[_Union[KeyValue, _Mapping]]] = ...) -> None: ...

class RangeResult(_message.Message):
    __slots__ = ("revision", "kvs", "more", "count")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    KVS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    revision: int
    kvs: _containers.RepeatedCompositeFieldContainer[KeyValue]
    more: bool
    count: int
    def __init__(self, revision: _Optional[int] = ..., kvs: _Optional[_Iterable[_Union[KeyValue, _Mapping]]] = ..., more: _Optional[bool] = ..., count: _Optional[int] = ...) -> None: ...

class TxnResult(_message.Message):
    __slots__ = ("revision", "succeeded", "results")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    succeeded: bool
    results: _containers.RepeatedCompositeFieldContainer[Result]
    def __init__(self, revision: _Optional[int] = ..., succeeded: _Optional[bool] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ...) -> None: ...

class CompactResult(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class SessionResult(_message.Message):
    __slots__ = ("session_id", "timeout_ms")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    timeout_ms: int
    def __init__(self, session_id: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("put", "delete_range", "range", "txn", "compact", "session", "error")
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_RANGE_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    TXN_FIELD_NUMBER: _ClassVar[int]
    COMPACT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    put: PutResult
    delete_range: DeleteRangeResult
    range: RangeResult
    txn: TxnResult
    compact: CompactResult
    session: SessionResult
    error: Error
    def __init__(self, put: _Optional[_Union[PutResult, _Mapping]] = ..., delete_range: _Optional[_Union[DeleteRangeResult, _Mapping]] = ..., range: _Optional[_Union[RangeResult, _Mapping]] = ..., txn: _Optional[_Union[TxnResult, _Mapping]] = ..., compact: _Optional[_Union[CompactResult, _Mapping]] = ..., session: _Optional[_Union[SessionResult, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class ResultBatch(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "details")
    class DetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    details: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., details: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RangeBatch(_message.Message):
    __slots__ = ("ranges", "options")
    RANGES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ranges: _containers.RepeatedCompositeFieldContainer[Range]
    options: ReadOptions
    def __init__(self, ranges: _Optional[_Iterable[_Union[Range, _Mapping]]] = ..., options: _Optional[_Union[ReadOptions, _Mapping]] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OperateRequest(_message.Message):
    __slots__ = ("id", "writes", "reads", "ping", "timeout_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    id: int
    writes: bytes
    reads: RangeBatch
    ping: Ping
    timeout_ms: int
    def __init__(self, id: _Optional[int] = ..., writes: _Optional[bytes] = ..., reads: _Optional[_Union[RangeBatch, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class OperateResponse(_message.Message):
    __slots__ = ("id", "header", "results", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    header: ResponseHeader
    results: ResultBatch
    error: Error
    def __init__(self, id: _Optional[int] = ..., header: _Optional[_Union[ResponseHeader, _Mapping]] = ..., results: _Optional[_Union[ResultBatch, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class PutResponse(_message.Message):
    __slots__ = ("header", "result")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    header: ResponseHeader
    result: PutResult
    def __init__(self, header: _Optional[_Union[ResponseHeader, _Mapping]] = ..., result: _Optional[_Union[PutResult, _Mapping]] = ...) -> None: ...

class RangeResponse(_message.Message):
    __slots__ = ("header", "result")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    header: ResponseHeader
    result: RangeResult
    def __init__(self, header: _Optional[_Union[ResponseHeader, _Mapping]] = ..., result: _Optional[_Union[RangeResult, _Mapping]] = ...) -> None: ...

class DeleteRangeResponse(_message.Message):
    __slots__ = ("header", "result")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    header: ResponseHeader
    result: DeleteRangeResult
    def __init__(self, header: _Optional[_Union[ResponseHeader, _Mapping]] = ..., result: _Optional[_Union[DeleteRangeResult, _Mapping]] = ...) -> None: ...

class TxnResponse(_message.Message):
    __slots__ = ("header", "result")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    header: ResponseHeader
    result: TxnResult
    def __init__(self, header: _Optional[_Union[ResponseHeader, _Mapping]] = ..., result: _Optional[_Union[TxnResult, _Mapping]] = ...) -> None: ...

class CompactResponse(_message.Message):
    __slots__ = ("header", "result")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    header: ResponseHeader
    result: CompactResult
    def __init__(self, header: _Optional[_Union[ResponseHeader, _Mapping]] = ..., result: _Optional[_Union[CompactResult, _Mapping]] = ...) -> None: ...
