"""The codec: what goes in comes out, and nothing else comes out."""

import contextlib
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import Busy, CorruptionError, InvalidRequest, KVStoreError
from kvstore.pb import peer_pb2
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    EntryId,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    RequestVoteReply,
    Snapshot,
    TimeoutNow,
)
from kvstore.replica.messages import ForwardReply, ForwardWrites, PeerMessage
from kvstore.rpc.codec import PeerCodec
from kvstore.storage.record import entry_crc
from kvstore.types import LogIndex, NodeId, Revision, Term

SENDER, TO = NodeId(3), NodeId(7)
CODEC = PeerCodec(entry_crc=entry_crc)

numbers = st.integers(0, 2**63 - 1)
terms = numbers.map(Term)
indexes = numbers.map(LogIndex)
entry_ids = st.builds(EntryId, terms, indexes)


@st.composite
def appends(draw: st.DrawFn) -> AppendEntries:
    previous = EntryId(Term(draw(st.integers(0, 5))), LogIndex(draw(numbers)))
    rises = draw(st.lists(st.integers(0, 3), max_size=5))
    entries = []
    term = int(previous.term)
    for place, rise in enumerate(rises):
        term += rise
        entries.append(
            Entry(
                Term(term),
                LogIndex(previous.index + 1 + place),
                draw(st.sampled_from(EntryKind)),
                draw(st.binary(max_size=40)),
            )
        )
    return AppendEntries(
        sender=SENDER,
        to=TO,
        term=Term(term + draw(st.integers(0, 3))),
        previous=previous,
        entries=tuple(entries),
        commit_index=draw(indexes),
    )


@st.composite
def append_replies(draw: st.DrawFn) -> AppendEntriesReply:
    rejected = draw(st.booleans())
    return AppendEntriesReply(
        sender=SENDER,
        to=TO,
        term=draw(terms),
        index=draw(indexes),
        rejected=rejected,
        hint=draw(entry_ids) if rejected else None,
    )


@st.composite
def forward_replies(draw: st.DrawFn) -> ForwardReply:
    error: KVStoreError | None = None
    if draw(st.booleans()):
        error = Busy("full", queue="writes", maximum=draw(st.integers(0, 9)))
    return ForwardReply(
        sender=SENDER,
        to=TO,
        request_id=draw(numbers),
        results=b"" if error is not None else draw(st.binary(max_size=40)),
        error=error,
        revision=Revision(draw(numbers)),
    )


ends = {"sender": st.just(SENDER), "to": st.just(TO)}
STRATEGIES: dict[type[PeerMessage], st.SearchStrategy[PeerMessage]] = {
    AppendEntries: appends(),
    AppendEntriesReply: append_replies(),
    ForwardReply: forward_replies(),
    RequestVote: st.builds(
        RequestVote, **ends, term=terms, last_log=entry_ids, pre_vote=st.booleans()
    ),
    RequestVoteReply: st.builds(
        RequestVoteReply,
        **ends,
        term=terms,
        granted=st.booleans(),
        pre_vote=st.booleans(),
    ),
    Heartbeat: st.builds(
        Heartbeat, **ends, term=terms, commit_index=indexes, round=numbers
    ),
    HeartbeatReply: st.builds(HeartbeatReply, **ends, term=terms, round=numbers),
    ReadIndexRequest: st.builds(
        ReadIndexRequest, **ends, term=terms, request_id=numbers
    ),
    ReadIndexReply: st.builds(
        ReadIndexReply,
        **ends,
        term=terms,
        request_id=numbers,
        index=indexes,
        rejected=st.booleans(),
    ),
    TimeoutNow: st.builds(TimeoutNow, **ends, term=terms, last_index=indexes),
    InstallSnapshot: st.builds(
        InstallSnapshot,
        **ends,
        term=terms,
        snapshot=st.builds(
            Snapshot, last=entry_ids, configuration=st.binary(max_size=64)
        ),
    ),
    ForwardWrites: st.builds(
        ForwardWrites,
        **ends,
        request_id=numbers,
        writes=st.binary(max_size=40),
        count=st.integers(0, 2**32 - 1),
    ),
}
messages = st.one_of(*STRATEGIES.values())


def fields(message: PeerMessage) -> tuple[object, ...]:
    """What of a message must survive; an error by what it says, not by identity."""
    values = [getattr(message, name) for name in message.__dataclass_fields__]
    return (
        type(message),
        *(
            (type(v), str(v), v.details()) if isinstance(v, KVStoreError) else v
            for v in values
        ),
    )


def append_with(*entries: peer_pb2.PeerEntry, term: int = 5) -> bytes:
    frame = peer_pb2.PeerFrame()
    message = frame.messages.add(term=term)
    message.append_entries.previous_term = 4
    message.append_entries.previous_index = 10
    message.append_entries.entries.extend(entries)
    return frame.SerializeToString()


def wire_entry(index: int, term: int, data: bytes, kind: int = 1) -> peer_pb2.PeerEntry:
    crc = entry_crc(term, index, kind, data)
    return peer_pb2.PeerEntry(index=index, term=term, kind=kind, data=data, crc=crc)


def test_every_kind_of_message_is_tried() -> None:
    """The table above is total, so a new message cannot be forgotten by the tests."""
    assert set(STRATEGIES) == set(typing.get_args(PeerMessage))
    assert set(typing.get_args(Message)) < set(STRATEGIES)


@given(st.lists(messages, max_size=5))
def test_joined_frames_decode_to_the_messages_in_order(sent: list[PeerMessage]) -> None:
    """Each message is encoded alone; joining the bytes joins the frames."""
    frame = b"".join(CODEC.encode(message) for message in sent)
    received = CODEC.decode(frame, sender=SENDER, to=TO)
    assert received.refused == []
    assert [fields(m) for m in received.messages] == [fields(m) for m in sent]


@given(messages, st.data())
def test_a_damaged_frame_raises_or_refuses_but_never_breaks(
    message: PeerMessage, data: st.DataObject
) -> None:
    """Any byte of a frame may change: decoding gives messages or our errors only."""
    frame = bytearray(CODEC.encode(message))
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InvalidRequest):
        CODEC.decode(bytes(frame), sender=SENDER, to=TO)


@given(st.binary(max_size=200))
def test_garbage_is_an_invalid_request_or_nothing(garbage: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        CODEC.decode(garbage, sender=SENDER, to=TO)


@given(appends().filter(lambda a: any(e.data for e in a.entries)), st.data())
def test_a_flipped_bit_in_entry_data_never_reaches_the_core(
    append: AppendEntries, data: st.DataObject
) -> None:
    """The entry's checksum covers its data: the message is refused as corrupt."""
    frame = peer_pb2.PeerFrame.FromString(CODEC.encode(append))
    entries = [e for e in frame.messages[0].append_entries.entries if e.data]
    entry = data.draw(st.sampled_from(entries))
    damaged = bytearray(entry.data)
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    entry.data = bytes(damaged)
    received = CODEC.decode(frame.SerializeToString(), sender=SENDER, to=TO)
    assert received.messages == []
    assert [type(error) for error in received.refused] == [CorruptionError]


def test_a_refused_message_leaves_its_frame_mates() -> None:
    bad = wire_entry(11, 5, b"x")
    bad.crc ^= 1
    beat = Heartbeat(
        sender=SENDER, to=TO, term=Term(5), commit_index=LogIndex(1), round=2
    )
    received = CODEC.decode(append_with(bad) + CODEC.encode(beat), sender=SENDER, to=TO)
    assert received.messages == [beat]
    assert len(received.refused) == 1


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([wire_entry(12, 5, b"")], id="gap"),
        pytest.param([wire_entry(11, 3, b"")], id="term_below_previous"),
        pytest.param([wire_entry(11, 6, b"")], id="term_above_message"),
        pytest.param([wire_entry(11, 5, b"", kind=99)], id="unknown_kind"),
        pytest.param([wire_entry(11, 5, b""), wire_entry(11, 5, b"")], id="doubled"),
    ],
)
def test_entries_that_cannot_follow_are_refused(
    entries: list[peer_pb2.PeerEntry],
) -> None:
    """Their checksums are right: a faulty sender, not a faulty wire."""
    received = CODEC.decode(append_with(*entries), sender=SENDER, to=TO)
    assert received.messages == []
    assert [type(error) for error in received.refused] == [InvalidRequest]


def test_a_message_of_a_newer_kind_is_refused_alone() -> None:
    frame = peer_pb2.PeerFrame()
    frame.messages.add(term=1)
    received = CODEC.decode(frame.SerializeToString(), sender=SENDER, to=TO)
    assert received.messages == []
    assert [type(error) for error in received.refused] == [InvalidRequest]
