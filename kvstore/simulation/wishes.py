"""What one client of a simulated cluster wants next, and what it has learned so far.

Few keys, so that operations contend. Every batch has something that no other has: that
is how the oracle finds it in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.pb import kv_pb2

if TYPE_CHECKING:
    import random

KEYS = tuple(b"k%d" % number for number in range(8))
EVERYTHING = kv_pb2.Range(key=b"\0", range_end=b"\0")
COUNTER = b"n"
"""Holds a number, and who wrote it. Everybody adds one, each by compare and swap."""
_NOBODYS = b"-"
"""Begins the keys that are only compared, and never exist."""
_ORDERS = (kv_pb2.Range.NONE, kv_pb2.Range.ASCEND, kv_pb2.Range.DESCEND)
_TARGETS = (kv_pb2.Range.KEY, kv_pb2.Range.KEY, kv_pb2.Range.MOD)
_LEVELS = (
    kv_pb2.LINEARIZABLE,
    kv_pb2.LEASE,
    kv_pb2.FOLLOWER,
    kv_pb2.BOUNDED,
    kv_pb2.SESSION,
    kv_pb2.STALE,
)
_LARGE_VALUE_BYTES = 5_000
"""A reply with such a pair in it is too large to be kept."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Commands to be carried out once, one after the other."""

    commands: tuple[kv_pb2.Command, ...]
    adds: bool = False
    """It adds one to the counter, if nobody else does meanwhile."""


class Wishes:
    """Of one client."""

    def __init__(self, chance: random.Random, name: str) -> None:
        """``name``: unique among the clients of a run."""
        self.seen = 0
        """The highest revision that it was told of."""
        self.additions = 0
        """Additions to the counter that it knows to have happened."""
        self._chance = chance
        self._name = name.encode()
        self._last_mark = 0
        self._mods: dict[bytes, int] = {}
        """The revision at which each key was last seen to change; 0: it is deleted."""
        self._count = 0
        """The counter, as it was last seen."""

    def _mark(self) -> bytes:
        """What no other command has."""
        self._last_mark += 1
        return b"%b.%d" % (self._name, self._last_mark)

    def _key(self) -> bytes:
        return self._chance.choice(KEYS)

    def write(self) -> Wish:
        """Something to write."""
        plans = (
            self._plan_put,
            self._plan_batch,
            self._plan_swap,
            self._plan_delete,
            self._plan_addition,
            self._plan_nested,
            self._plan_compaction,
        )
        (plan,) = self._chance.choices(plans, (5, 2, 4, 2, 4, 1, 0.4))
        return plan()

    def _put(self, key: bytes | None = None) -> kv_pb2.Put:
        chance = self._chance
        size = _LARGE_VALUE_BYTES if chance.random() < 0.004 else chance.choice([0, 30])
        return kv_pb2.Put(
            key=key or self._key(),
            value=self._mark() + b" " * size,
            prev_kv=chance.random() < 0.3,
        )

    def _plan_put(self) -> Wish:
        return Wish((kv_pb2.Command(put=self._put()),))

    def _plan_batch(self) -> Wish:
        """Several commands, each for itself; the first makes it unlike any other."""
        commands = [kv_pb2.Command(put=self._put())]
        for _ in range(self._chance.choice([1, 1, 2, 3])):
            if self._chance.random() < 0.6:
                commands.append(kv_pb2.Command(put=self._put()))
            else:
                commands.append(kv_pb2.Command(delete_range=self._delete()))
        return Wish(tuple(commands))

    def _plan_swap(self) -> Wish:
        """Write a key if it is as it was seen last; else see how it is."""
        key = self._key()
        txn = kv_pb2.Txn(
            compare=[_unchanged(key, self._mods.get(key, 0))],
            success=[kv_pb2.Operation(put=self._put(key))],
            failure=[kv_pb2.Operation(range=kv_pb2.Range(key=key))],
        )
        return Wish((kv_pb2.Command(txn=txn),))

    def _delete(self) -> kv_pb2.DeleteRange:
        first, last = sorted([self._key(), self._key()])
        return kv_pb2.DeleteRange(
            key=first,
            range_end=last if last > first and self._chance.random() < 0.3 else b"",
            prev_kv=self._chance.random() < 0.5,
        )

    def _plan_delete(self) -> Wish:
        """Delete without a condition: the one that is there always holds."""
        always = kv_pb2.Compare(key=_NOBODYS + self._mark(), version=0)
        operation = kv_pb2.Operation(delete_range=self._delete())
        txn = kv_pb2.Txn(compare=[always], success=[operation])
        return Wish((kv_pb2.Command(txn=txn),))

    def _plan_addition(self) -> Wish:
        """One more, if the counter is as it was seen last; else see how it is."""
        value = b"%d %b" % (self._count + 1, self._mark())
        put = kv_pb2.Put(key=COUNTER, value=value)
        txn = kv_pb2.Txn(
            compare=[_unchanged(COUNTER, self._mods.get(COUNTER, 0))],
            success=[kv_pb2.Operation(put=put)],
            failure=[kv_pb2.Operation(range=kv_pb2.Range(key=COUNTER))],
        )
        return Wish((kv_pb2.Command(txn=txn),), adds=True)

    def _plan_nested(self) -> Wish:
        """Look, write, look again; no key is changed twice."""
        one, two, three = self._chance.sample(KEYS, 3)
        everything = kv_pb2.Operation(range=kv_pb2.Range(key=KEYS[0], range_end=b"\0"))
        inner = kv_pb2.Txn(
            compare=[_unchanged(two, self._mods.get(two, 0))],
            success=[kv_pb2.Operation(put=self._put(two))],
            failure=[kv_pb2.Operation(delete_range=kv_pb2.DeleteRange(key=two))],
        )
        compare = kv_pb2.Compare(
            key=three,
            version=2,
            result=self._chance.choice(kv_pb2.Compare.Result.keys()),
        )
        outer = kv_pb2.Txn(
            compare=[compare],
            success=[
                everything,
                kv_pb2.Operation(put=self._put(one)),
                kv_pb2.Operation(txn=inner),
                everything,
            ],
            failure=[kv_pb2.Operation(put=self._put(three))],
        )
        return Wish((kv_pb2.Command(txn=outer),))

    def _plan_compaction(self) -> Wish:
        wanted = max(1, self.seen - self._chance.choice([0, 5, 20]))
        compact = kv_pb2.Compact(revision=wanted)
        put = kv_pb2.Command(put=self._put())
        return Wish((put, kv_pb2.Command(compact=compact)))

    # ---------------------------------------------------------------------- reads

    def ranges(self) -> Iterator[kv_pb2.Range]:
        """What to read."""
        chance = self._chance
        for _ in range(chance.choice([1, 1, 1, 2])):
            request = kv_pb2.Range(key=chance.choice([*KEYS, COUNTER]))
            if chance.random() < 0.4:
                request.key, request.range_end = KEYS[0], b"\0"
                request.limit = chance.choice([0, 0, 3])
                request.sort_order = chance.choice(_ORDERS)
                request.sort_target = chance.choice(_TARGETS)
                request.count_only = chance.random() < 0.1
            if chance.random() < 0.2:
                # Once in a while one that is still to come, or compacted already.
                request.revision = max(1, self.seen + 2 - chance.randrange(20))
            yield request

    def options(self) -> kv_pb2.ReadOptions:
        """How to read it."""
        (level,) = self._chance.choices(_LEVELS, (5, 2, 2, 2, 2, 1))
        if level == kv_pb2.BOUNDED:
            bound_ms = self._chance.choice([20, 200, 2_000])
            return kv_pb2.ReadOptions(consistency=level, staleness_ms_max=bound_ms)
        if level == kv_pb2.SESSION:
            return kv_pb2.ReadOptions(consistency=level, revision_min=self.seen)
        return kv_pb2.ReadOptions(consistency=level)

    # ------------------------------------------------------------ what it learned

    def hear(self, results: Sequence[kv_pb2.Result]) -> None:
        """A node answered, be it for a second time."""
        for result in results:
            self.seen = max(self.seen, _revision_of(result))

    def learn(self, command: kv_pb2.Command, result: kv_pb2.Result) -> None:
        """What a command came to. Once for each command."""
        if result.HasField("put"):
            self._mods[command.put.key] = result.put.revision
        if not (result.HasField("txn") and command.txn.compare):
            return
        if not result.txn.succeeded:
            for operation, seen in zip(
                command.txn.failure, result.txn.results, strict=True
            ):
                if operation.HasField("range"):
                    self.learn_range(operation.range, seen)
            return
        put = command.txn.success[0].put
        if put.key:
            self._mods[put.key] = result.txn.revision
        if put.key == COUNTER:
            self.additions += 1
            self._count = _number_in(put.value)

    def learn_range(self, request: kv_pb2.Range, result: kv_pb2.Result) -> None:
        """What a range showed."""
        if request.revision or request.count_only or not result.HasField("range"):
            return
        if not request.range_end:
            self._mods[request.key] = 0
            if request.key == COUNTER:
                self._count = 0
        for pair in result.range.kvs:
            self._mods[pair.key] = pair.mod_revision
            if pair.key == COUNTER:
                self._count = _number_in(pair.value)


def _unchanged(key: bytes, mod_revision: int) -> kv_pb2.Compare:
    return kv_pb2.Compare(key=key, mod_revision=mod_revision)


def _number_in(value: bytes) -> int:
    return int(value.split(b" ", 1)[0])


def _revision_of(result: kv_pb2.Result) -> int:
    match result.WhichOneof("result"):
        case "put":
            return result.put.revision
        case "delete_range":
            return result.delete_range.revision
        case "range":
            return result.range.revision
        case "txn":
            return result.txn.revision
        case "compact":
            return result.compact.revision
        case _:
            return 0
