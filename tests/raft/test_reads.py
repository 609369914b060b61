"""ReadIndex (dissertation section 6.4)."""

from kvstore.raft.membership import Remove
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    ReadIndexReply,
    ReadIndexRequest,
)
from kvstore.raft.options import RaftOptions
from kvstore.raft.ready import ReadState
from kvstore.types import LogIndex, NodeId
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks


def leader() -> Bench:
    bench = Bench()
    bench.become_leader()
    bench.work()
    return bench


def ask(bench: Bench, *request_ids: int) -> list[int]:
    """Reads that come in one turn; the rounds whose heartbeats leave for them."""
    for request_id in request_ids:
        bench.raft.read_index(request_id)
    return [beat.round for beat in of_kind(bench.work(), Heartbeat)]


def answered(bench: Bench) -> list[tuple[int, int, bool]]:
    answers = [(r.request_id, int(r.index), r.rejected) for r in bench.reads]
    bench.reads.clear()
    return answers


def test_a_read_waits_for_a_quorum_to_confirm_the_leader() -> None:
    """Step 3: the leader exchanges heartbeats with a majority."""
    bench = leader()
    (number, again) = ask(bench, 5)
    assert number == again > 0
    assert answered(bench) == []
    bench.answer_heartbeat(read_round=number)
    assert answered(bench) == [(5, 1, False)]


def test_reads_of_one_turn_share_a_round() -> None:
    """Step 2 to 4 once for all of them."""
    bench = leader()
    number = ask(bench, 1, 2, 3)[0]
    bench.answer_heartbeat(sender=3, read_round=number)
    assert answered(bench) == [(1, 1, False), (2, 1, False), (3, 1, False)]


def test_a_read_during_a_round_waits_for_the_next() -> None:
    """An answer under way may have been given before the read came."""
    bench = leader()
    first = ask(bench, 1)[0]
    assert ask(bench, 2) == []
    bench.raft.step(
        HeartbeatReply(
            sender=NodeId(2), to=NodeId(1), term=bench.raft.term, round=first
        )
    )
    beats = of_kind(bench.work(), Heartbeat)
    assert answered(bench) == [(1, 1, False)]
    assert {beat.round for beat in beats} == {first + 1}
    bench.answer_heartbeat(sender=3, read_round=first)  # late, and of no use now
    assert answered(bench) == []
    bench.answer_heartbeat(sender=3, read_round=first + 1)
    assert answered(bench) == [(2, 1, False)]


def test_a_lost_round_is_asked_again_by_the_next_heartbeat() -> None:
    """It keeps its number: what it confirms is the same."""
    bench = leader()
    number = ask(bench, 1)[0]
    assert {beat.round for beat in of_kind(bench.tick(), Heartbeat)} == {number}
    bench.answer_heartbeat(read_round=number)
    assert {beat.round for beat in of_kind(bench.tick(), Heartbeat)} == {0}


def test_a_voter_confirms_a_round_once() -> None:
    """Answers are of voters, not of messages."""
    bench = Bench(voters=range(1, 6))
    bench.become_leader()
    bench.work()
    number = ask(bench, 1)[0]
    for _ in range(3):
        bench.answer_heartbeat(sender=2, read_round=number)
    assert answered(bench) == []
    bench.answer_heartbeat(sender=3, read_round=number)
    assert answered(bench) == [(1, 1, False)]


def test_a_new_leader_reads_after_its_first_commit() -> None:
    """Mutant M45 (etcd#7331), step 1: until an entry of its term is committed it does
    not know how far its predecessors had committed."""
    bench = Bench(terms=(1, 1))
    bench.become_leader(commit=False)
    bench.work()
    assert ask(bench, 1) == []
    beats = of_kind(bench.acknowledge(3), Heartbeat)
    bench.answer_heartbeat(read_round=beats[0].round)
    assert answered(bench) == [(1, 3, False)]


def test_a_single_voter_answers_at_once() -> None:
    """It is its own quorum, once its no-op is committed."""
    bench = Bench(voters=[1])
    bench.raft.read_index(1)
    bench.work()
    assert answered(bench) == [(1, 0, True)]  # it does not lead yet
    bench.tick()
    bench.raft.read_index(2)
    bench.work()
    assert answered(bench) == [(2, 1, False)]


def test_a_deposed_leaders_reads_are_rejected() -> None:
    """Its own, and those of its followers."""
    bench = leader()
    bench.raft.step(
        ReadIndexRequest(
            sender=NodeId(3), to=NodeId(1), term=bench.raft.term, request_id=77
        )
    )
    ask(bench, 1)
    ask(bench, 2)
    (reply,) = of_kind(bench.heartbeat(term=9), ReadIndexReply)
    assert (reply.to, reply.request_id, reply.rejected) == (3, 77, True)
    assert answered(bench) == [(1, 0, True), (2, 0, True)]


def test_a_follower_asks_its_leader() -> None:
    """Section 6.4, last paragraphs: it waits until it has applied that index."""
    cluster = Cluster()
    cluster.elect(1)
    entry = cluster.propose(1)
    cluster.stabilize()
    cluster.read(3, 9)
    cluster.stabilize()
    assert cluster.servers[NodeId(3)].reads[9] == ReadState(
        request_id=9, index=entry.index
    )


def test_a_read_without_a_leader_is_rejected() -> None:
    """There is nobody to ask."""
    bench = Bench()
    ask(bench, 1)
    assert answered(bench) == [(1, 0, True)]


def test_a_followers_read_fails_when_the_leader_changes() -> None:
    """The one that was asked may never answer, and must not be believed."""
    bench = Bench()
    bench.become_follower(term=1)
    bench.raft.read_index(1)
    (request,) = of_kind(bench.work(), ReadIndexRequest)
    bench.heartbeat(term=2, sender=3)
    assert answered(bench) == [(1, 0, True)]
    bench.step(
        ReadIndexReply(
            sender=NodeId(2),
            to=NodeId(1),
            term=bench.raft.term,
            request_id=request.request_id,
            index=LogIndex(4),
            rejected=False,
        )
    )
    assert answered(bench) == []


def test_a_followers_read_is_given_up_after_t() -> None:
    """The question or the answer was lost; the asker can try again."""
    bench = Bench()
    bench.become_follower(term=1)
    bench.raft.read_index(1)
    bench.work()
    for _ in range(T):
        bench.heartbeat()
        bench.tick()
    assert answered(bench) == [(1, 0, True)]


def test_a_follower_passes_on_a_rejection() -> None:
    """Whoever was asked does not lead."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([1])
    cluster.depose(1)
    cluster.heal()
    cluster.read(2, 4)
    cluster.stabilize()
    assert cluster.servers[NodeId(2)].reads[4].rejected


def test_a_leader_of_an_earlier_term_is_not_asked_in_vain() -> None:
    """A request of a lower term is refused with ours."""
    bench = Bench(term=5)
    replies = bench.step(
        ReadIndexRequest(
            sender=NodeId(2),
            to=NodeId(1),
            term=type(bench.raft.term)(4),
            request_id=3,
        )
    )
    (reply,) = of_kind(replies, ReadIndexReply)
    assert (reply.rejected, reply.term) == (True, 5)


def test_reads_that_wait_are_bounded() -> None:
    """Past the bound they are rejected, not kept."""
    bench = Bench(
        options=RaftOptions(
            election_timeout_ticks=T, heartbeat_interval_ticks=1, pending_reads_max=2
        )
    )
    bench.become_leader()
    ask(bench, 1, 2, 3)
    assert answered(bench) == [(3, 0, True)]
    bench.become_follower(term=9)
    answered(bench)
    ask(bench, 4, 5, 6)
    assert answered(bench) == [(6, 0, True)]


def test_answers_to_an_earlier_life_are_not_believed() -> None:
    """Numbers on the wire start at random: the same request id in the next life of the
    process has another, so a late answer cannot pass for an answer to it."""
    numbers = set()
    for seed in range(5):
        bench = Bench(seed=seed)
        bench.become_follower(term=1)
        bench.raft.read_index(1)
        (request,) = of_kind(bench.work(), ReadIndexRequest)
        numbers.add(request.request_id)
    assert len(numbers) == 5


def test_a_cut_off_leader_confirms_nothing() -> None:
    """Mutant M44: its followers have gone on to another."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([1])
    cluster.disconnect(2, 1)
    cluster.disconnect(3, 1)
    cluster.campaign(2)
    cluster.stabilize()
    assert cluster.raft(2).is_leader
    cluster.propose(2)
    cluster.stabilize()
    cluster.read(1, 1)
    cluster.tick(1, T)
    cluster.stabilize()
    assert 1 not in cluster.servers[NodeId(1)].reads
    cluster.heal()
    cluster.tick_all(2)
    assert cluster.servers[NodeId(1)].reads[1].rejected


def test_answers_count_by_round_and_not_by_request() -> None:
    """Mutant M46 (etcd-io/raft#397, etcd#20418), the exact schedule: hold the heartbeat
    replies of read A; A completes by a later beat; the leader is cut off and another
    commits; read B is asked; a duplicate of A comes, then the held replies. Keyed by
    request, B would be answered, and stale."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.read(2, 1)  # A, by a follower, so that it can be repeated
    (request,) = cluster.take(ReadIndexRequest)
    cluster.deliver([request])
    cluster.deliver(cluster.take(Heartbeat))
    held = cluster.take(HeartbeatReply)
    cluster.tick(1)
    cluster.stabilize()
    assert not cluster.servers[NodeId(2)].reads[1].rejected
    cluster.cut([1])
    cluster.disconnect(2, 1)
    cluster.disconnect(3, 1)
    cluster.campaign(2)
    cluster.stabilize()
    cluster.propose(2)
    cluster.stabilize()
    cluster.read(1, 2)  # B
    cluster.deliver([request])
    cluster.deliver(held)
    cluster.stabilize()
    assert 2 not in cluster.servers[NodeId(1)].reads


def test_a_read_round_does_not_wait_for_the_log() -> None:
    """Step 3 touches no disk: it works while a write is in flight."""
    bench = leader()
    bench.slow_disk = True
    bench.raft.propose(b"x")
    bench.raft.read_index(1)
    sent = bench.work()
    assert of_kind(sent, AppendEntries)
    bench.answer_heartbeat(read_round=of_kind(sent, Heartbeat)[0].round)
    assert answered(bench) == [(1, 1, False)]
    assert bench.raft.is_persisting


def test_a_round_ends_when_those_who_have_not_answered_are_removed() -> None:
    """Nobody is left to answer it, and it would hold up every later one."""
    cluster = Cluster(2)
    cluster.elect(1)
    cluster.change(1, Remove(NodeId(2)))
    appends = cluster.take(AppendEntries, sender=1)
    cluster.read(1, 1)
    cluster.take(Heartbeat)
    cluster.deliver(appends)
    cluster.deliver(cluster.take(AppendEntriesReply))
    cluster.crash(2)
    cluster.wire.clear()
    cluster.read(1, 2)
    for _ in range(3):
        cluster.tick(1)
    assert cluster.raft(1).configuration.voters == (1,)
    assert not cluster.raft(1).configuration.is_joint
    assert sorted(cluster.servers[NodeId(1)].reads) == [1, 2]
