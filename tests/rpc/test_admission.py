"""Who may open a stream, decided by values alone."""

from dataclasses import replace

import pytest

from kvstore.errors import ForeignDirectory, IdentityLost, Removed, Unavailable
from kvstore.raft.membership import NOBODY, Configuration, MemberInfo
from kvstore.replica.interfaces import Identity
from kvstore.rpc.admission import (
    ADDRESS_METADATA_KEY,
    FINAL,
    FROM_METADATA_KEY,
    INCARNATION_METADATA_KEY,
    REFUSAL_METADATA_KEY,
    TO_INCARNATION_METADATA_KEY,
    TO_METADATA_KEY,
    Gate,
    Hello,
    Refusal,
    RefusalKind,
    refusal_by,
    refusal_in,
)
from kvstore.types import ClusterId, Incarnation, NodeId

CLUSTER = ClusterId(b"c" * 16)
HELLO = Hello(
    cluster=CLUSTER.hex(),
    sender=NodeId(2),
    to=NodeId(1),
    incarnation=Incarnation(22),
    to_incarnation=Incarnation(11),
    address="127.0.0.1:7402",
)
OURS = Identity(cluster_id=CLUSTER, node_id=NodeId(1), incarnation=Incarnation(11))


def configuration(incarnation: int, *removed: int) -> Configuration:
    """Of members 1 and 2, the second with this incarnation."""
    return Configuration(
        voters=(NodeId(1), NodeId(2)),
        members={
            NodeId(1): MemberInfo("h:1", Incarnation(11)),
            NodeId(2): MemberInfo("h:2", Incarnation(incarnation)),
        },
        removed=tuple(NodeId(n) for n in removed),
    )


def test_a_hello_reads_back() -> None:
    assert Hello.decode(dict(HELLO.encode())) == HELLO


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (FROM_METADATA_KEY, "two"),
        (FROM_METADATA_KEY, "0"),
        (FROM_METADATA_KEY, str(2**63)),
        (FROM_METADATA_KEY, "9" * 30),
        (FROM_METADATA_KEY, "²"),
        (FROM_METADATA_KEY, b"2"),
        (TO_METADATA_KEY, ""),
        (INCARNATION_METADATA_KEY, "-1"),
        (TO_INCARNATION_METADATA_KEY, str(2**63)),
        (ADDRESS_METADATA_KEY, "nowhere"),
        (ADDRESS_METADATA_KEY, "host:0"),
        (ADDRESS_METADATA_KEY, "h" * 1_000 + ":7400"),
    ],
)
def test_a_hello_that_says_nothing_is_refused(key: str, value: object) -> None:
    said = {**dict(HELLO.encode()), key: value}
    refusal = Hello.decode(said)
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.UNKNOWN
    del said[key]
    assert isinstance(Hello.decode(said), Refusal)


@pytest.mark.parametrize(
    ("ours", "kind"),
    [
        pytest.param(configuration(22), None, id="known"),
        pytest.param(configuration(0), None, id="incarnation_not_recorded"),
        pytest.param(NOBODY, None, id="we_join"),
        pytest.param(replace(NOBODY, voters=(NodeId(3),)), None, id="newer"),
        pytest.param(
            replace(NOBODY, removed=(NodeId(2),)),
            RefusalKind.REMOVED,
            id="removed",
        ),
        pytest.param(
            configuration(23), RefusalKind.IDENTITY_LOST, id="other_directory"
        ),
    ],
)
def test_a_member_is_judged_by_the_configuration(
    ours: Configuration, kind: RefusalKind | None
) -> None:
    """Only those are sent away that it knows to be gone, or to be somebody else."""
    refusal = refusal_by(ours, ours, HELLO)
    assert (None if refusal is None else refusal.kind) is kind


@pytest.mark.parametrize(
    ("latest", "kind"),
    [
        pytest.param(configuration(22), None, id="as_it_says"),
        pytest.param(configuration(0), None, id="incarnation_not_recorded"),
        pytest.param(configuration(23), RefusalKind.UNKNOWN, id="other_directory"),
        pytest.param(replace(NOBODY, removed=(NodeId(2),)), None, id="removed"),
    ],
)
def test_by_what_is_not_committed_nobody_is_sent_away_for_good(
    latest: Configuration, kind: RefusalKind | None
) -> None:
    """But whoever lost its disk is not heard: its vote would count by the latest."""
    refusal = refusal_by(NOBODY, latest, HELLO)
    assert (None if refusal is None else refusal.kind) is kind


def judged(hello: Hello) -> tuple[RefusalKind | None, list[RefusalKind]]:
    """What the sender is told, and what the receiver learns about itself."""
    disowned: list[Refusal] = []
    gate = Gate(OURS, admit=lambda _: None, on_refused=disowned.append)
    refusal = gate.judge(hello)
    kinds = [each.kind for each in disowned]
    return (None if refusal is None else refusal.kind), kinds


def test_a_stream_reaches_only_whom_it_means() -> None:
    assert judged(HELLO) == (None, [])
    foreign = [
        replace(HELLO, cluster="ff" * 16),
        replace(HELLO, to=NodeId(3)),
        replace(HELLO, sender=NodeId(1)),
    ]
    for hello in foreign:
        assert judged(hello) == (RefusalKind.FOREIGN, [])


def test_a_receiver_learns_that_the_cluster_knows_another_directory() -> None:
    """The sender did nothing wrong, and must not stop."""
    told = judged(replace(HELLO, to_incarnation=Incarnation(12)))
    assert told == (RefusalKind.UNKNOWN, [RefusalKind.IDENTITY_LOST])
    assert judged(replace(HELLO, to_incarnation=Incarnation(0))) == (None, [])


def test_our_own_policy_has_the_last_word() -> None:
    refusal = Refusal(RefusalKind.REMOVED, "gone")
    gate = Gate(OURS, admit=lambda _: refusal, on_refused=lambda _: None)
    assert gate.judge(HELLO) == refusal


def test_a_refusal_reads_back_and_has_an_error() -> None:
    errors = {
        RefusalKind.FOREIGN: ForeignDirectory,
        RefusalKind.REMOVED: Removed,
        RefusalKind.IDENTITY_LOST: IdentityLost,
        RefusalKind.UNKNOWN: Unavailable,
    }
    for kind in RefusalKind:
        refusal = Refusal(kind, "why")
        trailing = (("other", b"x"), (REFUSAL_METADATA_KEY, kind.value))
        assert refusal_in("why", trailing) == refusal
        error = refusal.error()
        assert type(error) is errors[kind]
        assert str(error) == "why"
        # Who stops does so for an error that no repetition mends.
        assert error.retryable is (kind not in FINAL and kind.value == "unknown")
    assert refusal_in("why", None) is None
    assert refusal_in(None, ((REFUSAL_METADATA_KEY, "of a newer version"),)) is None
