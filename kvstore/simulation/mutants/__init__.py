"""Known bugs of other implementations, put back into this one to prove they are found.

A mutant is a small change to the text of one or two modules, made as they are
imported: what is installed stays as it is, and carries no trace. Each is kept with a
schedule that kills it every time.

==============  =====================================================================
module          holds
==============  =====================================================================
mutant          what a mutant is
table           all of them, by id; they are written down in ``catalogue``
patching        the import hook
worker          a process that was started with a mutant, and what is asked of it
killing         a mutant and its schedule: what notices it
noticing        how a scenario says that something is wrong
scenarios       schedules that are no ``.raft`` script: real storage, whole members
==============  =====================================================================

``python -m kvstore.simulation.mutants M18 -- kvstore serve ...`` starts any command
with a mutant. Nothing may import what mutants change before they are applied. So the
modules import each other and the standard library, and the rest in functions; only
scenarios do as they like, for they are imported when they run. The numbers are those of
comments all over the code: M11 is what the line beside it is there to prevent.
"""
