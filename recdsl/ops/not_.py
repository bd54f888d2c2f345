"""Negation of a bool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Logical


class Not(Logical):
    """Logical not of bools; no derivative."""

    name = "not"
    arity = 1

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return ~args[0]
