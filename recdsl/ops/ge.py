"""At least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Comparison


class Ge(Comparison):
    """x >= y, a bool; no derivative."""

    name = "ge"
    arity = 2

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return args[0] >= args[1]
