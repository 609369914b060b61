"""A trace for people: a column for each node, time going down, short words.

It shows what reached a node and what came of it, in the order in which it happened:
messages where they arrive, or where they left if they never did. Heartbeats that change
nothing are only counted.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from kvstore.simulation.trace import Properties, TraceMessage, TraceRecord

LAST = 60
WIDTH = 100
COLUMNS_MAX = 7
"""What happens at further nodes is told across."""
COLUMN_WIDTH_MAX = 34
TIME_WIDTH = 10
CHATTER_MIN = 4
"""Fewer heartbeats in a row are not worth a line."""

MARKS = {
    "StateFollower": "|",
    "StatePreCandidate": "?",
    "StateCandidate": "?",
    "StateLeader": "#",
    "StateDown": "x",
}
LEGEND = (
    "| follows    ? campaigns    # leads    = paused, what arrives waits    x down",
    "2> what: from 2 arrives    >2 what: to 2 is lost    3/7: entry 7, of term 3",
    "append 3/7 +2: behind 3/7 come two more    on disk: a write has ended",
    "#9? what: a client asks    #9! what: it hears    --: what goes wrong, and news",
)
HEARTBEATS = frozenset({"MsgHeartbeat", "MsgHeartbeatResp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a column shows of its node."""

    role: str
    is_paused: bool = False
    term: int = 0
    log: int = 0
    commit: int = 0

    @property
    def mark(self) -> str:
        if self.is_paused and self.role != "StateDown":
            return "="
        return MARKS[self.role]


Views = Mapping[str, View]


@dataclass(slots=True, kw_only=True)
class Row:
    """One input of a node and what came of it, or something of the world."""

    time_us: int
    nid: str | None
    """None: it is told across."""
    before: Views
    after: Views
    words: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[int, str | None]:
        """The same: one turn of one node."""
        return self.time_us, self.nid


def timeline(lines: Iterable[str], last: int = LAST) -> Iterator[str]:
    """What a trace tells, in lines of at most ``WIDTH`` columns, without line ends.

    ``lines`` are those of a :class:`~kvstore.simulation.trace.Tracer`. A legend comes
    first, then who was what when the last ``last`` lines begin, then these. What
    happened in one turn of a node is not torn apart, so there may be fewer; or more, if
    the last turn alone has more.
    """
    reader = _Reader(last)
    for line in lines:
        reader.read(json.loads(line))
    reader.end()
    rows = list(reader.rows)
    if not rows:
        return
    columns = _columns(rows)
    page = _Page(columns)
    shown: deque[list[str]] = deque()
    count = 0
    while rows:
        drawn = list(page.row(rows[-1]))
        count += len(drawn)
        if shown and count > last:
            break
        shown.appendleft(drawn)
        before = rows.pop().before
    yield from LEGEND
    yield ""
    yield from page.heading(before)
    for drawn in shown:
        yield from drawn


class _Reader:
    """Makes rows of records."""

    def __init__(self, rows_max: int) -> None:
        self.rows: deque[Row] = deque(maxlen=rows_max)
        self._views: dict[str, View] = {}
        self._asked: dict[int, str] = {}
        """Who was asked, by ticket."""
        self._held: Row | None = None
        """A heartbeat that may have done something."""
        self._chatter = 0
        self._chatter_us = 0

    def read(self, record: TraceRecord) -> None:
        """Records come in order."""
        before = dict(self._views)
        self._look(record)
        nid, words = record.get("nid"), words_of(record)
        if record["name"] == "Request" and nid is not None:
            self._asked[_int(record["prop"], "ticket")] = nid
        elif record["name"] == "Answer":
            nid = self._asked.pop(_int(record["prop"], "ticket"), None)
            if nid is None:
                words = f"-- {words}"  # nobody was there to be asked
        row = Row(
            time_us=record["time_us"], nid=nid, before=before, after=dict(self._views)
        )
        held = self._held
        if held is not None and held.key != row.key:
            if record["name"] == "Violation":
                self._release()
            else:
                self._forget()
        if words is None:
            return
        row.words.append(words)
        if _is_chatter(record):
            self._forget()
            self._held = row
            if record["name"].startswith("Lose"):
                self._forget()
            return
        self._release()
        self._add(row)

    def end(self) -> None:
        """There are no more."""
        self._forget()
        self._tell_chatter()

    def _look(self, record: TraceRecord) -> None:
        nid = record.get("nid")
        if nid is None:
            return
        state, was = record["state"], self._views.get(nid)
        view = View(
            role=record["role"],
            is_paused=was is not None and was.is_paused,
            term=state["term"],
            log=record["log"],
            commit=state["commit"],
        )
        match record["name"]:
            case "InitState" | "Restart":
                view = replace(view, role="StateFollower", is_paused=False)
            case "Crash":
                view = replace(view, role="StateDown", is_paused=False)
            case "Pause":
                view = replace(view, is_paused=True)
            case "Resume":
                view = replace(view, is_paused=False)
            case _:
                pass
        self._views[nid] = view

    def _release(self) -> None:
        """The heartbeat did something: show it."""
        if self._held is not None:
            held, self._held = self._held, None
            self._add(held)

    def _forget(self) -> None:
        if self._held is not None:
            self._chatter += 1
            self._chatter_us = self._held.time_us
            self._held = None

    def _add(self, row: Row) -> None:
        self._tell_chatter()
        newest = self.rows[-1] if self.rows else None
        if newest is None or row.nid is None or newest.key != row.key:
            self.rows.append(row)
            return
        newest.words += row.words
        newest.after = row.after

    def _tell_chatter(self) -> None:
        count, self._chatter = self._chatter, 0
        if count >= CHATTER_MIN:
            views = dict(self._views)
            row = Row(time_us=self._chatter_us, nid=None, before=views, after=views)
            row.words.append(f".. {count} heartbeats and answers to them")
            self.rows.append(row)


def _is_chatter(record: TraceRecord) -> bool:
    return "msg" in record and record["msg"]["type"] in HEARTBEATS


class _Page:
    """Lays rows out."""

    def __init__(self, columns: list[str]) -> None:
        self._columns = columns
        self._width = min(COLUMN_WIDTH_MAX, (WIDTH - TIME_WIDTH) // len(columns))

    def heading(self, views: Views) -> Iterator[str]:
        """Who is who, and was what."""
        width = self._width
        names, terms = "ms".rjust(TIME_WIDTH - 2) + "  ", " " * TIME_WIDTH
        for nid in self._columns:
            view = views.get(nid)
            names += nid.ljust(width)
            state = "" if view is None else f"{view.mark} term {view.term}"
            if view is not None and width > 24:
                state += f", log {view.log}, commit {view.commit}"
            terms += state[: width - 1].ljust(width)
        yield names.rstrip()
        yield terms.rstrip()

    def row(self, row: Row) -> Iterator[str]:
        """Its lines: the first has the time."""
        time = f"{row.time_us / 1_000:{TIME_WIDTH - 2}.2f}  "
        if row.nid in self._columns:
            parts = self._wrapped(row.words, self._width - 3)
        else:
            who = "" if row.nid is None else f"-- {row.nid}: "
            parts = self._wrapped([who + it for it in row.words], WIDTH - TIME_WIDTH)
        for part in parts:
            if row.nid in self._columns:
                cells = [
                    f"{self._mark(row, nid)} {part if nid == row.nid else ''}"
                    for nid in self._columns
                ]
                line = "".join([cell.ljust(self._width) for cell in cells])
            else:
                line = part
            yield (time + line).rstrip()
            time = " " * TIME_WIDTH

    def _mark(self, row: Row, nid: str) -> str:
        view = row.after.get(nid)
        return " " if view is None else view.mark

    def _wrapped(self, words: Iterable[str], width: int) -> list[str]:
        lines: list[str] = []
        for each in words:
            lines += textwrap.wrap(
                each, width, subsequent_indent="  ", break_on_hyphens=False
            )
        return lines


def _columns(rows: list[Row]) -> list[str]:
    """Nodes that get a column: if there are too many, those where most happens."""
    count = Counter([row.nid for row in rows if row.nid is not None])
    known = sorted(rows[-1].after, key=lambda nid: (-count[nid], int(nid)))
    return sorted(known[:COLUMNS_MAX], key=int)


# -------------------------------------------------------------------------- words


def words_of(record: TraceRecord) -> str | None:
    """A record in short words; None if it is not worth any."""
    prop = record.get("prop", {})
    name = record["name"]
    if "msg" in record:
        return _message(name, record["msg"], record, prop)
    match name:
        case "Note":
            return f"-- {prop['text']}"
        case "Violation":
            return f"!! {prop['text']}"
        case "Run":
            return f"-- seed {prop['seed']}: {prop['swarm']}"
        case "Request":
            return f"#{prop['ticket']}? {prop['text']}"
        case "Answer":
            return f"#{prop['ticket']}! {_apart(str(prop['error'] or 'ok'))}"
        case "Ask":
            return f"asked to {prop['line']}"
        case "Persist":
            return _write(prop)
        case "Apply":
            return f"applies {_span(prop['first'], prop['last'])}"
        case "Read":
            return f"serves #{prop['tickets']} at {prop['index']}"
        case "SnapshotEnded":
            return f"snapshot for {prop['peer']} is over, at {prop['reached']}"
        case _:
            return (
                _event(name, prop, record) if "text" in prop else _process(name, record)
            )


def _process(name: str, record: TraceRecord) -> str | None:
    prop = record.get("prop", {})
    match name:
        case "InitState":
            return "starts"
        case "Restart":
            state = record["state"]
            return f"RESTARTS: term {state['term']}, log {record['log']}"
        case "Crash":
            return "CRASH" + (f", write {prop['write']}" if prop["write"] else "")
        case "Pause":
            return "PAUSE"
        case "Resume":
            return "goes on"
        case "Disconnect":
            return f"sees {prop['peer']} gone"
        case _:
            return None


def _write(prop: Properties) -> str:
    parts = []
    if "term" in prop:
        vote = "" if prop["vote"] == "0" else f" vote {prop['vote']}"
        parts.append(f"term {prop['term']}{vote}")
    if "snapshot" in prop:
        parts.append(f"snapshot {prop['snapshot']}")
    if "first" in prop:
        parts.append(_span(prop["first"], prop["last"]))
    verb = "disk REFUSES" if prop["refused"] else "on disk:"
    return f"{verb} {', '.join(parts)}"


def _event(name: str, prop: Properties, record: TraceRecord) -> str | None:
    reason = str(prop.get("reason")).lower().replace("_", " ")
    match name:
        case "BecomePreCandidate":
            why = "" if prop["reason"] == "TIMEOUT" else f" ({reason})"
            return f"could it win term {_int(prop, 'term') + 1}?{why}"
        case "BecomeCandidate":
            return f"CAMPAIGNS, term {prop['term']}"
        case "BecomeLeader":
            return f"LEADS term {prop['term']}"
        case "BecomeFollower":
            return f"STEPS DOWN: {reason}"
        case "LeaderChanged":
            leader = prop["leader_id"]
            if str(leader) == record.get("nid"):
                return None
            return f"follows {leader}, term {prop['term']}" if leader else "no leader"
        case "Voted":
            pre = "pre-" if prop["pre_vote"] else ""
            return f"{pre}votes for {prop['candidate_id']}"
        case "LeaderSuspected":
            return f"suspects leader {prop['leader_id']}"
        case "VoteRefused":
            return f"refuses {prop['candidate_id']}: {reason}"
        case "Commit":
            return f"commits {prop['index']}"
        case "ApplyConfChange":
            return f"members: {prop['configuration']}"
        case "ReadsConfirmed":
            return f"confirms reads: {prop['count']}"
        case "PeerStateChanged":
            return None
        case _:
            return str(prop["text"])


def _message(
    name: str, msg: TraceMessage, record: TraceRecord, prop: Properties
) -> str | None:
    what = _content(msg)
    if name.startswith("Receive"):
        is_of_term = msg["term"] in (0, record["state"]["term"]) or "Vote" in name
        when = "" if is_of_term else f" (term {msg['term']})"
        return f"{msg['from']}> {what}{when}"
    if name.startswith("Lose"):
        # Who is down hears nothing, and what it had sent is gone: its column says so.
        if record["role"] == "StateDown" or prop["why"] == "its receiver is down":
            return None
        return f">{msg['to']} {what} (lost: {prop['why']})"
    return f">{msg['to']} {what} sets out" if name == "SendSnapshot" else None


def _content(msg: TraceMessage) -> str:
    entry, is_refused = f"{msg['logTerm']}/{msg['index']}", msg["reject"]
    match msg["type"]:
        case "MsgPreVote":
            return f"pre-vote for {msg['term']}? log {entry}"
        case "MsgVote":
            return f"vote for {msg['term']}? log {entry}"
        case "MsgPreVoteResp":
            return "no pre-vote" if is_refused else "pre-vote"
        case "MsgVoteResp":
            return "no vote" if is_refused else "vote"
        case "MsgApp":
            return f"append {entry} +{msg['entries']}"
        case "MsgAppResp":
            hint = f"{msg['logTerm']}/{msg['rejectHint']}"
            return (
                f"not {msg['index']}, try {hint}"
                if is_refused
                else f"has {msg['index']}"
            )
        case "MsgHeartbeat":
            return f"heartbeat, commit {msg['commit']}"
        case "MsgHeartbeatResp":
            return "heartbeat heard"
        case "MsgSnap":
            return f"snapshot {entry}"
        case "MsgReadIndex":
            return "may I read?"
        case "MsgReadIndexResp":
            return "no read" if is_refused else f"read at {msg['index']}"
        case "MsgTimeoutNow":
            return "campaign now"
        case "MsgProp":
            return f"forwards {msg['entries']}"
        case _:
            return "forwarded: " + ("refused" if is_refused else "done")


def _apart(name: str) -> str:
    """The words of an error's name."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _span(first: object, last: object) -> str:
    return f"{first}" if first == last else f"{first}..{last}"


def _int(prop: Properties, name: str) -> int:
    value = prop[name]
    assert isinstance(value, int)
    return value
