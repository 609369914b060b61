"""Every behaviour that etcd's Raft tests is tested here, and by which test.

Names are etcd's, without ``Test``. Where its design differs, the docstring of ours says
so. Not here: what etcd tests of its own storage, logging and tracing.
"""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

PAPER: Mapping[str, str] = {
    "FollowerUpdateTermFromMessage": (
        "paper::a_node_enters_a_higher_term_that_it_hears_of"
    ),
    "CandidateUpdateTermFromMessage": (
        "paper::a_node_enters_a_higher_term_that_it_hears_of"
    ),
    "LeaderUpdateTermFromMessage": (
        "paper::a_node_enters_a_higher_term_that_it_hears_of"
    ),
    "RejectStaleTermMessage": "paper::a_request_of_a_stale_term_changes_nothing",
    "StartAsFollower": "paper::a_node_starts_as_a_follower",
    "LeaderBcastBeat": "paper::a_leader_sends_a_heartbeat_each_interval",
    "FollowerStartElection": "paper::silence_starts_an_election_in_a_new_term",
    "CandidateStartNewElection": "paper::silence_starts_an_election_in_a_new_term",
    "LeaderElectionInOneRoundRPC": "paper::a_majority_of_votes_elects_in_one_round",
    "FollowerVote": "paper::a_follower_grants_one_vote_per_term",
    "CandidateFallback": "paper::a_candidate_yields_to_a_leader_of_its_term",
    "FollowerElectionTimeoutRandomized": (
        "paper::election_timeouts_are_random_in_t_to_2t"
    ),
    "CandidateElectionTimeoutRandomized": (
        "paper::election_timeouts_are_random_in_t_to_2t"
    ),
    "FollowersElectionTimeoutNonconflict": "paper::two_nodes_seldom_time_out_together",
    "CandidatesElectionTimeoutNonconflict": "paper::two_nodes_seldom_time_out_together",
    "LeaderStartReplication": (
        "paper::a_leader_sends_new_entries_behind_what_precedes_them"
    ),
    "LeaderCommitEntry": "paper::a_replicated_entry_is_committed_and_applied",
    "LeaderAcknowledgeCommit": "paper::an_entry_is_committed_once_a_majority_holds_it",
    "LeaderCommitPrecedingEntries": "paper::a_commit_covers_all_preceding_entries",
    "FollowerCommitEntry": "paper::a_follower_applies_what_the_leader_committed",
    "FollowerCheckMsgApp": "paper::a_follower_refuses_entries_behind_what_it_lacks",
    "FollowerAppendEntries": "paper::a_follower_takes_the_leaders_entries_over_its_own",
    "LeaderSyncFollowerLog": "paper::a_leader_brings_any_followers_log_into_line",
    "VoteRequest": "paper::a_vote_request_tells_the_candidates_log",
    "Voter": "paper::a_voter_refuses_a_candidate_whose_log_is_behind",
    "LeaderOnlyCommitsLogFromCurrentTerm": (
        "paper::a_leader_commits_by_counting_only_entries_of_its_term"
    ),
}
"""``raft_paper_test.go``, all of it. Values: ``file::test``, without the ``test_`` of
either."""

CORE: Mapping[str, str] = {
    "LeaderElectionOverwriteNewerLogs": (
        "schedules::what_newer_leaders_wrote_wins_over_older_longer_logs"
    ),
    "VoteFromAnyState": "election::a_vote_is_given_from_any_state",
    "CannotCommitWithoutNewTermEntry": (
        "schedules::an_entry_of_an_earlier_term_is_not_committed_by_counting"
    ),
    "DuelingPreCandidates": "election::duelling_pre_candidates_elect_one",
    "OldMessages": "replication::messages_of_earlier_terms_change_nothing",
    "HandleMsgApp": "paper::a_follower_takes_the_leaders_entries_over_its_own",
    "HandleHeartbeat": "replication::a_heartbeat_never_commits_beyond_the_match",
    "LogReplicationWithReorderedMessage": (
        "replication::reordered_appends_end_in_the_same_log"
    ),
    "FastLogRejection": "replication::both_sides_skip_whole_terms_of_a_conflict",
    "UncommittedEntryLimit": "replication::a_leader_takes_proposals_up_to_a_bound",
    "LeaderMsgAppSelfAckAfterTermChange": (
        "persistence::a_deposed_leaders_write_counts_for_nothing"
    ),
    "LeaderStepdownWhenQuorumActive": (
        "check_quorum::a_leader_that_hears_a_quorum_stays"
    ),
    "LeaderStepdownWhenQuorumLost": (
        "check_quorum::a_leader_without_a_quorum_steps_down_within_t"
    ),
    "FreeStuckCandidateWithCheckQuorum": (
        "election::a_candidate_stuck_in_a_higher_term_is_freed"
    ),
    "DisruptiveFollower": "changes::a_removed_voter_that_knows_nothing_disturbs_nobody",
    "DisruptiveFollowerPreVote": (
        "election::a_node_that_was_cut_off_does_not_disturb_its_return"
    ),
    "NodeWithSmallerTermCanCompleteElection": (
        "election::a_lower_term_leader_is_told_and_elections_go_on"
    ),
    "PreVoteMigrationCanCompleteElection": (
        "election::long_logs_of_low_terms_win_over_high_terms_of_short_logs"
    ),
    "PreVoteMigrationWithFreeStuckPreCandidate": (
        "election::a_candidate_stuck_in_a_higher_term_is_freed"
    ),
    "ReadOnlyOptionSafe": "reads::a_follower_asks_its_leader",
    "ReadOnlyOptionLease": "leases::a_leader_with_a_lease_answers_at_once",
    "ReadOnlyOptionLeaseWithoutCheckQuorum": (
        "leases::without_leases_a_leader_never_has_one"
    ),
    "ReadOnlyForNewLeader": "reads::a_new_leader_reads_after_its_first_commit",
    "ReadOnlyDuplicateRequest": "reads::answers_count_by_round_and_not_by_request",
    "LearnerElectionTimeout": "learners::a_learner_never_campaigns",
    "LearnerPromotion": "learners::a_learner_is_promoted_once_it_has_caught_up",
    "LearnerCanVote": "learners::a_learner_that_is_asked_votes",
    "LearnerLogReplication": (
        "learners::a_learner_receives_everything_and_counts_for_nothing"
    ),
    "LearnerCampaign": "learners::a_learner_never_campaigns",
    "LearnerReceiveSnapshot": "snapshots::a_snapshot_makes_a_member_what_it_is",
    "Restore": "snapshots::a_snapshot_replaces_log_and_configuration",
    "RestoreWithLearner": "snapshots::a_snapshot_makes_a_member_what_it_is",
    "RestoreVoterToLearner": "snapshots::a_snapshot_makes_a_member_what_it_is",
    "RestoreLearnerPromotion": "snapshots::a_snapshot_makes_a_member_what_it_is",
    "RestoreIgnoreSnapshot": "snapshots::an_old_snapshot_takes_nothing_away",
    "RestoreFromSnapMsg": "snapshots::a_snapshot_replaces_log_and_configuration",
    "ProvideSnap": "snapshots::a_peer_that_lacks_what_is_compacted_needs_a_snapshot",
    "IgnoreProvidingSnap": "snapshots::a_dead_peer_is_sent_no_snapshot",
    "SlowNodeRestore": "snapshots::a_slow_node_is_restored",
    "CommitAfterRemoveNode": "changes::commits_go_on_after_a_removal",
    "ConfChangeCheckBeforeCampaign": (
        "changes::a_configuration_holds_from_its_append_on"
    ),
    "ConfChangeV2CheckBeforeCampaign": (
        "changes::a_configuration_holds_from_its_append_on"
    ),
}
"""``raft_test.go``."""

TRANSFERS: Mapping[str, str] = {
    "LeaderTransferToUpToDateNode": (
        "handover::a_voter_that_is_up_to_date_leads_at_once"
    ),
    "LeaderTransferToUpToDateNodeFromFollower": "handover::a_follower_cannot_hand_over",
    "LeaderTransferWithCheckQuorum": (
        "handover::a_voter_that_is_up_to_date_leads_at_once"
    ),
    "LeaderTransferToSlowFollower": (
        "handover::a_slow_voter_catches_up_before_it_is_told"
    ),
    "LeaderTransferAfterSnapshot": (
        "handover::a_voter_that_needs_a_snapshot_gets_it_first"
    ),
    "LeaderTransferToSelf": "handover::a_leader_that_hands_over_to_itself_does_nothing",
    "LeaderTransferToNonExistingNode": "handover::only_a_voter_can_take_the_lead",
    "LeaderTransferTimeout": "handover::a_transfer_is_given_up_after_t",
    "LeaderTransferIgnoreProposal": "handover::proposals_are_refused_during_a_transfer",
    "LeaderTransferReceiveHigherTermVote": "handover::a_higher_term_ends_a_transfer",
    "LeaderTransferRemoveNode": "handover::members_do_not_change_during_a_transfer",
    "LeaderTransferDemoteNode": "handover::members_do_not_change_during_a_transfer",
    "LeaderTransferBack": "handover::the_lead_comes_back",
    "LeaderTransferSecondTransferToAnotherNode": (
        "handover::another_transfer_takes_the_place_of_the_first"
    ),
    "LeaderTransferSecondTransferToSameNode": (
        "handover::the_same_transfer_again_wins_no_time"
    ),
}
"""``raft_test.go``, leadership transfer."""

PARTS: Mapping[str, str] = {
    "RawNodeJointAutoLeave": (
        "changes::a_change_passes_through_a_joint_configuration_by_itself"
    ),
    "RawNodeReadIndex": "reads::a_single_voter_answers_at_once",
    "RawNodeRestartFromSnapshot": (
        "snapshots::a_node_restarts_from_a_snapshot_and_what_follows"
    ),
    "CommitPaginationAfterRestart": (
        "replication::committed_entries_come_in_bounded_portions"
    ),
    "BoundedLogGrowthWithPartition": (
        "replication::a_leader_without_a_quorum_grows_its_log_to_a_bound"
    ),
    "SendingSnapshotSetPendingSnapshot": (
        "snapshots::a_peer_that_lacks_what_is_compacted_needs_a_snapshot"
    ),
    "PendingSnapshotPauseReplication": (
        "snapshots::nothing_is_appended_to_a_peer_that_awaits_a_snapshot"
    ),
    "SnapshotFailure": (
        "snapshots::a_failed_transfer_is_begun_again_once_the_peer_is_heard"
    ),
    "SnapshotSucceed": "snapshots::a_transfer_that_ended_well_is_probed_behind_once",
    "SnapshotAbort": "snapshots::an_acknowledgement_ends_the_wait_for_a_snapshot",
    "MsgAppFlowControlFull": "progress::a_full_window_waits_for_an_acknowledgement",
    "MsgAppFlowControlMoveForward": (
        "progress::a_full_window_waits_for_an_acknowledgement"
    ),
    "MsgAppFlowControlRecvHeartbeat": "progress::an_unanswered_append_is_asked_after",
    "FindConflictByTerm": "log::the_latest_entry_within_a_bound_is_found",
    "IsUpToDate": "paper::a_voter_refuses_a_candidate_whose_log_is_behind",
    "LogMaybeAppend": "log::the_first_conflict_is_found",
    "Compaction": "log::compaction_leaves_what_follows",
}
"""``rawnode_test.go``, ``raft_snap_test.go``, ``raft_flow_control_test.go`` and
``log_test.go``."""

TABLE = {**PAPER, **CORE, **TRANSFERS, **PARTS}


def functions_of(name: str) -> set[str]:
    """Functions that pytest collects from ``test_<name>.py``."""
    tree = ast.parse((FOLDER / f"test_{name}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", TABLE)
def test_what_etcd_tests_is_tested_here(name: str) -> None:
    """The test that the table names exists: whoever renames or drops it looks here."""
    file, _, test = TABLE[name].partition("::")
    assert f"test_{test}" in functions_of(file)


def test_the_table_is_as_long_as_etcds() -> None:
    """26 tests of the paper, 15 of transfers; none counted twice."""
    assert (len(PAPER), len(TRANSFERS)) == (26, 15)
    assert len(TABLE) == len(PAPER) + len(CORE) + len(TRANSFERS) + len(PARTS)
