"""Damage that a node finds in its stores: who looks for it, and who hears of it."""

import logging
from collections.abc import Callable

from kvstore.config import Config
from kvstore.server.logs import log_event
from kvstore.server.metrics import Metrics
from kvstore.server.stores import Stores
from kvstore.storage.record import Finding
from kvstore.storage.scrubber import Scrubber
from kvstore.types import NodeId

LOGGER = logging.getLogger("kvstore.scrubber")


def report_finding(finding: Finding, *, node_id: NodeId, metrics: Metrics) -> None:
    """Say it in the log and count it, whoever found it. Any thread."""
    log_event(
        LOGGER,
        logging.ERROR,
        "corrupt_record",
        node=node_id,
        store=finding.store,
        database=finding.database,
        key=finding.key_hex,
        what=finding.what,
    )
    metrics.corrupt_records.labels(finding.store).inc()


def start_scrubber(
    config: Config, stores: Stores, on_finding: Callable[[Finding], None]
) -> Scrubber:
    """Tour both stores until the scrubber is closed.

    ``on_finding`` runs on the scrubber's thread.
    """
    scrubber = Scrubber(
        [stores.log.scrub_target(), stores.state.scrub_target()],
        bytes_per_second_max=config.scrub_bytes_per_second_max,
        records_per_second_max=config.scrub_records_per_second_max,
        pause_s=config.scrub_pause_s,
        on_finding=on_finding,
    )
    scrubber.start()
    return scrubber
