"""Error function."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Erf(Elementwise):
    """erf(x), derivative 2 / sqrt(pi) exp(-x^2)."""

    name = "erf"
    arity = 1

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.special.erf(args[0])

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        slope = b.op("mul", b.const(2.0 / pi**0.5, out), b.op("exp", b.op("neg", b.op("mul", args[0], args[0]))))
        return b.op("mul", v, slope)
