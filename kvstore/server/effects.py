"""Carries out what a replica asks for, each piece where it belongs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.replica.effects import (
    Apply,
    CompactLog,
    Done,
    Effect,
    Fail,
    Leave,
    Persist,
    Read,
    ReportSessions,
    Respond,
    Send,
    SendSnapshot,
    StopSnapshot,
    SyncState,
)
from kvstore.replica.messages import ForwardWrites
from kvstore.server.network import no_connection
from kvstore.server.requests import Confirmed
from kvstore.server.state_thread import ReadJob, StateCall
from kvstore.types import LogIndex, Revision

if TYPE_CHECKING:
    from kvstore.server.node import Node
    from kvstore.storage.lmdb_state import LMDBState


class Effects:
    """Of one node, on its event loop."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def carry_out(self, effects: list[Effect]) -> None:
        """All of them, in order."""
        node = self._node
        not_sent: list[ForwardWrites] = []
        for effect in effects:
            match effect:
                case Send(messages):
                    if node.network is not None:
                        not_sent += node.network.send(messages)
                case Persist():
                    if effect.snapshot is None:
                        node.log_thread.submit(effect)
                    else:
                        node.installing.install(effect)
                case Apply():
                    node.state_thread.submit(effect)
                case Read():
                    self._read(effect)
                case Respond(ticket, results, revision):
                    node.requests.answer(ticket, results, revision)
                case Done(ticket):
                    node.requests.answer(ticket, b"", node.applied_revision)
                case Fail(ticket, error):
                    node.requests.answer(ticket, b"", Revision(0), error)
                case _:
                    self._carry_out_rare(effect)
        if not_sent:
            node.receive(no_connection(not_sent))

    def _carry_out_rare(
        self,
        effect: SendSnapshot
        | StopSnapshot
        | SyncState
        | CompactLog
        | ReportSessions
        | Leave,
    ) -> None:
        node = self._node
        match effect:
            case SendSnapshot(peer):
                assert node.network is not None, "peers without a network"
                node.network.snapshots.send_to(peer)
            case StopSnapshot(peer):
                assert node.network is not None, "peers without a network"
                node.network.snapshots.stop(peer)
            case SyncState():
                node.state_thread.submit(StateCall(self._sync, self._synced))
            case CompactLog(index):
                node.log_thread.call(lambda log: log.compact(index))
            case ReportSessions():
                self._report_identities()
                node.state_thread.submit(
                    StateCall(lambda state: state.sessions.activity(), self._reported)
                )
            case Leave():
                node.leave()

    def _read(self, effect: Read) -> None:
        node = self._node
        staleness_ms = None
        if effect.fresh_ms is not None:
            staleness_ms = max(0, node.now_ms() - effect.fresh_ms)
        confirmed = Confirmed(effect.consistency, staleness_ms)
        for ticket in effect.tickets:
            if (ranges := node.requests.ranges(ticket)) is not None:
                node.requests.confirmed(ticket, confirmed)
                node.state_thread.submit(ReadJob(ticket, ranges))

    def _sync(self, state: LMDBState) -> LogIndex:
        self._node.state_thread.commit(state)
        return state.progress.index

    def _synced(self, index: LogIndex) -> None:
        with self._node.fail_stop:
            self._node.replica.state_synced(index)
        self._node.poll_soon()

    def _report_identities(self) -> None:
        """Say which data directories members speak from, this one too."""
        node = self._node
        node.replica.identified(node.node_id, node.stores.identity.incarnation)
        if node.network is not None:
            for peer, incarnation in node.network.identified.items():
                node.replica.identified(peer, incarnation)

    def _reported(self, activity: dict[int, LogIndex]) -> None:
        with self._node.fail_stop:
            self._node.replica.sessions_reported(activity)
        self._node.poll_soon()
