"""Remainder with the sign of the divisor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Mod(Elementwise):
    """x - y floor(x / y), as Python's %; derivatives 1 and -floor(x / y)."""

    name = "mod"
    arity = 2
    smooth = False

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.remainder(args[0], args[1])

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        if argument == 0:
            return v
        return b.op("neg", b.op("mul", v, b.op("floor", b.op("div", args[0], args[1]))))
