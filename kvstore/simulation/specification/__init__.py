"""Raft as a relation: which steps a node may take, and what it may say.

After ``raft.tla`` (Ongaro's dissertation, appendix B) and etcd's ``Traceetcdraft.tla``,
in plain Python, with what this core adds: pre-vote, leadership transfer, joint
consensus, durability, snapshots, ReadIndex.

* ``rules``: the guards, each stated once;
* ``checker``: every step of a real core must be one that they allow. ``steps`` holds a
  node before against the node after, ``told`` notes what reaches it, ``sent`` judges
  what it says;
* ``search``: every state that they allow, within bounds, must be safe. ``model`` holds
  the actions.

So the guards tie the two ends together: the search shows that they are enough, the
checker that the core keeps them. Nothing here knows how the core decides: it imports
names and messages from ``kvstore.raft``, never its arithmetic or its rules.
"""
