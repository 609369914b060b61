"""Every guard can fail: one that never does says nothing of what it lets pass.

Each case is a step that no core takes, made by hand in a small cluster, or words that
nobody may say. What mutants of the core break is in ``test_traces``.
"""

import ast
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from kvstore.raft.core import Core
from kvstore.raft.invariants import Member
from kvstore.raft.messages import (
    AppendEntries,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    Message,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
    Snapshot,
    TimeoutNow,
)
from kvstore.raft.node import RaftNode, Role
from kvstore.raft.ready import ReadState
from kvstore.simulation import specification
from kvstore.simulation.specification.checker import SpecificationViolation
from kvstore.types import LogIndex, NodeId, Term
from tests.raft.pieces import OPTIONS, entry_id, founded
from tests.simulation.specification.test_traces import REJECTED
from tests.simulation.specification.watched import WatchedCluster

Case = Callable[[WatchedCluster], None]


def entry(
    term: int, index: int, kind: EntryKind = EntryKind.COMMANDS, data: bytes = b"x"
) -> Entry:
    return Entry(Term(term), LogIndex(index), kind, data)


def core(cluster: WatchedCluster, node_id: int) -> Core:
    return cluster.raft(node_id)._core


def check(cluster: WatchedCluster, node_id: int) -> None:
    cluster.specification.check_member(NodeId(node_id), cluster.members)


def hear(cluster: WatchedCluster, message: Message) -> None:
    """The specification is told of a message; the node is not."""
    cluster.specification.message_delivered(message, cluster.members)


def say(cluster: WatchedCluster, message: Message) -> None:
    disk = cluster.servers[message.sender].disk
    cluster.specification.message_sent(message, disk)


def appends(
    *entries: Entry,
    sender: int = 1,
    to: int = 2,
    term: int = 1,
    previous: tuple[int, int] = (1, 1),
    commit: int = 0,
) -> AppendEntries:
    return AppendEntries(
        sender=NodeId(sender),
        to=NodeId(to),
        term=Term(term),
        previous=entry_id(*previous),
        entries=entries,
        commit_index=LogIndex(commit),
    )


def asks(
    *,
    sender: int = 1,
    to: int = 2,
    term: int = 1,
    last: tuple[int, int] = (1, 1),
    pre_vote: bool = False,
    transfer: bool = False,
) -> RequestVote:
    return RequestVote(
        sender=NodeId(sender),
        to=NodeId(to),
        term=Term(term),
        last_log=entry_id(*last),
        pre_vote=pre_vote,
        transfer=transfer,
    )


def votes(
    sender: int, to: int, term: int, *, granted: bool = True, pre_vote: bool = False
) -> RequestVoteReply:
    return RequestVoteReply(
        sender=NodeId(sender),
        to=NodeId(to),
        term=Term(term),
        granted=granted,
        pre_vote=pre_vote,
    )


def installs(last: tuple[int, int], voters: tuple[int, ...] = (1, 2, 3)) -> Message:
    snapshot = Snapshot(last=entry_id(*last), configuration=founded(voters).encode())
    return InstallSnapshot(
        sender=NodeId(1), to=NodeId(2), term=Term(1), snapshot=snapshot
    )


def hands_over(sender: int, last: int) -> TimeoutNow:
    return TimeoutNow(
        sender=NodeId(sender), to=NodeId(2), term=Term(1), last_index=LogIndex(last)
    )


def beats(term: int = 1, commit: int = 0, number: int = 0, to: int = 2) -> Heartbeat:
    return Heartbeat(
        sender=NodeId(1),
        to=NodeId(to),
        term=Term(term),
        commit_index=LogIndex(commit),
        round=number,
    )


def follows(term: int, number: int) -> HeartbeatReply:
    return HeartbeatReply(sender=NodeId(2), to=NodeId(1), term=Term(term), round=number)


def gives_index(index: int) -> ReadIndexReply:
    return ReadIndexReply(
        sender=NodeId(1),
        to=NodeId(2),
        term=Term(1),
        request_id=9,
        index=LogIndex(index),
        rejected=False,
    )


# -------------------------------------------------------------- terms, votes, roles


def fallen_term(cluster: WatchedCluster) -> None:
    core(cluster, 2).term = Term(0)
    check(cluster, 2)


def ambition_in_another_s_term(cluster: WatchedCluster) -> None:
    hear(cluster, appends(term=5, sender=3))
    core(cluster, 2).term, core(cluster, 2).vote = Term(5), None
    core(cluster, 2).role = Role.CANDIDATE
    check(cluster, 2)


def unasked_vote(cluster: WatchedCluster) -> None:
    hear(cluster, beats(term=2))
    core(cluster, 2).term, core(cluster, 2).vote = Term(2), NodeId(3)
    check(cluster, 2)


def vote_for_an_older_log(cluster: WatchedCluster) -> None:
    hear(cluster, asks(sender=3, term=2, last=(0, 0)))
    core(cluster, 2).term, core(cluster, 2).vote = Term(2), NodeId(3)
    check(cluster, 2)


def leap_in_terms(cluster: WatchedCluster) -> None:
    core(cluster, 2).term, core(cluster, 2).vote = Term(3), NodeId(2)
    core(cluster, 2).role = Role.CANDIDATE
    check(cluster, 2)


def candidate_of_another(cluster: WatchedCluster) -> None:
    core(cluster, 2).term, core(cluster, 2).vote = Term(2), NodeId(3)
    core(cluster, 2).role = Role.CANDIDATE
    check(cluster, 2)


def handed_over_by_a_stranger(cluster: WatchedCluster) -> None:
    hear(cluster, hands_over(3, 1))
    core(cluster, 2).term, core(cluster, 2).vote = Term(2), NodeId(2)
    core(cluster, 2).role = Role.CANDIDATE
    check(cluster, 2)


def crowned_follower(cluster: WatchedCluster) -> None:
    core(cluster, 2).role = Role.LEADER
    check(cluster, 2)


def second_leader(_: WatchedCluster) -> None:
    """With votes that nobody gave."""
    cluster = WatchedCluster()
    cluster.cut([3])
    cluster.elect(1)
    cluster.campaign(3)
    cluster.deliver([votes(2, 3, 1, pre_vote=True), votes(2, 3, 1)])


def silent_start_of_a_term(_: WatchedCluster) -> None:
    with mock.patch.object(Core, "append"):
        WatchedCluster(1).campaign(1)


# ------------------------------------------------------------------------- leading


def leader_that_takes_back(cluster: WatchedCluster) -> None:
    core(cluster, 1).log.truncate_after(LogIndex(0))
    check(cluster, 1)


def entry_of_another_term(cluster: WatchedCluster) -> None:
    core(cluster, 1).log.append((entry(2, 2),))
    check(cluster, 1)


def second_no_op(cluster: WatchedCluster) -> None:
    core(cluster, 1).log.append((entry(1, 2, EntryKind.NOOP),))
    check(cluster, 1)


def change_at_one_stroke(cluster: WatchedCluster) -> None:
    core(cluster, 1).append(EntryKind.CONFIGURATION, founded([1, 2]).encode())
    check(cluster, 1)


# ----------------------------------------------------------------------- following


def unasked_entry(cluster: WatchedCluster) -> None:
    core(cluster, 2).log.append((entry(1, 2),))
    check(cluster, 2)


def entry_without_a_past(cluster: WatchedCluster) -> None:
    hear(cluster, appends(entry(1, 6), previous=(1, 5)))
    core(cluster, 2).log.append((entry(1, 2),))
    check(cluster, 2)


def replaced_commit(cluster: WatchedCluster) -> None:
    hear(cluster, appends(entry(2, 1), sender=3, term=2, previous=(0, 0)))
    follower = core(cluster, 2)
    follower.term, follower.vote = Term(2), None
    follower.log.truncate_after(LogIndex(0))
    follower.log.append((entry(2, 1),))
    check(cluster, 2)


def more_than_was_sent(cluster: WatchedCluster) -> None:
    hear(cluster, appends(entry(1, 2)))
    core(cluster, 2).log.append((entry(1, 2), entry(1, 3)))
    check(cluster, 2)


def other_than_was_sent(cluster: WatchedCluster) -> None:
    hear(cluster, appends(entry(1, 2)))
    core(cluster, 2).log.append((entry(0, 2),))
    check(cluster, 2)


def falling_terms(cluster: WatchedCluster) -> None:
    hear(cluster, appends(entry(0, 2)))
    core(cluster, 2).log.append((entry(0, 2),))
    check(cluster, 2)


def other_content(cluster: WatchedCluster) -> None:
    cluster.propose(1, b"a")
    hear(cluster, appends(entry(1, 2, data=b"b")))
    core(cluster, 2).log.append((entry(1, 2, data=b"b"),))
    check(cluster, 2)


def other_snapshot(cluster: WatchedCluster) -> None:
    hear(cluster, installs((1, 5)))
    other = installs((1, 4))
    assert isinstance(other, InstallSnapshot)
    core(cluster, 2).log.reset(other.snapshot)
    check(cluster, 2)


def old_snapshot(cluster: WatchedCluster) -> None:
    message = installs((1, 1))
    assert isinstance(message, InstallSnapshot)
    hear(cluster, message)
    core(cluster, 2).log.reset(message.snapshot)
    check(cluster, 2)


def compaction_ahead_of_the_state(cluster: WatchedCluster) -> None:
    cluster.servers[NodeId(2)].slow_apply = True
    cluster.propose(1)
    cluster.tick_all(2)
    core(cluster, 2).log.compact_to(LogIndex(2))
    check(cluster, 2)


# ---------------------------------------------------------------- disks and states


def reborn(cluster: WatchedCluster, change: Callable[[RaftNode], None]) -> None:
    """Node 2 starts again, and is not what it should be."""
    cluster.crash(2)
    server = cluster.servers[NodeId(2)]
    node = RaftNode(
        node_id=NodeId(2),
        log=server.disk,
        hard_state=server.disk.hard_state,
        applied_index=LogIndex(0),
        options=OPTIONS,
        random=random.Random(1),
    )
    change(node)
    cluster.members[NodeId(2)] = Member(node=node, durable=server.disk)
    cluster.specification.restarted(NodeId(2), LogIndex(0))
    check(cluster, 2)


def start_in_a_later_term(cluster: WatchedCluster) -> None:
    def change(node: RaftNode) -> None:
        node._core.term = Term(7)

    reborn(cluster, change)


def start_with_a_commit(cluster: WatchedCluster) -> None:
    def change(node: RaftNode) -> None:
        node._core.commit_index = LogIndex(1)

    reborn(cluster, change)


def start_from_a_forged_disk(cluster: WatchedCluster) -> None:
    cluster.propose(1)
    cluster.stabilize()
    cluster.servers[NodeId(2)].disk.log[0] = entry(0, 1)
    reborn(cluster, lambda _: None)


def write_of_a_term_that_never_was(cluster: WatchedCluster) -> None:
    disk = cluster.servers[NodeId(2)].disk
    disk.hard_state = HardState(term=Term(9), vote=None)
    check(cluster, 2)


def write_of_entries_that_never_were(cluster: WatchedCluster) -> None:
    cluster.servers[NodeId(2)].disk.log.append(entry(9, 2))
    check(cluster, 2)


def write_that_takes_away(cluster: WatchedCluster) -> None:
    cluster.servers[NodeId(2)].disk.log.clear()
    check(cluster, 2)


def gap_in_what_is_applied(cluster: WatchedCluster) -> None:
    cluster.specification.handed_out(NodeId(2), [entry(1, 5)])


def applied_before_it_is_committed(cluster: WatchedCluster) -> None:
    cluster.propose(1)
    cluster.specification.handed_out(NodeId(1), [entry(1, 2)])


def applied_before_it_is_durable(cluster: WatchedCluster) -> None:
    cluster.servers[NodeId(1)].slow_disk = True
    cluster.propose(1)
    cluster.stabilize()
    cluster.specification.handed_out(NodeId(1), [entry(1, 2)])


def state_set_back(cluster: WatchedCluster) -> None:
    cluster.specification.installed(NodeId(2), entry_id(1, 1))


# --------------------------------------------------------------------------- reads


def answer_to_nobody(cluster: WatchedCluster) -> None:
    read = ReadState(request_id=1, index=LogIndex(1))
    cluster.specification.read_answered(NodeId(2), read)


def answer_of_nobody(cluster: WatchedCluster) -> None:
    cluster.specification.read_asked(NodeId(2), 1)
    answer_to_nobody(cluster)


def answer_from_the_past(_: WatchedCluster) -> None:
    cluster = WatchedCluster(1)
    cluster.elect(1)
    cluster.specification.read_asked(NodeId(1), 1)
    check(cluster, 1)
    read = ReadState(request_id=1, index=LogIndex(0))
    cluster.specification.read_answered(NodeId(1), read)


CASES: dict[Case, str] = {
    fallen_term: "a term never falls",
    ambition_in_another_s_term: "who enters another's term follows",
    unasked_vote: "nobody asked for this vote",
    vote_for_an_older_log: "the voter's log is newer",
    leap_in_terms: "a campaign opens the next term",
    candidate_of_another: "a candidate votes for itself",
    handed_over_by_a_stranger: "only the leader hands over",
    crowned_follower: "only a candidate wins, and only by a campaign",
    second_leader: "the term has a leader",
    silent_start_of_a_term: "a term begins with an entry of its own",
    leader_that_takes_back: "a leader never takes back an entry",
    entry_of_another_term: "a leader's entries are of its term",
    second_no_op: "a no-op begins the term, and nothing else is one",
    change_at_one_stroke: "only a joint configuration leads to another",
    unasked_entry: "a log changes only by its leader's word",
    entry_without_a_past: "the log does not hold what precedes the entries",
    replaced_commit: "what is committed is never replaced",
    more_than_was_sent: "a log takes what was sent, no more and no less",
    other_than_was_sent: "a log takes what was sent",
    falling_terms: "a log has no gaps, and its terms never fall",
    other_content: "an index and a term name one entry and one past",
    other_snapshot: "the log begins anew behind it, with nothing left",
    old_snapshot: "it takes away what the log holds beyond it",
    compaction_ahead_of_the_state: "only what was applied is forgotten",
    start_in_a_later_term: "a node starts from its disk",
    start_with_a_commit: "a node starts as a follower of nobody",
    start_from_a_forged_disk: "a disk holds what never was in a log",
    write_of_a_term_that_never_was: "a term and a vote that the node never had",
    write_of_entries_that_never_were: "entries that the node's log never held",
    write_that_takes_away: "a write took away what the log holds",
    gap_in_what_is_applied: "entries are applied in order",
    applied_before_it_is_committed: "only committed entries are",
    applied_before_it_is_durable: "only what is durable here, too",
    state_set_back: "it sets back what was applied",
    answer_to_nobody: "answered what nobody asked, or twice",
    answer_of_nobody: "no leader gave this index to a read that came before",
    answer_from_the_past: "the index misses what was committed when the read came",
}


def of(guard: str) -> str:
    """Matches a rejection by this guard, and by no other that begins like it."""
    return f": {re.escape(guard)}(: |$)"


def elected() -> WatchedCluster:
    """Three nodes; 1 leads the first term, and has committed its no-op everywhere."""
    cluster = WatchedCluster()
    cluster.elect(1)
    cluster.tick_all(2)
    assert cluster.commits() == [1, 1, 1]
    return cluster


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_step_that_is_not_allowed_is_rejected(case: Case) -> None:
    cluster = elected()
    with pytest.raises(SpecificationViolation, match=of(CASES[case])):
        case(cluster)


WORDS: list[tuple[Message, str]] = [
    (asks(last=(1, 9)), "a candidate boasts of a log that is not durable"),
    (asks(transfer=True), "no leader asked for this campaign"),
    (asks(term=5, pre_vote=True), "it is about the next term"),
    (votes(2, 1, 9, granted=False), "a refusal tells its sender's own term"),
    (votes(2, 3, 2, pre_vote=True), "promised to whom nobody could promise it"),
    (votes(2, 3, 1), "a vote leaves while it is durable, for one candidate"),
    (follows(1, 9), "nobody asked in this round"),
    (appends(sender=2, to=3), "only the leader of the term sends it"),
    (beats(commit=9), "it lets commit what the receiver may not hold"),
    (hands_over(1, 9), "it names an entry that nobody has"),
    (installs((1, 9)), "it stands for what is committed"),
    (installs((1, 1), (1, 2)), "its members are those of its entry"),
    (appends(commit=9), "it tells more than is committed"),
    (appends(previous=(1, 9)), "it builds on what the leader does not hold"),
    (appends(entry(1, 2)), "it carries what is not the leader's"),
    (gives_index(1), "nobody asked for this index"),
]


@pytest.mark.parametrize(("message", "guard"), WORDS, ids=[guard for _, guard in WORDS])
def test_words_that_are_not_allowed_are_rejected(message: Message, guard: str) -> None:
    cluster = elected()
    with pytest.raises(SpecificationViolation, match=of(guard)):
        say(cluster, message)


FOLLOWS_DURABLY = "who follows has the term on its disk"


def test_who_follows_has_the_term_on_its_disk() -> None:
    cluster = elected()
    hear(cluster, beats(term=2, number=5))
    with pytest.raises(SpecificationViolation, match=of(FOLLOWS_DURABLY)):
        say(cluster, follows(2, 5))


def guards(path: Path) -> Iterator[str]:
    """The words of every guard: the longest text that each ``require`` is given."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "require":
            words = [
                part.value
                for argument in call.args[1:]
                for part in ast.walk(argument)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            if words:
                yield max(words, key=len)


def test_every_guard_is_shown_to_fail() -> None:
    """By a case above, or by a mutant of the core."""
    shown = [*CASES.values(), *(guard for _, guard in WORDS), FOLLOWS_DURABLY]
    by_mutants = [text.partition(": ")[2] for text in REJECTED.values()]
    folder = Path(specification.__path__[0])
    found = {guard for path in folder.glob("*.py") for guard in guards(path)}
    assert len(found) > 50
    missing = {
        guard
        for guard in found.difference(shown)
        if not any(guard.startswith(text) for text in by_mutants)
    }
    assert missing == set()
