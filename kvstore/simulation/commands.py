"""What a line of a script can ask for. ``docs/scripts.md`` describes each command."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from kvstore.errors import KVStoreError
from kvstore.pb import kv_pb2
from kvstore.raft.membership import (
    AddLearner,
    Change,
    Demote,
    MemberInfo,
    Promote,
    Remove,
    SetLeases,
)
from kvstore.raft.node import RaftNode
from kvstore.simulation import batches
from kvstore.simulation.arguments import Arguments, Mistake, number
from kvstore.simulation.founding import found, found_replicas, join, member_info
from kvstore.simulation.looks import LOOKS
from kvstore.simulation.replicas import PATIENCE_TICKS, Replicas
from kvstore.simulation.stage import Stage
from kvstore.simulation.wire import Selector
from kvstore.types import Incarnation, LogIndex, NodeId


def execute(stage: Stage, line: str) -> list[str]:
    """Do what one line asks for. What it has to say.

    Raises:
        Mistake: the line asks for what cannot be, or claims what is not so.
        InvariantViolation: the protocol is broken.
    """
    rest = line.removesuffix(" quiet")
    expected = None
    if rest.startswith("expect-error "):
        _, expected, rest = [*rest.split(maxsplit=2), "", ""][:3]
    arguments = Arguments(rest)
    said: list[str] = []
    try:
        _dispatch(stage, arguments)
    except KVStoreError as error:
        kind = type(error).__name__
        if kind != expected:
            raise Mistake(f"expected no error, but: {kind}: {error}") from error
        said.append(f"{kind}: {error}")
    else:
        if expected is not None:
            raise Mistake(f"expected {expected}, but there was no error")
    if stage.is_set:
        said += stage.cluster.take_lines()
    return [] if rest != line and line.endswith(" quiet") else said


def _dispatch(stage: Stage, arguments: Arguments) -> None:
    command = COMMANDS.get(arguments.command)
    if command is None:
        raise Mistake(
            f"there is no command '{arguments.command}'; there are "
            + ", ".join(sorted(COMMANDS))
        )
    command(stage, arguments)
    arguments.finish()


# ----------------------------------------------------------------------------- inputs


def _campaign(stage: Stage, arguments: Arguments) -> None:
    stage.cluster.input(stage.running(arguments), RaftNode.campaign)


def _elect(stage: Stage, arguments: Arguments) -> None:
    """Campaign, win, and tell everybody what that commits."""
    cluster, host = stage.cluster, stage.running(arguments)
    raft = host.raft
    assert raft is not None
    cluster.is_terse = True
    cluster.input(host, RaftNode.campaign)
    cluster.stabilize(cluster.hosts)
    if not raft.is_leader:
        raise Mistake(f"expected node {host.node_id} to win, it is {raft.role.value}")
    cluster.tick(host)
    cluster.stabilize(cluster.hosts)


def _resign(stage: Stage, arguments: Arguments) -> None:
    stage.cluster.input(stage.running(arguments), RaftNode.resign)


def _propose(stage: Stage, arguments: Arguments) -> None:
    host = stage.running(arguments)
    data = arguments.word("data").encode()
    stage.cluster.input(host, lambda raft: raft.propose(data))


def _conf(stage: Stage, arguments: Arguments) -> None:
    host = stage.running(arguments)
    changes: list[Change] = []
    known = isinstance(stage.cluster, Replicas)
    for name, promotable in (("add-learner", True), ("add-observer", False)):
        for it in arguments.numbers(name) or []:
            node = NodeId(it)
            info = member_info(node, promotable=promotable, is_known=known)
            changes.append(AddLearner(node, info))
    changes += [Promote(NodeId(it)) for it in arguments.numbers("promote") or []]
    changes += [Demote(NodeId(it)) for it in arguments.numbers("demote") or []]
    changes += [Remove(NodeId(it)) for it in arguments.numbers("remove") or []]
    if leases := arguments.choice("set-leases", ("on", "off"), ""):
        changes.append(SetLeases(leases == "on"))
    stage.cluster.input(host, lambda raft: raft.propose_changes(changes))


def _know(stage: Stage, arguments: Arguments) -> None:
    host = stage.running(arguments)
    node = NodeId(number(arguments.word("a node"), "a node"))
    incarnation = Incarnation(arguments.needed_number("incarnation"))
    info = MemberInfo(f"n{node}:1", incarnation)
    stage.cluster.input(host, lambda raft: raft.propose_info(node, info))


def _transfer(stage: Stage, arguments: Arguments) -> None:
    host = stage.running(arguments)
    to = arguments.number("to")
    stage.cluster.input(
        host, lambda raft: raft.transfer(None if to is None else NodeId(to))
    )


def _disconnect(stage: Stage, arguments: Arguments) -> None:
    node, peer = stage.pair(arguments)
    host = stage.cluster.hosts[node]
    if host.raft is None:
        raise Mistake(f"node {node} is down: it notices nothing")
    stage.cluster.disconnect(host, peer)


LEVELS: Mapping[str, kv_pb2.Consistency] = {
    "linearizable": kv_pb2.LINEARIZABLE,
    "lease": kv_pb2.LEASE,
    "follower": kv_pb2.FOLLOWER,
    "bounded": kv_pb2.BOUNDED,
    "session": kv_pb2.SESSION,
    "stale": kv_pb2.STALE,
}
"""Of reads. Consensus alone knows the first two."""


def _read(stage: Stage, arguments: Arguments) -> None:
    host, cluster = stage.running(arguments), stage.cluster
    if not isinstance(cluster, Replicas):
        level = arguments.choice("level", ("linearizable", "lease"), "linearizable")
        cluster.read(host, lease=level == "lease")
        return
    options = kv_pb2.ReadOptions(
        consistency=LEVELS[arguments.choice("level", LEVELS, "linearizable")],
        staleness_ms_max=arguments.number("ms") or 0,
        revision_min=arguments.number("revision") or 0,
    )
    cluster.read_all(host, options, patience_ticks=_patience(arguments))


def _patience(arguments: Arguments) -> int:
    patience = arguments.number("patience")
    return PATIENCE_TICKS if patience is None else patience


def _write(stage: Stage, arguments: Arguments) -> None:
    host, cluster = stage.running(arguments), stage.replicas
    patience = _patience(arguments)
    words: list[str] = []
    while (word := arguments.next_word()) is not None:
        words.append(word)
    batch = batches.parse(words)
    cluster.write(host, batch, patience_ticks=patience)


def _work(stage: Stage, arguments: Arguments) -> None:
    host, replicas = stage.running(arguments), stage.replicas
    if not host.has_work:
        raise Mistake(f"node {host.node_id} was handed nothing to do")
    replicas.work(host)


def _commit(stage: Stage, arguments: Arguments) -> None:
    stage.replicas.commit(stage.running(arguments))


def _compact(stage: Stage, arguments: Arguments) -> None:
    host = stage.running(arguments)
    index = LogIndex(arguments.needed_number("to"))
    first, last = host.disk.first_index - 1, host.state.last.index
    if not first <= index <= last:
        raise Mistake(
            f"expected to={first} to {last}, found {index}: it must be applied"
        )
    stage.cluster.compact(host, index)


def _snapshot(stage: Stage, arguments: Arguments) -> None:
    sender, to = stage.pair(arguments)
    host = stage.cluster.hosts[sender]
    if host.raft is None or not host.raft.is_leader:
        raise Mistake(f"node {sender} does not lead: only a leader sends snapshots")
    stage.cluster.send_snapshot(host, to)


def _snapshot_ended(stage: Stage, arguments: Arguments) -> None:
    sender, to = stage.pair(arguments)
    reached = LogIndex(arguments.number("reached") or 0)
    host = stage.cluster.hosts[sender]
    if host.raft is None:
        raise Mistake(f"node {sender} is down")
    stage.cluster.end_snapshot(host, to, reached)


# ------------------------------------------------------------------------------- time


def _tick(stage: Stage, arguments: Arguments) -> None:
    hosts = stage.several(arguments)
    count = number(arguments.next_word() or "1", "ticks")
    for _ in range(count):
        for host in hosts:
            if not host.paused:
                stage.cluster.tick(host)


def _clock(stage: Stage, arguments: Arguments) -> None:
    hosts = stage.several(arguments)
    text = arguments.word("+MILLISECONDS")
    if not text.startswith("+"):
        raise Mistake(f"expected +MILLISECONDS, found '{text}': clocks never go back")
    for host in hosts:
        stage.cluster.pass_time(host, number(text[1:], "milliseconds"))


def _draw(stage: Stage, arguments: Arguments) -> None:
    host = stage.host(arguments)
    while (word := arguments.next_word()) is not None:
        host.draws.next.append(number(word, "a draw"))


# ----------------------------------------------------------------------- work and fate


def _ready(stage: Stage, arguments: Arguments) -> None:
    host = stage.running(arguments)
    assert host.raft is not None
    if not host.raft.has_ready():
        raise Mistake(f"node {host.node_id} has nothing to do")
    stage.cluster.ready(host)


def _fsync(stage: Stage, arguments: Arguments) -> None:
    host = stage.running(arguments)
    if not host.is_writing:
        raise Mistake(f"node {host.node_id} writes nothing")
    stage.cluster.fsync(host)


def _apply(stage: Stage, arguments: Arguments) -> None:
    host = stage.running(arguments)
    if not host.has_work:
        raise Mistake(f"node {host.node_id} was handed nothing to apply")
    stage.cluster.apply(host)


def _stabilize(stage: Stage, arguments: Arguments) -> None:
    text = arguments.next_word() or "*"
    hosts = stage.listed(text)
    stage.cluster.is_terse = True
    settled = stage.cluster.stabilize(
        [host.node_id for host in hosts],
        no_fsync=stage.ids(arguments, "no-fsync"),
        no_apply=stage.ids(arguments, "no-apply"),
    )
    if not settled:
        raise Mistake("the nodes talk without end")


def _crash(stage: Stage, arguments: Arguments) -> None:
    host = stage.running(arguments)
    lost = set((arguments.option("lose") or "write").split(","))
    if unknown := sorted(lost - {"write", "state", "nothing"}):
        raise Mistake(f"expected lose=write, state or nothing, found '{unknown[0]}'")
    stage.cluster.crash(
        host, write_is_lost="write" in lost, state_is_lost="state" in lost
    )


def _restart(stage: Stage, arguments: Arguments) -> None:
    host = stage.host(arguments)
    if host.raft is not None:
        raise Mistake(f"node {host.node_id} is up: crash it first")
    if arguments.choice("lose", ("state", "nothing"), "nothing") == "state":
        stage.replicas.lose_commit(host)
    stage.cluster.start(host)


def _pause(stage: Stage, arguments: Arguments) -> None:
    stage.running(arguments).paused = True


def _resume(stage: Stage, arguments: Arguments) -> None:
    stage.running(arguments).paused = False


def _deliver(stage: Stage, arguments: Arguments) -> None:
    stage.cluster.deliver(stage.messages(arguments))


def _drop(stage: Stage, arguments: Arguments) -> None:
    stage.cluster.drop(stage.messages(arguments))


def _dup(stage: Stage, arguments: Arguments) -> None:
    messages = stage.messages(arguments)
    stage.cluster.wire.messages += [replace(it) for it in messages]
    stage.cluster.tell_messages(messages, "repeated")


def _again(stage: Stage, arguments: Arguments) -> None:
    """What has arrived or was lost is under way once more: the last such message."""
    wire = stage.cluster.wire
    selector, skip = stage.selector(arguments), arguments.number("skip") or 0
    gone = [it for it in wire.gone if selector.matches(it)]
    if len(gone) <= skip:
        raise Mistake("expected such a message to have been under way before")
    wire.messages.append(replace(gone[-1 - skip]))


def _hold(stage: Stage, arguments: Arguments) -> None:
    stage.cluster.wire.held.append(stage.selector(arguments))


def _release(stage: Stage, arguments: Arguments) -> None:
    selector = stage.selector(arguments)
    if selector not in stage.cluster.wire.held:
        raise Mistake("expected what a line 'hold' said, in the same words")
    stage.cluster.wire.held.remove(selector)


def _cut(stage: Stage, arguments: Arguments) -> None:
    """A whole group is cut off, or one link."""
    wire = stage.cluster.wire
    if "->" in arguments.peek():
        wire.cut.append(stage.selector(arguments))
        return
    text = arguments.word("nodes, as 1,2, or FROM->TO")
    group = [host.node_id for host in stage.listed(text)]
    others = [it for it in stage.cluster.hosts if it not in group]
    for one in group:
        for other in others:
            wire.cut.append(Selector(sender=one, to=other))
            wire.cut.append(Selector(sender=other, to=one))


def _heal(stage: Stage, arguments: Arguments) -> None:
    del arguments
    stage.cluster.wire.cut.clear()
    stage.cluster.wire.held.clear()


COMMANDS: Mapping[str, Callable[[Stage, Arguments], None]] = {
    "nodes": found,
    "replicas": found_replicas,
    "join": join,
    "write": _write,
    "work": _work,
    "commit": _commit,
    "campaign": _campaign,
    "elect": _elect,
    "resign": _resign,
    "propose": _propose,
    "conf": _conf,
    "know": _know,
    "transfer": _transfer,
    "disconnect": _disconnect,
    "read": _read,
    "compact": _compact,
    "snapshot": _snapshot,
    "snapshot-ended": _snapshot_ended,
    "tick": _tick,
    "clock": _clock,
    "draw": _draw,
    "ready": _ready,
    "fsync": _fsync,
    "apply": _apply,
    "stabilize": _stabilize,
    "crash": _crash,
    "restart": _restart,
    "pause": _pause,
    "resume": _resume,
    "deliver": _deliver,
    "drop": _drop,
    "dup": _dup,
    "again": _again,
    "hold": _hold,
    "release": _release,
    "cut": _cut,
    "heal": _heal,
    **LOOKS,
}
