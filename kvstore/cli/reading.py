"""How a command's reads are confirmed, and in plain words what the answer is worth."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Protocol, TypeVar

import click

from kvstore.cli.output import Json, note
from kvstore.client.consistency import (
    LINEARIZABLE,
    Consistency,
    ReadLevel,
    read_level,
)
from kvstore.client.results import ResponseHeader
from kvstore.errors import InvalidRequest
from kvstore.pb import kv_pb2

Result = TypeVar("Result")

LEVELS = tuple(
    # A command ends before it could remember what it saw.
    level.value
    for level in Consistency
    if level is not Consistency.SESSION
)
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """What the command line says of a read."""

    level: ReadLevel = LINEARIZABLE
    explain: bool = False


class Reads(Protocol):
    """A store, as far as it is read from."""

    async def read(
        self, request: kv_pb2.Range, level: ReadLevel
    ) -> tuple[kv_pb2.RangeResult, ResponseHeader]: ...


class Reader:
    """Reads one range at a level, in as many pages as it takes."""

    def __init__(self, store: Reads, level: ReadLevel) -> None:
        self._store = store
        self._level = level
        self.header: ResponseHeader | None = None
        """Of the first page: the others are of its revision."""

    async def range(self, request: kv_pb2.Range) -> kv_pb2.RangeResult:
        """The next page. Raises as the client does."""
        result, header = await self._store.read(request, self._level)
        if self.header is None:
            self.header = header
            self._level = self._level.of_later_pages
        return result


def reading_options(function: Callable[..., Result]) -> Callable[..., Result]:
    """Add ``--consistency`` and the like; the function gets ``reading=``."""

    def call(
        *,
        consistency: str | None,
        staleness: int | None,
        explain: bool,
        **others: object,
    ) -> Result:
        if consistency is None and staleness is not None:
            consistency = Consistency.BOUNDED.value
        try:
            wanted = Consistency(consistency) if consistency else None
            level = read_level(wanted, staleness)
        except InvalidRequest as error:
            raise click.UsageError(
                "--staleness DURATION goes with --consistency bounded, and that with it"
            ) from error
        reading = ReadingOptions(level=level, explain=explain)
        return function(reading=reading, **others)

    update_wrapper(call, function)
    level = click.option(
        "--consistency",
        type=click.Choice(LEVELS),
        help="What the read promises; weaker ones cost less and may miss new writes.  "
        "[default: linearizable]",
    )
    staleness = click.option(
        "--staleness",
        metavar="DURATION",
        callback=_parse_duration,
        help="For --consistency bounded: miss only writes younger than this, as 500ms "
        "or 2s.",
    )
    explain = click.option(
        "--explain",
        is_flag=True,
        help="Say on stderr (with --json: in it) who answered and what that is worth.",
    )
    return level(staleness(explain(call)))


def explain_on_stderr(
    header: ResponseHeader | None, reading: ReadingOptions, revision: int
) -> None:
    """Print the explanation, if it was asked for and there was an answer."""
    if reading.explain and header is not None:
        note(explanation(header, reading.level, revision))


def explanation_json(
    header: ResponseHeader, asked: ReadLevel, revision: int
) -> dict[str, Json]:
    """The same for scripts, with the words in ``text``."""
    return {
        "cluster_id": header.cluster_id.hex(),
        "epoch": header.epoch,
        "node_id": header.node_id,
        "term": header.term,
        "revision": header.revision,
        "consistency": header.consistency.value,
        "staleness_ms": header.staleness_ms,
        "text": explanation(header, asked, revision),
    }


def explanation(header: ResponseHeader, asked: ReadLevel, revision: int) -> str:
    """Who answered; what the answer certainly holds, and what it may miss.

    ``revision``: as of which the read was asked for; 0 is the newest.
    """
    epoch = f", epoch {header.epoch}" if header.epoch else ""
    cluster = f"cluster {header.cluster_id.hex()[:8]}{epoch}"
    who = f"Node {header.node_id} of {cluster}, in term {header.term}"
    sentences = [
        f"{who}, answered at revision {header.revision}.",
        _WORDS[header.consistency](header),
    ]
    # These two promise the same.
    as_good = {header.consistency, asked.consistency} <= _CONFIRMED
    if header.consistency is not asked.consistency and not as_good:
        sentences.append(
            f"You asked for {asked.consistency.value}; the reply says "
            f"{header.consistency.value}."
        )
    if revision:
        sentences.append(
            f"The pairs are those of revision {revision}: history, which no later "
            "write changes."
        )
    return " ".join(sentences)


def _linearizable(_: ResponseHeader) -> str:
    return (
        "Linearizable: after the read began, the leader made sure with a majority that "
        "it still led. Every write acknowledged before the read is in the answer; of "
        "writes under way meanwhile, some may be."
    )


def _lease(_: ResponseHeader) -> str:
    return (
        "Lease: the leader answered alone, in a time in which no other can be elected "
        "if the members' clocks run at about the same rate. Then every write "
        "acknowledged before the read is in the answer; with a clock gone wrong, new "
        "ones may be missing."
    )


def _follower(_: ResponseHeader) -> str:
    return (
        "Follower: after the read began, the node asked the leader how far writes have "
        "come, waited until it had them too, and answered from its own state. Every "
        "write acknowledged before the read is in the answer."
    )


def _bounded(header: ResponseHeader) -> str:
    return f"Bounded: {_own_state(header)}"


def _session(header: ResponseHeader) -> str:
    return (
        f"Session: {_own_state(header)} Whatever this client wrote or saw before is in "
        "it."
    )


def _stale(header: ResponseHeader) -> str:
    return f"Stale: {_own_state(header)}"


def _own_state(header: ResponseHeader) -> str:
    if header.staleness_ms is None:
        return (
            "the node answered from its own state and asked nobody. That was the "
            f"cluster's state at revision {header.revision}; any later write may be "
            "missing, and the node cannot say for how long."
        )
    ago = f"{header.staleness_ms} ms"
    return (
        f"the node answered from its own state. Every write acknowledged up to {ago} "
        "before the read is in it; later ones may be missing."
    )


_CONFIRMED = {Consistency.LINEARIZABLE, Consistency.FOLLOWER}
_WORDS: dict[Consistency, Callable[[ResponseHeader], str]] = {
    Consistency.LINEARIZABLE: _linearizable,
    Consistency.LEASE: _lease,
    Consistency.FOLLOWER: _follower,
    Consistency.BOUNDED: _bounded,
    Consistency.SESSION: _session,
    Consistency.STALE: _stale,
}


def _parse_duration(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> int | None:
    """``1.5s`` -> 1500."""
    if text is None:
        return None
    found = _DURATION.fullmatch(text)
    milliseconds = round(float(found[1]) * _UNIT_MS[found[2]]) if found else 0
    if milliseconds < 1:
        raise click.BadParameter("write a duration as 500ms, 2s or 1m, 1ms or more")
    return milliseconds
