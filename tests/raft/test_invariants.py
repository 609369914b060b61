"""Every invariant can fail: a check that never fires proves nothing.

Each case makes one violation by hand, in nodes that are fed what no correct peer says
or are changed from outside, and expects the check that names it.
"""

import random
from collections.abc import Callable

import pytest

from kvstore.raft.invariants import ClusterChecker, InvariantViolation, Member
from kvstore.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    EntryKind,
    HardState,
    RequestVote,
    RequestVoteReply,
    Snapshot,
)
from kvstore.raft.node import RaftNode
from kvstore.raft.ready import ReadState
from kvstore.types import LogIndex, NodeId, Term
from tests.raft.disk import Disk
from tests.raft.pieces import OPTIONS, entries_of, entry_id, founded

ONE, TWO, THREE = NodeId(1), NodeId(2), NodeId(3)


class Trio:
    """Three nodes without a network; peers' words are invented."""

    def __init__(self, *logs: tuple[int, ...]) -> None:
        logs = logs or ((), (), ())
        self.disks = {NodeId(i): Disk(log) for i, log in enumerate(logs, 1)}
        self.rafts = {node_id: self.start(node_id) for node_id in self.disks}
        self.checker = ClusterChecker()
        self.check()

    def start(self, node_id: NodeId) -> RaftNode:
        disk = self.disks[node_id]
        return RaftNode(
            node_id=node_id,
            log=disk,
            hard_state=disk.hard_state,
            applied_index=LogIndex(0),
            options=OPTIONS,
            random=random.Random(int(node_id)),
        )

    def check(self) -> None:
        self.checker.check(
            {
                node_id: Member(node=self.rafts[node_id], durable=self.disks[node_id])
                for node_id in self.disks
            }
        )

    def work(self, node_id: NodeId) -> None:
        raft = self.rafts[node_id]
        while raft.has_ready():
            ready = raft.ready()
            if ready.must_persist:
                self.disks[node_id].append(ready.hard_state, ready.entries)
                raft.persisted(ready.number)
            if ready.committed_entries:
                raft.applied(ready.committed_entries[-1].index)

    def elect(self, node_id: NodeId, voter: NodeId) -> None:
        """With a vote that nobody gave."""
        raft = self.rafts[node_id]
        raft.campaign()
        self.work(node_id)
        for pre_vote in (True, False):
            term = Term(raft.term + 1) if pre_vote else raft.term
            raft.step(
                RequestVoteReply(
                    sender=voter, to=node_id, term=term, granted=True, pre_vote=pre_vote
                )
            )
            self.work(node_id)
        assert raft.is_leader

    def acknowledge(self, leader: NodeId, peer: NodeId, index: int) -> None:
        """What the peer may not hold."""
        self.rafts[leader].step(
            AppendEntriesReply(
                sender=peer,
                to=leader,
                term=self.rafts[leader].term,
                index=LogIndex(index),
                rejected=False,
                hint=None,
            )
        )
        self.work(leader)

    def append(
        self, to: NodeId, terms: list[int], *, commit: int = 0, sender: NodeId = THREE
    ) -> None:
        self.rafts[to].step(
            AppendEntries(
                sender=sender,
                to=to,
                term=Term(max([*terms, self.rafts[to].term])),
                previous=entry_id(0, 0),
                entries=entries_of(terms),
                commit_index=LogIndex(commit),
            )
        )
        self.work(to)


def two_leaders(trio: Trio) -> None:
    trio.elect(ONE, TWO)
    trio.check()
    trio.elect(TWO, THREE)


def changed_vote(trio: Trio) -> None:
    core = trio.rafts[ONE]._core
    core.vote = TWO
    trio.check()
    core.vote = THREE


def changed_durable_vote(trio: Trio) -> None:
    trio.disks[ONE].hard_state = HardState(term=Term(1), vote=TWO)
    trio.checker._check_durable(ONE, trio.disks[ONE])
    trio.disks[ONE].hard_state = HardState(term=Term(1), vote=THREE)


def fallen_durable_term(trio: Trio) -> None:
    trio.append(ONE, [4])
    trio.check()
    trio.disks[ONE].hard_state = HardState(term=Term(3), vote=None)


def fallen_term(trio: Trio) -> None:
    trio.append(ONE, [4])
    trio.check()
    trio.rafts[ONE]._core.term = Term(3)


def fallen_commit(trio: Trio) -> None:
    trio.append(ONE, [1, 1], commit=2)
    trio.check()
    trio.rafts[ONE]._core.commit_index = LogIndex(1)


def fallen_applied(trio: Trio) -> None:
    trio.append(ONE, [1, 1], commit=2)
    trio.check()
    trio.rafts[ONE]._applied_index = LogIndex(1)


def fallen_match(trio: Trio) -> None:
    trio.elect(ONE, TWO)
    trio.disks[TWO].append(HardState(term=Term(1), vote=ONE), trio.disks[ONE].log)
    trio.acknowledge(ONE, TWO, 1)
    trio.check()
    trio.rafts[ONE].progress[TWO].match_index = LogIndex(0)


def two_contents(trio: Trio) -> None:
    trio.append(ONE, [1])
    trio.elect(TWO, THREE)  # its no-op is (1, 1) too


def two_pasts(trio: Trio) -> None:
    trio.append(ONE, [1, 3])
    trio.append(TWO, [2, 3])


def fallen_terms(trio: Trio) -> None:
    trio.rafts[ONE]._core.log.append(entries_of([2, 1]))


def replaced_commit(trio: Trio) -> None:
    trio.append(ONE, [1, 1], commit=2)
    trio.check()
    log = trio.rafts[ONE]._core.log
    log.truncate_after(LogIndex(0))
    log.append(entries_of([2, 2]))


def old_snapshot(trio: Trio) -> None:
    trio.append(ONE, [1, 1], commit=2)
    trio.check()
    trio.rafts[ONE]._core.log.reset(snapshot(1))


def uncommitted_snapshot(trio: Trio) -> None:
    trio.append(ONE, [1, 1], commit=1)
    trio.check()
    trio.rafts[ONE]._core.log.reset(snapshot(2))


def installed_backwards(trio: Trio) -> None:
    trio.append(ONE, [1, 1], commit=2)
    trio.check()
    trio.checker.handed_out(ONE, entries_of([1, 1]))
    trio.checker.installed(ONE, entry_id(1, 1))


def two_changes(trio: Trio) -> None:
    trio.elect(ONE, TWO)
    trio.check()
    for voters in ([1, 2], [1, 3]):
        trio.rafts[ONE]._core.append_configuration(founded(voters))


def snapshot(index: int) -> Snapshot:
    return Snapshot(last=entry_id(1, index), configuration=founded([1, 2, 3]).encode())


def two_commits(trio: Trio) -> None:
    trio.append(ONE, [1], commit=1)
    trio.check()
    trio.append(TWO, [2], commit=1)


def incomplete_leader(trio: Trio) -> None:
    trio.append(ONE, [1], commit=1)
    trio.append(TWO, [1], commit=1)
    trio.check()
    trio.disks[THREE].hard_state = HardState(term=Term(4), vote=None)
    trio.rafts[THREE] = trio.start(THREE)
    trio.check()
    trio.elect(THREE, ONE)


def counted_old_entry(trio: Trio) -> None:
    trio.elect(ONE, TWO)
    trio.check()
    core = trio.rafts[ONE]._core
    core.term = Term(2)
    core.hard_state = HardState(term=Term(2), vote=ONE)
    core.vote = ONE
    core.commit_index = LogIndex(1)


def counted_memory(trio: Trio) -> None:
    trio.elect(ONE, TWO)
    trio.check()
    trio.rafts[ONE]._core.commit_index = LogIndex(1)


def matched_nothing(trio: Trio) -> None:
    trio.elect(ONE, TWO)
    trio.check()
    trio.rafts[ONE].progress[TWO].accepted(LogIndex(1), floor=LogIndex(0))


def lost_acknowledged(trio: Trio) -> None:
    trio.append(ONE, [1, 1])
    trio.checker.message_sent(acknowledgement(2), trio.disks[ONE])
    trio.check()
    trio.disks[ONE].log.pop()


def started_elsewhere(trio: Trio) -> None:
    trio.rafts[ONE] = trio.start(ONE)
    trio.rafts[ONE]._core.log.append(entries_of([1]))


def other_voters(trio: Trio) -> None:
    trio.rafts[ONE].log._configurations[-1] = (LogIndex(0), founded([1, 2]))


def applied_too_much(trio: Trio) -> None:
    trio.rafts[ONE]._applied_index = LogIndex(1)


def early_vote(trio: Trio) -> None:
    trio.checker.message_sent(vote(TWO), trio.disks[ONE])


def second_vote(trio: Trio) -> None:
    trio.disks[ONE].hard_state = HardState(term=Term(1), vote=TWO)
    trio.checker.message_sent(vote(TWO), trio.disks[ONE])
    trio.disks[ONE].hard_state = HardState(term=Term(2), vote=None)
    trio.checker.message_sent(vote(THREE), trio.disks[ONE])


def early_boast(trio: Trio) -> None:
    trio.disks[ONE].hard_state = HardState(term=Term(1), vote=ONE)
    request = RequestVote(
        sender=ONE, to=TWO, term=Term(1), last_log=entry_id(1, 3), pre_vote=False
    )
    trio.checker.message_sent(request, trio.disks[ONE])


def early_acknowledgement(trio: Trio) -> None:
    trio.disks[ONE].hard_state = HardState(term=Term(1), vote=None)
    trio.checker.message_sent(acknowledgement(1), trio.disks[ONE])


def early_term(trio: Trio) -> None:
    trio.checker.message_sent(acknowledgement(0), trio.disks[ONE])


def applied_out_of_order(trio: Trio) -> None:
    trio.append(ONE, [1, 1], commit=2)
    trio.check()
    trio.checker.handed_out(ONE, entries_of([1, 1])[1:])


def applied_uncommitted(trio: Trio) -> None:
    trio.checker.handed_out(ONE, entries_of([1]))


def stale_read(trio: Trio) -> None:
    trio.append(ONE, [1, 1], commit=2)
    trio.check()
    trio.checker.read_asked(TWO, 5)
    trio.checker.read_answered(TWO, ReadState(request_id=5, index=LogIndex(1)))


def unasked_read(trio: Trio) -> None:
    trio.checker.read_answered(TWO, ReadState(request_id=5, index=LogIndex(1)))


def vote(candidate: NodeId) -> RequestVoteReply:
    return RequestVoteReply(
        sender=ONE, to=candidate, term=Term(1), granted=True, pre_vote=False
    )


def acknowledgement(index: int) -> AppendEntriesReply:
    return AppendEntriesReply(
        sender=ONE,
        to=TWO,
        term=Term(1),
        index=LogIndex(index),
        rejected=False,
        hint=None,
    )


VIOLATIONS: list[tuple[Callable[[Trio], None], str]] = [
    (two_leaders, r"two leaders in one term \(I1\)"),
    (changed_vote, r"a vote changed within its term \(I2\)"),
    (changed_durable_vote, r"the vote in it changed \(I2\)"),
    (fallen_durable_term, r"a durable term fell.*\(I2\)"),
    (second_vote, r"voted twice in a term \(I2\)"),
    (fallen_term, r"a term fell \(I3\)"),
    (fallen_commit, r"a commit index fell \(I3\)"),
    (fallen_applied, r"an applied index fell \(I3\)"),
    (fallen_match, r"a match index fell \(I3\)"),
    (two_contents, r"one index and term name two.*\(I4\)"),
    (two_pasts, r"one index and term name two.*\(I4\)"),
    (fallen_terms, r"its terms fall \(I4\)"),
    (replaced_commit, r"committed entries were replaced \(I5\)"),
    (old_snapshot, r"committed entries were replaced \(I5\)"),
    (uncommitted_snapshot, r"stands for what is not committed \(I5\)"),
    (installed_backwards, r"sets back what was applied \(I3\)"),
    (two_changes, r"two changes of the members are in flight \(I15\)"),
    (two_commits, r"two entries were committed at one index \(I5\)"),
    (incomplete_leader, r"lacks a committed entry \(I6\)"),
    (counted_old_entry, r"an entry of an earlier term \(I7\)"),
    (counted_memory, r"no majority holds durably \(I7\)"),
    (matched_nothing, r"passes what the peer holds durably \(I8\)"),
    (lost_acknowledged, r"not on the disk \(I9\)"),
    (started_elsewhere, r"did not start from its disk \(I9\)"),
    (early_vote, r"a vote left before it was durable \(I9\)"),
    (early_boast, r"boasts of a log that is not durable \(I9\)"),
    (early_acknowledgement, r"left before its entries were durable \(I9\)"),
    (early_term, r"left before its term was durable \(I9\)"),
    (other_voters, r"not that of its log \(I10\)"),
    (applied_too_much, r"applied <= committed.*\(I11\)"),
    (stale_read, r"misses what was committed before it began \(I14\)"),
    (unasked_read, r"nobody asked, or twice \(I14\)"),
    (applied_out_of_order, r"out of order \(state machine safety\)"),
    (applied_uncommitted, r"not committed \(state machine safety\)"),
]


@pytest.mark.parametrize(
    ("violate", "named"), VIOLATIONS, ids=lambda case: getattr(case, "__name__", "")
)
def test_a_violation_is_noticed_and_named(
    violate: Callable[[Trio], None], named: str
) -> None:
    """One violation by hand; the message says in words what no longer holds."""
    trio = Trio()
    with pytest.raises(InvariantViolation, match=named):  # noqa: PT012
        violate(trio)
        trio.check()


def test_a_correct_history_violates_nothing() -> None:
    """Down members, restarts and replaced tails are no violations."""
    trio = Trio((1,), (1,), (1, 1))
    trio.disks[TWO].append(HardState(term=Term(2), vote=ONE), ())
    trio.rafts[TWO] = trio.start(TWO)
    trio.elect(ONE, TWO)
    trio.check()
    trio.disks[TWO].append(None, trio.disks[ONE].log[1:])
    trio.rafts[TWO] = trio.start(TWO)
    trio.acknowledge(ONE, TWO, 2)
    assert trio.rafts[ONE].commit_index == 2
    assert trio.disks[ONE].log[1].kind is EntryKind.NOOP
    trio.check()
    members = {
        node_id: Member(node=None, durable=disk) for node_id, disk in trio.disks.items()
    }
    trio.checker.check(members)
    trio.rafts = {node_id: trio.start(node_id) for node_id in trio.disks}
    trio.check()
    assert trio.checker.committed_index == 2
