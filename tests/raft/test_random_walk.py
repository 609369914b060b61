"""Random faults, every invariant after every step, and recovery at the end.

A seed draws its own mix of faults and limits (a swarm): a mix of everything at once
reaches fewer states than mixes that each leave something out. Run other seeds with
``RAFT_SEEDS=FIRST:COUNT pytest tests/raft/test_random_walk.py``; a failing seed is in
the name of its test.
"""

import hashlib
import random
from collections import Counter

import pytest

from kvstore.raft.options import RaftOptions
from kvstore.types import NodeId
from tests import walks
from tests.raft.cluster import Cluster

EVENTS = 4_000
WIRE_MAX = 60


class Walk:
    """One seed's cluster and its faults."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        choose = self.random.choice
        self.options = RaftOptions(
            election_timeout_ticks=choose([3, 10]),
            heartbeat_interval_ticks=1,
            evidence_election_ticks_max=choose([1, 3]),
            append_bytes_max=choose([1, 40, 1 << 20]),
            inflight_appends_max=choose([1, 2, 256]),
            inflight_append_bytes_max=choose([1 << 20, 1 << 24]),
            apply_bytes_max=choose([1, 50, 1 << 22]),
            log_cache_bytes_max=choose([0, 600, 1 << 24]),
            uncommitted_bytes_max=choose([200, 1 << 26]),
        )
        self.cluster = Cluster(
            choose([1, 2, 3, 3, 3, 4, 5, 5]), options=self.options, seed=seed
        )
        self.weights = {
            "deliver": 100,
            "tick": choose([5, 15, 40]),
            "propose": choose([3, 15]),
            "read": choose([0, 5]),
            "fsync": choose([10, 60]),
            "apply": choose([2, 30]),
            "slow_disk": choose([0, 2]),
            "slow_apply": choose([0, 1]),
            "lose": choose([0, 2, 20]),
            "repeat": choose([0, 2, 20]),
            "reorder": choose([0, 0, 5, 50]),
            "crash": choose([0, 0.3, 1]),
            "crash_after_write": choose([0, 0.3]),
            "restart": choose([1, 4]),
            "cut": choose([0, 0.3, 1]),
            "heal": choose([0.5, 2]),
            "depose": choose([0, 0.5, 2]),
            "disconnect": choose([0, 1, 3]),
        }
        self.next_request_id = 0
        self.reached: Counter[str] = Counter()

    def __str__(self) -> str:
        return f"{len(self.cluster.ids)} nodes, {self.options}, {self.weights}"

    def run(self, events: int) -> None:
        for _ in walks.walk(self, self.weights, self.random, events):
            if len(self.cluster.wire) > WIRE_MAX:
                self.lose()

    # ------------------------------------------------------------------- faults

    def running(self) -> NodeId | None:
        running = self.cluster.running()
        return self.random.choice(running) if running else None

    def _deliver_at(self, position: int, *, keep: bool = False) -> None:
        wire = self.cluster.wire
        if not wire:
            return
        message = wire[position] if keep else wire.pop(position)
        if (message.sender, message.to) not in self.cluster.cuts:
            self.cluster.deliver([message])

    def _anywhere(self) -> int:
        return self.random.randrange(max(1, len(self.cluster.wire)))

    def deliver(self) -> None:
        self._deliver_at(0)

    def reorder(self) -> None:
        self._deliver_at(self._anywhere())

    def repeat(self) -> None:
        self._deliver_at(self._anywhere(), keep=True)

    def lose(self) -> None:
        if self.cluster.wire:
            del self.cluster.wire[self._anywhere()]

    def tick(self) -> None:
        if (node_id := self.running()) is not None:
            self.cluster.tick(node_id)

    def propose(self) -> None:
        for node_id in self.cluster.running():
            raft = self.cluster.raft(node_id)
            if raft.is_leader and raft.ready_for_writes:
                size = self.random.choice([0, 1, 30])
                if raft.uncommitted_bytes + size <= self.options.uncommitted_bytes_max:
                    self.cluster.propose(node_id, bytes(size))
                else:
                    self.reached["busy"] += 1

    def read(self) -> None:
        if (node_id := self.running()) is not None:
            self.next_request_id += 1
            self.cluster.read(node_id, self.next_request_id)

    def fsync(self) -> None:
        if (node_id := self.running()) is not None:
            self.cluster.fsync(node_id)

    def apply(self) -> None:
        if (node_id := self.running()) is not None:
            self.cluster.apply(node_id)

    def slow_disk(self) -> None:
        server = self.cluster.servers[self.random.choice(self.cluster.ids)]
        server.slow_disk = not server.slow_disk

    def slow_apply(self) -> None:
        server = self.cluster.servers[self.random.choice(self.cluster.ids)]
        server.slow_apply = not server.slow_apply

    def crash(self) -> None:
        """Often the leader: its crash is the one that matters."""
        node_id = self.running()
        leaders = [i for i in self.cluster.running() if self.cluster.raft(i).is_leader]
        if leaders and self.random.random() < 0.5:
            node_id = self.random.choice(leaders)
        if node_id is not None:
            self.cluster.crash(node_id, notice=self.random.random() < 0.5)

    def crash_after_write(self) -> None:
        for node_id in self.cluster.running():
            if self.cluster.servers[node_id].writing is not None:
                self.cluster.write_then_crash(node_id)
                return

    def restart(self) -> None:
        down = [i for i in self.cluster.ids if self.cluster.servers[i].raft is None]
        if down:
            self.cluster.restart(self.random.choice(down))

    def cut(self) -> None:
        """One link, in one direction or both, or one node from all."""
        a, b = (self.random.choice(self.cluster.ids) for _ in range(2))
        match self.random.randrange(3):
            case 0:
                self.cluster.cuts.add((a, b))
            case 1:
                self.cluster.cut([a], [b])
            case _:
                self.cluster.cut([a])

    def heal(self) -> None:
        self.cluster.heal()

    def depose(self) -> None:
        """A leader goes on alone for a while, and somebody else is soon elected."""
        for node_id in self.cluster.running():
            if self.cluster.raft(node_id).is_leader:
                self.cluster.cut([node_id])
                for peer in self.cluster.running():
                    if peer != node_id:
                        self.cluster.disconnect(peer, node_id)
        self.propose()

    def disconnect(self) -> None:
        """A connection closes, as both its ends or only one of them see."""
        running = self.cluster.running()
        a, b = (self.random.choice(self.cluster.ids) for _ in range(2))
        for node_id, peer in ((a, b), (b, a)):
            if node_id in running and self.random.random() < 0.7:
                self.cluster.disconnect(node_id, peer)

    # ----------------------------------------------------------------- recovery

    def recover(self) -> None:
        """Faults end: within a bound one leader serves writes and reads everywhere."""
        cluster = self.cluster
        cluster.heal()
        for node_id, server in cluster.servers.items():
            server.slow_disk = server.slow_apply = False
            if server.raft is None:
                cluster.restart(node_id)
            else:
                cluster.fsync(node_id)
                cluster.apply(node_id)
        for _ in range(20 * self.options.election_timeout_ticks):
            cluster.tick_all()
            if self._in_line():
                break
        else:
            pytest.fail(f"no recovery: {cluster.logs()} {cluster.commits()}")
        entry = cluster.propose(cluster.leader().node_id, b"afterwards")
        cluster.stabilize()
        for node_id in cluster.ids:
            cluster.read(node_id, -node_id)
        cluster.stabilize()
        for node_id in cluster.ids:
            server = cluster.servers[node_id]
            assert server.state[-1].index == entry.index
            assert server.reads[-node_id].index == entry.index

    def _in_line(self) -> bool:
        rafts = [self.cluster.raft(i) for i in self.cluster.ids]
        leaders = {raft.leader_id for raft in rafts}
        ends = {(raft.last_index, raft.commit_index, raft.term) for raft in rafts}
        return (
            len(leaders) == len(ends) == 1
            and None not in leaders
            and all(raft.last_index == raft.applied_index for raft in rafts)
        )


def walk(seed: int) -> Walk:
    subject = Walk(seed)
    subject.run(EVENTS)
    subject.recover()
    return subject


def trace(seed: int) -> str:
    """A digest of everything that happened in a walk."""
    digest = hashlib.sha256()
    for node_id, server in walk(seed).cluster.servers.items():
        digest.update(repr((node_id, server.events, server.state)).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("seed", walks.seeds("RAFT_SEEDS", "0:250"))
def test_random_faults_break_no_invariant_and_heal(seed: int) -> None:
    """Safety after every step (sections 5.2 to 5.4), and progress once faults end."""
    print(f"seed {seed}: {Walk(seed)}")  # shown if the test fails
    walk(seed)


def test_the_walks_reach_what_matters() -> None:
    """Random tests that find nothing may have done nothing: these states are seen."""
    count = 40
    reached: Counter[str] = Counter()
    for seed in range(count):
        subject = walk(seed)
        reached += subject.reached
        for server in subject.cluster.servers.values():
            reached.update(type(event).__name__ for event in server.events)
    for name in (
        "Elected",
        "SteppedDown",
        "LeaderSuspected",
        "EntriesReplaced",
        "PeerStateChanged",
        "ReadsConfirmed",
        "ReadsRejected",
        "VoteRefused",
        "busy",
    ):
        assert reached[name] > count / 4, (name, reached)
    assert reached["Committed"] > 20 * count


def test_a_seed_is_the_same_walk_under_any_hash_seed() -> None:
    """No order of a set or dict decides anything: the whole history is the same in
    processes that hash differently."""
    assert walks.traces_under_hash_seeds(__name__, 6) == {trace(6)}
