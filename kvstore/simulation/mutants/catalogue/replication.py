"""Bugs of replication: what is acknowledged, counted and committed."""

from kvstore.simulation.mutants.mutant import Edit, Mutant, mutant

MUTANTS = (
    mutant(
        "M11",
        "an old entry is committed by counting (Figure 8; logcabin#44, PySyncObj#169)",
        "raft.replication",
        old=" and log.term(index) == core.term",
        new="""\
""",
        kill="m11_old_term_not_committed_by_count.raft",
    ),
    mutant(
        "M12",
        "a follower commits to its last index (scylla#9965, copycat#265)",
        "raft.replication",
        old="core.commit_to(min(message.commit_index, reaches))",
        new="core.commit_to(min(message.commit_index, core.log.last_index))",
        kill="m12_commit_only_what_a_message_vouches_for.raft",
    ),
    mutant(
        "M12-heartbeat",
        "a heartbeat tells all that is committed (scylla#9965)",
        "raft.replication",
        old="commit_index=min(progress.match_index, core.commit_index),",
        new="commit_index=core.commit_index,",
        kill="m12_heartbeat_commits_what_is_known_to_match.raft",
    ),
    mutant(
        "M13",
        "the commit index may fall (PySyncObj#166)",
        "raft.core",
        old="if index > self.commit_index:",
        new="if index != self.commit_index:",
        kill="m13_commit_never_falls.raft",
    ),
    mutant(
        "M14",
        "every append truncates (openraft 9540c904, CCF#5991)",
        "raft.replication",
        old="    first_new = log.first_conflict(entries)",
        new="    first_new = 0",
        kill="m14_late_append_takes_nothing_away.raft",
    ),
    mutant(
        "M15",
        "the last index is acknowledged (CCF#6016, RATIS-2605)",
        "raft.replication",
        old="    _acknowledge(core, message.sender, reaches)\n",
        new="    _acknowledge(core, message.sender, log.last_index)\n",
        kill="m12_commit_only_what_a_message_vouches_for.raft",
    ),
    mutant(
        "M16",
        "a hint counts as a match (CCF#5325)",
        "raft.progress",
        old="""\
        self.next_index = LogIndex(max(retry_index, self.match_index) + 1)""",
        new="""\
        self.match_index = retry_index
        self.next_index = LogIndex(retry_index + 1)""",
        kill="m16_hint_is_no_match.raft",
    ),
    mutant(
        "M17",
        "a stale acknowledgement moves the match (RaftOS#25, openraft cecb5de8)",
        "raft.progress",
        old="""\
        if index < self.match_index:
            return False
""",
        new="""\
""",
        kill="m14_late_append_takes_nothing_away.raft",
    ),
    mutant(
        "M18",
        "an append is acknowledged before its fsync (NATS 2.12.1)",
        "raft.persistence",
        old="if index <= stable]",
        new="if index >= 0]",
        kill="m18_acknowledgement_waits_for_the_disk.raft",
    ),
    mutant(
        "M19",
        "an append that brings nothing new skips the wait (yugabyte#32875)",
        "raft.replication",
        old="""\
        ),
        index,
    )""",
        new="""\
        ),
        index if core.log.has_unwritten else LogIndex(0),
    )""",
        kill="m19_repeated_append_waits_for_the_disk.raft",
    ),
    mutant(
        "M20",
        "a leader counts its own unwritten entry (etcd#14370)",
        "raft.replication",
        old="matches[core.node_id] = log.stable_index",
        new="matches[core.node_id] = log.last_index",
        kill="m20_leader_counts_what_it_has_written.raft",
    ),
    mutant(
        "M21",
        "a write vouches for what replaced it (etcd's append_aba_race, openraft#1960)",
        "raft.log",
        old="        self.handed_out_index = min(self.handed_out_index, index)\n",
        new="""\
""",
        kill="m21_write_vouches_for_what_it_wrote.raft",
    ),
    mutant(
        "M23",
        "backtracking stops at a limit (openraft 6d53aa12)",
        "raft.progress",
        old="""\
        if index <= self.match_index:
            return False
        self._fire(PeerEvent.REJECTED)
""",
        new="""\
        if index <= self.match_index or index - retry_index > 8:
            return False
        self._fire(PeerEvent.REJECTED)
""",
        kill="m23_divergence_has_no_limit.raft",
    ),
    mutant(
        "M24-window",
        "the window's bytes are not released (etcd e419ba5)",
        "raft.progress",
        old="""\
        self._sent.clear()
        self.bytes = 0""",
        new="        self._sent.clear()",
        kill="m24_window_is_released.raft",
    ),
    mutant(
        "M24-refund",
        "a proposal's bytes are not refunded (etcd a370b6f)",
        "raft.core",
        old="            self.uncommitted_bytes -= charges.popleft()[1]",
        new="            charges.popleft()",
        kill="m24_proposals_are_refunded.raft",
    ),
    mutant(
        "busy",
        "a disk that is always busy counts as stalled",
        "raft.replication",
        old="elif written is None or written[0] != number:",
        new="elif written is None:",
        kill="busy_disk_has_not_stalled.raft",
    ),
    mutant(
        "late-request",
        "a request for votes leaves after what it boasts of was replaced",
        "raft.core",
        old="        if self.role is Role.CANDIDATE:\n",
        new="        if False:\n",
        kill="late_request_for_votes_is_dropped.raft",
    ),
    mutant(
        "late",
        "an acknowledgement of an earlier term leaves after its entries were replaced",
        "raft.core",
        old="""\
        self.persistence.drop_waiting()
        self.set_leader(None)""",
        new="        self.set_leader(None)",
        kill="late_acknowledgement_is_dropped.raft",
    ),
    mutant(
        "M28-skips",
        "a replay begins one entry too late (etcd's test of RawNode's pagination)",
        "raft.node",
        old="        self._applying_index = applied_index\n",
        new="        self._applying_index = min(LogIndex(applied_index + 1), "
        "log.last_index)\n",
        kill="m28_replay_goes_on_behind_the_state.raft",
    ),
    mutant(
        "M28-repeats",
        "a replay begins one entry too early",
        "raft.node",
        old="        self._applying_index = applied_index\n",
        new="        self._applying_index = LogIndex(max(applied_index - 1, 0))\n",
        kill="m28_replay_goes_on_behind_the_state.raft",
    ),
    Mutant(
        id="M29",
        what="what is durable is applied before it is committed (redpanda#5090)",
        edits=(
            Edit(
                module="kvstore.raft.node",
                old="        durable = min(core.commit_index, core.log.stable_index)\n",
                new="        durable = core.log.stable_index\n",
            ),
            Edit(
                module="kvstore.raft.node",
                old="LogIndex(min(core.commit_index, core.log.stable_index) + 1),",
                new="LogIndex(core.log.stable_index + 1),",
            ),
        ),
        kill="m29_nothing_is_applied_before_it_is_committed.raft",
    ),
)
