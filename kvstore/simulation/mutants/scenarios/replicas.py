"""Whole members in memory: what becomes of writes and reads, and what clients hear."""

from kvstore.pb import kv_pb2
from kvstore.raft.messages import AppendEntriesReply, ReadIndexReply
from kvstore.replica.messages import ForwardReply
from kvstore.simulation.mutants.noticing import require
from kvstore.simulation.mutants.scenarios.bench import Bench


def wiped_member_is_nobody() -> None:
    """Of the two that hold a write one fails, and one lost its disk and starts anew."""
    _elect_by_a_wiped_member(restarts=False)


def wiped_member_is_nobody_to_a_new_start() -> None:
    """As before, and who asks for its vote has just started, and knows no commit."""
    _elect_by_a_wiped_member(restarts=True)


def _elect_by_a_wiped_member(*, restarts: bool) -> None:
    bench = Bench()
    bench.elect(1)
    bench.introduce()
    bench.cut = {2}
    bench.write(1, "a")
    bench.judge(1)
    bench.crash(1)
    bench.crash(3)
    bench.found(3, incarnation=7)
    bench.start(3)
    if restarts:
        bench.crash(2)
        bench.start(2)
    bench.cut = set()
    require(
        not bench.campaigns(2),
        "a member that lost its disk elects one without what it acknowledged (DUR)",
    )


def read_waits_for_the_state() -> None:
    """A read is confirmed at a member whose state lags behind."""
    bench = Bench()
    bench.elect(1)
    bench.slow_states = {2}
    for key in ("a", "b", "c"):
        bench.write(1, key)
    bench.tick(1)
    bench.read(2)
    bench.slow_states = set()
    bench.settle()
    bench.tick(1)
    bench.judge(1)


def reads_are_answered() -> None:
    """At the leader and at a follower, with a quorum of two."""
    bench = Bench()
    bench.elect(1)
    bench.write(1, "a")
    bench.cut = {3}
    for reader in (1, 2):
        ticket = bench.read(reader)
        require(
            bench.reads[ticket].is_served,
            "a read is not answered though a quorum follows (LIVE)",
            reader,
        )


def write_in_doubt_is_not_denied() -> None:
    """A leader passes a write on, and is cut off before it hears how that ended."""
    bench = Bench()
    bench.elect(1)
    bench.slow_disks = {2, 3}
    ticket = bench.write(1, "a")
    bench.cut = {1}
    bench.slow_disks = set()
    bench.settle()
    bench.elect(2)
    for _ in range(3):
        bench.tick(2)
    for _ in range(40):
        bench.tick(1)
    bench.judge(2)
    require(
        bench.writes[ticket].error is not None,
        "a client hears nothing of a write whose leader is gone (LIVE)",
    )


def write_behind_a_new_term_is_not_denied() -> None:
    """A new leader takes a write before the first entry of its term is committed."""
    bench = Bench()
    bench.holding = (AppendEntriesReply,)
    bench.elect(1)
    bench.write(1, "a")
    bench.release()
    bench.judge(1)


def overwritten_write_is_not_answered() -> None:
    """At the index of a write that only its leader has, another's is committed."""
    bench = Bench()
    bench.elect(1)
    bench.cut = {1}
    bench.write(1, "lost")
    bench.elect(2)
    bench.write(2, "kept")
    bench.cut = set()
    for _ in range(3):
        bench.tick(2)
    bench.judge(1)
    bench.judge(2)


def passed_on_write_is_not_sent_again() -> None:
    """A follower's connection breaks after a write has reached the leader."""
    bench = Bench()
    bench.elect(1)
    bench.holding = (ForwardReply,)
    bench.write(2, "a")
    bench.disconnect(2, 1)
    bench.settle()
    bench.tick(1)
    bench.tick(1)
    bench.release()
    bench.judge(1)


def late_reply_is_for_nobody_else() -> None:
    """What a leader answers to an earlier life of a member comes after its restart."""
    bench = Bench()
    bench.elect(1)
    bench.holding = (ForwardReply,)
    bench.write(2, "a")
    bench.crash(2)
    bench.start(2)
    bench.tick(1)
    bench.write(2, "b")
    bench.release()
    bench.tick(1)
    bench.judge(1)


def age_counts_from_the_question() -> None:
    """A round is confirmed late; then somebody reads what may be a little old."""
    bench = Bench()
    bench.elect(1)
    bench.holding = (ReadIndexReply,)
    bench.read(2)
    bench.cut = {2}
    bench.write(1, "a")
    bench.pass_time(100)
    bench.release()
    bench.pass_time(20)
    bench.read(2, kv_pb2.ReadOptions(consistency=kv_pb2.BOUNDED, staleness_ms_max=50))
