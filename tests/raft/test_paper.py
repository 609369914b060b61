"""The paper's claims, one test each, in the order and spirit of etcd's
``raft_paper_test.go``. Sections are those of the extended Raft paper.
"""

from collections import Counter
from collections.abc import Sequence

import pytest

from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    EntryKind,
    Heartbeat,
    Message,
    RequestVote,
    RequestVoteReply,
)
from kvstore.raft.node import Role
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, entry_id, log_terms, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks


def in_role(role: Role) -> Bench:
    bench = Bench()
    match role:
        case Role.FOLLOWER:
            bench.become_follower(term=1)
        case Role.PRE_CANDIDATE:
            bench.raft.campaign()
            bench.work()
        case Role.CANDIDATE:
            bench.become_candidate()
        case Role.LEADER:
            bench.become_leader()
    assert bench.role() is role
    return bench


@pytest.mark.parametrize("role", list(Role))
def test_a_node_enters_a_higher_term_that_it_hears_of(role: Role) -> None:
    """Section 5.1: if a server's term is smaller, it updates it to the larger one; a
    candidate or leader whose term is out of date becomes a follower at once."""
    bench = in_role(role)
    bench.append(term=7)
    assert bench.role() is Role.FOLLOWER
    assert bench.raft.term == 7
    assert bench.disk.hard_state.term == 7
    assert bench.raft.leader_id == 2


def test_a_request_of_a_stale_term_changes_nothing() -> None:
    """Section 5.1: a server rejects a request with a stale term number."""
    bench = Bench(term=3)
    replies = bench.append([2], term=2)
    assert bench.raft.last_index == 0
    assert bench.raft.leader_id is None
    (reply,) = of_kind(replies, AppendEntriesReply)
    assert reply.rejected
    assert reply.term == 3
    # Every refusal has a hint: the wire has no way to say that there is none.
    assert reply.hint == entry_id(0, 0)


def test_a_node_starts_as_a_follower() -> None:
    """Section 5.2: when servers start up, they begin as followers."""
    assert Bench(term=4, vote=1).raft.role is Role.FOLLOWER


def test_a_leader_sends_a_heartbeat_each_interval() -> None:
    """Section 5.2: leaders send periodic heartbeats to all followers."""
    bench = Bench()
    bench.become_leader()
    for _ in range(3):
        beats = of_kind(bench.tick(), Heartbeat)
        assert [beat.to for beat in beats] == [2, 3]
        assert {beat.term for beat in beats} == {bench.raft.term}


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_silence_starts_an_election_in_a_new_term(role: Role) -> None:
    """Section 5.2: a follower or candidate that hears nothing for an election timeout
    increments its term, votes for itself and asks all others for their vote. (Section
    9.6 of the dissertation puts the pre-vote before it.)"""
    bench = in_role(role)
    before = bench.raft.term
    asked: list[Message] = []
    while not asked:
        asked = bench.tick()
    assert bench.role() is Role.PRE_CANDIDATE
    assert bench.raft.term == before
    assert all(request.pre_vote for request in of_kind(asked, RequestVote))
    requests = of_kind(bench.answer_vote(sender=2, pre=True), RequestVote)
    assert bench.role() is Role.CANDIDATE
    assert bench.raft.term == before + 1
    assert bench.raft.vote == 1
    assert [(r.to, r.term, r.pre_vote) for r in requests] == [
        (2, before + 1, False),
        (3, before + 1, False),
    ]


@pytest.mark.parametrize(
    ("size", "votes", "role"),
    [
        (1, {}, Role.LEADER),
        (3, {2: True, 3: True}, Role.LEADER),
        (3, {2: True}, Role.LEADER),
        (5, {2: True, 3: True, 4: True, 5: True}, Role.LEADER),
        (5, {2: True, 3: True, 4: True}, Role.LEADER),
        (5, {2: True, 3: True}, Role.LEADER),
        (3, {2: False, 3: False}, Role.FOLLOWER),
        (5, {2: False, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        (5, {2: True, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        (3, {}, Role.CANDIDATE),
        (5, {2: True}, Role.CANDIDATE),
        (5, {2: False, 3: False}, Role.CANDIDATE),
        (5, {}, Role.CANDIDATE),
    ],
)
def test_a_majority_of_votes_elects_in_one_round(
    size: int, votes: dict[int, bool], role: Role
) -> None:
    """Section 5.2: a candidate wins if it receives votes from a majority of the full
    cluster in the same term."""
    bench = Bench(voters=range(1, size + 1))
    bench.raft.campaign()
    bench.work()
    for peer in bench.peers[: size // 2]:
        bench.answer_vote(sender=peer, pre=True)
    for voter, granted in votes.items():
        bench.answer_vote(sender=voter, granted=granted)
    assert bench.role() is role


@pytest.mark.parametrize(
    ("vote", "candidate", "granted"),
    [
        (None, 2, True),
        (None, 3, True),
        (2, 2, True),
        (3, 3, True),
        (2, 3, False),
        (3, 2, False),
    ],
)
def test_a_follower_grants_one_vote_per_term(
    vote: int | None, candidate: int, granted: bool
) -> None:
    """Section 5.2: each server votes for at most one candidate in a term, on a
    first-come-first-served basis; asked again by that one it says the same."""
    bench = Bench(term=1, vote=vote)
    (reply,) = of_kind(bench.ask_vote(term=1, sender=candidate), RequestVoteReply)
    assert reply.granted is granted


@pytest.mark.parametrize("role", [Role.PRE_CANDIDATE, Role.CANDIDATE])
@pytest.mark.parametrize("ahead", [0, 1])
def test_a_candidate_yields_to_a_leader_of_its_term(role: Role, ahead: int) -> None:
    """Section 5.2: a candidate that hears a leader of at least its own term recognises
    it and returns to follower state."""
    bench = in_role(role)
    term = bench.raft.term + ahead
    bench.append(term=term)
    assert bench.role() is Role.FOLLOWER
    assert bench.raft.term == term
    assert bench.raft.leader_id == 2


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_election_timeouts_are_random_in_t_to_2t(role: Role) -> None:
    """Section 5.2: timeouts are chosen randomly from a fixed interval. Dissertation
    section 9.3: uniformly from [T, 2T). Drawn anew for every campaign."""
    seen: Counter[int] = Counter()
    bench = in_role(role)
    for _ in range(60 * T):
        bench.become_follower(bench.raft.term + 1)
        if role is Role.CANDIDATE:
            bench.become_candidate()
        ticks = 1
        while not of_kind(bench.tick(), RequestVote):
            ticks += 1
        seen[ticks] += 1
    assert set(seen) == set(range(T, 2 * T))
    assert min(seen.values()) > 60 / 3


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_two_nodes_seldom_time_out_together(role: Role) -> None:
    """Section 5.2: in most cases only a single server will time out."""
    conflicts, rounds = 0, 300
    for seed in range(rounds):
        draws = []
        for node in range(5):
            bench = Bench(seed=seed * 5 + node)
            if role is Role.CANDIDATE:
                bench.become_candidate()
            ticks = 1
            while not of_kind(bench.tick(), RequestVote):
                ticks += 1
            draws.append(ticks)
        conflicts += draws.count(min(draws)) > 1
    assert conflicts / rounds < 0.5


def test_a_leader_sends_new_entries_behind_what_precedes_them() -> None:
    """Section 5.3: the leader appends the command as a new entry and issues
    AppendEntries in parallel to each of the others, with index and term of the entry
    before and the commit index."""
    bench = Bench()
    bench.become_leader()
    bench.work()
    last = bench.raft.last_index
    bench.raft.propose(b"some data")
    appends = of_kind(bench.work(), AppendEntries)
    assert [append.to for append in appends] == [2, 3]
    for append in appends:
        assert append.previous == entry_id(1, last)
        assert append.commit_index == last
        ((entry),) = append.entries
        assert (entry.term, entry.index, entry.data) == (1, last + 1, b"some data")
        assert entry.kind is EntryKind.COMMANDS


def test_a_replicated_entry_is_committed_and_applied() -> None:
    """Section 5.3: when the entry has been safely replicated the leader applies it,
    and lets followers learn the highest index it knows to be committed."""
    cluster = Cluster()
    cluster.elect(1)
    entry = cluster.propose(1, b"some data")
    cluster.stabilize()
    cluster.tick_all()
    for node_id in cluster.ids:
        assert cluster.raft(node_id).commit_index == entry.index
        assert cluster.servers[node_id].state[-1].data == b"some data"


@pytest.mark.parametrize(
    ("size", "acknowledging", "committed"),
    [
        (1, (), True),
        (3, (), False),
        (3, (2,), True),
        (3, (2, 3), True),
        (5, (), False),
        (5, (2,), False),
        (5, (2, 3), True),
        (5, (2, 3, 4), True),
        (5, (2, 3, 4, 5), True),
    ],
)
def test_an_entry_is_committed_once_a_majority_holds_it(
    size: int, acknowledging: tuple[int, ...], committed: bool
) -> None:
    """Section 5.3: a log entry is committed once the leader that created it has
    replicated it on a majority of the servers."""
    bench = Bench(voters=range(1, size + 1))
    bench.become_leader()
    entry = bench.raft.propose(b"some data")
    bench.work()
    for peer in acknowledging:
        bench.acknowledge(entry.index, sender=peer)
    assert (bench.raft.commit_index == entry.index) is committed


@pytest.mark.parametrize("terms", [(), (2,), (1, 2), (1,)])
def test_a_commit_covers_all_preceding_entries(terms: tuple[int, ...]) -> None:
    """Section 5.3: committing an entry commits all that precede it in the leader's
    log, those of previous leaders included."""
    bench = Bench(terms=terms, term=2)
    bench.become_leader(commit=False)
    entry = bench.raft.propose(b"some data")
    bench.work()
    bench.acknowledge(entry.index)
    assert [int(applied.term) for applied in bench.applied] == [*terms, 3, 3]


@pytest.mark.parametrize("commit", [1, 2, 3, 4])
def test_a_follower_applies_what_the_leader_committed(commit: int) -> None:
    """Section 5.3: once a follower learns that an entry is committed, it applies it to
    its state machine, in log order."""
    bench = Bench()
    bench.append([1, 1, 1, 1], term=1, commit=commit)
    assert [int(entry.index) for entry in bench.applied] == list(range(1, commit + 1))


@pytest.mark.parametrize(
    ("previous", "accepted", "hint"),
    [
        ((0, 0), True, None),
        ((1, 1), True, None),
        ((2, 2), True, None),
        # The term at 1 is 1: at most what precedes may agree.
        ((2, 1), False, (1, 1)),
        ((2, 3), False, (2, 2)),
        ((3, 3), False, (2, 2)),
    ],
)
def test_a_follower_refuses_entries_behind_what_it_lacks(
    previous: tuple[int, int], accepted: bool, hint: tuple[int, int] | None
) -> None:
    """Section 5.3: if the follower does not find an entry in its log with the same
    index and term, it refuses the new entries. It adds where they may still agree."""
    bench = Bench(terms=(1, 2))
    (reply,) = of_kind(bench.append(previous=previous, term=2), AppendEntriesReply)
    assert reply.rejected is not accepted
    assert reply.index == previous[1]
    if hint is not None:
        # (2, 1) finds (1, 1) itself: a hint where terms differ may equal the question.
        assert reply.hint == entry_id(*hint)


@pytest.mark.parametrize(
    ("previous", "sent", "expected"),
    [
        ((2, 2), [3], [1, 2, 3]),
        ((1, 1), [3, 4], [1, 3, 4]),
        ((0, 0), [1], [1, 2]),
        ((0, 0), [3], [3]),
    ],
)
def test_a_follower_takes_the_leaders_entries_over_its_own(
    previous: tuple[int, int], sent: list[int], expected: list[int]
) -> None:
    """Section 5.3: an entry that conflicts with a new one (same index, other term) is
    deleted with all that follow it; what is new is appended."""
    bench = Bench(terms=(1, 2))
    bench.append(sent, previous=previous, term=4)
    assert log_terms(bench.raft) == expected
    assert bench.disk.terms() == expected


FIGURE_7_LEADER = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
FIGURE_7 = {
    "a": (1, 1, 1, 4, 4, 5, 5, 6, 6),
    "b": (1, 1, 1, 4),
    "c": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
    "d": (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    "e": (1, 1, 1, 4, 4, 4, 4),
    "f": (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
}


@pytest.mark.parametrize("case", FIGURE_7)
def test_a_leader_brings_any_followers_log_into_line(case: str) -> None:
    """Section 5.3, Figure 7: the leader finds the latest entry where the logs agree,
    and replaces everything after it in the follower's."""
    follower = FIGURE_7[case]
    # The third node's vote elects the leader that the divergent one may refuse.
    cluster = Cluster(logs=[FIGURE_7_LEADER, follower, ()], terms=[8, 8, 8])
    cluster.elect(1)
    cluster.tick_all()
    assert cluster.logs() == [[*FIGURE_7_LEADER, 9]] * 3
    assert cluster.commits() == [11, 11, 11]


@pytest.mark.parametrize("terms", [(1,), (1, 2)])
def test_a_vote_request_tells_the_candidates_log(terms: tuple[int, ...]) -> None:
    """Section 5.4.1: the request includes information about the candidate's log."""
    bench = Bench(terms=terms)
    requests = of_kind(bench.become_candidate(), RequestVote)
    assert [request.to for request in requests] == [2, 3]
    for request in requests:
        assert request.last_log == entry_id(terms[-1], len(terms))


VOTER_CASES: list[tuple[Sequence[int], tuple[int, int], bool]] = [
    # Same term, then longer logs win.
    ([1], (1, 1), True),
    ([1], (1, 2), True),
    ([1, 1], (1, 1), False),
    # The candidate's last term is higher: it wins at any length.
    ([1], (2, 1), True),
    ([1], (2, 2), True),
    ([1, 1], (2, 1), True),
    # The voter's is higher: it refuses at any length.
    ([2], (1, 1), False),
    ([2], (1, 2), False),
    ([2, 2], (1, 1), False),
]


@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize(("terms", "candidate", "granted"), VOTER_CASES)
def test_a_voter_refuses_a_candidate_whose_log_is_behind(
    terms: Sequence[int], candidate: tuple[int, int], granted: bool, pre_vote: bool
) -> None:
    """Section 5.4.1: the log with the later last term is more up to date; with equal
    terms, the longer one."""
    bench = Bench(terms=terms)
    replies = bench.ask_vote(term=3, last=candidate, pre=pre_vote)
    (reply,) = of_kind(replies, RequestVoteReply)
    assert reply.granted is granted


@pytest.mark.parametrize(("index", "committed"), [(1, 0), (2, 0), (3, 3)])
def test_a_leader_commits_by_counting_only_entries_of_its_term(
    index: int, committed: int
) -> None:
    """Section 5.4.2: only log entries from the leader's current term are committed by
    counting replicas; earlier ones follow indirectly."""
    bench = Bench(terms=(1, 2), term=2)
    bench.become_leader(commit=False)
    bench.acknowledge(index)
    assert bench.raft.commit_index == committed


def test_a_probe_of_the_paper_carries_the_next_entries() -> None:
    """Section 5.3: nextIndex starts just after the last entry in the leader's log."""
    bench = Bench(terms=(1, 1))
    appends = of_kind(bench.become_leader(commit=False), AppendEntries)
    assert [append.previous for append in appends] == [entry_id(1, 2)] * 2
    for append in appends:
        assert [int(entry.index) for entry in append.entries] == [3]
