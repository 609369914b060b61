"""A cluster in memory whose every event somebody chooses. Pure, like what it drives.

==============  =====================================================================
module          holds
==============  =====================================================================
script          ``.raft`` files: reading them, replaying them, what they should say
commands        what a line of a script can ask for
founding        how its first line makes the cluster
arguments       the words of such a line
cluster         nodes, their disks and states, and the wire between them
describe        messages, events and states as short, stable text
==============  =====================================================================

Nothing happens here by itself: no message arrives, no write ends and no time passes
unless it is asked for. So a schedule that breaks a protocol can be written down, read,
and replayed for ever. ``docs/scripts.md`` describes the language.
"""
