"""Smaller of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Minimum(Elementwise):
    """min(x, y); where equal, the first has the whole derivative (declared)."""

    name = "minimum"
    arity = 2
    smooth = False

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.where((args[0] <= args[1]) | (args[0] != args[0]), args[0], args[1])

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        first = b.op("le", args[0], args[1])
        zero = b.const(0.0, v)
        return b.op("where", first, v, zero) if argument == 0 else b.op("where", first, zero, v)
