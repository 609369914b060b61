"""Start a command with a mutant, or list the mutants.

::

    python -m kvstore.simulation.mutants
    python -m kvstore.simulation.mutants M18 -- kvstore serve ...
    python -m kvstore.simulation.mutants M18 -- -m some.module ...

The command runs in this process. Those that it starts, start without the mutant, but
for the processes of ``kvstore sim``, which ask for it.
"""

import runpy
import sys

from kvstore.simulation.mutants.patching import NotApplicable, apply
from kvstore.simulation.mutants.table import MUTANTS

USAGE = "usage: python -m kvstore.simulation.mutants ID -- kvstore|-m MODULE ARGUMENTS"


def main(arguments: list[str]) -> None:
    """Run ``arguments``, those behind the name of this module."""
    match arguments:
        case []:
            lines = (f"{mutant.id:<14} {mutant.what}\n" for mutant in MUTANTS)
            sys.stdout.writelines(lines)
            return
        case [mutant_id, "--", "kvstore", *rest]:
            module = "kvstore.cli.main"
        case [mutant_id, "--", "-m", module, *rest]:
            pass
        case _:
            sys.exit(USAGE)
    try:
        apply(mutant_id)
    except (LookupError, NotApplicable) as error:
        sys.exit(str(error))
    sys.argv[1:] = rest
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
