"""Commands of sessions, as two members apply them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from kvstore.pb import kv_pb2
from kvstore.simulation.mutants.noticing import require
from kvstore.simulation.mutants.scenarios.states import (
    OPEN_SESSION,
    apply_all,
    log_of,
    numbered,
    put,
)
from kvstore.state_machine import machine
from kvstore.state_machine.digest import state_hash
from kvstore.storage.memory_state import MemoryState

WRITE = put("a")
REPEATED = log_of(
    [OPEN_SESSION],
    [numbered(1, 1, WRITE), WRITE],
    [numbered(1, 1, WRITE), WRITE],
)
"""A client whose answer was lost sends its command again."""
EXPIRY = kv_pb2.ExpireSessions(
    sessions=[kv_pb2.SessionActivity(session_id=1, index=1)], term=1
)
EXPIRING = log_of(
    [OPEN_SESSION],
    [numbered(1, 1, WRITE), WRITE],
    [kv_pb2.Command(expire_sessions=EXPIRY)],
)
"""A session is to expire unless it was active since entry 1, as it was."""


def repeated_command_is_carried_out_once() -> None:
    """The same member hears it twice."""
    state = MemoryState()
    answers = [machine.apply(state, entry, want_results=True) for entry in REPEATED]
    first, again = (results[1].put.revision for results in answers[1:])
    require(
        state.progress.revision == 1 and first == again,
        "a command that is sent again is carried out again (LIN SES)",
        *(state.progress.revision, first, again),
    )


def every_member_remembers_the_answer() -> None:
    """The leader answers, and the member that hears it again leads afterwards."""
    leader, follower = MemoryState(), MemoryState()
    for entry in REPEATED[:2]:
        machine.apply(leader, entry, want_results=True)
        machine.apply(follower, entry, want_results=False)
    machine.apply(follower, REPEATED[2], want_results=True)
    require(
        follower.progress.revision == 1,
        "a command that is sent again to a new leader is carried out again (LIN SES)",
        follower.progress.revision,
    )
    machine.apply(leader, REPEATED[2], want_results=False)
    require(
        state_hash(leader) == state_hash(follower),
        "members at one index differ (I12)",
    )


def active_session_stays_open() -> None:
    """A leader finds a session silent, and an entry of it comes before it says so."""
    state = MemoryState()
    apply_all(state, EXPIRING)
    require(
        len(state.sessions) == 1,
        "a session expires that was active (SES)",
        state.progress.index,
    )


def late_replay_expires_nobody() -> None:
    """One member applies an entry long after the other: an hour by its own clock."""
    soon, late = MemoryState(), MemoryState()
    apply_all(soon, EXPIRING)
    apply_all(late, EXPIRING[:2])
    with an_hour_later():
        apply_all(late, EXPIRING)
    require(
        state_hash(soon) == state_hash(late),
        "members at one index differ by when they applied it (I12)",
        *(len(soon.sessions), len(late.sessions)),
    )


@contextmanager
def an_hour_later() -> Iterator[None]:
    """The clock of this process is an hour ahead."""
    monotonic = time.monotonic
    time.monotonic = lambda: monotonic() + 3600
    try:
        yield
    finally:
        time.monotonic = monotonic
