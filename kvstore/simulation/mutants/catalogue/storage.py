"""Bugs of logs, states and snapshots on a disk."""

from kvstore.simulation.mutants.mutant import Edit, Mutant, mutant

MUTANTS = (
    mutant(
        "M02",
        "term and vote are saved in two writes (hashicorp#661)",
        "storage.lmdb_log",
        old="""\
            self.environment.write(work)
            for entry in entries:""",
        new="""\
            vote, configured_at = self._stored.hard_state.vote, self._stored.configured
            half = StoredHardState(
                HardState(term=after.term, vote=vote),
                self._stored.sequence,
                self._end,
                configured_at,
            )
            self.environment.write(
                lambda txn: put_hard_state(txn, self.environment, self._codecs, half)
            )
            self.environment.write(work)
            for entry in entries:""",
        kill="logs:hard_state_is_one_write",
    ),
    mutant(
        "M22-success",
        "a failed fsync passes for success (rostam#94, fsyncgate)",
        "storage.environment",
        old="                self._failure = error\n            raise\n",
        new="                return\n            raise\n",
        kill="logs:refused_write_is_the_last",
    ),
    mutant(
        "M22-retry",
        "after a failed fsync the next one is believed (rostam#94, fsyncgate)",
        "storage.environment",
        old="                self._failure = error\n            raise\n",
        new="                self._failure = None\n            raise\n",
        kill="logs:refused_write_is_the_last",
    ),
    mutant(
        "M25",
        "a damaged entry truncates the log (FAST'18, NATS 2.12.1)",
        "storage.lmdb_log",
        old="            for entry in self._entries(start, last + 1, 16 << 20):\n",
        new="""\
            try:
                readable = self._entries(start, start + 1, 16 << 20)
            except CorruptionError:
                self._end = self._log_end(start - 1)
                return
            for entry in readable:
""",
        kill="logs:damaged_entry_stays_promised",
    ),
    Mutant(
        id="M26",
        what="a log that lost its last entry is accepted (etcd#14098)",
        edits=(
            Edit(
                module="kvstore.storage.log_open",
                old="    for codec in (codecs.log, codecs.headers):",
                new="    for codec in (codecs.headers,):",
            ),
            Edit(
                module="kvstore.storage.lmdb_log",
                old="""\
        while start <= last:
            for entry in self._entries(start, last + 1, 16 << 20):
""",
                new="""\
        while start < last:
            for entry in self._entries(start, last, 16 << 20):
""",
            ),
        ),
        kill="logs:lost_entry_is_missed",
    ),
    mutant(
        "M27",
        "the progress is not saved with what it speaks of (etcd#13766)",
        "storage.lmdb_state",
        old="""\
            if progress is not self._committed:
                self._write_progress(txn, progress, sessions)
""",
        new="""\
            if progress is not self._committed:
                self.environment.commit(txn)
                txn = self.environment.begin_write()
                self._write_progress(txn, progress, sessions)
""",
        kill="states:crash_leaves_what_was_committed",
    ),
    mutant(
        "M32",
        "a snapshot does not take the place of a state that is there (kin of "
        "jgroups-raft#301: it cannot be merged, for it is a file)",
        "storage.staging",
        old="    if data.exists():\n",
        new="    if data.exists() and not (state_path / DATA_FILE).exists():\n",
        kill="snapshots:state_is_replaced",
    ),
    Mutant(
        id="M33",
        what="sessions are left out of what is stored, and so of snapshots, which are "
        "copies of it (copycat#14)",
        edits=(
            Edit(
                module="kvstore.storage.lmdb_state",
                old="        for session_id in sessions.take_changed():",
                new="        for session_id in sessions.take_changed() and ():",
            ),
            Edit(
                module="kvstore.storage.lmdb_state",
                old="self._codecs.encode_progress(progress, sessions.summary)",
                new="self._codecs.encode_progress(progress, EMPTY_SUMMARY)",
            ),
        ),
        kill="snapshots:state_is_replaced",
    ),
    mutant(
        "M34",
        "chunks of two snapshots are mixed (openraft 2eccb9e1)",
        "storage.staging",
        old="    return incoming / snapshot_id.hex()",
        new='    return incoming / "snapshot"',
        kill="snapshots:chunks_are_of_one_snapshot",
    ),
    mutant(
        "M58",
        "after a crash the revision is that of the newest version left, which "
        "compaction may have taken (etcd#17780)",
        "storage.state_reader",
        old="        return self._codecs.decode_progress(record)",
        new="""\
        progress, summary = self._codecs.decode_progress(record)
        newest = self.newest(txn).revision
        return __import__("dataclasses").replace(progress, revision=newest), summary""",
        kill="states:revision_survives_compaction",
    ),
    mutant(
        "note",
        "nothing notes that a snapshot is being installed",
        "storage.log_write",
        old="    txn.put(INSTALL_KEY, record, db=environment.database(META))\n",
        new="    del record\n",
        kill="snapshots:installing_is_one_step",
    ),
)
