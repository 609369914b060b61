"""Bugs of reads: who may answer, when, from what."""

from kvstore.simulation.mutants.mutant import mutant

MUTANTS = (
    mutant(
        "M44",
        "a leader confirms its reads alone (RedisRaft#19)",
        "raft.reads",
        old="if not has_quorum(halves, self._confirming):",
        new="if not self._confirming:",
        kill="m44_cut_off_leader_answers_no_read.raft",
    ),
    mutant(
        "M45",
        "a new leader reads before its first commit (etcd#7331, tikv#6340)",
        "raft.reading",
        old="    return leadership.term_committed and leadership.reads.wants_round",
        new="    return leadership.reads.wants_round",
        kill="m45_new_leader_reads_after_its_first_commit.raft",
    ),
    mutant(
        "M46",
        "answers are not told apart by round (etcd-io/raft#397, etcd#20418)",
        "raft.reads",
        old="if number != self._round or number == 0:",
        new="if self._round == 0 or number == 0:",
        kill="m46_read_rounds_are_never_reused.raft",
    ),
    mutant(
        "M48",
        "a transfer ends the lease but not the next ones (raft-rs#234, openraft#1747)",
        "raft.handover",
        old="    leadership.lease.void = True\n",
        new="    leadership.lease.until_ms = 0\n",
        kill="m48_no_lease_through_a_transfer.raft",
    ),
    mutant(
        "M49",
        "a lease counts from the answer, not the question (kin of tikv#964)",
        "raft.reading",
        old="extend(confirmed.started_ms + core.options.lease_ms)",
        new="extend(core.now_ms + core.options.lease_ms)",
        kill="m49_lease_counts_from_the_question.raft",
    ),
    mutant(
        "unbound",
        "voters that do not know of leases confirm one",
        "raft.reading",
        old="    if has_quorum(core.configuration.halves, bound):",
        new="    if has_quorum(core.configuration.halves, confirmed.voters):",
        kill="lease_is_of_voters_that_know_of_leases.raft",
    ),
    mutant(
        "M49-margin",
        "a lease leaves no room for clocks of different rates",
        "server.settings",
        old="LEASE_PERCENT = 70",
        new="LEASE_PERCENT = 100",
        kill="clocks:lease_allows_for_slow_clocks",
    ),
    mutant(
        "M49-wall",
        "leases are counted by a clock that people set (tikv#964)",
        "server.node",
        old="time.clock_gettime_ns(time.CLOCK_BOOTTIME)",
        new="time.time_ns()",
        kill="clocks:clock_is_nobodys_to_set",
    ),
)
