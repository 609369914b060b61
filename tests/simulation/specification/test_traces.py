"""The specification allows what the core does, and rejects what a broken one does.

Nothing else watches here: the checks of ``kvstore.raft.invariants`` are off. Run other
seeds with ``SPECIFICATION_SEEDS=FIRST:COUNT``.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvstore.simulation.mutants.worker import Worker
from tests import walks
from tests.simulation.specification.judging import schedules
from tests.simulation.specification.watched import watched_walk

ROOT = Path(__file__).resolve().parents[3]
SCHEDULES = dict(schedules())


@pytest.mark.parametrize("act", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_specification_allows_an_exact_schedule(act: Callable[[], object]) -> None:
    """Every test that moves a whole cluster, and every script."""
    act()


@pytest.mark.parametrize("seed", walks.seeds("SPECIFICATION_SEEDS", "0:40"))
def test_the_specification_allows_a_random_walk(seed: int) -> None:
    """Faults of all kinds, changes of members, snapshots, reads, restarts."""
    watched_walk(seed)


@pytest.mark.parametrize("seed", [1126, 1142])
def test_the_specification_allows_what_it_once_rejected(seed: int) -> None:
    """A snapshot reaches the disk after another has taken its place in memory."""
    watched_walk(seed)


def test_the_walks_are_judged() -> None:
    """A checker that is not told of anything rejects nothing."""
    steps = [watched_walk(seed).cluster.checker for seed in range(20)]
    assert sum(getattr(checker, "steps", 0) for checker in steps) > 20_000


REJECTED = {
    "M01": "GrantVote: a vote leaves while it is durable, for one candidate",
    "M03": "GrantVote: one vote a term",
    "M04": "BecomeLeader: no quorum voted for it",
    "M05": "Timeout: no quorum said in a pre-vote that it could win",
    "M06": "PreVote: promised to whom nobody could promise it",
    "M07": "AdvanceCommitIndex: no quorum holds it durably",
    "M11": "AdvanceCommitIndex: an entry of an earlier term is not committed by count",
    "M12": "HandleAppendEntries: a follower commits only what the leader's message v",
    "M13": "HandleAppendEntries: a commit index never falls",
    "M14": "HandleAppendEntries: a log that holds them all stays as it is",
    "M15": "HandleAppendEntries: acknowledged is what a message of the leader's proved",
    "M16": "HandleAppendEntriesReply: nobody acknowledged that much",
    "M17": "HandleAppendEntriesReply: a match index never falls",
    "M18": "HandleAppendEntries: an acknowledgement leaves once its entries are d",
    "M19": "HandleAppendEntries: an acknowledgement leaves once its entries are d",
    "M20": "AdvanceCommitIndex: no quorum holds it durably",
    "M21": "Apply: only what is durable here, too",
    "M30": "HandleAppendEntries: a follower commits only what the leader's message v",
    "M31": "InstallSnapshot: it takes away what the log holds beyond it",
    "M36": "ChangeMembers: the members are those of the log's last configuration",
    "M37": "ChangeMembers: the leader has committed no entry of its term",
    "M38": "ChangeMembers: the change before is not committed",
    "M39-commit": "AdvanceCommitIndex: no quorum holds it durably",
    "M39-elect": "Timeout: no quorum said in a pre-vote that it could win",
    "M40": "ChangeMembers: the members are those of the log's last configuration",
    "M43-campaigns": "PreVote: only voters campaign",
    "M44": "ReadIndex: no quorum said since the read came that it still follows",
    "M45": "ReadIndex: the leader has committed no entry of its term",
    "M46": "ReadIndex: no quorum said since the read came that it still follows",
    "M65-lags": "TimeoutNow: the transferee lacks entries of the leader's",
    "boast": "RequestVote: a vote leaves while it is durable, for one candidate",
    "early": "HandleAppendEntries: an acknowledgement leaves once its entries are d",
    "late": "HandleAppendEntries: an acknowledgement leaves while its term is durable",
}
"""By the mutant of the core, the guard that it breaks first.

Missing are mutants that only keep a cluster from going on (M08, M09, M10, M23, M24,
M42), for the specification says what a node may do and not what it must; those of
leases (M48, M49); and M35, with which the core fails by itself.
"""


@pytest.mark.slow
@pytest.mark.parametrize("mutant", REJECTED)
def test_the_specification_rejects_a_mutant(
    mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the guard: by an exact schedule, and else by one of a few walks."""
    monkeypatch.chdir(ROOT)
    with Worker(mutant) as worker:
        found = worker.call(
            "tests.simulation.specification.judging:first_rejection", 20
        )
    assert isinstance(found, list)
    where, text = found
    assert str(text).startswith(REJECTED[mutant]), (where, text)


def test_without_a_mutant_nothing_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what a mutated process reports is the mutant's doing."""
    monkeypatch.chdir(ROOT)
    with Worker() as worker:
        found = worker.call("tests.simulation.specification.judging:first_rejection", 3)
    assert found is None
