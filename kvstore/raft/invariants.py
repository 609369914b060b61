"""What must hold of a whole cluster after every step, checked from outside.

For tests and simulation: feed a :class:`ClusterChecker` every node after each step, and
each message, read and applied entry as it happens. Random faults alone find few bugs;
watched by these checks they find most (SandTable needed 8 to 25 events a bug). The
checks are incremental: a step costs what changed, and a few comparisons a node.

Absolute properties are those of the paper's Figure 3; the others compare a node with
itself a step ago, which finds a fault where it happens and not where it shows.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from kvstore.raft.log import RaftLog
from kvstore.raft.messages import (
    AppendEntriesReply,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Message,
    RequestVote,
    RequestVoteReply,
)
from kvstore.raft.node import RaftNode
from kvstore.raft.observed import (
    INDEX_ZERO,
    NOTHING,
    TERM_ZERO,
    DurableView,
    Incarnation,
    InvariantViolation,
    Member,
    Promises,
    holds,
    require,
)
from kvstore.raft.quorum import has_quorum
from kvstore.raft.ready import ReadState
from kvstore.types import LogIndex, NodeId, Term

__all__ = ["ClusterChecker", "InvariantViolation", "Member"]


class ClusterChecker:
    """Watches one cluster for its whole life."""

    def __init__(self) -> None:
        self._leaders: dict[Term, NodeId] = {}
        self._entries: dict[EntryId, tuple[Term, EntryKind, bytes]] = {}
        self._committed: list[Term] = []
        """The ghost log: the term of every entry that any node ever committed."""
        self._committed_in: list[Term] = []
        """The term of the node that committed it first."""
        self._incarnations: dict[NodeId, Incarnation] = {}
        self._promises: defaultdict[NodeId, Promises] = defaultdict(Promises)
        self._reads: dict[tuple[NodeId, int], LogIndex] = {}

    @property
    def committed_index(self) -> LogIndex:
        """The highest index that any node ever committed."""
        return LogIndex(len(self._committed))

    # ------------------------------------------------------------------ members

    def check(self, members: Mapping[NodeId, Member]) -> None:
        """Check every member, and the cluster as a whole.

        Raises:
            InvariantViolation: with the invariant in words and the facts.
        """
        for node_id in sorted(members):
            self.check_member(node_id, members)

    def check_member(self, node_id: NodeId, members: Mapping[NodeId, Member]) -> None:
        """Check what a step of one member can have broken. As :meth:`check`."""
        member = members[node_id]
        self._check_durable(node_id, member.durable)
        node = member.node
        if node is None:
            self._incarnations.pop(node_id, None)
            return
        seen = self._incarnations.get(node_id)
        if seen is None or seen.node is not node:
            self._check_restart(node_id, node, member.durable)
            seen = Incarnation(node, node.term, node.vote, node.configuration)
            self._incarnations[node_id] = seen
        self._check_term_and_vote(seen, node)
        self._check_log(seen, node.log)
        self._check_configuration(seen, member.durable)
        if node.is_leader:
            self._check_leader(seen, node, members)
        else:
            seen.led_term = None
        self._check_indexes(seen, node, member.durable)
        seen.configuration = node.configuration

    def _check_durable(self, node_id: NodeId, durable: DurableView) -> None:
        promises = self._promises[node_id]
        before, now = promises.hard_state, durable.hard_state
        if now is not before:
            require(
                now.term >= before.term
                and (
                    now.term > before.term
                    or before.vote is None
                    or now.vote == before.vote
                ),
                "a durable term fell, or the vote in it changed (I2)",
                node_id,
                before,
                now,
            )
            promises.hard_state = now
        if now.term == promises.acknowledged_term:
            promised = promises.acknowledged
            require(
                holds(durable, promised),
                "an acknowledged entry is not on the disk (I9)",
                node_id,
                promised,
            )

    def _check_restart(
        self, node_id: NodeId, node: RaftNode, durable: DurableView
    ) -> None:
        """A node that starts knows what is durable, and only that."""
        require(
            HardState(term=node.term, vote=node.vote) == durable.hard_state
            and node.last_index == durable.last_index,
            "a node did not start from its disk (I9)",
            node_id,
            durable.hard_state,
        )

    def _check_term_and_vote(self, seen: Incarnation, node: RaftNode) -> None:
        term, vote = node.term, node.vote
        if term == seen.term and vote == seen.vote:
            return
        require(term >= seen.term, "a term fell (I3)", node.node_id, seen.term, term)
        require(
            term > seen.term or seen.vote is None or vote == seen.vote,
            "a vote changed within its term (I2)",
            *(node.node_id, term, seen.vote, vote),
        )
        seen.term, seen.vote = term, vote

    def _check_log(self, seen: Incarnation, log: RaftLog) -> None:
        """Log matching (I4), by induction over entries that are new in any log.

        If an index and a term name one content and one predecessor, then two logs with
        a common entry are equal up to it.
        """
        terms = seen.terms
        last, floor = log.last_index, log.floor
        known = terms[floor.index - 1] if 0 < floor.index <= len(terms) else TERM_ZERO
        if known != floor.term or floor.index > len(self._committed):
            self._check_snapshot(seen, log)
        same = min(len(terms), last)
        if same == last == len(terms) and (not same or log.term(last) == terms[-1]):
            return
        while same > floor.index and log.term(LogIndex(same)) != terms[same - 1]:
            same -= 1
        del terms[same:]
        while seen.configurations and seen.configurations[-1][0] > same:
            seen.configurations.pop()
        while len(terms) < last:
            start = LogIndex(len(terms) + 1)
            for entry in log.entries(start, LogIndex(last + 1), 1 << 62):
                self._check_entry(seen.node.node_id, entry, terms)
                terms.append(entry.term)
                if entry.kind is EntryKind.CONFIGURATION:
                    self._check_one_change(seen, entry)
                    seen.configurations.append((entry.index, entry.data))
        require(
            same >= min(seen.commit_index, len(self._committed)),
            "committed entries were replaced (I5)",
            *(seen.node.node_id, same, seen.commit_index),
        )

    def _check_snapshot(self, seen: Incarnation, log: RaftLog) -> None:
        """What a log does not hold any more, or never did, is committed (I5, I11)."""
        floor, ghost = log.floor, self._committed
        require(
            floor.index <= len(ghost)
            and (not floor.index or ghost[floor.index - 1] == floor.term),
            "a snapshot stands for what is not committed (I5)",
            *(seen.node.node_id, floor),
        )
        seen.terms[:] = ghost[: floor.index]
        seen.configurations.clear()

    def _check_one_change(self, seen: Incarnation, entry: Entry) -> None:
        """A leader begins a change only once the last one is committed (I15)."""
        node = seen.node
        if not (node.is_leader and entry.term == node.term):
            return
        before = seen.configurations[-1][0] if seen.configurations else INDEX_ZERO
        require(
            before <= node.commit_index,
            "two changes of the members are in flight (I15)",
            *(node.node_id, before, entry.index, node.commit_index),
        )

    def _check_configuration(self, seen: Incarnation, durable: DurableView) -> None:
        """The configuration is a function of log and snapshot (I10)."""
        node = seen.node
        if seen.configurations:
            expected = seen.configurations[-1][1]
        elif node.log.first_index == durable.first_index:
            expected = durable.base_configuration
        else:
            return  # the snapshot that brought it is being installed
        checked = (node.configuration, expected)
        if checked[0] is seen.checked[0] and checked[1] is seen.checked[1]:
            return
        require(
            node.configuration.encode() == expected,
            "a node's configuration is not that of its log (I10)",
            *(node.node_id, node.configuration, expected),
        )
        seen.checked = checked

    def _check_entry(self, node_id: NodeId, entry: Entry, terms: list[Term]) -> None:
        previous = terms[-1] if terms else TERM_ZERO
        content = (previous, entry.kind, entry.data)
        known = self._entries.setdefault(EntryId(entry.term, entry.index), content)
        require(
            entry.index == len(terms) + 1 and entry.term >= previous,
            "a log has a gap, or its terms fall (I4)",
            *(node_id, entry.term, entry.index),
        )
        require(
            known is content or known == content,
            "one index and term name two entries or two pasts (I4)",
            *(node_id, entry.term, entry.index),
        )

    def _check_indexes(
        self, seen: Incarnation, node: RaftNode, durable: DurableView
    ) -> None:
        commit, applied = node.commit_index, node.applied_index
        if commit != seen.commit_index:
            require(
                commit > seen.commit_index,
                "a commit index fell (I3)",
                *(node.node_id, seen.commit_index, commit),
            )
            self._check_committed(seen, node, commit)
            seen.commit_index = commit
        require(
            applied >= seen.applied_index,
            "an applied index fell (I3)",
            *(node.node_id, seen.applied_index, applied),
        )
        seen.applied_index = applied
        installing = durable.last_index < node.log.first_index - 1
        require(
            durable.first_index - 1 <= applied <= commit <= node.last_index
            and (applied <= durable.last_index or installing)
            and (node.log.stable_index <= durable.last_index or installing),
            "purged <= applied <= committed <= last, and applied <= durable (I11)",
            *(node.node_id, applied, commit, node.log.stable_index, node.last_index),
        )

    def _check_committed(
        self, seen: Incarnation, node: RaftNode, commit: LogIndex
    ) -> None:
        """State machine safety: nobody ever commits another entry at an index (I5)."""
        ghost = self._committed
        for index in range(seen.commit_index + 1, commit + 1):
            term = seen.terms[index - 1]
            if index <= len(ghost):
                require(
                    ghost[index - 1] == term,
                    "two entries were committed at one index (I5)",
                    *(node.node_id, index, ghost[index - 1], term),
                )
            else:
                ghost.append(term)
                self._committed_in.append(node.term)

    # ------------------------------------------------------------------ leaders

    def _check_leader(
        self, seen: Incarnation, node: RaftNode, members: Mapping[NodeId, Member]
    ) -> None:
        term = node.term
        if seen.led_term != term:
            seen.led_term = term
            seen.matches = {}
            leader = self._leaders.setdefault(term, node.node_id)
            require(
                leader == node.node_id,
                "two leaders in one term (I1)",
                *(term, leader, node.node_id),
            )
            self._check_completeness(seen, term)
        commit = node.commit_index
        if commit != seen.commit_index:
            self._check_commit_rule(
                seen, EntryId(seen.terms[commit - 1], commit), members
            )
        for peer, progress in node.progress.items():
            match = progress.match_index
            require(
                match >= seen.matches.get(peer, 0),
                "a match index fell (I3)",
                *(node.node_id, peer, match),
            )
            seen.matches[peer] = match
            if peer not in members:
                continue  # added, and not started yet
            durable = members[peer].durable
            # A peer that went on to a later term may have replaced what it held.
            if match and durable.hard_state.term <= term:
                require(
                    holds(durable, EntryId(seen.terms[match - 1], match)),
                    "a match index passes what the peer holds durably (I8)",
                    *(node.node_id, peer, match),
                )

    def _check_completeness(self, seen: Incarnation, term: Term) -> None:
        """Leader completeness: what was committed in earlier terms is there (I6)."""
        ghost, committed_in = self._committed, self._committed_in
        index = len(ghost)
        while index and committed_in[index - 1] >= term:
            index -= 1
        require(
            not index
            or (len(seen.terms) >= index and seen.terms[index - 1] == ghost[index - 1]),
            "a new leader lacks a committed entry (I6)",
            *(seen.node.node_id, term, index),
        )

    def _check_commit_rule(
        self, seen: Incarnation, entry: EntryId, members: Mapping[NodeId, Member]
    ) -> None:
        """Counted by the configuration before the step: a commit may change it."""
        node = seen.node
        require(
            entry.term == node.term,
            "a leader committed by counting an entry of an earlier term (I7)",
            *(node.node_id, entry),
        )
        holders = [
            node_id
            for node_id in sorted(members)
            if holds(members[node_id].durable, entry)
        ]
        require(
            has_quorum(seen.configuration.halves, holders),
            "a leader committed what no majority holds durably (I7)",
            *(node.node_id, entry, holders, seen.configuration),
        )

    # ------------------------------------------------------------------- events

    def message_sent(self, message: Message, durable: DurableView) -> None:
        """A message leaves: what it vouches for must be durable at its sender (I9)."""
        match message:
            case RequestVoteReply(pre_vote=False, granted=True):
                self._check_vote(message.sender, message.term, message.to, durable)
            case RequestVote(pre_vote=False):
                self._check_vote(message.sender, message.term, message.sender, durable)
                if durable.hard_state.term == message.term:
                    require(
                        holds(durable, message.last_log),
                        "a candidate boasts of a log that is not durable (I9)",
                        message,
                    )
            case AppendEntriesReply(rejected=False):
                self._check_acknowledgement(message, durable)
            case _:
                pass

    def _check_vote(
        self, voter: NodeId, term: Term, candidate: NodeId, durable: DurableView
    ) -> None:
        now = durable.hard_state
        require(
            now.term > term or (now.term == term and now.vote == candidate),
            "a vote left before it was durable (I9)",
            *(voter, term, candidate, now),
        )
        known = self._promises[voter].votes.setdefault(term, candidate)
        require(
            known == candidate,
            "a node voted twice in a term (I2)",
            *(voter, term, known, candidate),
        )

    def _check_acknowledgement(
        self, message: AppendEntriesReply, durable: DurableView
    ) -> None:
        now = durable.hard_state
        require(
            now.term >= message.term,
            "an acknowledgement left before its term was durable (I9)",
            message,
        )
        if now.term > message.term:
            return  # true when the write was done; the term has moved on since
        require(
            durable.last_index >= message.index,
            "an acknowledgement left before its entries were durable (I9)",
            message,
        )
        promises = self._promises[message.sender]
        if now.term > promises.acknowledged_term:
            promises.acknowledged_term = now.term
            promises.acknowledged = NOTHING
        if message.index < durable.first_index:
            return  # compacted since: it is committed, and in the state
        if message.index > promises.acknowledged.index:
            promises.acknowledged = EntryId(durable.term(message.index), message.index)

    def handed_out(self, node_id: NodeId, entries: Iterable[Entry]) -> None:
        """Entries go to the state machine: committed, in order, each once."""
        promises = self._promises[node_id]
        for entry in entries:
            require(
                entry.index == promises.handed_out_index + 1,
                "entries were applied out of order (state machine safety)",
                *(node_id, promises.handed_out_index, entry.index),
            )
            require(
                entry.index <= len(self._committed)
                and self._committed[entry.index - 1] == entry.term,
                "an entry was applied that is not committed (state machine safety)",
                *(node_id, entry.term, entry.index),
            )
            promises.handed_out_index = entry.index

    def installed(self, node_id: NodeId, last: EntryId) -> None:
        """A snapshot's state took the place of a node's own: never an older one."""
        promises = self._promises[node_id]
        require(
            last.index > promises.handed_out_index,
            "a snapshot sets back what was applied (I3)",
            *(node_id, promises.handed_out_index, last),
        )
        promises.handed_out_index = last.index

    def restarted(self, node_id: NodeId, applied_index: LogIndex) -> None:
        """A node starts again from a state that has applied ``applied_index``."""
        self._promises[node_id].handed_out_index = applied_index

    def read_asked(self, node_id: NodeId, request_id: int) -> None:
        """A read starts now: it must see everything committed so far."""
        self._reads[node_id, request_id] = self.committed_index

    def read_answered(self, node_id: NodeId, state: ReadState) -> None:
        """A read may be served at an index (I14), or was rejected."""
        asked_at = self._reads.pop((node_id, state.request_id), None)
        require(
            asked_at is not None,
            "a read was answered that nobody asked, or twice (I14)",
            *(node_id, state),
        )
        assert asked_at is not None
        require(
            state.rejected or state.index >= asked_at,
            "a read misses what was committed before it began (I14)",
            *(node_id, state, asked_at),
        )
