"""Streams between members: one ``Peer.Exchange`` to each peer, and one from each.

The transport promises little, as Raft asks little: messages to one member arrive in the
order of their class (small ones may overtake large ones), or not at all. ``send`` never
waits; what does not fit is dropped. A write that cannot leave is handed back instead:
its client need not wonder what became of it.

That a stream *ended* is worth telling: a killed process resets its connections at once,
long before an election timeout. ``on_disconnect(node)`` is called when an accepted
stream to or from that node ends, once until either is accepted again. A stream that a
newer one of the same node superseded ends without a word.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from kvstore.errors import ConfigError, InvalidRequest
from kvstore.raft.messages import AppendEntries
from kvstore.replica.interfaces import Identity
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.rpc.codec import PeerCodec
from kvstore.rpc.options import MEMBER_CHANNEL_OPTIONS
from kvstore.rpc.peer_queue import PeerQueue
from kvstore.types import NODE_ID_MAX, NodeId

SERVICE = "kvstore.v1.Peer"
METHOD = "Exchange"
CLUSTER_METADATA_KEY = "kvstore-cluster"
FROM_METADATA_KEY = "kvstore-from"
TO_METADATA_KEY = "kvstore-to"
ACCEPTED_METADATA_KEY = "kvstore-accepted"
"""In the initial metadata of the answer. A refusal has initial metadata too, and gRPC
may deliver them before it says that the call is over."""

_logger = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[bytes, bytes]
_Call = grpc.aio.StreamStreamCall[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOptions:
    """Bounds and patience of the streams.

    Raises:
        ConfigError: a value cannot be used. Definite.
    """

    queue_messages_max: int = 4_096
    """Messages of one kind that wait for one peer: small ones, log entries, writes
    passed on, or answers to those. :class:`PeerQueue` says what is lost past it."""
    queue_bytes_max: int = 64 * 1024 * 1024
    """Bytes of log entries that wait, and of writes passed on."""
    frame_bytes_max: int = 1024 * 1024
    """Large messages join a frame up to here (one larger goes alone), so that small
    ones wait behind this much at most."""
    connect_timeout_s: float = 2.0
    """To connect and be accepted."""
    backoff_s_min: float = 0.02
    backoff_s_max: float = 1.0

    def __post_init__(self) -> None:
        for name in type(self).__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive")


class PeerTransport:
    """Both directions of one member's streams. Belongs to one event loop.

    Register :attr:`handler` with the server before it starts; ``async with`` dials.
    Callbacks run on the loop and must not wait.
    """

    def __init__(
        self,
        identity: Identity,
        addresses: Mapping[NodeId, str],
        *,
        codec: PeerCodec,
        on_messages: Callable[[list[PeerMessage]], None],
        on_disconnect: Callable[[NodeId], None],
        on_failure: Callable[[BaseException], None],
        options: PeerOptions | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """``addresses``: where to dial each other member.

        ``on_failure`` is called if a link ends by a defect of ours: nobody dials that
        peer any more.
        """
        assert identity.node_id not in addresses, "a member does not dial itself"
        self._codec = codec
        self._on_disconnect = on_disconnect
        self._closing = False
        self._told: set[NodeId] = set()
        options = options or PeerOptions()
        chance = chance or random.Random()
        self._links = {
            node_id: _Link(
                identity=identity,
                to=node_id,
                address=address,
                options=options,
                chance=chance,
                on_accepted=self._accepted,
                on_ended=self._ended,
                on_failure=on_failure,
            )
            for node_id, address in sorted(addresses.items())
        }
        self._service = _PeerService(
            identity=identity,
            senders=frozenset(addresses),
            codec=codec,
            on_messages=on_messages,
            on_accepted=self._accepted,
            on_ended=self._ended,
        )

    @property
    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """For ``server.add_generic_rpc_handlers``. Bytes in, bytes out: no encoding."""
        method = grpc.stream_stream_rpc_method_handler(self._service.exchange)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    @property
    def dropped_messages(self) -> Mapping[NodeId, int]:
        """Messages dropped so far because a queue was full or a peer unreachable."""
        return {node_id: link.queue.dropped for node_id, link in self._links.items()}

    def is_connected(self, node_id: NodeId) -> bool:
        """Whether ``node_id`` has accepted the stream that carries messages to it."""
        return self._links[node_id].connected

    def send(self, messages: Iterable[PeerMessage]) -> list[ForwardWrites]:
        """Queue messages, each for the member that it names. Never waits, never fails.

        What is queued in one turn of the loop leaves as one frame, within its bounds.
        Returned is what was not queued, for want of a connection or of room, and has
        certainly not left: other messages are lost then, as any may be.
        """
        not_sent: list[ForwardWrites] = []
        links = self._links
        encode = self._codec.encode
        for message in messages:
            link = links.get(message.to)
            if link is None:
                _log(logging.ERROR, "peer unknown", peer=message.to)
                continue
            queue = link.queue
            match message:
                case AppendEntries():
                    # Empty ones too: overtaking those with entries, they are rejected.
                    queue.add_append(encode(message))
                case ForwardWrites():
                    if not (link.connected and queue.add_writes(encode(message))):
                        not_sent.append(message)
                case ForwardReply():
                    queue.add_reply(encode(message))
                case _:
                    queue.add_small(encode(message))
            link.wake.set()
        return not_sent

    async def __aenter__(self) -> Self:
        for link in self._links.values():
            link.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the streams to peers, who learn it at once. Messages queued are dropped.

        Incoming streams end with the server that carries them.
        """
        self._closing = True
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def _accepted(self, node_id: NodeId) -> None:
        self._told.discard(node_id)

    def _ended(self, node_id: NodeId) -> None:
        # A killed process ends both streams: one piece of evidence, not two.
        if not self._closing and node_id not in self._told:
            self._told.add(node_id)
            self._on_disconnect(node_id)


class _Link:
    """The outgoing stream to one peer: dials, sends what is queued, dials again."""

    def __init__(
        self,
        *,
        identity: Identity,
        to: NodeId,
        address: str,
        options: PeerOptions,
        chance: random.Random,
        on_accepted: Callable[[NodeId], None],
        on_ended: Callable[[NodeId], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.connected = False
        self.queue = PeerQueue(
            messages_max=options.queue_messages_max,
            bytes_max=options.queue_bytes_max,
            frame_bytes_max=options.frame_bytes_max,
        )
        self.wake = asyncio.Event()
        """Set when something was queued, or the stream ended."""
        self._node = identity.node_id
        self._to = to
        self._address = address
        self._metadata = (
            (CLUSTER_METADATA_KEY, identity.cluster_id.hex()),
            (FROM_METADATA_KEY, str(identity.node_id)),
            (TO_METADATA_KEY, str(to)),
        )
        self._options = options
        self._chance = chance
        self._on_accepted = on_accepted
        self._on_ended = on_ended
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None
        self._last_refusal = ""

    def start(self) -> None:
        assert self._task is None, "started twice"
        self._task = asyncio.create_task(self._run(), name=f"peer {self._to}")
        self._task.add_done_callback(self._done)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(error)

    async def _run(self) -> None:
        backoff_s = self._options.backoff_s_min
        while True:
            if await self._connect_and_send():
                backoff_s = self._options.backoff_s_min
            # What waited for a connection that never came would be news of the past.
            self.queue.clear()
            await asyncio.sleep(backoff_s * self._chance.uniform(0.5, 1.0))
            backoff_s = min(2 * backoff_s, self._options.backoff_s_max)

    async def _connect_and_send(self) -> bool:
        """Serve one connection to its end. Returns whether it was accepted."""
        # A fresh channel for each attempt: the backoff is ours alone.
        async with grpc.aio.insecure_channel(
            self._address, options=list(MEMBER_CHANNEL_OPTIONS)
        ) as channel:
            exchange = channel.stream_stream(f"/{SERVICE}/{METHOD}", None, None)
            call: _Call = exchange(None, metadata=self._metadata)
            try:
                if not await self._is_accepted(call):
                    return False
                await self._send_until_ended(call)
            finally:
                self.connected = False
                call.cancel()
        self._on_ended(self._to)
        _log(logging.INFO, "peer stream ended", node=self._node, peer=self._to)
        return True

    async def _is_accepted(self, call: _Call) -> bool:
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                accepted = ACCEPTED_METADATA_KEY in await call.initial_metadata()
                if not accepted:
                    await call.code()
        except TimeoutError:
            self._log_refusal("timeout")
            return False
        if not accepted:
            self._log_refusal(f"{(await call.code()).name}: {await call.details()}")
            return False
        self._last_refusal = ""
        self.connected = True
        _log(logging.INFO, "peer stream accepted", node=self._node, peer=self._to)
        self._on_accepted(self._to)
        return True

    async def _send_until_ended(self, call: _Call) -> None:
        wake = self.wake
        call.add_done_callback(lambda _call: wake.set())
        try:
            while not call.done():
                frame = self.queue.next_frame()
                if frame:
                    await call.write(frame)
                else:
                    wake.clear()
                    await wake.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream ended during the write

    def _log_refusal(self, reason: str) -> None:
        # A peer that is down is dialled every second: only what changes is news.
        if reason != self._last_refusal:
            self._last_refusal = reason
            _log(
                logging.WARNING,
                "peer not reached",
                node=self._node,
                peer=self._to,
                address=self._address,
                reason=reason,
            )


class _PeerService:
    """The incoming streams."""

    def __init__(
        self,
        *,
        identity: Identity,
        senders: frozenset[NodeId],
        codec: PeerCodec,
        on_messages: Callable[[list[PeerMessage]], None],
        on_accepted: Callable[[NodeId], None],
        on_ended: Callable[[NodeId], None],
    ) -> None:
        self._identity = identity
        self._senders = senders
        self._codec = codec
        self._on_messages = on_messages
        self._on_accepted = on_accepted
        self._on_ended = on_ended
        self._newest: dict[NodeId, _Context] = {}
        self._logged_refusals: set[str] = set()

    async def exchange(self, requests: object, context: _Context) -> None:
        """One stream, for as long as it lives."""
        del requests  # context.read() costs less than the iterator
        sender = await self._admit(context)
        self._newest[sender] = context
        self._on_accepted(sender)
        try:
            await context.send_initial_metadata(((ACCEPTED_METADATA_KEY, "1"),))
            await self._receive(sender, context)
        finally:
            # Also when the task is cancelled, which is how a broken connection ends it.
            if self._newest.get(sender) is context:
                del self._newest[sender]
                self._on_ended(sender)

    async def _receive(self, sender: NodeId, context: _Context) -> None:
        newest = self._newest
        decode = self._codec.decode
        to = self._identity.node_id
        while True:
            frame = await context.read()
            if not isinstance(frame, bytes):  # EOF, which the stubs do not know
                return
            if newest.get(sender) is not context:
                await context.abort(
                    grpc.StatusCode.ABORTED, "superseded by a newer stream"
                )
            try:
                messages, refused = decode(frame, sender=sender, to=to)
            except InvalidRequest as error:
                _log(logging.ERROR, "peer frame refused", peer=sender, reason=error)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            for reason in refused:
                _log(logging.ERROR, "peer message refused", peer=sender, reason=reason)
            if messages:
                self._on_messages(messages)

    async def _admit(self, context: _Context) -> NodeId:
        """Who the sender is, or an end to the stream."""
        # Pairs, whatever class the version of gRPC gives them.
        metadata = dict(context.invocation_metadata() or ())
        cluster = metadata.get(CLUSTER_METADATA_KEY)
        sender = _node_id(metadata.get(FROM_METADATA_KEY))
        own = self._identity
        if cluster != own.cluster_id.hex():
            await self._refuse(context, f"this is a member of {own.cluster_id.hex()}")
        if _node_id(metadata.get(TO_METADATA_KEY)) != own.node_id:
            await self._refuse(context, f"this is member {own.node_id}")
        if sender is None or sender not in self._senders:
            await self._refuse(context, f"member {sender} is not known here")
        assert sender is not None
        return sender

    async def _refuse(self, context: _Context, reason: str) -> None:
        if reason not in self._logged_refusals:  # the sender tries every second
            if len(self._logged_refusals) < 100:
                self._logged_refusals.add(reason)
            _log(
                logging.WARNING,
                "peer stream refused",
                node=self._identity.node_id,
                address=context.peer(),
                reason=reason,
            )
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)


def _node_id(text: object) -> NodeId | None:
    if isinstance(text, str) and text.isdecimal() and len(text) < 20:
        number = int(text)
        if 1 <= number <= NODE_ID_MAX:
            return NodeId(number)
    return None


def _log(level: int, event: str, **fields: object) -> None:
    # The attribute that the server's formatters read; rpc does not know the server.
    _logger.log(level, event, extra={"kvstore_fields": fields}, stacklevel=2)
