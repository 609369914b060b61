"""What the core's trace events mean to people: log lines, metrics, health."""

import logging
from typing import Protocol

from kvstore.raft.events import (
    Elected,
    Event,
    LeaderChanged,
    LeaderSuspected,
    SteppedDown,
)
from kvstore.server.logs import log_event
from kvstore.server.metrics import Metrics
from kvstore.types import NodeId, Term

LOGGER = logging.getLogger("kvstore.server")


class TellHealth(Protocol):
    """Whether clients should come here."""

    def __call__(self, *, serving: bool) -> None: ...


class Observer:
    """Watches one node."""

    def __init__(
        self, node_id: NodeId, metrics: Metrics, tell_health: TellHealth
    ) -> None:
        self._node_id = node_id
        self._metrics = metrics
        self._tell_health = tell_health
        self._leader_term = Term(0)
        self.leader_changes = 0
        """Terms in which a new leader was seen."""

    def observe(self, events: list[Event]) -> None:
        """Report what matters outside of a trace, in order."""
        for event in events:
            match event:
                case Elected(term=term, last_index=index):
                    self._leader_seen(term)
                    self._log("elected", term=term, index=index)
                case LeaderChanged(term=term, leader_id=leader):
                    if leader is not None:
                        self._leader_seen(term)
                    self._log("leader_changed", term=term, leader=leader)
                    self._tell_health(serving=leader is not None)
                case SteppedDown(term=term, was_leader=True, reason=reason):
                    self._log("stepped_down", term=term, reason=reason.value)
                case LeaderSuspected(term=term, leader_id=leader):
                    self._log("leader_suspected", term=term, leader=leader)
                case _:
                    pass

    def _leader_seen(self, term: Term) -> None:
        if term > self._leader_term:
            self._leader_term = term
            self.leader_changes += 1
            self._metrics.leader_changes.inc()

    def _log(self, event: str, **fields: object) -> None:
        log_event(LOGGER, logging.INFO, event, node=self._node_id, **fields)
