"""Golden scripts of whole replicas. ``--rewrite`` as in tests of the core."""

from pathlib import Path

import pytest

from kvstore.simulation import batches
from kvstore.simulation.arguments import Mistake
from kvstore.simulation.script import ScriptError, check, parse, replay

FILES = sorted((Path(__file__).parent / "scripts").glob("*.raft"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_script(path: Path, request: pytest.FixtureRequest) -> None:
    """Goal: the claim of the file. Method: run it, and compare all that it prints."""
    script = parse(path.read_text(), str(path))
    if request.config.getoption("rewrite"):
        path.write_text(replay(script))
    else:
        check(script)


@pytest.mark.parametrize(
    "words",
    [
        "put:k:v",
        "delete:k",
        "cas:k:old:new cas:k::new",
        "compact:7",
        "open",
        "close:3",
        "session:3:1:0 put:a:1 put:b:2",
        "put:k:v session:3:4:2 delete:a",
    ],
)
def test_a_batch_is_what_its_words_say(words: str) -> None:
    batch = batches.parse(words.split())
    assert batches.words(batch) == words
    assert batches.parse([f"hex:{batch.hex()}"]) == batch


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("write 1", "expected something to write"),
        ("write 1 putt:k", "'putt:k' is nothing to write"),
        ("write 1 put:k", "'put:k' is nothing to write"),
        ("write 1 hex:0", "expected pairs of hex digits"),
        ("write 1 hex:ff", "that is no batch of commands"),
        ("write 1 close:x", "expected a number for a session"),
        ("compact 1 to=0", "a replica compacts its log by itself"),
        ("join 1", "expected a node that is not there yet"),
        ("work 1", "node 1 was handed nothing to do"),
        ("read 1 level=best", "expected level=linearizable|"),
        ("again 1->2", "expected such a message to have been under way"),
    ],
)
def test_what_cannot_be_done_says_what_was_expected(line: str, told: str) -> None:
    text = f"# claim: c\n\nreplicas 2\n{line}\n----\n"
    with pytest.raises(ScriptError) as error:
        replay(parse(text, "a.raft"))
    assert told in str(error.value)


@pytest.mark.parametrize("line", ["write 1 put:k:v", "work 1", "commit 1", "join 3"])
def test_consensus_alone_has_no_clients(line: str) -> None:
    with pytest.raises(ScriptError, match="only a cluster of 'replicas COUNT'"):
        replay(parse(f"# claim: c\n\nnodes 2\n{line}\n----\n", "a.raft"))


def test_options_are_those_of_replicas_and_of_their_core() -> None:
    text = "# claim: c\n\nreplicas 1 orphan_ticks=3 append_bytes_max=10\n----\n"
    assert replay(parse(text, "a.raft")) == text
    with pytest.raises(ScriptError, match="there is no option tempo="):
        replay(parse(text.replace("orphan_ticks", "tempo"), "a.raft"))
    with pytest.raises(Mistake):
        batches.count_of(b"\xff")
