"""The bugs of other implementations, put into ours: each must be caught by a test.

A mutant is a change to one line or two of ``kvstore/raft``, made in a copy. The numbers
(M01...) are used in comments of the core and its tests to say what a line is there for.
A mutant that no longer applies fails too: the table follows the code.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    number: str
    what: str
    """What is broken, and who had it."""
    file: str
    old: str
    new: str
    killer: str
    """``file::test``, without the ``test_`` of either."""


MUTANTS = (
    Mutant(
        "M01",
        "a vote leaves before its fsync (PySyncObj#84, robustmq#2039)",
        "election.py",
        "    core.persistence.send_when_durable(reply, LogIndex(0))",
        "    core.messages.append(reply)",
        "schedules::a_voter_that_forgot_its_unwritten_vote_had_not_given_it",
    ),
    Mutant(
        "M03",
        "stepping down within a term clears the vote (CCF#5891)",
        "core.py",
        "        self.votes = {}\n        self.set_leader(leader_id)",
        "        self.vote = None\n        self.set_leader(leader_id)",
        "schedules::a_candidate_that_steps_down_in_its_term_does_not_vote_again",
    ),
    Mutant(
        "M04",
        "repeated votes are counted (xraft#27)",
        "quorum.py",
        "            granted += vote\n",
        "            granted += 2 * vote\n",
        "election::a_repeated_vote_counts_once",
    ),
    Mutant(
        "M05",
        "answers to an earlier campaign are counted (little-raft#44)",
        "election.py",
        "if asked and reply.term == term:",
        "if asked:",
        "election::a_pre_vote_for_an_earlier_term_does_not_count",
    ),
    Mutant(
        "M06",
        "logs are compared by index alone (openraft a48a3282, hashicorp#95)",
        "election.py",
        "request.last_log < core.log.last_id:",
        "request.last_log.index < core.log.last_id.index:",
        "paper::a_voter_refuses_a_candidate_whose_log_is_behind",
    ),
    Mutant(
        "M07",
        "half of an even number is a quorum (hashicorp 163a55f)",
        "quorum.py",
        "return voters // 2 + 1",
        "return (voters + 1) // 2",
        "quorum::any_two_majorities_share_a_voter",
    ),
    Mutant(
        "M08",
        "a refused pre-vote hides the higher term (openraft#1796, etcd#8501)",
        "election.py",
        "    term = core.term\n    if refusal is not None:",
        "    term = min(core.term, Term(request.term - 1))\n"
        "    if refusal is not None:",
        "election::long_logs_of_low_terms_win_over_high_terms_of_short_logs",
    ),
    Mutant(
        "M09",
        "no stickiness (etcd's TestDisruptiveFollower)",
        "election.py",
        "    if core.role is Role.LEADER:\n        return True\n    timer",
        "    return False\n    timer",
        "election::nobody_votes_within_t_of_hearing_a_leader",
    ),
    Mutant(
        "M10",
        "no CheckQuorum (etcd#11038)",
        "replication.py",
        "return has_quorum(core.configuration.halves, active)",
        "return bool(active)",
        "check_quorum::a_leader_without_a_quorum_steps_down_within_t",
    ),
    Mutant(
        "M11",
        "an old entry is committed by counting (Figure 8; logcabin#44, PySyncObj#169)",
        "replication.py",
        " and log.term(index) == core.term",
        "",
        "schedules::an_entry_of_an_earlier_term_is_not_committed_by_counting",
    ),
    Mutant(
        "M12",
        "a follower commits to its last index (scylla#9965, copycat#265)",
        "replication.py",
        "core.commit_to(min(message.commit_index, reaches))",
        "core.commit_to(min(message.commit_index, core.log.last_index))",
        "replication::a_follower_commits_at_most_what_a_message_vouches_for",
    ),
    Mutant(
        "M13",
        "the commit index may fall (PySyncObj#166)",
        "core.py",
        "if index > self.commit_index:",
        "if index != self.commit_index:",
        "replication::a_commit_index_never_falls",
    ),
    Mutant(
        "M14",
        "every append truncates (openraft 9540c904, CCF#5991)",
        "replication.py",
        "    first_new = log.first_conflict(entries)",
        "    first_new = 0",
        "replication::an_append_of_what_is_held_truncates_nothing",
    ),
    Mutant(
        "M15",
        "the last index is acknowledged (CCF#6016, RATIS-2605)",
        "replication.py",
        "    _acknowledge(core, message.sender, reaches)\n",
        "    _acknowledge(core, message.sender, log.last_index)\n",
        "replication::an_acknowledgement_names_what_the_message_proved",
    ),
    Mutant(
        "M16",
        "a hint counts as a match (CCF#5325)",
        "progress.py",
        "        self.next_index = LogIndex(max(retry_index, self.match_index) + 1)",
        "        self.match_index = retry_index\n"
        "        self.next_index = LogIndex(retry_index + 1)",
        "replication::a_hint_raises_no_match",
    ),
    Mutant(
        "M17",
        "a stale acknowledgement moves the match (RaftOS#25, openraft cecb5de8)",
        "progress.py",
        "        if index < self.match_index:\n            return False\n",
        "",
        "progress::a_stale_acknowledgement_moves_nothing",
    ),
    Mutant(
        "M18",
        "an append is acknowledged before its fsync (NATS 2.12.1)",
        "persistence.py",
        "if index <= stable]",
        "if index >= 0]",
        "persistence::a_power_cut_loses_only_what_was_never_acknowledged",
    ),
    Mutant(
        "M19",
        "an append that brings nothing new skips the wait (yugabyte#32875)",
        "replication.py",
        "        ),\n        index,\n    )",
        "        ),\n        index if core.log.has_unwritten else LogIndex(0),\n    )",
        "schedules::duplicated_appends_during_a_slow_write_survive_a_power_cut",
    ),
    Mutant(
        "M20",
        "a leader counts its own unwritten entry (etcd#14370)",
        "replication.py",
        "matches[core.node_id] = log.stable_index",
        "matches[core.node_id] = log.last_index",
        "schedules::a_leader_that_crashes_with_an_unwritten_entry_had_not_committed_it",
    ),
    Mutant(
        "M21",
        "a write vouches for what replaced it (etcd's append_aba_race, openraft#1960)",
        "log.py",
        "        self.handed_out_index = min(self.handed_out_index, index)\n",
        "",
        "persistence::an_overwritten_write_is_not_counted",
    ),
    Mutant(
        "M23",
        "backtracking stops at a limit (openraft 6d53aa12)",
        "progress.py",
        "retry_index = min(retry_index, LogIndex(index - 1))",
        "retry_index = max(retry_index, LogIndex(50))",
        "replication::a_long_divergence_is_bridged",
    ),
    Mutant(
        "M24",
        "the window's bytes are not released (etcd e419ba5)",
        "progress.py",
        "        self._sent.clear()\n        self.bytes = 0",
        "        self._sent.clear()",
        "progress::a_refusal_in_the_pipeline_probes_from_the_match",
    ),
    Mutant(
        "M24",
        "a proposal's bytes are not refunded (etcd a370b6f)",
        "core.py",
        "            self.uncommitted_bytes -= charges.popleft()[1]",
        "            charges.popleft()",
        "replication::what_was_charged_is_refunded_exactly",
    ),
    Mutant(
        "M30",
        "a snapshot keeps a conflicting tail (hashicorp#704, openraft 674e78aa)",
        "replication.py",
        "if last.index <= core.commit_index or log.matches(last):",
        "if last.index <= log.last_index:",
        "snapshots::a_snapshot_leaves_nothing_of_a_conflicting_log",
    ),
    Mutant(
        "M31",
        "an old snapshot truncates a newer log (camunda#6092)",
        "replication.py",
        "if last.index <= core.commit_index or log.matches(last):",
        "if False:",
        "snapshots::an_old_snapshot_takes_nothing_away",
    ),
    Mutant(
        "M35",
        "what follows a snapshot is applied before it (openraft eed681d5)",
        "node.py",
        "        if core.persistence.is_installing:\n            return False",
        "        if False:\n            return False",
        "snapshots::what_follows_a_snapshot_is_applied_after_it",
    ),
    Mutant(
        "M36",
        "a configuration outlives its log (scylla#9551, openraft#1808)",
        "log.py",
        "        self._configurations = [\n"
        "            (last.index, Configuration.decode(snapshot.configuration))\n"
        "        ]\n",
        "        self._configurations.insert(\n"
        "            0, (last.index, Configuration.decode(snapshot.configuration))\n"
        "        )\n",
        "snapshots::a_snapshot_takes_back_an_uncommitted_configuration",
    ),
    Mutant(
        "M37",
        "a new leader changes members before its first commit (the bug of 2015)",
        "core.py",
        "        self.term_committed = False",
        "        self.term_committed = True",
        "changes::a_new_leader_changes_nothing_before_its_first_commit",
    ),
    Mutant(
        "M38",
        "a second change begins while one is pending (redpanda#17675)",
        "changes.py",
        "        and core.log.configuration_index <= core.commit_index\n",
        "",
        "changes::a_second_change_waits_for_the_first",
    ),
    Mutant(
        "M39",
        "the new half alone commits (openraft 6c0ccaf3, camunda#61854)",
        "quorum.py",
        "for voter in half])\n            for half in halves\n",
        "for voter in half])\n            for half in halves[:1]\n",
        "changes::a_joint_configuration_commits_by_both_majorities",
    ),
    Mutant(
        "M39",
        "the new half alone elects",
        "quorum.py",
        "    results = {vote_result(half, votes) for half in halves}",
        "    results = {vote_result(half, votes) for half in halves[:1]}",
        "changes::a_joint_configuration_elects_by_both_majorities",
    ),
    Mutant(
        "M40",
        "a truncated log keeps its configuration (canonical/raft#354)",
        "log.py",
        "        while configurations[-1][0] > index:\n"
        "            configurations.pop()\n",
        "",
        "changes::a_change_that_is_replaced_never_was",
    ),
    Mutant(
        "M42",
        "only the leader that entered a joint configuration leaves it (etcd#12136)",
        "changes.py",
        "    if configuration.is_joint:\n",
        "    entered_in = core.log.term(core.log.configuration_index)\n"
        "    if configuration.is_joint and entered_in == core.term:\n",
        "changes::the_next_leader_leaves_a_joint_configuration",
    ),
    Mutant(
        "M43",
        "a learner campaigns (dragonboat#94)",
        "election.py",
        "    return core.configuration.is_voter(core.node_id) or (",
        "    return True or (",
        "learners::a_learner_never_campaigns",
    ),
    Mutant(
        "M43",
        "a learner refuses to vote (etcd#10998)",
        "election.py",
        "    if request.term < core.term:\n        return Refusal.TERM_STALE\n",
        "    if request.term < core.term or not core.configuration.is_voter(\n"
        "        core.node_id\n"
        "    ):\n"
        "        return Refusal.TERM_STALE\n",
        "learners::a_learner_that_is_asked_votes",
    ),
    Mutant(
        "M44",
        "a leader confirms its reads alone (RedisRaft#19)",
        "reads.py",
        "if not has_quorum(halves, self._confirming):",
        "if not self._confirming:",
        "reads::a_cut_off_leader_confirms_nothing",
    ),
    Mutant(
        "M45",
        "a new leader reads before its first commit (etcd#7331, tikv#6340)",
        "core.py",
        "        self.term_committed = False",
        "        self.term_committed = True",
        "reads::a_new_leader_reads_after_its_first_commit",
    ),
    Mutant(
        "M46",
        "answers are not told apart by round (etcd-io/raft#397, etcd#20418)",
        "reads.py",
        "if number != self._round or number == 0:",
        "if self._round == 0 or number == 0:",
        "reads::answers_count_by_round_and_not_by_request",
    ),
    Mutant(
        "M48",
        "a transfer ends the lease but not the next ones (raft-rs#234, openraft#1747)",
        "handover.py",
        "    leadership.lease.void = True\n",
        "    leadership.lease.until_ms = 0\n",
        "leases::a_late_word_of_a_transfer_makes_no_read_stale",
    ),
    Mutant(
        "M49",
        "a lease counts from the answer, not the question (kin of tikv#964)",
        "reading.py",
        "extend(confirmed.started_ms + core.options.lease_ms)",
        "extend(core.now_ms + core.options.lease_ms)",
        "leases::an_answer_that_comes_too_late_gives_no_lease",
    ),
    Mutant(
        "M65",
        "a transferee that lags campaigns (openraft#1805)",
        "election.py",
        "        or core.log.last_index < message.last_index\n",
        "",
        "handover::a_transferee_that_lacks_entries_does_not_campaign",
    ),
    Mutant(
        "M65",
        "a transferee that is no voter by its log campaigns (cockroach#68539)",
        "election.py",
        "        or not _may_campaign(core)\n    ):\n",
        "    ):\n",
        "handover::a_transferee_that_does_not_know_its_promotion_does_not_campaign",
    ),
    Mutant(
        "hurry",
        "a closed connection shortens a voter's patience inside a lease",
        "election.py",
        "    if core.configuration.leases:\n        return\n",
        "",
        "leases::a_closed_connection_does_not_shorten_a_lease",
    ),
    Mutant(
        "forgot",
        "a restarted voter forgets that it promised a lease",
        "election.py",
        "        core.configuration.leases\n        and core.tick_count",
        "        False\n        and core.tick_count",
        "leases::restarts_make_no_read_stale",
    ),
    Mutant(
        "needed",
        "a voter that its last configuration takes out campaigns no more",
        "election.py",
        "    return core.configuration.is_voter(core.node_id) or (\n"
        "        core.log.configuration_at(core.commit_index).is_voter(core.node_id)\n"
        "    )\n",
        "    return core.configuration.is_voter(core.node_id)\n",
        "changes::a_removed_leader_that_knows_more_than_the_rest_still_campaigns",
    ),
    Mutant(
        "busy",
        "a disk that is always busy counts as stalled",
        "replication.py",
        "elif written is None or written[0] != number:",
        "elif written is None:",
        "check_quorum::a_disk_that_is_always_busy_has_not_stalled",
    ),
    Mutant(
        "early",
        "what follows a snapshot is acknowledged before it is installed",
        "persistence.py",
        "            and self.snapshot is None\n"
        "            and self._installing is None\n",
        "",
        "snapshots::nothing_is_promised_before_a_snapshot_is_installed",
    ),
    Mutant(
        "boast",
        "a request for votes leaves before the log that it tells of is durable",
        "election.py",
        "            core.persistence.send_when_durable(request, last.index)",
        "            core.messages.append(request)",
        "schedules::a_candidate_that_lost_what_it_boasted_of_is_not_elected",
    ),
    Mutant(
        "late",
        "an acknowledgement of an earlier term leaves after its entries were replaced",
        "core.py",
        "        self.persistence.drop_waiting()\n        self.set_leader(None)",
        "        self.set_leader(None)",
        "persistence::an_acknowledgement_of_an_earlier_term_is_never_sent_late",
    ),
)


RUN_S_MAX = 120
"""Far above what every killer together takes, about two seconds."""


def copy_package(folder: Path) -> Path:
    """The core and its tests, alone in a folder; where the core's modules are."""
    package = folder / "kvstore"
    shutil.copytree(ROOT / "kvstore" / "raft", package / "raft")
    for name in ("__init__.py", "types.py", "errors.py"):
        shutil.copy(ROOT / "kvstore" / name, package)
    shutil.copytree(ROOT / "tests" / "raft", folder / "tests" / "raft")
    shutil.copy(ROOT / "tests" / "walks.py", folder / "tests")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return package / "raft"


def run(folder: Path, *killers: str) -> subprocess.CompletedProcess[str]:
    """Run tests, named as :attr:`Mutant.killer`, against the copy in ``folder``.

    One that does not end fails the caller, and is no kill: a machine that is too slow
    would look the same. A killer bounds its own loops.
    """
    tests = [killer.partition("::") for killer in killers]
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *(f"tests/raft/test_{file}.py::test_{test}" for file, _, test in tests),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
    )


@pytest.mark.slow
def test_every_killer_passes_without_a_mutant(tmp_path: Path) -> None:
    """The control: what fails in a mutated copy fails for the mutant, and not because
    a copy does not run."""
    copy_package(tmp_path)
    result = run(tmp_path, *sorted({mutant.killer for mutant in MUTANTS}))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.number}-{m.what[:40]}")
def test_a_mutant_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    """The copy with the bug fails the test that is named for it."""
    path = copy_package(tmp_path) / mutant.file
    source = path.read_text()
    assert source.count(mutant.old) == 1, "the mutant no longer applies"
    path.write_text(source.replace(mutant.old, mutant.new))
    result = run(tmp_path, mutant.killer)
    # 1: tests ran, and some failed. Anything else is a mistake in the table.
    assert result.returncode == 1, result.stdout + result.stderr
