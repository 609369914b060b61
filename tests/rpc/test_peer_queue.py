"""What waits for one peer: in which order it leaves, and what is lost when."""

from kvstore.rpc.peer_queue import PeerQueue


def queue(
    messages_max: int = 3, bytes_max: int = 100, frame_bytes_max: int = 1_000
) -> PeerQueue:
    return PeerQueue(
        messages_max=messages_max,
        bytes_max=bytes_max,
        frame_bytes_max=frame_bytes_max,
    )


def test_small_messages_go_first_and_the_others_in_one_order() -> None:
    subject = queue()
    subject.add_append(b"a")
    assert subject.add_writes(b"w")
    subject.add_reply(b"r")
    subject.add_append(b"b")
    subject.add_small(b"s")
    assert subject.next_frame() == b"sawrb"
    assert subject.next_frame() == b""


def test_log_entries_that_overflow_cost_no_write_and_no_answer() -> None:
    """A peer too slow for its log entries may still be owed an answer."""
    subject = queue()
    assert subject.add_writes(b"w")
    subject.add_reply(b"r")
    for part in (b"1", b"2", b"3", b"4"):
        subject.add_append(part)
    assert subject.next_frame() == b"wr4"
    assert subject.dropped == 3


def test_writes_that_do_not_fit_are_not_taken_and_lose_nothing() -> None:
    subject = queue()
    assert [subject.add_writes(b"w") for _ in range(4)] == [True, True, True, False]
    assert subject.next_frame() == b"www"
    assert subject.dropped == 0


def test_writes_are_bounded_in_bytes_and_one_larger_goes_alone() -> None:
    subject = queue(bytes_max=10)
    assert subject.add_writes(bytes(50))
    assert not subject.add_writes(b"w")
    assert len(subject.next_frame()) == 50
    assert subject.add_writes(bytes(6))
    assert not subject.add_writes(bytes(5))


def test_answers_are_not_lost_for_their_size() -> None:
    """Goal: no applied write becomes unknown because there was much to say of it."""
    subject = queue(bytes_max=10, frame_bytes_max=30)
    for _ in range(3):
        subject.add_reply(bytes(20))
    frames = [len(subject.next_frame()) for _ in range(3)]
    assert (frames, subject.dropped) == ([20, 20, 20], 0)


def test_answers_past_the_bound_are_lost_alone() -> None:
    subject = queue()
    for part in (b"1", b"2", b"3", b"4"):
        subject.add_reply(part)
    assert subject.next_frame() == b"123"
    assert subject.dropped == 1


def test_what_has_left_makes_room() -> None:
    subject = queue(bytes_max=10)
    for _ in range(5):
        assert subject.add_writes(bytes(6))
        subject.add_append(bytes(6))
        assert len(subject.next_frame()) == 12
    assert subject.dropped == 0


def test_clearing_loses_everything_and_counts_it() -> None:
    subject = queue()
    subject.add_small(b"s")
    subject.add_append(bytes(60))
    subject.add_writes(bytes(60))
    subject.add_reply(b"r")
    subject.clear()
    assert subject.dropped == 4
    assert subject.next_frame() == b""
    assert subject.add_writes(bytes(60))
    subject.add_append(bytes(60))
    assert subject.dropped == 4
