"""Schedules that are no ``.raft`` script: functions, which return if all is well.

==============  =====================================================================
module          holds
==============  =====================================================================
logs            the log of a member on a real disk: crashes, refusals, damage
states          its state there: crashes, compaction, what is applied again
snapshots       states that are sent, received, put in place and restored
clients         commands of sessions, applied by the state machine
replicas        whole members in memory: what clients are told, and when
clocks          leases, by clocks that are slow or set
bench           such members, moved by hand
crashing        processes that die in the middle of what they write
==============  =====================================================================

Nothing is patched but what a scenario needs to make a medium refuse: the code under
test is what members run.
"""
