"""Consensus, and nothing else: a pure, deterministic Raft core.

Who drives it feeds a :class:`~kvstore.raft.node.RaftNode` ticks, messages, proposals
and reads, and does the work that its ``Ready`` hands out. The core reads no clock,
touches no disk but through :class:`~kvstore.raft.log.StableLog`, and draws chance from
the generator it is given, so the same inputs give the same outputs.

==============  =====================================================================
module          holds
==============  =====================================================================
node            the face: inputs, facts, and the assembly of a ``Ready``
core            a node's state, and its changes of role as one table
election        sections 5.2 and 5.4.1; pre-vote, stickiness, evidence of a death
replication     sections 5.3 and 5.4.2; heartbeats, CheckQuorum
reading, reads  linearizable reads by ReadIndex or lease: protocol, and bookkeeping
persistence     the durability rule: what may not be said before what is durable
membership      who belongs to the cluster: a value, and the changes it can take
changes         section 6: joint consensus, learners, promotion, removal
handover        dissertation 3.10: leadership transfer
log             the log in memory over the log on disk
progress        a leader's view of one peer, as one transition table
timer           when a node loses patience
quorum          the arithmetic of majorities
invariants      what must hold of a whole cluster after every step; for tests
observed        what that check remembers of each member
==============  =====================================================================

"Section" without more is of the extended Raft paper, "dissertation" is Ongaro's. A
number such as M11 names a known bug of another implementation that the line beside it
prevents; ``kvstore/simulation/mutants`` puts each back, with a schedule that notices.
"""
