"""What a node answers over gRPC. Decides nothing: checks, passes on, answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

import grpc

from kvstore.errors import Busy, KVStoreError, Unavailable
from kvstore.pb import cluster_pb2, cluster_pb2_grpc, kv_pb2, kv_pb2_grpc
from kvstore.rpc.errors import abort, error_from_pb
from kvstore.server.exporting import Exporter
from kvstore.server.operate import OperateContext, OperateStream, operate
from kvstore.server.status import node_status

if TYPE_CHECKING:
    from kvstore.server.node import Node


_Q = TypeVar("_Q")
_A = TypeVar("_A")


class KVService(kv_pb2_grpc.KVServicer):
    """Clients' operations: the pipelined stream, and the same one at a time."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._open_streams = 0

    async def Operate(
        self,
        request_iterator: AsyncIterator[kv_pb2.OperateRequest],
        context: OperateContext,
    ) -> None:
        maximum = self._node.config.streams_max
        if self._open_streams >= maximum:
            message = f"{maximum} client streams are open already; close some or wait"
            await abort(context, Busy(message, queue="streams", maximum=maximum))
        self._open_streams += 1
        try:
            await OperateStream(self._node, context).run(request_iterator)
        finally:
            self._open_streams -= 1

    async def Put(
        self,
        request: kv_pb2.Put,
        context: grpc.aio.ServicerContext[kv_pb2.Put, kv_pb2.PutResponse],
    ) -> kv_pb2.PutResponse:
        header, result = await self._write(kv_pb2.Command(put=request), context)
        return kv_pb2.PutResponse(header=header, result=result.put)

    async def DeleteRange(
        self,
        request: kv_pb2.DeleteRange,
        context: grpc.aio.ServicerContext[
            kv_pb2.DeleteRange, kv_pb2.DeleteRangeResponse
        ],
    ) -> kv_pb2.DeleteRangeResponse:
        command = kv_pb2.Command(delete_range=request)
        header, result = await self._write(command, context)
        return kv_pb2.DeleteRangeResponse(header=header, result=result.delete_range)

    async def Txn(
        self,
        request: kv_pb2.Txn,
        context: grpc.aio.ServicerContext[kv_pb2.Txn, kv_pb2.TxnResponse],
    ) -> kv_pb2.TxnResponse:
        header, result = await self._write(kv_pb2.Command(txn=request), context)
        return kv_pb2.TxnResponse(header=header, result=result.txn)

    async def Compact(
        self,
        request: kv_pb2.Compact,
        context: grpc.aio.ServicerContext[kv_pb2.Compact, kv_pb2.CompactResponse],
    ) -> kv_pb2.CompactResponse:
        header, result = await self._write(kv_pb2.Command(compact=request), context)
        return kv_pb2.CompactResponse(header=header, result=result.compact)

    async def Range(
        self,
        request: kv_pb2.Range,
        context: grpc.aio.ServicerContext[kv_pb2.Range, kv_pb2.RangeResponse],
    ) -> kv_pb2.RangeResponse:
        reads = kv_pb2.RangeBatch(options=request.options)
        # A batch has them once, for all.
        request.ClearField("options")
        reads.ranges.append(request)
        operation = kv_pb2.OperateRequest(reads=reads)
        header, result = await self._operate(operation, context)
        return kv_pb2.RangeResponse(header=header, result=result.range)

    async def _write(
        self, command: kv_pb2.Command, context: grpc.aio.ServicerContext[_Q, _A]
    ) -> tuple[kv_pb2.ResponseHeader, kv_pb2.Result]:
        writes = kv_pb2.CommandBatch(commands=[command]).SerializeToString()
        return await self._operate(kv_pb2.OperateRequest(writes=writes), context)

    async def _operate(
        self,
        request: kv_pb2.OperateRequest,
        context: grpc.aio.ServicerContext[_Q, _A],
    ) -> tuple[kv_pb2.ResponseHeader, kv_pb2.Result]:
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            request.timeout_ms = max(1, min(int(remaining_s * 1_000), 2**32 - 1))
        response = await operate(self._node, request)
        if response.HasField("error"):
            await abort(context, error_from_pb(response.error))
        (result,) = response.results.results
        if result.HasField("error"):
            await abort(context, error_from_pb(result.error))
        return response.header, result


class ClusterService(cluster_pb2_grpc.ClusterServicer):
    """What operators ask of one node about itself."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def Status(
        self,
        request: cluster_pb2.StatusRequest,
        context: grpc.aio.ServicerContext[
            cluster_pb2.StatusRequest, cluster_pb2.StatusResponse
        ],
    ) -> cluster_pb2.StatusResponse:
        return node_status(self._node)

    async def ChangeMembership(
        self,
        request: cluster_pb2.ChangeMembershipRequest,
        context: grpc.aio.ServicerContext[
            cluster_pb2.ChangeMembershipRequest, cluster_pb2.ChangeMembershipResponse
        ],
    ) -> cluster_pb2.ChangeMembershipResponse:
        try:
            return await self._node.admin.change(request)
        except KVStoreError as error:
            await abort(context, error)

    async def SaveSnapshot(
        self,
        request: cluster_pb2.SaveSnapshotRequest,
        context: grpc.aio.ServicerContext[
            cluster_pb2.SaveSnapshotRequest, cluster_pb2.SnapshotPart
        ],
    ) -> AsyncIterator[cluster_pb2.SnapshotPart]:
        try:
            self._node.check_open()
            async for part in Exporter(self._node).file():
                yield part
        except KVStoreError as error:
            await abort(context, error)
        except OSError as error:
            reason = f"the node cannot export its state: {error}"
            await abort(context, Unavailable(reason))

    async def TransferLeadership(
        self,
        request: cluster_pb2.TransferLeadershipRequest,
        context: grpc.aio.ServicerContext[
            cluster_pb2.TransferLeadershipRequest,
            cluster_pb2.TransferLeadershipResponse,
        ],
    ) -> cluster_pb2.TransferLeadershipResponse:
        try:
            return await self._node.admin.transfer(request)
        except KVStoreError as error:
            await abort(context, error)
