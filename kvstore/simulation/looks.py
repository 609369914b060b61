"""Lines of a script that only look, or claim what must be so."""

from collections.abc import Callable, Mapping

from kvstore.simulation import describe
from kvstore.simulation.arguments import Arguments, Mistake, number
from kvstore.simulation.cluster import Host
from kvstore.simulation.stage import Stage


def _status(stage: Stage, arguments: Arguments) -> None:
    for host in _seen(stage, arguments):
        if host.raft is None:
            stage.cluster.lines.append(f"{host.node_id} is down")
        else:
            stage.cluster.lines += describe.status(host.raft)


def _log(stage: Stage, arguments: Arguments) -> None:
    for host in _seen(stage, arguments):
        if host.raft is not None:
            stage.cluster.lines.append(describe.log(host.raft))


def _members(stage: Stage, arguments: Arguments) -> None:
    for host in _seen(stage, arguments):
        if (raft := host.raft) is not None:
            members = describe.configuration(raft.configuration)
            at = raft.configuration_index
            stage.cluster.lines.append(f"{host.node_id} members of {at}: {members}")


def _wire(stage: Stage, arguments: Arguments) -> None:
    del arguments
    wire = stage.cluster.wire
    for message in wire.messages:
        fate = "held" if wire.is_held(message) else "under way"
        stage.cluster.tell_messages((message,), fate)


def _seen(stage: Stage, arguments: Arguments) -> list[Host]:
    return stage.listed(arguments.next_word() or "*")


def _assert_leader(stage: Stage, arguments: Arguments) -> None:
    """Of the highest term that anybody leads."""
    claimed = arguments.word("a node, or none")
    term = arguments.number("term")
    leaders = [
        host.raft
        for host in stage.cluster.hosts.values()
        if host.raft is not None and host.raft.is_leader
    ]
    newest = max(leaders, key=lambda raft: raft.term, default=None)
    found = "none" if newest is None else str(newest.node_id)
    if found != claimed:
        raise Mistake(f"expected leader {claimed}, found {found}")
    if newest is not None and term not in (None, newest.term):
        raise Mistake(f"expected leader of term {term}, found {newest.term}")


def _assert_commit(stage: Stage, arguments: Arguments) -> None:
    hosts = stage.several(arguments)
    claimed = number(arguments.word("an index"), "an index")
    for host in hosts:
        assert host.raft is not None
        if (found := host.raft.commit_index) != claimed:
            raise Mistake(
                f"expected node {host.node_id} to have committed {claimed}, "
                f"found {found}"
            )


def _assert_vote(stage: Stage, arguments: Arguments) -> None:
    raft = stage.running(arguments).raft
    assert raft is not None
    claimed = arguments.word("whom it voted for, or none")
    found = "none" if raft.vote is None else str(raft.vote)
    if found != claimed:
        raise Mistake(f"expected a vote for {claimed}, found {found}")
    if (term := arguments.number("term")) not in (None, raft.term):
        raise Mistake(f"expected term {term}, found {raft.term}")


def _assert_silent(stage: Stage, arguments: Arguments) -> None:
    """Nothing like this is under way."""
    wire = stage.cluster.wire
    if found := wire.find(stage.selector(arguments)):
        raise Mistake(
            f"expected no such message, found {len(found)}; under way: "
            + stage.under_way()
        )


def _assert_safe(stage: Stage, arguments: Arguments) -> None:
    del arguments
    stage.cluster.check()


LOOKS: Mapping[str, Callable[[Stage, Arguments], None]] = {
    "status": _status,
    "log": _log,
    "members": _members,
    "wire": _wire,
    "assert-leader": _assert_leader,
    "assert-commit": _assert_commit,
    "assert-vote": _assert_vote,
    "assert-safe": _assert_safe,
    "assert-silent": _assert_silent,
}
