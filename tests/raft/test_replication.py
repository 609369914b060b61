"""Replication and commitment: pipelining, conflicts, losses, and bounds."""

import pytest

from kvstore.errors import Busy, CorruptionError, NotLeader
from kvstore.raft.events import EntriesReplaced, PeerStateChanged
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    Heartbeat,
    HeartbeatReply,
    Message,
)
from kvstore.raft.options import RaftOptions
from kvstore.raft.progress import PeerEvent, PeerState
from kvstore.types import LogIndex, NodeId
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, entry_id, log_terms, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks


def options(**values: int) -> RaftOptions:
    return RaftOptions(election_timeout_ticks=T, heartbeat_interval_ticks=1, **values)


def appends_to(messages: list[Message], peer: int) -> list[AppendEntries]:
    return [m for m in of_kind(messages, AppendEntries) if m.to == peer]


def sent_indexes(messages: list[Message], peer: int = 2) -> list[list[int]]:
    """The entries in each append to a peer."""
    return [[int(e.index) for e in m.entries] for m in appends_to(messages, peer)]


def leader(**values: int) -> Bench:
    bench = Bench(options=options(**values))
    bench.become_leader()
    bench.work()
    return bench


# ------------------------------------------------------------------- pipeline


def test_what_is_proposed_in_one_turn_leaves_in_one_message() -> None:
    """A message costs far more than an entry in it."""
    bench = leader()
    for _ in range(5):
        bench.raft.propose(b"x")
    assert sent_indexes(bench.work()) == [[2, 3, 4, 5, 6]]


def test_appends_are_sent_without_waiting_for_answers() -> None:
    """Dissertation section 10.2.1: nextIndex is raised when a message leaves."""
    bench = leader()
    for index in (2, 3, 4):
        bench.raft.propose(b"x")
        assert sent_indexes(bench.work()) == [[index]]


def test_the_leader_sends_before_its_own_write_is_durable() -> None:
    """Dissertation section 10.2.1: its disk and its followers' work in parallel."""
    bench = leader()
    bench.slow_disk = True
    bench.raft.propose(b"x")
    assert sent_indexes(bench.work()) == [[2]]
    assert bench.raft.is_persisting


def test_an_append_is_cut_by_size_but_takes_one_entry() -> None:
    """A large entry goes alone; it could never be sent otherwise."""
    bench = leader(append_bytes_max=10)
    for size in (4, 4, 4, 30, 1):
        bench.raft.propose(bytes(size))
    assert sent_indexes(bench.work()) == [[2, 3], [4], [5], [6]]


def test_the_window_of_messages_bounds_what_is_under_way() -> None:
    """``replicate_pause``: past it new entries wait for an acknowledgement."""
    bench = leader(inflight_appends_max=2)
    for _ in range(4):
        bench.raft.propose(b"x")
        bench.work()
    assert bench.raft.progress[NodeId(2)].inflight.full
    assert sent_indexes(bench.acknowledge(2)) == [[4, 5]]


def test_commits_are_told_with_entries_or_alone_when_there_are_none() -> None:
    """``lagging_commit``: a silent log leaves no follower behind until a heartbeat."""
    bench = leader()
    bench.raft.propose(b"x")
    bench.work()
    assert bench.acknowledge(2) == []  # entries may follow in this tick
    told = of_kind(bench.tick(), AppendEntries)
    assert [(m.to, m.entries, m.commit_index) for m in told] == [
        (2, (), 2),
        (3, (), 2),
    ]
    assert of_kind(bench.tick(), AppendEntries) == []
    bench.raft.propose(b"x")
    bench.raft.propose(b"x")
    bench.work()
    bench.acknowledge(3)
    assert of_kind(bench.tick(), AppendEntries) == []  # 4's commit will be told


def test_under_load_a_commit_is_told_with_the_next_entries() -> None:
    """One message a batch and peer, not two."""
    bench = leader()
    for index in range(2, 10):
        bench.raft.propose(b"x")
        appends = of_kind(bench.work(), AppendEntries)
        assert {append.commit_index for append in appends} == {index - 1}
        assert bench.acknowledge(index) == []


def test_a_follower_commits_at_most_what_a_message_vouches_for() -> None:
    """Mutant M12 (scylla#9965): a stale tail may lie behind what the leader sent."""
    bench = Bench(terms=(1, 1, 1))
    bench.append([1], previous=(0, 0), commit=3, term=2)
    assert bench.raft.commit_index == 1
    assert bench.raft.last_index == 3


def test_a_heartbeat_never_commits_beyond_the_match() -> None:
    """etcd's TestHandleHeartbeat: what lies behind may differ at the follower."""
    bench = leader()
    bench.raft.propose(b"x")
    bench.work()
    bench.acknowledge(2, sender=3)
    beats = of_kind(bench.tick(), Heartbeat)
    assert [(int(beat.to), int(beat.commit_index)) for beat in beats] == [
        (2, 1),
        (3, 2),
    ]


def test_a_commit_index_never_falls() -> None:
    """Mutant M13: a new leader may know of less than an old one told."""
    bench = Bench(terms=(1, 1, 1))
    bench.append(previous=(1, 3), commit=3, term=1)
    bench.append(previous=(1, 3), commit=1, term=2, sender=3)
    bench.heartbeat(commit=2, sender=3)
    assert bench.raft.commit_index == 3


# ------------------------------------------------------------------ conflicts


def test_an_append_of_what_is_held_truncates_nothing() -> None:
    """Mutant M14 (section 5.3): a short, late append must not cut what followed."""
    bench = Bench(terms=(1, 1, 1))
    bench.append([1], previous=(0, 0), term=1)
    bench.append(previous=(1, 1), term=1)
    assert log_terms(bench.raft) == [1, 1, 1]


def test_an_acknowledgement_names_what_the_message_proved() -> None:
    """Mutant M15 (CCF#6016): never the last index; a stale tail may lie behind."""
    bench = Bench(terms=(1, 1, 1))
    (reply,) = of_kind(bench.append([1], previous=(0, 0), term=2), AppendEntriesReply)
    assert (reply.rejected, reply.index) == (False, 1)


def test_a_conflict_replaces_the_tail_and_says_so() -> None:
    """Section 5.3."""
    bench = Bench(terms=(1, 1, 1))
    bench.append([2], previous=(1, 1), term=2)
    assert log_terms(bench.raft) == [1, 2]
    assert EntriesReplaced(bench.raft.term, LogIndex(2), LogIndex(3)) in bench.events


def test_a_conflict_with_a_committed_entry_is_our_bug() -> None:
    """Leader completeness forbids it (section 5.4.3); the node must not go on."""
    bench = Bench(terms=(1, 1))
    bench.append(previous=(1, 2), commit=2, term=1)
    with pytest.raises(AssertionError):
        bench.append([2], previous=(1, 1), term=2)


FAST_REJECTION: list[tuple[list[int], list[int], int]] = [
    # etcd's TestFastLogRejection: probes until the logs are known to agree.
    ([1, 2, 2, 4, 4, 4, 4], [1, 2, 2, 4, 4, 4, 4, 4], 1),
    ([1, 2, 2, 3, 4, 4, 4, 5], [1, 2, 2, 3, 3, 3, 3, 3, 3, 3], 2),
    ([1, 1, 1, 1], [1, 1, 1, 2, 2, 2, 2], 2),
    ([1, 1, 1, 1, 1, 1], [1, 1, 1, 2, 2, 2], 2),
    ([1, 1, 1, 1, 1, 1], [1, 1], 2),
    ([1, 3, 3, 3, 3, 3, 3, 3, 7], [1, 2, 2, 2, 2, 2, 6], 2),
    ([1, 1, 1, 4, 5], [1, 1, 1, 4, 6, 6, 6, 6, 6], 2),
    ([2, 2, 2, 2, 2], [2, 4, 4, 4, 4, 4], 2),
]


@pytest.mark.parametrize(("ours", "theirs", "probes"), FAST_REJECTION)
def test_both_sides_skip_whole_terms_of_a_conflict(
    ours: list[int], theirs: list[int], probes: int
) -> None:
    """End of section 5.3: one probe a conflicting term at most, not one an entry."""
    top = max(ours + theirs) + 1
    cluster = Cluster(logs=[ours, theirs, ()], terms=[top, top, top])
    cluster.elect(1)
    events = cluster.servers[NodeId(1)].events
    assert cluster.logs() == [[*ours, top + 1]] * 3
    found = [e for e in events if isinstance(e, PeerStateChanged) and e.peer_id == 2]
    assert [e.state for e in found] == [PeerState.REPLICATE]
    if probes == 1:
        assert cluster.raft(2).log.term(LogIndex(len(ours) + 1)) == top + 1


def test_a_long_divergence_is_bridged() -> None:
    """Mutant M23 (openraft 6d53aa12): however far the logs are apart, and however
    their terms alternate, each probe gets nearer."""
    ours = [1, *(2 * n + 2 for n in range(100))]
    theirs = [1, *(2 * n + 3 for n in range(100))]
    cluster = Cluster(logs=[ours, theirs, ()], terms=[300, 300, 300])
    cluster.elect(1)
    assert cluster.logs() == [[*ours, 301]] * 3


def test_a_hint_raises_no_match() -> None:
    """Mutant M16 (CCF#5325): where logs may agree is not where they do."""
    bench = Bench(terms=(1, 1, 3, 3))
    bench.become_leader(commit=False)
    bench.reject(4, (2, 3))
    progress = bench.raft.progress[NodeId(2)]
    assert (progress.match_index, progress.next_index) == (0, 3)
    assert bench.raft.commit_index == 0


def test_reordered_appends_end_in_the_same_log() -> None:
    """etcd's TestLogReplicationWithReorderedMessage."""
    cluster = Cluster()
    cluster.elect(1)
    for _ in range(5):
        cluster.propose(1)
    late = cluster.take(AppendEntries, to=2)
    cluster.deliver(reversed(late))
    cluster.stabilize()
    for _ in range(3):
        cluster.tick_all()
    assert len(set(map(str, cluster.logs()))) == 1
    assert cluster.commits() == [6, 6, 6]


def test_messages_of_earlier_terms_change_nothing() -> None:
    """etcd's TestOldMessages."""
    bench = Bench(terms=(1, 2), term=3)
    bench.append([9], previous=(2, 2), term=2)
    bench.acknowledge(1, term=1)
    assert log_terms(bench.raft) == [1, 2]


# --------------------------------------------------------------------- losses


def test_a_lost_append_is_found_by_the_next_one() -> None:
    """It builds upon what is missing; the refusal starts a probe from the match."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.propose(1)
    assert len(cluster.take(AppendEntries, to=2)) == 1
    cluster.propose(1)
    cluster.stabilize()
    assert cluster.logs() == [[1, 1, 1]] * 3
    causes = [
        event.cause
        for event in cluster.servers[NodeId(1)].events
        if isinstance(event, PeerStateChanged) and event.peer_id == 2
    ]
    assert causes == [PeerEvent.ACCEPTED, PeerEvent.REJECTED, PeerEvent.ACCEPTED]


@pytest.mark.parametrize("lost", [AppendEntries, AppendEntriesReply])
@pytest.mark.parametrize("window", [1, 256])
def test_a_lost_last_append_is_found_by_a_heartbeat(
    lost: type[Message], window: int
) -> None:
    """Nothing follows it, and the window may even be full: an empty append asks."""
    cluster = Cluster(options=options(inflight_appends_max=window))
    cluster.elect(1)
    cluster.propose(1)
    if lost is AppendEntriesReply:
        cluster.deliver(cluster.take(AppendEntries))
    assert cluster.take(lost)
    cluster.tick_all(3)
    assert cluster.commits() == [2, 2, 2]


def test_a_peer_that_stays_silent_is_probed_again_after_t() -> None:
    """Its heartbeats' answers are lost too, so only time can tell."""
    bench = leader()
    bench.raft.propose(b"x")
    bench.work()
    sent: list[Message] = []
    for _ in range(T):
        bench.answer_heartbeat(sender=3)
        sent += bench.tick()
    assert bench.raft.progress[NodeId(2)].state is PeerState.PROBE
    assert sent_indexes(sent)[-1] == [2]


def test_a_closed_connection_is_probed_at_once() -> None:
    """What was under way may be lost; the probe finds out how much."""
    bench = leader()
    bench.raft.propose(b"x")
    bench.work()
    bench.raft.peer_disconnected(NodeId(2))
    assert bench.raft.progress[NodeId(2)].state is PeerState.PROBE
    assert sent_indexes(bench.work()) == [[2]]
    assert bench.work() == []
    assert sent_indexes(bench.answer_heartbeat()) == [[2]]


def test_a_dead_peer_costs_no_more_than_heartbeats() -> None:
    """After one probe it is left alone until it answers something."""
    bench = leader()
    bench.raft.peer_disconnected(NodeId(2))
    bench.work()
    sent: list[Message] = []
    for _ in range(3 * T):
        bench.raft.propose(b"x")
        bench.acknowledge(bench.raft.last_index, sender=3)
        sent += bench.tick()
    assert appends_to(sent, 2) == []


def test_a_follower_that_returns_catches_up() -> None:
    """From the disk, once the entries have left the cache."""
    cluster = Cluster(options=options(log_cache_bytes_max=0, append_bytes_max=50))
    cluster.elect(1)
    cluster.crash(3)
    for _ in range(40):
        cluster.propose(1, bytes(20))
        cluster.stabilize()
    cluster.restart(3)
    cluster.tick_all(3)
    assert cluster.commits() == [41, 41, 41]


def test_replication_in_step_reads_no_disk() -> None:
    """Entries are in memory while all keep pace, on every node."""
    cluster = Cluster()
    cluster.elect(1)
    for server in cluster.servers.values():
        server.disk.entries_reads = 0
    for _ in range(20):
        cluster.propose(1)
        cluster.stabilize()
    assert [server.disk.entries_reads for server in cluster.servers.values()] == [0] * 3


# --------------------------------------------------------------------- bounds


def test_a_leader_takes_proposals_up_to_a_bound() -> None:
    """etcd's TestUncommittedEntryLimit."""
    bench = leader(uncommitted_bytes_max=100)
    for _ in range(10):
        bench.raft.propose(bytes(10))
    assert not bench.raft.ready_for_writes
    with pytest.raises(Busy) as caught:
        bench.raft.propose(b"x")
    assert (caught.value.queue, caught.value.maximum) == ("uncommitted_bytes", 100)
    bench.work()
    bench.acknowledge(6)
    assert bench.raft.uncommitted_bytes == 50
    bench.raft.propose(bytes(50))


def test_one_proposal_is_taken_whatever_its_size() -> None:
    """Or a large request could never succeed."""
    bench = leader(uncommitted_bytes_max=10)
    bench.raft.propose(bytes(1000))
    with pytest.raises(Busy):
        bench.raft.propose(b"")


def test_what_was_charged_is_refunded_exactly() -> None:
    """Mutant M24 (etcd a370b6f): nothing leaks over applies, and a new leader is not
    charged for what it inherited, nor refunded."""
    bench = leader(uncommitted_bytes_max=100)
    for round_number in range(1, 30):
        bench.raft.propose(bytes(7))
        bench.raft.propose(b"")
        bench.work()
        bench.acknowledge(1 + 2 * round_number)
        assert bench.raft.uncommitted_bytes == 0
    bench.raft.propose(bytes(60))
    bench.work()
    bench.become_follower(bench.raft.term + 1)
    assert bench.raft.uncommitted_bytes == 0
    bench.become_leader(commit=False)
    bench.raft.propose(bytes(90))
    bench.work()
    assert bench.raft.uncommitted_bytes == 90
    bench.acknowledge(bench.raft.last_index - 1)
    assert bench.raft.uncommitted_bytes == 90
    bench.acknowledge(bench.raft.last_index)
    assert bench.raft.uncommitted_bytes == 0


def test_a_leader_without_a_quorum_grows_its_log_to_a_bound() -> None:
    """etcd's BoundedLogGrowthWithPartition."""
    bench = leader(uncommitted_bytes_max=100)
    refused = 0
    for _ in range(50):
        try:
            bench.raft.propose(bytes(10))
        except Busy:
            refused += 1
        bench.work()
    assert refused == 40
    bench.acknowledge(bench.raft.last_index)
    assert bench.raft.ready_for_writes


def test_only_a_leader_takes_proposals() -> None:
    """The error names whom to ask."""
    bench = Bench()
    with pytest.raises(NotLeader) as caught:
        bench.raft.propose(b"x")
    assert caught.value.leader_id == 0
    bench.become_follower(term=1)
    with pytest.raises(NotLeader) as caught:
        bench.raft.propose(b"x")
    assert caught.value.leader_id == 2


def test_committed_entries_come_in_bounded_portions() -> None:
    """etcd's CommitPaginationAfterRestart: each once and in order, and no more in
    front of the state machine than a bound."""
    bench = Bench(terms=[1] * 10, options=options(apply_bytes_max=9))  # 3 bytes each
    bench.raft.step(
        AppendEntries(
            sender=NodeId(2),
            to=NodeId(1),
            term=bench.raft.term,
            previous=entry_id(1, 10),
            entries=(),
            commit_index=LogIndex(10),
        )
    )
    portions: list[list[int]] = []
    while bench.raft.has_ready() or bench.raft.applying_bytes:
        while bench.raft.has_ready():
            entries = bench.raft.ready().committed_entries
            portions += [[int(entry.index) for entry in entries]]
        assert bench.raft.applying_bytes <= 9
        bench.raft.applied(LogIndex(portions[-1][-1]))
    assert portions == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10]]


def test_damage_found_while_reading_loses_nothing() -> None:
    """A slow peer's entry is damaged on disk: the error passes through, and what else
    is owed comes with the next call."""

    bench = Bench(terms=(1, 1), options=options(log_cache_bytes_max=0))
    bench.become_leader(commit=False)
    whole = bench.disk.entries

    def fail(start: LogIndex, end: LogIndex, bytes_max: int) -> tuple[Entry, ...]:
        raise CorruptionError("damaged")

    bench.disk.entries = fail  # type: ignore[method-assign]
    bench.raft.step(
        AppendEntriesReply(
            sender=NodeId(2),
            to=NodeId(1),
            term=bench.raft.term,
            index=LogIndex(2),
            rejected=True,
            hint=entry_id(0, 0),
        )
    )
    with pytest.raises(CorruptionError):
        bench.work()
    bench.disk.entries = whole  # type: ignore[method-assign]
    assert sent_indexes(bench.work()) == [[1, 2, 3]]


def test_heartbeats_are_answered_with_their_round() -> None:
    """And an answer of a lower term tells ours."""
    bench = Bench(term=3)
    (reply,) = of_kind(bench.heartbeat(read_round=7), HeartbeatReply)
    assert (reply.round, reply.term) == (7, 3)
    (reply,) = of_kind(bench.heartbeat(term=2, read_round=7), HeartbeatReply)
    assert (reply.round, reply.term) == (0, 3)
