"""Bugs of elections: votes, terms, patience, handing over."""

from kvstore.simulation.mutants.mutant import Edit, Mutant, mutant

MUTANTS = (
    mutant(
        "M01",
        "a vote leaves before its fsync (PySyncObj#84, robustmq#2039)",
        "raft.election",
        old="    core.persistence.send_when_durable(reply, LogIndex(0))",
        new="    core.messages.append(reply)",
        kill="m01_vote_waits_for_the_disk.raft",
    ),
    mutant(
        "M03",
        "stepping down within a term clears the vote (CCF#5891)",
        "raft.core",
        old="""\
        self.votes = {}
        self.set_leader(leader_id)""",
        new="""\
        self.vote = None
        self.set_leader(leader_id)""",
        kill="m03_vote_kept_within_a_term.raft",
    ),
    mutant(
        "M04",
        "votes are counted, not voters: one that comes twice is two (xraft#27)",
        "raft.election",
        old="        core.votes.setdefault(reply.sender, reply.granted)\n",
        new="""\
        unheard = [it for it in core.configuration.all_voters if it not in core.votes]
        voter = reply.sender if reply.sender in unheard else unheard[0]
        core.votes.setdefault(voter, reply.granted)
""",
        kill="m04_votes_are_of_voters.raft",
    ),
    mutant(
        "M05",
        "answers to an earlier campaign are counted (little-raft#44)",
        "raft.election",
        old="if asked and reply.term == term:",
        new="if asked:",
        kill="m05_answer_to_an_earlier_campaign.raft",
    ),
    mutant(
        "M05-voter",
        "a vote is given in a term that is over",
        "raft.election",
        old="    if request.term < core.term:\n",
        new="    if False:\n",
        kill="m05_no_vote_in_a_term_that_is_over.raft",
    ),
    mutant(
        "M06",
        "logs are compared by index alone (openraft a48a3282, hashicorp#95)",
        "raft.election",
        old="request.last_log < core.log.last_id:",
        new="request.last_log.index < core.log.last_id.index:",
        kill="m06_terms_come_before_length.raft",
    ),
    mutant(
        "M07",
        "half of an even number is a quorum (hashicorp 163a55f)",
        "raft.quorum",
        old="return voters // 2 + 1",
        new="return (voters + 1) // 2",
        kill="m07_half_is_no_majority.raft",
    ),
    mutant(
        "M08",
        "a refused pre-vote hides the higher term (openraft#1796, etcd#8501)",
        "raft.election",
        old="""\
    term = core.term
    if refusal is not None:""",
        new="""\
    term = min(core.term, Term(request.term - 1))
    if refusal is not None:""",
        kill="m08_refusals_tell_their_term.raft",
    ),
    mutant(
        "M09",
        "no stickiness (etcd's TestDisruptiveFollower)",
        "raft.election",
        old="""\
    if core.role is Role.LEADER:
        return True
    timer""",
        new="""\
    return False
    timer""",
        kill="m09_who_hears_a_leader_listens_to_no_candidate.raft",
    ),
    mutant(
        "M10",
        "no CheckQuorum (etcd#11038)",
        "raft.replication",
        old="return has_quorum(core.configuration.halves, active)",
        new="return bool(active)",
        kill="m10_leader_without_a_quorum_steps_down.raft",
    ),
    mutant(
        "M10-removed",
        "a leader that was removed leads on (etcd#11038)",
        "raft.changes",
        old="    elif not configuration.is_voter(core.node_id):",
        new="    elif False:",
        kill="m10_removed_leader_leads_no_more.raft",
    ),
    mutant(
        "M43-campaigns",
        "a learner campaigns (dragonboat#94)",
        "raft.election",
        old="    return core.configuration.is_voter(core.node_id) or (",
        new="    return True or (",
        kill="m43_learner_never_campaigns.raft",
    ),
    mutant(
        "M43-refuses",
        "a learner refuses to vote (etcd#10998)",
        "raft.election",
        old="""\
    if request.term < core.term:
        return Refusal.TERM_STALE
""",
        new="""\
    if request.term < core.term or not core.configuration.is_voter(
        core.node_id
    ):
        return Refusal.TERM_STALE
""",
        kill="m43_learner_votes.raft",
    ),
    mutant(
        "M65-lags",
        "a transferee that lags campaigns (openraft#1805)",
        "raft.election",
        old="        or core.log.last_index < message.last_index\n",
        new="""\
""",
        kill="m65_lagging_transferee_does_not_campaign.raft",
    ),
    mutant(
        "M65-demoted",
        "a transferee that is no voter by its log campaigns (cockroach#68539)",
        "raft.election",
        old="""\
        or not _may_campaign(core)
    ):
""",
        new="    ):\n",
        kill="m65_demoted_transferee_does_not_campaign.raft",
    ),
    mutant(
        "hurry",
        "a closed connection shortens a voter's patience inside a lease",
        "raft.election",
        old="""\
    if core.configuration.leases:
        return
""",
        new="""\
""",
        kill="lease_survives_closed_connections.raft",
    ),
    mutant(
        "forgot",
        "a restarted voter forgets that it promised a lease",
        "raft.election",
        old="""\
        core.configuration.leases
        and core.tick_count""",
        new="""\
        False
        and core.tick_count""",
        kill="lease_survives_restarts.raft",
    ),
    mutant(
        "asked",
        "a follower that is told to campaign forgets that it promised a lease",
        "raft.election",
        old="        reason is CampaignReason.REQUESTED\n        and core",
        new="        False\n        and core",
        kill="lease_survives_commands_to_campaign.raft",
    ),
    mutant(
        "boast",
        "a request for votes leaves before the log that it tells of is durable",
        "raft.election",
        old="            core.persistence.send_when_durable(request, last.index)",
        new="            core.messages.append(request)",
        kill="candidate_has_written_what_it_boasts_of.raft",
    ),
    Mutant(
        id="deaf",
        what="a leader of an earlier term is not told so",
        edits=(
            Edit(
                module="kvstore.raft.node",
                old="replication.handle_stale_append(core, message.sender)",
                new="pass",
            ),
            Edit(
                module="kvstore.raft.node",
                old="replication.handle_stale_heartbeat(core, message)",
                new="pass",
            ),
        ),
        kill="higher_term_is_told_to_an_old_leader.raft",
    ),
)
