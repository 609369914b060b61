"""The type of the JSON documents that benchmarks print."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = (
    bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
)
