"""How a scenario says that something is wrong."""


class Noticed(Exception):
    """What should hold does not."""

    def __init__(self, check: str, facts: str) -> None:
        super().__init__(f"{check}: {facts}")
        self.check = check
        self.facts = facts


def require(condition: bool, check: str, *facts: object) -> None:
    """Raise :class:`Noticed` with ``check`` and the facts, unless all is well."""
    if not condition:
        raise Noticed(check, ", ".join([repr(fact) for fact in facts]))
