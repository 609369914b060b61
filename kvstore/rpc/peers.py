"""Streams between members: one ``Peer.Exchange`` to each peer, and one from each.

The transport promises little, as Raft asks little: messages to one member arrive in the
order of their class (small ones may overtake large ones), or not at all. ``send`` never
waits; what does not fit is dropped. A write that cannot leave is handed back instead:
its client need not wonder what became of it.

That a stream *ended* is worth telling: a killed process resets its connections at once,
long before an election timeout. ``on_disconnect(node)`` is called when an accepted
stream to or from that node ends, once until either is accepted again. A stream that a
newer one of the same node superseded ends without a word.

Whom to dial, the members of the replica's configuration say; they change while we run.
A *guest* is accepted and not among them: it is newer than what we know, or we are so
new that we know nobody. It is dialled where it says that it serves, as long as its
stream lasts, for what it asks must be answered.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType, TracebackType
from typing import Self

import grpc

from kvstore.errors import InvalidRequest
from kvstore.raft.membership import MEMBERS_MAX, MemberInfo
from kvstore.raft.messages import AppendEntries
from kvstore.replica.interfaces import Identity
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.rpc.admission import (
    SERVICE,
    Admit,
    Context,
    Gate,
    Hello,
    Refusal,
    RefusalKind,
    log,
)
from kvstore.rpc.codec import PeerCodec
from kvstore.rpc.peer_link import ACCEPTED_METADATA_KEY, METHOD, PeerLink, PeerOptions
from kvstore.types import UNKNOWN_INCARNATION, Incarnation, NodeId

LINKS_MAX = MEMBERS_MAX + 8
"""Members and guests: past it guests are refused."""

NOWHERE_ELSE: Mapping[NodeId, str] = MappingProxyType({})


class PeerTransport:
    """Both directions of one member's streams. Belongs to one event loop.

    Register :attr:`handler` with the server before it starts; ``async with`` dials.
    Callbacks run on the loop and must not wait.
    """

    def __init__(
        self,
        identity: Identity,
        members: Mapping[NodeId, MemberInfo],
        *,
        address: str,
        codec: PeerCodec,
        admit: Admit,
        on_messages: Callable[[list[PeerMessage]], None],
        on_disconnect: Callable[[NodeId], None],
        on_identified: Callable[[NodeId, Incarnation], None],
        on_refused: Callable[[Refusal], None],
        on_failure: Callable[[BaseException], None],
        routes: Mapping[NodeId, str] = NOWHERE_ELSE,
        options: PeerOptions | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """``members``: as :meth:`update` takes them. ``address``: where we serve.

        ``admit`` judges who speaks to us. ``on_refused`` is called with each refusal of
        ours that a peer gives a kind. ``on_identified`` tells which data directory an
        accepted peer speaks from. ``on_failure`` is called if a link ends by a defect
        of ours: nobody dials that peer any more.

        ``routes``: where to dial a member, if not at its own address.
        """
        self._identity = identity
        self._address = address
        self._encode = codec.encode
        self._on_disconnect = on_disconnect
        self._on_identified = on_identified
        self._on_refused = on_refused
        self._on_failure = on_failure
        self._routes = routes
        self._options = options or PeerOptions()
        self._chance = chance or random.Random()
        self._started = False
        self._closing = False
        self._told: set[NodeId] = set()
        self._members: Mapping[NodeId, MemberInfo] = {}
        self._links: dict[NodeId, PeerLink] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.gate = Gate(identity, admit=admit, on_refused=on_refused)
        """For streams of another method: the same peers may open them."""
        self._service = _PeerService(
            gate=self.gate,
            codec=codec,
            has_room=self._has_room,
            on_messages=on_messages,
            on_accepted=self._accepted_from,
            on_ended=self._ended_from,
        )
        self.update(members)

    @property
    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """For ``server.add_generic_rpc_handlers``. Bytes in, bytes out: no encoding."""
        method = grpc.stream_stream_rpc_method_handler(self._service.exchange)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    @property
    def dropped_messages(self) -> Mapping[NodeId, int]:
        """Messages dropped so far because a queue was full or a peer unreachable.

        May be asked from any thread.
        """
        return {node: link.queue.dropped for node, link in dict(self._links).items()}

    @property
    def guests(self) -> frozenset[NodeId]:
        """Peers that are accepted and not known as members."""
        return frozenset(self._links.keys() - self._members.keys())

    def is_connected(self, node_id: NodeId) -> bool:
        """Whether ``node_id`` has accepted the stream that carries messages to it."""
        link = self._links.get(node_id)
        return link is not None and link.connected

    def hello_to(self, node_id: NodeId) -> Hello:
        """What a stream to ``node_id`` begins with."""
        known = self._members.get(node_id)
        return Hello(
            cluster=self._identity.cluster_id.hex(),
            sender=self._identity.node_id,
            to=node_id,
            incarnation=self._identity.incarnation,
            to_incarnation=UNKNOWN_INCARNATION if known is None else known.incarnation,
            address=self._address,
        )

    def address_of(self, node_id: NodeId) -> str | None:
        """Where ``node_id`` is dialled; None: nowhere."""
        link = self._links.get(node_id)
        return None if link is None else link.address

    def update(self, members: Mapping[NodeId, MemberInfo]) -> None:
        """These are the members now; this one may be among them, or not.

        New ones are dialled, and those that serve elsewhere are dialled there. Streams
        to others end, but for guests; and so do those from peers that may not speak to
        us any more: ``admit`` judges everybody again, by what it knows by now.
        """
        own = self._identity.node_id
        self._members = {n: info for n, info in members.items() if n != own}
        for sender in self._service.judge_again():
            # Nor do we go on speaking to a data directory that is not the member's.
            if sender in self._links:
                self._hang_up(sender)
        self._told &= self._members.keys() | self._links.keys()
        for node_id, info in sorted(self._members.items()):
            self._dial(node_id, info.address)
        for node_id in sorted(self._links.keys() - self._members.keys()):
            if not self._service.hears(node_id):
                self._hang_up(node_id)

    def send(self, messages: Iterable[PeerMessage]) -> list[ForwardWrites]:
        """Queue messages, each for the member that it names. Never waits, never fails.

        What is queued in one turn of the loop leaves as one frame, within its bounds.
        Returned is what was not queued, for want of a connection or of room, and has
        certainly not left: other messages are lost then, as any may be.
        """
        not_sent: list[ForwardWrites] = []
        links = self._links
        encode = self._encode
        for message in messages:
            link = links.get(message.to)
            if link is None:  # gone by now, as when it has just been removed
                log(logging.DEBUG, "peer unknown", peer=message.to)
                if isinstance(message, ForwardWrites):
                    not_sent.append(message)
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
        self._started = True
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
        tasks = self._ending | {link.close() for link in self._links.values()}
        if ending := [task for task in tasks if task is not None]:
            await asyncio.wait(ending)

    # ------------------------------------------------------------------- links

    def _dial(self, node_id: NodeId, address: str) -> None:
        """Have a link to ``node_id`` at ``address``, the one there is if it fits."""
        address = self._routes.get(node_id, address)
        link = self._links.get(node_id)
        hello = self.hello_to(node_id)
        if link is not None and link.address == address:
            link.hello = hello
            return
        dropped = 0
        if link is not None:
            dropped = self._hang_up(node_id)
        link = self._links[node_id] = PeerLink(
            hello=hello,
            address=address,
            options=self._options,
            chance=self._chance,
            on_accepted=self._told.discard,
            on_ended=self._ended,
            on_refused=self._on_refused,
            on_failure=self._on_failure,
        )
        link.queue.dropped = dropped
        if self._started and not self._closing:
            link.start()

    def _hang_up(self, node_id: NodeId) -> int:
        """End a link. Returns how many messages it has lost."""
        link = self._links.pop(node_id)
        connected = link.connected
        link.queue.clear()
        if (task := link.close()) is not None:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        if connected:
            # What was passed on to it may be lost, and who waits for it must know.
            self._ended(node_id)
        return link.queue.dropped

    def _has_room(self, sender: NodeId) -> bool:
        return sender in self._links or len(self._links) < LINKS_MAX

    def _accepted_from(self, hello: Hello) -> None:
        sender = hello.sender
        self._told.discard(sender)
        if sender not in self._members and not self._closing:
            self._dial(sender, hello.address)
        if (link := self._links.get(sender)) is not None and not link.connected:
            link.peer_is_up()
        if hello.incarnation != UNKNOWN_INCARNATION:
            self._on_identified(sender, hello.incarnation)

    def _ended_from(self, sender: NodeId) -> None:
        self._ended(sender)
        if sender in self.guests:
            self._hang_up(sender)
            self._told.discard(sender)

    def _ended(self, node_id: NodeId) -> None:
        # A killed process ends both streams: one piece of evidence, not two.
        if not self._closing and node_id not in self._told:
            self._told.add(node_id)
            self._on_disconnect(node_id)


@dataclass(slots=True, eq=False)
class _Stream:
    """One that was accepted and has not ended."""

    hello: Hello
    task: asyncio.Task[object]
    refusal: Refusal | None = None
    """Why it ends, if we end it."""


class _PeerService:
    """The incoming streams."""

    def __init__(
        self,
        *,
        gate: Gate,
        codec: PeerCodec,
        has_room: Callable[[NodeId], bool],
        on_messages: Callable[[list[PeerMessage]], None],
        on_accepted: Callable[[Hello], None],
        on_ended: Callable[[NodeId], None],
    ) -> None:
        self._gate = gate
        self._codec = codec
        self._has_room = has_room
        self._on_messages = on_messages
        self._on_accepted = on_accepted
        self._on_ended = on_ended
        self._newest: dict[NodeId, _Stream] = {}

    def hears(self, sender: NodeId) -> bool:
        """Whether a stream of ``sender`` is accepted, and may stay."""
        stream = self._newest.get(sender)
        return stream is not None and stream.refusal is None

    def judge_again(self) -> list[NodeId]:
        """End the streams of those who may not speak to us any more. Who they are."""
        ended = []
        for sender, stream in self._newest.items():
            if stream.refusal is None:
                # What it said of *our* directory was judged when it began.
                hello = replace(stream.hello, to_incarnation=UNKNOWN_INCARNATION)
                stream.refusal = self._gate.judge(hello)
                if stream.refusal is not None:
                    stream.task.cancel()
                    ended.append(sender)
        return ended

    async def exchange(self, requests: object, context: Context) -> None:
        """One stream, for as long as it lives."""
        del requests  # context.read() costs less than the iterator
        hello = await self._gate.enter(context)
        sender = hello.sender
        if not self._has_room(sender):
            reason = f"{LINKS_MAX} members are connected already"
            await self._gate.refuse(context, Refusal(RefusalKind.UNKNOWN, reason))
        task = asyncio.current_task()
        assert task is not None
        stream = self._newest[sender] = _Stream(hello, task)
        self._on_accepted(hello)
        try:
            await context.send_initial_metadata(((ACCEPTED_METADATA_KEY, "1"),))
            await self._receive(stream, context)
        except asyncio.CancelledError:
            if stream.refusal is None:
                raise
            task.uncancel()
        finally:
            # Also when the task is cancelled, which is how a broken connection ends it.
            if self._newest.get(sender) is stream:
                del self._newest[sender]
                self._on_ended(sender)
        if stream.refusal is not None:
            await self._gate.refuse(context, stream.refusal)

    async def _receive(self, stream: _Stream, context: Context) -> None:
        newest = self._newest
        decode = self._codec.decode
        sender, to = stream.hello.sender, stream.hello.to
        while True:
            frame = await context.read()
            if not isinstance(frame, bytes):  # EOF, which the stubs do not know
                return
            if newest.get(sender) is not stream:
                await context.abort(
                    grpc.StatusCode.ABORTED, "superseded by a newer stream"
                )
            try:
                messages, refused = decode(frame, sender=sender, to=to)
            except InvalidRequest as error:
                log(logging.ERROR, "peer frame refused", peer=sender, reason=error)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            for reason in refused:
                log(logging.ERROR, "peer message refused", peer=sender, reason=reason)
            if messages:
                self._on_messages(messages)
