"""Bugs of snapshots and of changes of the members, in the core."""

from kvstore.simulation.mutants.mutant import Edit, Mutant, mutant

MUTANTS = (
    mutant(
        "M30",
        "a snapshot keeps a conflicting tail (hashicorp#704, openraft 674e78aa)",
        "raft.replication",
        old="if last.index <= core.commit_index or log.matches(last):",
        new="if last.index <= log.last_index:",
        kill="m30_snapshot_leaves_no_conflicting_tail.raft",
    ),
    mutant(
        "M31",
        "an old snapshot truncates a newer log (camunda#6092)",
        "raft.replication",
        old="if last.index <= core.commit_index or log.matches(last):",
        new="if False:",
        kill="m31_old_snapshot_takes_nothing_away.raft",
    ),
    mutant(
        "M31-held",
        "a snapshot truncates a log that holds it",
        "raft.replication",
        old="if last.index <= core.commit_index or log.matches(last):",
        new="if last.index <= core.commit_index:",
        kill="m31_snapshot_takes_nothing_from_a_log_that_holds_it.raft",
    ),
    mutant(
        "M35",
        "what follows a snapshot is applied before it (openraft eed681d5)",
        "raft.node",
        old="""\
        if core.persistence.is_installing:
            return False""",
        new="""\
        if False:
            return False""",
        kill="m35_nothing_is_applied_before_its_snapshot.raft",
    ),
    mutant(
        "M36",
        "a configuration outlives its log (scylla#9551, openraft#1808)",
        "raft.log",
        old="""\
        self._configurations = [
            (last.index, Configuration.decode(snapshot.configuration))
        ]
""",
        new="""\
        self._configurations.insert(
            0, (last.index, Configuration.decode(snapshot.configuration))
        )
""",
        kill="m36_members_are_those_of_the_snapshot.raft",
    ),
    Mutant(
        id="M37",
        what="a new leader changes members before its first commit (the bug of 2015)",
        edits=(
            Edit(
                module="kvstore.raft.changes",
                old="        leadership.term_committed\n        and not core",
                new="        not core",
            ),
            Edit(
                module="kvstore.raft.changes",
                old="    if not leadership.term_committed:",
                new="    if False:",
            ),
        ),
        kill="m37_new_leader_changes_no_members_at_once.raft",
    ),
    mutant(
        "M38",
        "a second change begins while one is pending (redpanda#17675)",
        "raft.changes",
        old="        and core.log.configuration_index <= core.commit_index\n",
        new="""\
""",
        kill="m38_one_change_at_a_time.raft",
    ),
    mutant(
        "M39-commit",
        "the new half alone commits (openraft 6c0ccaf3, camunda#61854)",
        "raft.quorum",
        old="""\
for voter in half])
            for half in halves
""",
        new="""\
for voter in half])
            for half in halves[:1]
""",
        kill="m39_both_halves_commit.raft",
    ),
    mutant(
        "M39-elect",
        "the new half alone elects",
        "raft.quorum",
        old="    results = {vote_result(half, votes) for half in halves}",
        new="    results = {vote_result(half, votes) for half in halves[:1]}",
        kill="m39_both_halves_elect.raft",
    ),
    mutant(
        "M39-leaves",
        "a joint configuration is left before it is committed",
        "raft.changes",
        old="    if core.log.configuration_index > core.commit_index:",
        new="    if False:",
        kill="m39_joint_configuration_is_left_once_it_is_committed.raft",
    ),
    mutant(
        "M40",
        "a truncated log keeps its configuration (canonical/raft#354)",
        "raft.log",
        old="""\
        while configurations[-1][0] > index:
            configurations.pop()
""",
        new="""\
""",
        kill="m40_truncation_takes_members_back.raft",
    ),
    mutant(
        "M42",
        "only the leader that entered a joint configuration leaves it (etcd#12136)",
        "raft.changes",
        old="    if configuration.is_joint:\n",
        new="""\
    entered_in = core.log.term(core.log.configuration_index)
    if configuration.is_joint and entered_in == core.term:
""",
        kill="m42_successor_leaves_the_joint_configuration.raft",
    ),
    mutant(
        "needed",
        "a voter that its last configuration takes out campaigns no more",
        "raft.election",
        old="""\
    return core.configuration.is_voter(core.node_id) or (
        core.log.configuration_at(core.commit_index).is_voter(core.node_id)
    )
""",
        new="    return core.configuration.is_voter(core.node_id)\n",
        kill="removed_leader_is_still_needed.raft",
    ),
    mutant(
        "early",
        "what follows a snapshot is acknowledged before it is installed",
        "raft.persistence",
        old="""\
            and self.snapshot is None
            and self._installing is None
""",
        new="""\
""",
        kill="nothing_is_promised_before_a_snapshot_is_installed.raft",
    ),
    mutant(
        "unready",
        "a learner that lags is made a voter",
        "raft.changes",
        old="    if not _is_caught_up(core, leadership, node_id):",
        new="    if False:",
        kill="learner_that_lags_is_not_promoted.raft",
    ),
)
