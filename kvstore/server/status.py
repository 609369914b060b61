"""A node's account of itself."""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from resource import getpagesize
from typing import TYPE_CHECKING

from kvstore.errors import Closed
from kvstore.pb import cluster_pb2
from kvstore.server.admin import members_of
from kvstore.storage.record import FORMAT_VERSION
from kvstore.types import NodeId

if TYPE_CHECKING:
    from kvstore.server.node import Node


def package_version() -> str:
    """Version of the installed distribution; "unknown" for a bare source tree."""
    try:
        return version("kvstore")
    except PackageNotFoundError:
        return "unknown"


VERSION = package_version()
"""Looked up once: it is read from a file, and a status must not hold the loop up."""


def node_status(node: Node) -> cluster_pb2.StatusResponse:
    """Everything ``kvstore status`` shows; reads counters, never the disk."""
    raft, stores = node.replica.raft, node.stores
    configuration = raft.configuration
    response = cluster_pb2.StatusResponse(
        cluster_id=stores.identity.cluster_id,
        node_id=node.node_id,
        role=raft.role.value,
        term=raft.term,
        leader_id=raft.leader_id or NodeId(0),
        commit_index=raft.commit_index,
        applied_index=raft.applied_index,
        last_log_index=raft.last_index,
        last_log_term=raft.log.last_id.term,
        revision=node.applied_revision,
        compact_revision=node.compact_revision,
        raft_store_bytes=stores.log.used_bytes,
        state_store_bytes=_state_store_bytes(node),
        members=members_of(configuration),
        removed=configuration.removed,
        joint=configuration.is_joint,
        leases=configuration.leases,
        epoch=stores.identity.epoch,
        incarnation=stores.identity.incarnation,
        address=node.address,
        first_log_index=raft.log.first_index,
        state_id=stores.identity.origin_id,
        snapshot_bytes_sent=(
            0 if node.network is None else node.network.snapshots.bytes_sent
        ),
        sessions=node.sessions,
        transferee=raft.transferee or NodeId(0),
        anonymous_memory_bytes=anonymous_bytes(),
        uptime_seconds=time.monotonic() - node.started_at,
        version=VERSION,
        leader_changes=node.observer.leader_changes,
        format_version=FORMAT_VERSION,
        cpu_seconds=time.process_time(),
        memory_bytes=resident_bytes(),
    )
    for peer, progress in sorted(raft.progress.items()):
        if peer != node.node_id:
            response.peers.add(
                node_id=peer,
                match_index=progress.match_index,
                state=progress.state.name.lower(),
                recently_active=progress.recently_active,
            )
    if node.scrubber is not None:
        fill_scrub_status(node, response.scrub)
    return response


def fill_scrub_status(node: Node, status: cluster_pb2.ScrubStatus) -> None:
    """Progress and findings of the node's scrubber."""
    assert node.scrubber is not None
    snapshot = node.scrubber.status()
    for tour in snapshot.tours:
        status.tours.add(
            store=tour.store,
            tours_completed=tour.tours_completed,
            records_checked_in_tour=tour.records_checked_in_tour,
            records_checked=tour.records_checked,
            progress=tour.progress,
            corrupt_records=tour.corrupt_records,
            last_tour_seconds=tour.last_tour_seconds,
        )
    for finding in snapshot.findings:
        status.findings.add(
            store=finding.store,
            database=finding.database,
            key_hex=finding.key_hex,
            what=finding.what,
        )


def _state_store_bytes(node: Node) -> int:
    try:
        return node.stores.state.used_bytes
    except Closed:
        return 0  # a snapshot is just being put in its place


def anonymous_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process that no file backs; 0 if nobody tells."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def resident_bytes() -> int:
    """Resident memory of this process; 0 where ``/proc`` does not tell."""
    try:
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(fields[1]) * getpagesize()
