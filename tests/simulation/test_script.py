"""The runner of scripts itself: what it reads, refuses, compares and reports."""

import re
from pathlib import Path

import pytest

from kvstore.raft.invariants import InvariantViolation
from kvstore.simulation.cluster import Cluster
from kvstore.simulation.commands import COMMANDS
from kvstore.simulation.script import ScriptError, check, parse, replay

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "scripts.md").read_text()


def of(*lines: str) -> str:
    """A script with one block."""
    return "\n".join(["# claim: x", "", *lines, "----"]) + "\n"


def run(*lines: str) -> list[str]:
    """What the commands print."""
    text = replay(parse(of(*lines), "a.raft"))
    return text.partition("----\n")[2].splitlines()


def refusal(*lines: str) -> str:
    """What is said of a script that cannot be run."""
    with pytest.raises(ScriptError) as caught:
        run(*lines)
    return str(caught.value)


def test_the_example_of_the_documentation_is_true() -> None:
    (example,) = re.findall(r"```raft\n(.*?)```", DOCS, re.DOTALL)
    check(parse(example, "docs/scripts.md"))


def test_every_command_is_documented() -> None:
    documented = set(re.findall(r"`(?:… )?([a-z-]+)", DOCS))
    assert set(COMMANDS) - documented == set()


def test_a_script_needs_a_claim() -> None:
    with pytest.raises(ScriptError, match=r"a\.raft:1: expected '# claim: "):
        parse("nodes 3\n----\n", "a.raft")


def test_a_block_needs_its_rule() -> None:
    with pytest.raises(ScriptError, match=r"a\.raft:3: expected '----'"):
        parse("# claim: x\n\nnodes 3\n\ntick 1\n----\n", "a.raft")


def test_a_replay_keeps_all_but_the_output() -> None:
    """Remarks, also inside a block, empty lines and commands stay; old output goes."""
    text = (
        "# claim: x\n\n# why\nnodes 1\n# how\nstatus\n----\nwrong\nlines\n\n\n"
        "# what\nassert-commit 1 0\n----\n\n# end\n"
    )
    found = replay(parse(text, "a.raft"))
    status = "1 follower term=0 vote=none leader=none commit=0 applied=0 last=0/0"
    assert found == text.replace("wrong\nlines", status)
    check(parse(found, "a.raft"))


def test_a_replay_is_the_same_every_time() -> None:
    lines = ("nodes 5", "tick * 12", "stabilize", "propose 1 x", "stabilize", "log")
    assert run(*lines) == run(*lines)


def test_what_differs_is_named_with_file_and_line() -> None:
    text = of("nodes 1", "status") + "1 leader\n\n# end\n"
    with pytest.raises(ScriptError) as caught:
        check(parse(text, "a.raft"))
    assert caught.value.line == 6
    assert str(caught.value).startswith("a.raft:6: something else happens")
    assert "-1 leader" in str(caught.value)
    assert "+1 follower" in str(caught.value)


def test_output_that_is_missing_at_the_end_is_noticed() -> None:
    with pytest.raises(ScriptError, match=r"a\.raft:6: "):
        check(parse(of("nodes 1", "status"), "a.raft"))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ("campaign 1",),
            "a.raft:3: 'campaign 1': expected 'nodes COUNT' or 'replicas COUNT' before",
        ),
        (("nodes",), "expected how many nodes after 'nodes'"),
        (("nodes 17",), "expected 1 to 16 nodes, found 17"),
        (("nodes three",), "expected a number for nodes, found 'three'"),
        (("nodes 3 size=4",), "there is no option size=; see RaftOptions"),
        (("nodes 3 lease_ms=0",), "lease_ms is 0; it must be 1 to"),
        (("nodes 3 voters=1,4",), "there is no node 4: there are 1 to 3"),
        (("nodes 3 1.log=2,1",), "expected terms from 1 that never fall, found [2, 1]"),
        (("nodes 3", "nodes 3"), "a.raft:4: 'nodes 3': the nodes are there already"),
        (("nodes 3", "jump 1"), "there is no command 'jump'; there are again, apply, "),
        (("nodes 3", "campaign"), "expected a node after 'campaign'"),
        (("nodes 3", "campaign 4"), "there is no node 4: there are 1 to 3"),
        (("nodes 3", "campaign 1 2 a=b"), "'campaign' does not take 2 a="),
        (("nodes 3", "crash 1", "campaign 1"), "node 1 is down: restart it first"),
        (("nodes 3", "crash 1", "tick 1,2"), "node 1 is down: restart it first"),
        (("nodes 3", "restart 1"), "node 1 is up: crash it first"),
        (("nodes 3", "crash 1 lose=all"), "expected lose=write, state or nothing"),
        (("nodes 3", "ready 1"), "node 1 has nothing to do"),
        (("nodes 3", "fsync 1"), "node 1 writes nothing"),
        (("nodes 3", "apply 1"), "node 1 was handed nothing to apply"),
        (("nodes 3", "deliver 1"), "expected FROM->TO, as 1->2 or *->3, found '1'"),
        (("nodes 3", "deliver 1->2"), "found 0; under way: nothing"),
        (("nodes 3", "deliver 1->2 type=Vote"), "there is no message Vote; there are"),
        (("nodes 3", "release 1->2"), "expected what a line 'hold' said"),
        (("nodes 3", "snapshot 1->2"), "node 1 does not lead"),
        (("nodes 3", "snapshot 1->*"), "expected two nodes, as 1->2"),
        (("nodes 3", "clock 1 -5"), "expected +MILLISECONDS, found '-5'"),
        (("nodes 3", "compact 1"), "expected to=NUMBER"),
        (("nodes 3", "compact 1 to=1"), "expected to=0 to 0, found 1"),
        (("nodes 3", "read 1 level=stale"), "expected level=linearizable|lease"),
        (("nodes 3", "propose 1 x"), "expected no error, but: NotLeader: "),
        (("nodes 3", "expect-error Busy propose 1 x"), "expected no error, but: NotLe"),
        (("nodes 3", "expect-error NotLeader tick 1"), "expected NotLeader, but there"),
        (("nodes 3", "expect-error NotLeader"), "there is no command ''"),
        (("nodes 3", "cut 2,3", "elect 1"), "expected node 1 to win, it is pre-candid"),
        (("nodes 3", "assert-leader 1"), "expected leader 1, found none"),
        (("nodes 3", "assert-commit * 1"), "expected node 1 to have committed 1, fou"),
        (("nodes 3", "assert-vote 1 2"), "expected a vote for 2, found none"),
    ],
)
def test_a_line_that_cannot_be_done_says_what_was_expected(
    lines: tuple[str, ...], expected: str
) -> None:
    said = refusal(*lines)
    assert said.startswith(f"a.raft:{2 + len(lines)}: '{lines[-1]}': ")
    assert expected in said


def test_claims_compare_terms_too() -> None:
    assert "leader of term 2, found 1" in refusal(
        "nodes 1", "elect 1 quiet", "assert-leader 1 term=1", "assert-leader 1 term=2"
    )
    assert "expected term 2, found 1" in refusal(
        "nodes 1", "elect 1 quiet", "assert-vote 1 1 term=1", "assert-vote 1 1 term=2"
    )


def test_an_expected_error_is_printed_and_the_script_goes_on() -> None:
    assert run("nodes 3", "expect-error NotLeader propose 1 x", "wire") == [
        "NotLeader: this node does not lead"
    ]


def test_a_broken_invariant_is_told_with_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is no mistake of the script's, so it keeps its type; a note says where."""

    def broken(_: Cluster) -> None:
        raise InvariantViolation("two leaders")

    monkeypatch.setattr(Cluster, "check", broken)
    with pytest.raises(InvariantViolation) as caught:
        run("nodes 3", "assert-safe")
    assert caught.value.__notes__ == ["a.raft:4: assert-safe"]


def test_a_draw_decides_when_patience_ends() -> None:
    """By default node 1 is first; a draw lets node 3 be."""
    said = (
        "asks whether it could win term 1: no leader was heard for an election timeout"
    )
    assert run("nodes 3", "tick * 9", "tick * 1") == [f"1 {said}"]
    # A node draws when it starts, so the draw is for its second start.
    assert run("nodes 3", "crash 3", "draw 3 0", "restart 3", "tick 3 10") == [
        f"3 {said}"
    ]


def test_a_crash_keeps_what_is_durable_and_only_that() -> None:
    start = ("nodes 1", "elect 1 quiet", "propose 1 x quiet", "ready 1 quiet")
    (lost,) = run(*start, "crash 1", "restart 1", "log")
    (kept,) = run(*start, "crash 1 lose=nothing", "restart 1", "log")
    assert (lost, kept) == ("1 [1/1 noop]", "1 [1/1 noop, 1/2 x]")


def test_a_lost_state_is_applied_again_from_the_log() -> None:
    start = ("nodes 1", "elect 1 quiet", "propose 1 x quiet", "stabilize quiet")
    again = ("restart 1", "status 1")
    (kept,) = run(*start, "crash 1", *again)
    (lost,) = run(*start, "crash 1 lose=state,write", *again)
    (synced,) = run(*start, "compact 1 to=1", "crash 1 lose=state", *again)
    assert "applied=2" in kept
    assert "applied=0" in lost
    assert "applied=2" in synced


def test_a_paused_node_hears_nothing_and_loses_nothing_it_sent() -> None:
    lines = run(
        "nodes 3",
        "elect 1 quiet",
        "tick 1",
        "ready 1 quiet",
        "pause 1",
        "tick 1 5",
        "stabilize",
        "status 1",
    )
    assert "1->2 Heartbeat term=1 commit=1" in lines
    assert not any(line.startswith("2->1") for line in lines)
    assert lines[-3].startswith("1 leader")


def test_a_message_that_is_repeated_is_delivered_twice() -> None:
    lines = run(
        "nodes 2",
        "campaign 1 quiet",
        "ready 1 quiet",
        "dup 1->2 quiet",
        "drop 1->2 count=1",
        "deliver 1->2 count=1",
        "wire",
    )
    request = "1->2 RequestVote term=1 last=0/0 pre-vote"
    assert lines[:2] == [f"{request}: lost", request]


def test_held_messages_arrive_by_deliver_or_after_release() -> None:
    start = ("nodes 2", "hold 1->2", "campaign 1 quiet", "stabilize", "wire")
    request = "1->2 RequestVote term=1 last=0/0 pre-vote"
    assert run(*start) == [f"{request}: held"]
    assert run(*start, "deliver 1->2")[1] == request
    assert run(*start, "release 1->2", "stabilize")[1] == request
    assert run(*start, "heal", "stabilize")[1] == request
