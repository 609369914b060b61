"""The scrubber of a running node."""

import logging
from collections.abc import Callable

from kvstore.config import Config
from kvstore.server.logs import log_event
from kvstore.server.stores import Stores
from kvstore.storage.record import Finding
from kvstore.storage.scrubber import Scrubber

LOGGER = logging.getLogger("kvstore.scrubber")


def start_scrubber(
    config: Config, stores: Stores, on_finding: Callable[[Finding], None]
) -> Scrubber:
    """Tour both stores until the scrubber is closed.

    ``on_finding`` runs on the scrubber's thread.
    """
    node_id = stores.identity.node_id

    def report(finding: Finding) -> None:
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
        on_finding(finding)

    scrubber = Scrubber(
        [stores.log.scrub_target(), stores.state.scrub_target()],
        bytes_per_second_max=config.scrub_bytes_per_second_max,
        records_per_second_max=config.scrub_records_per_second_max,
        pause_s=config.scrub_pause_s,
        on_finding=report,
    )
    scrubber.start()
    return scrubber
