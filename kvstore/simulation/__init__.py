"""Clusters in memory: moved by hand, line by line, or by chance. Pure, as what they do.

By hand: no message arrives, no write ends and no time passes unless a line of a script
asks for it. So a schedule that breaks a protocol can be written down, read, and
replayed for ever. ``docs/scripts.md`` describes the language.

==============  =====================================================================
script          ``.raft`` files: reading them, replaying them, what they should say
commands        what a line of a script can ask for
founding        how its first line makes the cluster
arguments       the words of such a line
stage           what the words stand for
cluster         nodes of consensus alone, and their disks; ``wire`` what is under way
replicas        the same of whole replicas; ``batches`` the words for what they write
describe        messages, events and states as short, stable text
==============  =====================================================================

By chance: whole replicas in virtual time, with all that goes wrong, from one seed.
``docs/simulation.md`` tells how to use it.

==============  =====================================================================
run             one seed, from the first election to the last comparison
streams         its chance; ``swarm`` what it switches on, and how bad
world           the agenda carries out what members ask for, some time later
agenda          virtual time
member          one whole member: disk, state and, while it is up, a replica
seat            its clock, and what befell it; ``rot`` and ``states`` are its stores
network         when a message arrives, if at all; ``snapshots`` the same of states
faults          what goes wrong, when, and for whom
reshaping       members come and go; lost ones are replaced
traffic         what clients ask, and when they hear; ``workload``, ``wishes`` what
watch           what must hold after every step
oracle          what clients must have been told; ``model`` is the dumb twin it asks
healing         the faults end: a majority must come to its senses; ``trial`` once more
journal         what happened, for whoever listens
trace           the same as lines of JSON; ``timeline`` draws them
==============  =====================================================================

``specification`` is the protocol once more, as what is allowed; ``mutants`` are known
bugs to be put into the real code, for all of this to find.
"""
