"""Elections beyond the paper: pre-vote, stickiness, and evidence."""

from statistics import median

import pytest

from kvstore.errors import CorruptionError
from kvstore.raft.events import (
    BecamePreCandidate,
    CampaignReason,
    LeaderSuspected,
    Refusal,
    StepDownReason,
    SteppedDown,
    VoteRefused,
)
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    RequestVote,
    RequestVoteReply,
)
from kvstore.raft.node import RaftNode, Role
from kvstore.types import NodeId
from tests.raft.cluster import Cluster
from tests.raft.pieces import OPTIONS, of_kind
from tests.raft.workbench import Bench

T = OPTIONS.election_timeout_ticks
E = OPTIONS.evidence_election_ticks_max


def ticks_to_campaign(bench: Bench) -> int:
    ticks = 1
    while not of_kind(bench.tick(), RequestVote):
        ticks += 1
        assert ticks <= 2 * T
    return ticks


def roles(cluster: Cluster) -> list[Role]:
    return [cluster.raft(node_id).role for node_id in cluster.running()]


# ------------------------------------------------------------------- pre-vote


def test_a_pre_vote_persists_nothing() -> None:
    """Dissertation section 9.6: neither who asks nor who answers changes its term."""
    bench = Bench(term=3)
    (reply,) = of_kind(bench.ask_vote(term=4, pre=True), RequestVoteReply)
    assert (reply.granted, reply.pre_vote, reply.term) == (True, True, 4)
    bench.raft.campaign()
    requests = of_kind(bench.work(), RequestVote)
    assert {(r.term, r.pre_vote) for r in requests} == {(4, True)}
    assert bench.raft.term == 3
    assert bench.disk.hard_state.term == 3
    assert bench.disk.hard_state.vote is None


def test_pre_votes_are_given_to_all_who_could_win() -> None:
    """A pre-vote binds nobody, so duelling pre-candidates do not block each other."""
    bench = Bench()
    for sender in (2, 3):
        (reply,) = of_kind(
            bench.ask_vote(term=1, sender=sender, pre=True), RequestVoteReply
        )
        assert reply.granted


def test_a_node_that_was_cut_off_does_not_disturb_its_return() -> None:
    """etcd's TestDisruptiveFollowerPreVote: it could not raise its term meanwhile."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([3])
    for _ in range(5 * T):
        cluster.tick_all()
    term = cluster.raft(1).term
    assert cluster.raft(3).role is Role.PRE_CANDIDATE
    cluster.heal()
    cluster.tick_all(2)
    assert cluster.raft(1).is_leader
    assert cluster.raft(1).term == cluster.raft(3).term == term
    assert cluster.raft(3).leader_id == 1


def test_a_pre_candidate_gives_up_when_a_quorum_refuses() -> None:
    """It need not wait for its timer to be a follower again."""
    bench = Bench()
    bench.raft.campaign()
    for sender in (2, 3):
        bench.answer_vote(sender=sender, granted=False, pre=True)
    assert bench.role() is Role.FOLLOWER
    assert SteppedDown(bench.raft.term, False, StepDownReason.ELECTION_LOST) in (
        bench.events
    )


def test_a_refused_pre_vote_tells_the_higher_term() -> None:
    """Mutant M08 (openraft#1796, etcd#8501): or cohorts deadlock."""
    bench = Bench(term=7)
    (reply,) = of_kind(bench.ask_vote(term=4, pre=True), RequestVoteReply)
    assert (reply.granted, reply.term) == (False, 7)


def test_long_logs_of_low_terms_win_over_high_terms_of_short_logs() -> None:
    """Mutant M08's schedule: 1 and 2 have the longer log, 3 the higher term. Without
    the term in refusals 3 refuses them for their term and they refuse its log."""
    cluster = Cluster(logs=[(1, 1), (1, 1), ()], terms=[1, 1, 9])
    cluster.crash(2)
    for _ in range(6 * T):
        cluster.tick_all()
    assert cluster.raft(1).is_leader
    assert cluster.raft(1).term >= 10
    assert cluster.raft(3).leader_id == 1


def test_duelling_pre_candidates_elect_one() -> None:
    """etcd's TestDuelingPreCandidates: both ask at once, the terms stay in step."""
    cluster = Cluster()
    cluster.campaign(1)
    cluster.campaign(3)
    for _ in range(4 * T):
        cluster.tick_all()
    assert roles(cluster).count(Role.LEADER) == 1


def test_split_votes_are_settled_by_new_draws() -> None:
    """Section 5.2: each candidate restarts a random timeout, so that a split does not
    repeat for ever. Four nodes split evenly at first."""
    cluster = Cluster(4)
    for node_id in (1, 4):
        cluster.campaign(node_id)
    requests = cluster.take(RequestVote)
    pairs = {(1, 2), (4, 3)}
    cluster.deliver([m for m in requests if (m.sender, m.to) in pairs])
    cluster.take()
    for _ in range(6 * T):
        cluster.tick_all()
    assert roles(cluster).count(Role.LEADER) == 1


# ---------------------------------------------------------------------- votes


@pytest.mark.parametrize("role", list(Role))
def test_a_vote_is_given_from_any_state(role: Role) -> None:
    """etcd's TestVoteFromAnyState: a newer term comes first, whatever the node is. A
    leader alone does not listen: it hears itself."""
    bench = Bench()
    match role:
        case Role.PRE_CANDIDATE:
            bench.raft.campaign()
        case Role.CANDIDATE:
            bench.become_candidate()
        case Role.LEADER:
            bench.become_leader()
        case Role.FOLLOWER:
            pass
    term = bench.raft.term + 1
    replies = bench.ask_vote(term=term, last=(term, 9))
    (reply,) = of_kind(replies, RequestVoteReply)
    assert reply.granted is (role is not Role.LEADER)
    if reply.granted:
        assert (bench.raft.term, bench.raft.vote) == (term, 2)


def test_a_repeated_vote_counts_once() -> None:
    """Mutant M04: votes are of voters, not of messages."""
    bench = Bench(voters=range(1, 6))
    bench.raft.campaign()
    for _ in range(3):
        bench.answer_vote(sender=2, pre=True)
    assert bench.role() is Role.PRE_CANDIDATE
    bench.answer_vote(sender=3, pre=True)
    assert bench.role() is Role.CANDIDATE
    for _ in range(3):
        bench.answer_vote(sender=2)
    assert bench.role() is Role.CANDIDATE


def test_a_vote_of_an_earlier_term_does_not_count() -> None:
    """Mutant M05: an answer that was under way while the term changed."""
    bench = Bench()
    bench.become_candidate()
    bench.raft.campaign()
    bench.answer_vote(sender=3, pre=True)
    assert (bench.role(), bench.raft.term) == (Role.CANDIDATE, 2)
    bench.answer_vote(sender=2, term=1)
    assert bench.role() is Role.CANDIDATE
    bench.answer_vote(sender=2, term=2)
    assert bench.role() is Role.LEADER


def test_a_pre_vote_for_an_earlier_term_does_not_count() -> None:
    """The same for pre-votes: the term asked for then is open by now."""
    bench = Bench()
    bench.become_follower(term=4)
    bench.raft.campaign()
    bench.answer_vote(sender=2, pre=True, term=4)
    assert bench.role() is Role.PRE_CANDIDATE
    bench.answer_vote(sender=2, pre=True, term=5)
    assert bench.role() is Role.CANDIDATE


def test_a_pre_vote_does_not_count_as_a_vote() -> None:
    """A late answer to the pre-vote of the same campaign elects nobody."""
    bench = Bench(voters=range(1, 6))
    bench.become_candidate()
    for sender in (2, 3, 4, 5):
        bench.answer_vote(sender=sender, pre=True, term=bench.raft.term)
    assert bench.role() is Role.CANDIDATE


def test_a_follower_of_a_terms_leader_votes_for_nobody_else_in_it() -> None:
    """It need not have voted itself to know that the term is decided."""
    bench = Bench()
    bench.become_follower(term=1)
    assert bench.raft.vote is None
    replies = bench.ask_vote(term=1, last=(9, 9), sender=3)
    assert not of_kind(replies, RequestVoteReply)[0].granted


def test_a_pre_vote_for_a_term_that_is_open_is_refused() -> None:
    """Whoever asks has yet to learn of it; the refusal tells."""
    bench = Bench(term=3)
    (reply,) = of_kind(bench.ask_vote(term=3, pre=True), RequestVoteReply)
    assert (reply.granted, reply.term) == (False, 3)


def test_the_vote_of_a_stranger_does_not_count() -> None:
    """Whoever is no voter by the candidate's log elects nobody."""
    bench = Bench()
    bench.raft.campaign()
    bench.work()
    bench.answer_vote(sender=7, pre=True)
    bench.answer_vote(sender=8, pre=True)
    assert bench.role() is Role.PRE_CANDIDATE
    bench.answer_vote(sender=2, pre=True)
    bench.answer_vote(sender=7)
    bench.answer_vote(sender=8)
    assert bench.role() is Role.CANDIDATE


def test_a_leader_that_this_log_does_not_name_is_followed() -> None:
    """It was added by entries that are not here yet: only it can bring them."""
    bench = Bench()
    (reply,) = of_kind(bench.heartbeat(term=9, sender=7), HeartbeatReply)
    assert (reply.to, bench.raft.leader_id, bench.raft.term) == (7, 7, 9)


def test_a_lower_term_leader_is_told_and_elections_go_on() -> None:
    """etcd's TestNodeWithSmallerTermCanCompleteElection."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([3])
    cluster.depose(1)
    cluster.elect(2)
    cluster.depose(2)
    cluster.elect(1)
    assert cluster.raft(3).term < cluster.raft(1).term
    cluster.crash(1)
    cluster.heal()
    for _ in range(5 * T):
        cluster.tick_all()
    assert Role.LEADER in roles(cluster)


# ----------------------------------------------------------------- stickiness


@pytest.mark.parametrize("pre_vote", [False, True])
def test_nobody_votes_within_t_of_hearing_a_leader(pre_vote: bool) -> None:
    """Dissertation sections 4.2.3 and 9.6: a disruptive server is not listened to."""
    bench = Bench()
    bench.become_follower(term=1)
    bench.tick(T - 1)
    (reply,) = of_kind(
        bench.ask_vote(term=5, last=(1, 9), sender=3, pre=pre_vote), RequestVoteReply
    )
    assert (reply.granted, reply.term, bench.raft.term) == (False, 1, 1)
    (refused,) = [event for event in bench.events if isinstance(event, VoteRefused)]
    assert refused.reason is Refusal.LEADER_ALIVE


def test_after_t_of_silence_a_vote_is_free_again() -> None:
    """The leader may be gone."""
    for seed in range(20):
        bench = Bench(seed=seed)
        bench.become_follower(term=1)
        bench.tick(T)
        replies = bench.ask_vote(term=2, last=(1, 9), sender=3, pre=True)
        assert of_kind(replies, RequestVoteReply)[0].granted


def test_a_leader_does_not_yield_to_a_campaign() -> None:
    """CheckQuorum deposes it if it should not lead; until then it hears itself."""
    bench = Bench()
    bench.become_leader()
    bench.ask_vote(term=9, last=(9, 9))
    assert bench.raft.is_leader


@pytest.mark.parametrize("kind", [Heartbeat, AppendEntries])
def test_a_candidate_stuck_in_a_higher_term_is_freed(kind: type[Message]) -> None:
    """etcd's TestFreeStuckCandidateWithCheckQuorum: nobody listens to it while they
    hear the leader, and it cannot follow that leader; its term deposes the leader."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.cut([3])
    for _ in range(3 * T):
        cluster.tick_all()
    raft = cluster.raft(3)
    raft.step(
        RequestVoteReply(
            sender=NodeId(2),
            to=NodeId(3),
            term=type(raft.term)(raft.term + 1),
            granted=True,
            pre_vote=True,
        )
    )
    cluster.tick(3)
    assert raft.term == cluster.raft(1).term + 1
    cluster.heal()
    cluster.wire.clear()
    if kind is Heartbeat:
        cluster.tick(1)
    else:
        cluster.propose(1)
    cluster.deliver(cluster.take(kind, to=3))
    replies = cluster.take(sender=3, to=1)
    (reply,) = [
        m for m in replies if isinstance(m, HeartbeatReply | AppendEntriesReply)
    ]
    assert reply.term == raft.term
    cluster.deliver(replies)
    assert not cluster.raft(1).is_leader
    for _ in range(4 * T):
        cluster.tick_all()
    assert Role.LEADER in roles(cluster)
    assert len({cluster.raft(i).term for i in cluster.ids}) == 1


# ------------------------------------------------------------------- evidence


def test_a_closed_connection_to_the_leader_hurries_the_campaign() -> None:
    """It is evidence of a death, and pre-vote makes acting on it harmless."""
    for seed in range(10):
        bench = Bench(seed=seed)
        bench.become_follower(term=1)
        bench.raft.peer_disconnected(NodeId(2))
        assert 1 <= ticks_to_campaign(bench) <= E
        assert LeaderSuspected(bench.raft.term, NodeId(2)) in bench.events
        started = [e for e in bench.events if isinstance(e, BecamePreCandidate)]
        assert started[0].reason is CampaignReason.LEADER_DISCONNECTED


def test_a_closed_connection_to_another_peer_changes_nothing() -> None:
    """Only the leader's silence matters to a follower."""
    bench = Bench()
    bench.become_follower(term=1)
    bench.raft.peer_disconnected(NodeId(3))
    assert ticks_to_campaign(bench) >= T


def test_a_suspected_leader_is_not_protected_by_stickiness() -> None:
    """Two followers that saw the leader go elect at once; one that did not refuses."""
    bench = Bench()
    bench.become_follower(term=1)
    bench.raft.peer_disconnected(NodeId(2))
    replies = bench.ask_vote(term=2, last=(1, 9), sender=3, pre=True)
    assert of_kind(replies, RequestVoteReply)[0].granted


def test_a_suspected_leader_that_is_heard_is_trusted_again() -> None:
    """Its connection was merely renewed: stickiness and timer are as before."""
    bench = Bench()
    bench.become_follower(term=1)
    bench.raft.peer_disconnected(NodeId(2))
    bench.heartbeat()
    replies = bench.ask_vote(term=2, last=(1, 9), sender=3, pre=True)
    assert not of_kind(replies, RequestVoteReply)[0].granted
    assert ticks_to_campaign(bench) >= T


def test_a_hurried_campaign_that_fails_is_tried_again_ever_later() -> None:
    """The other follower sees the close a little later; draws from a doubling bound
    drift apart, and end in normal timeouts."""
    bench = Bench()
    bench.become_follower(term=1)
    bench.raft.peer_disconnected(NodeId(2))
    bound = E
    while bound < T:
        assert ticks_to_campaign(bench) <= bound
        bench.answer_vote(sender=3, granted=False, pre=True)
        bound *= 2
    for _ in range(5):
        assert T <= ticks_to_campaign(bench) < 2 * T


def test_a_crashed_leader_is_replaced_within_a_few_ticks() -> None:
    """Both followers see its connections close. Their draws may collide until they are
    back at normal timeouts, but seldom."""
    ticks_of_seeds = []
    for seed in range(20):
        cluster = Cluster(seed=seed)
        cluster.elect(1)
        cluster.crash(1, notice=True)
        ticks = 0
        while Role.LEADER not in roles(cluster):
            cluster.tick_all()
            ticks += 1
            assert ticks < 2 * T
        ticks_of_seeds.append(ticks)
    assert median(ticks_of_seeds) <= 2 * E, ticks_of_seeds


def test_a_live_leader_survives_one_followers_broken_connection() -> None:
    """The other follower still hears it and refuses the pre-vote."""
    cluster = Cluster()
    cluster.elect(1)
    term = cluster.raft(1).term
    cluster.tick_all()
    cluster.disconnect(2, 1)
    cluster.cut([2], [1])
    cluster.tick_all(T)
    cluster.heal()
    cluster.tick_all(2)
    assert cluster.raft(1).is_leader
    assert {cluster.raft(i).term for i in cluster.ids} == {term}


# ----------------------------------------------------------- starts and ends


def test_a_single_voter_leads_at_its_first_tick() -> None:
    """There is nobody whose silence it could wait for."""
    bench = Bench(voters=[1], terms=[1, 2])
    bench.tick()
    assert bench.raft.is_leader
    assert bench.raft.commit_index == 3
    assert [int(entry.index) for entry in bench.applied] == [1, 2, 3]


def test_a_single_voter_waits_for_its_own_vote_to_be_durable() -> None:
    """However many ticks its disk takes, it opens one term."""
    bench = Bench(voters=[1])
    bench.slow_disk = True
    bench.tick(T - 1)
    assert (bench.role(), bench.raft.term) == (Role.CANDIDATE, 1)
    bench.fsync()
    assert bench.raft.is_leader


def test_a_restarted_node_remembers_term_and_vote_only() -> None:
    """Figure 2's persistent state; it follows nobody and refuses nothing extra."""
    bench = Bench(term=5, vote=3)
    assert (bench.raft.term, bench.raft.vote, bench.raft.leader_id) == (5, 3, None)
    replies = bench.ask_vote(term=6, sender=2)
    assert of_kind(replies, RequestVoteReply)[0].granted


def test_a_state_ahead_of_its_log_is_refused() -> None:
    """Only durable entries are applied, so the log has lost some."""
    with pytest.raises(CorruptionError):
        Bench(terms=[1, 1], applied=3)


def test_a_node_whose_disk_lost_what_it_acknowledged_stops() -> None:
    """The leader knows better what this log must hold; to vote on would be unsafe."""
    bench = Bench(terms=[1])
    with pytest.raises(CorruptionError):
        bench.heartbeat(term=1, commit=5)


def test_the_same_inputs_give_the_same_outputs() -> None:
    """Chance comes from the generator that is passed in, and from nowhere else."""

    def run() -> list[str]:
        cluster = Cluster(5, seed=3)
        trace: list[str] = []
        for _ in range(3 * T):
            cluster.tick_all()
            trace += [repr(cluster.raft(i).role) for i in cluster.ids]
        cluster.propose(cluster.leader().node_id)
        cluster.stabilize()
        return trace + [repr(server.events) for server in cluster.servers.values()]

    assert run() == run()


def test_facts_are_those_of_the_node() -> None:
    """What status pages show."""
    bench = Bench()
    raft: RaftNode = bench.raft
    assert (raft.node_id, raft.configuration.voters, dict(raft.progress)) == (
        1,
        (1, 2, 3),
        {},
    )
    bench.become_leader()
    assert list(raft.progress) == [2, 3]
    assert raft.progress[NodeId(2)].match_index == 1
    assert raft.ready_for_writes
    assert raft.ready_for_reads
    assert "REPLICATE" in repr(raft.progress[NodeId(2)])
