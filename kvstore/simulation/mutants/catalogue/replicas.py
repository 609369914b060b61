"""Bugs of members among each other and of their clients."""

from kvstore.simulation.mutants.mutant import Edit, Mutant, mutant

MUTANTS = (
    mutant(
        "M41",
        "a member that was wiped returns under its id (RethinkDB 2.2.3)",
        "replica.admission",
        old="    return known is None or known.incarnation in",
        new="    return True or known.incarnation in",
        kill="replicas:wiped_member_is_nobody",
    ),
    mutant(
        "M41-committed",
        "who just started knows no commit, and admits a member that was wiped",
        "replica.admission",
        old="    if not _is_known_as(latest, sender, incarnation):",
        new="    if False:",
        kill="replicas:wiped_member_is_nobody_to_a_new_start",
    ),
    mutant(
        "M47",
        "a read is served before the state has reached what was confirmed (etcd#3879)",
        "replica.reads",
        old="            if index > handed_out:",
        new="            if False:",
        kill="replicas:read_waits_for_the_state",
    ),
    mutant(
        "M50",
        "a command that is sent again is carried out again (jetcd 0.8.2, etcd#18424)",
        "state_machine.batch",
        old="            reply = session.reply(number)\n",
        new="            reply = session.reply(number) and None\n",
        kill="clients:repeated_command_is_carried_out_once",
    ),
    mutant(
        "M51",
        "only the member that answers remembers the answer (dissertation 6.3)",
        "state_machine.batch",
        old="""\
        if puts:
            self._keep_puts(session, first_number + len(commands) - puts, puts)
""",
        new="""\
        if puts and results is not None:
            self._keep_puts(session, first_number + len(commands) - puts, puts)
""",
        kill="clients:every_member_remembers_the_answer",
    ),
    Mutant(
        id="M52",
        what="a session expires by the clock of whoever applies that (RaftKeeper#332)",
        edits=(
            Edit(
                module="kvstore.state_machine.sessions",
                old="_U64 = (1 << 64) - 1\n",
                new="_U64 = (1 << 64) - 1\n_USED: dict[int, float] = {}\nimport time\n",
            ),
            Edit(
                module="kvstore.state_machine.sessions",
                old="        session.last_index = index\n        self.size",
                new="        session.last_index = index\n"
                "        _USED[session_id] = time.monotonic()\n        self.size",
            ),
            Edit(
                module="kvstore.state_machine.sessions",
                old="""\
        if session is not None and session.last_index == last_index:
""",
                new="""\
        silent_s = time.monotonic() - _USED.get(session_id, 0.0)
        if session is not None and silent_s > 600:
""",
            ),
        ),
        kill="clients:late_replay_expires_nobody",
    ),
    mutant(
        "M53",
        "an outcome that nobody knows is reported as a failure (RedisRaft#23)",
        "replica.writes",
        old="    return LeadershipLost(",
        new="    return overwritten() if why else LeadershipLost(",
        kill="replicas:write_in_doubt_is_not_denied",
    ),
    mutant(
        "M53-hasty",
        "what follows the first entry of a new term is taken for lost",
        "replica.proposals",
        old="                if index > last.index and proposed.term < last.term:",
        new="                if index > last.index:",
        kill="replicas:write_behind_a_new_term_is_not_denied",
    ),
    Mutant(
        id="M54",
        what="who waits for an entry is found by its index alone (kin of openraft "
        "43dd8b6f)",
        edits=(
            Edit(
                module="kvstore.replica.proposals",
                old="""\
            if proposed is not None and proposed.term != entry.term:
""",
                new="            if False:\n",
            ),
            Edit(
                module="kvstore.replica.proposals",
                old="        assert proposed.term == entry.term\n",
                new="",
            ),
            Edit(
                module="kvstore.replica.proposals",
                old="""\
        assert proposed is None or proposed.term == applied.term
""",
                new="",
            ),
        ),
        kill="replicas:overwritten_write_is_not_answered",
    ),
    mutant(
        "again",
        "a write that was passed to a leader is sent again when the connection breaks",
        "replica.writes",
        old="        self._fail_all(gone, _lost("
        'f"the connection to leader {peer} broke"))',
        new="        self._waiting.put_back(gone)",
        kill="replicas:passed_on_write_is_not_sent_again",
    ),
    mutant(
        "numbers",
        "the numbers of what is passed on begin anew with each life of a member",
        "replica.writes",
        old="            first_number=random.getrandbits(62),",
        new="            first_number=0,",
        kill="replicas:late_reply_is_for_nobody_else",
    ),
    mutant(
        "age",
        "what is fresh counts from the answer, not the question (rqlite#1672)",
        "replica.reads",
        old="            self._fresh_ms = max(self._fresh_ms or 0, group.asked_ms)",
        new="            self._fresh_ms = max(self._fresh_ms or 0, self.now_ms)",
        kill="replicas:age_counts_from_the_question",
    ),
    mutant(
        "active",
        "a session expires that was used since it was found silent",
        "state_machine.sessions",
        old="session is not None and session.last_index == last_index:",
        new="session is not None:",
        kill="clients:active_session_stays_open",
    ),
)
