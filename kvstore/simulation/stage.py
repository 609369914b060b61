"""What the words of a script's lines stand for: nodes, links, messages under way."""

from kvstore.replica.messages import PeerMessage
from kvstore.simulation import describe
from kvstore.simulation.arguments import Arguments, Mistake, link, node_id
from kvstore.simulation.cluster import Cluster, Host
from kvstore.simulation.replicas import Replicas
from kvstore.simulation.wire import Selector
from kvstore.types import NodeId

MESSAGES = frozenset(kind.__name__ for kind in PeerMessage.__args__)


class Stage:
    """The cluster that a script moves, once it has one.

    Every method that takes arguments raises :class:`Mistake` if they name nothing.
    """

    def __init__(self) -> None:
        self._cluster: Cluster | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is a cluster."""
        return self._cluster is not None

    @property
    def cluster(self) -> Cluster:
        """The cluster; a :class:`Mistake` if there is none yet."""
        if self._cluster is None:
            raise Mistake(
                "expected 'nodes COUNT' or 'replicas COUNT' before anything else"
            )
        return self._cluster

    @property
    def replicas(self) -> Replicas:
        """The cluster, which must be of whole replicas."""
        cluster = self.cluster
        if not isinstance(cluster, Replicas):
            raise Mistake("only a cluster of 'replicas COUNT' does that")
        return cluster

    def set(self, cluster: Cluster) -> None:
        """The only cluster of the script."""
        assert self._cluster is None
        self._cluster = cluster

    def host(self, arguments: Arguments) -> Host:
        """The node that the next word names."""
        text = arguments.word("a node")
        return self.cluster.hosts[node_id(text, self.cluster.hosts)]

    def running(self, arguments: Arguments) -> Host:
        """As :meth:`host`; it must be up."""
        host = self.host(arguments)
        if host.raft is None:
            raise Mistake(f"node {host.node_id} is down: restart it first")
        return host

    def several(self, arguments: Arguments) -> list[Host]:
        """The running nodes that the next word names: ``1,2``, or ``*`` for all."""
        text = arguments.word("nodes, as 1,2, or * for all")
        hosts = self.listed(text)
        down = [str(host.node_id) for host in hosts if host.raft is None]
        if down and text != "*":
            raise Mistake(f"node {', '.join(down)} is down: restart it first")
        return [host for host in hosts if host.raft is not None]

    def listed(self, text: str) -> list[Host]:
        """The nodes of ``1,2``, or of ``*``, up or not."""
        hosts = self.cluster.hosts
        if text == "*":
            return list(hosts.values())
        return [hosts[node_id(part, hosts)] for part in text.split(",")]

    def ids(self, arguments: Arguments, name: str) -> list[NodeId]:
        """The nodes in the value of ``name=``; none if it is not given."""
        value = arguments.option(name)
        return [] if value is None else [host.node_id for host in self.listed(value)]

    def ends(self, arguments: Arguments) -> tuple[NodeId | None, NodeId | None]:
        """The ends of ``FROM->TO``; None for ``*``."""
        hosts = self.cluster.hosts
        sender, to = link(arguments.word("FROM->TO"))
        return (
            None if sender == "*" else node_id(sender, hosts),
            None if to == "*" else node_id(to, hosts),
        )

    def pair(self, arguments: Arguments) -> tuple[NodeId, NodeId]:
        """As :meth:`ends`, of which neither may be ``*``."""
        sender, to = self.ends(arguments)
        if sender is None or to is None:
            raise Mistake("expected two nodes, as 1->2")
        return sender, to

    def selector(self, arguments: Arguments) -> Selector:
        """``FROM->TO type= term= round= entry=``: which messages are meant."""
        sender, to = self.ends(arguments)
        kinds = frozenset((arguments.option("type") or "").split(",")) - {""}
        if unknown := sorted(kinds - MESSAGES):
            raise Mistake(
                f"there is no message {unknown[0]}; there are "
                + ", ".join(sorted(MESSAGES))
            )
        return Selector(
            sender=sender,
            to=to,
            kinds=kinds,
            term=arguments.number("term"),
            round=arguments.number("round"),
            entry=arguments.number("entry"),
        )

    def messages(self, arguments: Arguments) -> list[PeerMessage]:
        """Those under way that are meant, behind the first ``skip=``: all, or the first
        ``count=``. Never none.
        """
        selector = self.selector(arguments)
        count, skip = arguments.number("count"), arguments.number("skip") or 0
        found = self.cluster.wire.find(selector)[skip:]
        if not found or (count is not None and len(found) < count):
            raise Mistake(
                f"expected {count or 'a'} message(s) as described, found {len(found)}; "
                "under way: " + self.under_way()
            )
        return found if count is None else found[:count]

    def under_way(self) -> str:
        """Every message on the wire."""
        describer = describe.Describer()
        them = [describer.message(it) for it in self.cluster.wire.messages]
        return "; ".join(them) or "nothing"
