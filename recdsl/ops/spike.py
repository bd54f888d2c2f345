"""Threshold with a surrogate derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Spike(Elementwise):
    """`spike(x; surrogate, width)`: 1 where x > 0, else 0; the derivative is declared.

    With s = x / width: "triangle" max(0, 1 - |s|) (Bellec et al. 2018), "fast_sigmoid" 1 / (1 + |s|)^2 (Zenke and
    Ganguli 2018), "arctan" 1 / (1 + (pi s)^2) (Fang et al. 2021), "sigmoid" sigma(s) (1 - sigma(s)) * 4;
    each is 1 at 0.
    """

    name = "spike"
    arity = 1
    smooth = False

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.where(args[0] > 0, xp.ones_like(args[0]), xp.zeros_like(args[0]))

    def slope(self, b: Builder, x: int, attrs: Attrs) -> int:
        """The declared derivative."""
        a, one = dict(attrs), b.const(1.0, x)
        s = b.op("mul", x, b.const(1.0 / a["width"], x))
        if a["surrogate"] == "triangle":
            return b.op("relu", b.op("sub", one, b.op("abs", s)))
        if a["surrogate"] == "fast_sigmoid":
            return b.op("power", b.op("add", one, b.op("abs", s)), exponent=-2.0)
        if a["surrogate"] == "arctan":
            scaled = b.op("mul", s, b.const(3.141592653589793, x))
            return b.op("power", b.op("add", one, b.op("mul", scaled, scaled)), exponent=-1.0)
        y = b.op("sigmoid", s)
        return b.op("mul", b.const(4.0, x), b.op("mul", y, b.op("sub", one, y)))

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        return b.op("mul", v, self.slope(b, args[0], attrs))
