"""Power with a fixed exponent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Power(Elementwise):
    """x ** exponent, for a literal exponent."""

    name = "power"
    arity = 1

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return args[0] ** dict(attrs)["exponent"]

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        exponent = dict(attrs)["exponent"]
        return b.op("mul", v, b.op("mul", b.const(exponent, out), b.op("power", args[0], exponent=exponent - 1)))
