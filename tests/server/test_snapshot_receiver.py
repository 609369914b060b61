"""Which snapshots a node takes, and what it does with one that is there."""

from dataclasses import dataclass, replace

import pytest

from kvstore.errors import Busy, ForeignDirectory, KVStoreError, NewerFormat, NotLeader
from kvstore.raft.messages import InstallSnapshot
from kvstore.replica.interfaces import Identity
from kvstore.rpc.snapshot_codec import SnapshotHeader
from kvstore.server.snapshot_receiver import Received, StagingReceiver
from kvstore.storage.record import FORMAT_VERSION
from kvstore.types import ClusterId, Epoch, LogIndex, NodeId, Term
from tests.rpc.snapshots import CLUSTER, HEADER, Staged, Store

LEADER = NodeId(1)
FITS = replace(HEADER, format_version=FORMAT_VERSION)
LAST = FITS.last.index
NOTHING = LogIndex(0)


@dataclass
class Core:
    term: Term = FITS.term
    commit_index: LogIndex = NOTHING
    applied_index: LogIndex = NOTHING


class Node:
    """A receiver, and what it told of."""

    def __init__(self, identity: Identity) -> None:
        self.core = Core()
        self.told: list[tuple[Received, InstallSnapshot]] = []
        self.receiver = StagingReceiver(
            identity,
            core=self.core,
            stage=lambda header: Staged(Store(), header.snapshot_id),
            on_received=lambda *told: self.told.append(told),
        )

    def takes(self, header: SnapshotHeader = FITS) -> bool:
        try:
            self.receiver.check(LEADER, header)
        except Busy:
            return False
        return True

    def receive(self) -> Staged:
        staged = self.receiver.stage(FITS)
        assert isinstance(staged, Staged)
        self.receiver.received(LEADER, FITS, staged)
        return staged


def node(state_id: ClusterId | None = None) -> Node:
    return Node(Identity(cluster_id=CLUSTER, node_id=NodeId(2), state_id=state_id))


@pytest.mark.parametrize(
    ("header", "error"),
    [
        pytest.param(replace(FITS, term=Term(4)), NotLeader, id="term_is_over"),
        pytest.param(
            replace(FITS, state_id=ClusterId(b"x" * 16)), ForeignDirectory, id="state"
        ),
        pytest.param(replace(FITS, epoch=Epoch(2)), ForeignDirectory, id="epoch"),
        pytest.param(
            replace(FITS, format_version=FORMAT_VERSION + 1), NewerFormat, id="newer"
        ),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(
    header: SnapshotHeader, error: type[KVStoreError]
) -> None:
    with pytest.raises(error):
        node().receiver.check(LEADER, header)


def test_a_snapshot_of_this_term_or_a_later_one_is_taken() -> None:
    assert node().takes()
    assert node().takes(replace(FITS, term=Term(FITS.term + 1)))


def test_a_restored_cluster_takes_the_state_that_it_was_restored_from() -> None:
    origin = ClusterId(b"o" * 16)
    assert node(state_id=origin).takes(replace(FITS, state_id=origin))
    with pytest.raises(ForeignDirectory):
        node(state_id=origin).receiver.check(LEADER, FITS)


def test_the_core_is_told_of_what_is_there() -> None:
    receiving = node()
    staged = receiving.receive()
    ((received, message),) = receiving.told
    assert received == Received(
        last=FITS.last,
        chain=FITS.chain,
        snapshot_id=FITS.snapshot_id,
        staged=staged,
    )
    assert message == InstallSnapshot(
        sender=LEADER, to=NodeId(2), term=FITS.term, snapshot=FITS.snapshot
    )


def test_the_next_one_waits_until_this_one_is_the_state() -> None:
    """To begin another could take away the file that is about to be renamed."""
    receiving = node()
    receiving.receive()
    assert not receiving.takes()
    receiving.core.commit_index = LAST
    # A newer term changes nothing: the core has taken it.
    receiving.core.term = Term(FITS.term + 1)
    later = replace(FITS, term=Term(FITS.term + 2))
    assert not receiving.takes(later)
    receiving.core.applied_index = LAST
    assert receiving.takes(later)


def test_one_that_came_too_late_for_its_term_is_not_waited_for() -> None:
    receiving = node()
    receiving.receive()
    receiving.core.term = Term(FITS.term + 1)
    assert receiving.takes(replace(FITS, term=Term(FITS.term + 1)))
