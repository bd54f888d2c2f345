"""Logarithm near 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Log1p(Elementwise):
    """log(1 + x), accurate for small x; derivative 1 / (1 + x)."""

    name = "log1p"
    arity = 1

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.log1p(args[0])

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        return b.op("div", v, b.op("add", b.const(1.0, out), args[0]))
