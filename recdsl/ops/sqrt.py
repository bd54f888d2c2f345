"""Square root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Sqrt(Elementwise):
    """sqrt(x), derivative 1 / (2 sqrt(x)): infinite at 0."""

    name = "sqrt"
    arity = 1

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.sqrt(args[0])

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        return b.op("div", b.op("mul", v, b.const(0.5, out)), out)
