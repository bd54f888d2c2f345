"""Power with a computed exponent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Pow(Elementwise):
    """x ** y; NaN for a negative base with a fractional exponent.

    The derivative to the exponent is x ** y log(x): 0 where the base is 0 and the exponent is not negative, and NaN
    where the base is negative, as in PyTorch. The derivative to the base is 0 where the exponent is, even of 0 ** 0.
    """

    name = "pow"
    arity = 2

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return args[0] ** args[1]

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        base, exponent = args
        zero = b.const(0.0, out)
        if argument == 0:
            below = b.op("pow", base, b.op("sub", exponent, b.const(1.0, out)))
            constant = b.op("eq", exponent, zero)
            slope = b.op("mul", exponent, below)
        else:
            constant = b.op("and", b.op("eq", base, zero), b.op("ge", exponent, zero))
            slope = b.op("mul", out, b.op("log", base))
        return b.op("where", constant, zero, b.op("mul", v, slope))
