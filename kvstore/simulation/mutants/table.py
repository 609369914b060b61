"""All mutants, by id."""

from kvstore.simulation.mutants.catalogue import (
    elections,
    members,
    reads,
    replicas,
    replication,
    storage,
)
from kvstore.simulation.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = tuple(
    sorted(
        (
            *elections.MUTANTS,
            *replication.MUTANTS,
            *members.MUTANTS,
            *reads.MUTANTS,
            *storage.MUTANTS,
            *replicas.MUTANTS,
        ),
        key=lambda it: it.id,
    )
)
"""Ordered by id: those of the catalogue first, then those that are only ours."""


def find(mutant_id: str) -> Mutant:
    """The mutant of this id.

    Raises:
        LookupError: there is none; it names those that there are.
    """
    for mutant in MUTANTS:
        if mutant.id == mutant_id:
            return mutant
    known = ", ".join(mutant.id for mutant in MUTANTS)
    raise LookupError(f"there is no mutant {mutant_id}; there are {known}")
