"""What operators ask of a cluster: its members, its leader, a snapshot.

Each request has a connection of its own, and asks a node for its status first: what
fails before was certainly not asked for.
"""

import asyncio
import os
import random
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import grpc
from google.protobuf.message import Message

from kvstore.client.cluster import NoAnswer, ask_status
from kvstore.config import check_address
from kvstore.errors import (
    Closed,
    ConfigError,
    CorruptionError,
    DamagedSnapshot,
    DeadlineExceeded,
    KVStoreError,
    LeadershipLost,
    NotLeader,
    OutcomeUnknown,
    Unavailable,
)
from kvstore.pb import cluster_pb2
from kvstore.rpc.errors import error_from_rpc
from kvstore.rpc.options import CLIENT_CHANNEL_OPTIONS

_R = TypeVar("_R")
_M = TypeVar("_M", bound=Message)

HOPS_MAX = 3
"""How often in a row "that one leads" is believed."""
PROBE_S_MAX = 1.0
"""How long a node may take to say that it is there."""
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 0.5
_ON_ITS_WAY_S_MAX = 0.1

_SERVICE = "/kvstore.v1.Cluster"


async def change_members(
    endpoints: Sequence[str],
    request: cluster_pb2.ChangeMembershipRequest,
    timeout_s: float,
) -> cluster_pb2.ChangeMembershipResponse:
    """Have the leader change the members. Raises as :func:`at_leader`."""
    answer = cluster_pb2.ChangeMembershipResponse
    # Asked for again, a replacement goes on where it stopped; others have no steps.
    partial = request.WhichOneof("change") == "replace"
    return await _ask_leader(
        endpoints, "ChangeMembership", request, answer, timeout_s, partial=partial
    )


async def transfer_leadership(
    endpoints: Sequence[str],
    request: cluster_pb2.TransferLeadershipRequest,
    timeout_s: float,
) -> cluster_pb2.TransferLeadershipResponse:
    """Have the leader hand over. Raises as :func:`at_leader`."""
    answer = cluster_pb2.TransferLeadershipResponse
    return await _ask_leader(
        endpoints, "TransferLeadership", request, answer, timeout_s
    )


async def members(
    endpoints: Sequence[str], timeout_s: float
) -> cluster_pb2.StatusResponse:
    """The leader's status, or that of a node which answers but knows no leader.

    Raises:
        Unavailable: nobody answers. Definite.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s

    async def ask(endpoint: str) -> cluster_pb2.StatusResponse:
        async with _connected(endpoint, deadline) as (_, status):
            return status

    found: cluster_pb2.StatusResponse | None = None
    failures: list[str] = []
    candidates = deque(_listed(endpoints))
    hops = 0
    while candidates:
        endpoint = candidates.popleft()
        try:
            status = await ask(endpoint)
        except Unavailable as error:
            failures.append(str(error))
            continue
        if status.leader_id == status.node_id:
            return status
        found = found or status
        known = {it.node_id: it.address for it in status.members}
        if hops < HOPS_MAX and (address := known.get(status.leader_id, "")):
            hops += 1
            candidates.appendleft(address)
    if found is None:
        raise Unavailable(f"no member answers: {', '.join(failures)}")
    return found


async def at_leader(
    endpoints: Sequence[str],
    ask: Callable[[grpc.aio.Channel, float], Awaitable[_R]],
    timeout_s: float,
    *,
    partial: bool = False,
) -> _R:
    """Ask the leader, wherever it is, until it says yes or no or time runs out.

    ``partial``: what is asked for has steps, and goes on where it stopped if asked for
    again. So the next leader is asked if one is lost on the way.

    Raises:
        OutcomeUnknown: it was asked, and has not answered: it may yet be done. Or a
            leader was lost on the way, and no other could finish it.
        Unavailable: nobody could do it in time. Definite.
        ConfigError: there are no endpoints. KVStoreError: the leader refuses. Definite.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    listed = _listed(endpoints)
    rounds = 0
    on_the_way = False
    last: KVStoreError | None = None
    while True:
        candidates, hops = deque(listed), 0
        while candidates:
            endpoint = candidates.popleft()
            try:
                return await _ask_one(endpoint, ask, deadline)
            except NotLeader as error:
                last = error
                if error.leader_address and hops < HOPS_MAX:
                    hops += 1
                    candidates.appendleft(error.leader_address)
            except _CutShort as error:
                # It could only hide why the one before did not do it.
                last = last or Unavailable(str(error))
            except (Unavailable, Closed) as error:
                last = error
            except LeadershipLost as error:
                if not partial:
                    raise
                on_the_way, last = True, error
            except KVStoreError as error:
                if on_the_way and error.definite:
                    raise _in_part(error) from error
                raise
        assert last is not None
        rounds += 1
        wait_s = _pause_s(rounds)
        if loop.time() + wait_s >= deadline:
            if on_the_way and last.definite:
                raise _in_part(last) from last
            raise last
        await asyncio.sleep(wait_s)


def _pause_s(rounds: int) -> float:
    """Longer each time, and at random, for many clients not to ask together."""
    return random.uniform(PAUSE_S_MIN, min(PAUSE_S_MAX, PAUSE_S_MIN * 2**rounds))


def _in_part(error: KVStoreError) -> OutcomeUnknown:
    """That the last attempt changed nothing does not say it of the earlier ones."""
    return OutcomeUnknown(f"{error}; an earlier attempt may have done a part of it")


async def save_snapshot(
    endpoints: Sequence[str], path: str | os.PathLike[str], timeout_s: float
) -> int:
    """Write a snapshot of one node to ``path``; returns its bytes.

    The file appears whole, and synced, or not at all; one that is there is replaced.
    ``timeout_s`` bounds the wait for each part, not the whole.

    Raises:
        Unavailable: nobody can send one. DamagedSnapshot: nobody can, and what one sent
            was not whole. OSError: it cannot be written.
    """
    target = Path(path)
    failures: list[str] = []
    damaged: DamagedSnapshot | None = None
    for endpoint in _listed(endpoints):
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with _connected(endpoint, deadline) as (channel, _):
                return await _save(_parts(channel, endpoint, timeout_s), target)
        except (Unavailable, OutcomeUnknown, CorruptionError, Closed) as error:
            # Another node's is as good, and nothing of this one is left.
            failures.append(str(error))
        except DamagedSnapshot as error:
            damaged = error
            failures.append(f"{endpoint} ({error})")
    if damaged is not None:
        why = f"no member sends a whole snapshot: {', '.join(failures)}"
        raise DamagedSnapshot(why) from damaged
    raise Unavailable(f"no member sends a snapshot: {', '.join(failures)}")


async def _parts(
    channel: grpc.aio.Channel, endpoint: str, timeout_s: float
) -> AsyncIterator[cluster_pb2.SnapshotPart]:
    call = channel.unary_stream(
        f"{_SERVICE}/SaveSnapshot",
        request_serializer=cluster_pb2.SaveSnapshotRequest.SerializeToString,
        response_deserializer=cluster_pb2.SnapshotPart.FromString,
    )(cluster_pb2.SaveSnapshotRequest())
    try:
        while True:
            async with asyncio.timeout(timeout_s):
                part = await call.read()
            if not isinstance(part, cluster_pb2.SnapshotPart):
                return
            yield part
    except TimeoutError as error:
        why = f"{endpoint}: nothing more of the snapshot came in {timeout_s:g} s"
        raise Unavailable(why) from error
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error
    finally:
        call.cancel()


async def _save(parts: AsyncIterator[cluster_pb2.SnapshotPart], target: Path) -> int:
    file = await asyncio.to_thread(_new_file_beside, target)
    written = expected = 0
    try:
        async for part in parts:
            expected = part.size_bytes or expected
            written += await asyncio.to_thread(file.write, part.data)
        _check_whole(written, expected)
        await asyncio.to_thread(_put_in_place, file, target)
    finally:
        _drop(file)
    return written


def _check_whole(written: int, expected: int) -> None:
    if not written or (expected and written != expected):
        raise DamagedSnapshot(f"{written} of {expected} bytes of the snapshot came")


def _drop(file: BinaryIO) -> None:
    """Leave nothing beside the target, whatever happened."""
    file.close()
    Path(file.name).unlink(missing_ok=True)


def _new_file_beside(target: Path) -> BinaryIO:
    descriptor, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name}.", suffix=".partial"
    )
    os.close(descriptor)
    return Path(name).open("wb")


def _put_in_place(file: BinaryIO, target: Path) -> None:
    """Sync before the name, and the name too: a power cut leaves all or nothing."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    Path(file.name).replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def _ask_leader(
    endpoints: Sequence[str],
    method: str,
    request: cluster_pb2.ChangeMembershipRequest
    | cluster_pb2.TransferLeadershipRequest,
    answer: type[_M],
    timeout_s: float,
    *,
    partial: bool = False,
) -> _M:
    """One method of the service. Raises as :func:`at_leader`."""

    async def ask(channel: grpc.aio.Channel, patience_s: float) -> _M:
        request.timeout_ms = _node_ms(patience_s)
        call = channel.unary_unary(
            f"{_SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        answered: _M = await call(request, timeout=patience_s)
        return answered

    return await at_leader(endpoints, ask, timeout_s, partial=partial)


async def _ask_one(
    endpoint: str,
    ask: Callable[[grpc.aio.Channel, float], Awaitable[_R]],
    deadline: float,
) -> _R:
    async with _connected(endpoint, deadline) as (channel, _):
        patience_s = deadline - asyncio.get_running_loop().time()
        try:
            return await ask(channel, max(0.001, patience_s))
        except grpc.aio.AioRpcError as error:
            found = error_from_rpc(error)
            if isinstance(found, DeadlineExceeded):
                found = DeadlineExceeded(
                    f"{endpoint} did not answer in time; what was asked for may be "
                    "done, or be under way: see the members before you ask again"
                )
            raise found from error


class _CutShort(Unavailable):
    """Our own deadline ended the wait: that says nothing of the node."""


@asynccontextmanager
async def _connected(
    endpoint: str, deadline: float
) -> AsyncIterator[tuple[grpc.aio.Channel, cluster_pb2.StatusResponse]]:
    """A connection to a node that has just said that it is there, and what it said.

    Raises:
        Unavailable: it did not; as ``_CutShort`` if it had less time to than usual.
            Definite.
    """
    check_address("endpoint", endpoint, port_min=1)
    wait_s = min(PROBE_S_MAX, deadline - asyncio.get_running_loop().time())
    if wait_s <= 0:
        raise _CutShort(f"no time was left to ask {endpoint}")
    async with grpc.aio.insecure_channel(
        endpoint, options=CLIENT_CHANNEL_OPTIONS
    ) as channel:
        try:
            status = await ask_status(channel, wait_s)
        except NoAnswer as error:
            kind = _CutShort if wait_s < PROBE_S_MAX else Unavailable
            raise kind(f"{endpoint} ({error})") from error
        except Unavailable as error:
            raise Unavailable(f"{endpoint} ({error})") from error
        yield channel, status


def _listed(endpoints: Sequence[str]) -> list[str]:
    if not endpoints:
        raise ConfigError("this store has no network, and so no other members")
    return list(dict.fromkeys(endpoints))


def _node_ms(patience_s: float) -> int:
    """A little less than ours, for its answer to come in time."""
    node_s = patience_s - min(_ON_ITS_WAY_S_MAX, patience_s / 10)
    return max(1, min(int(node_s * 1_000), (1 << 32) - 1))
