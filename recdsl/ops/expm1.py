"""Exponential near 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Expm1(Elementwise):
    """exp(x) - 1, accurate for small x; derivative exp(x)."""

    name = "expm1"
    arity = 1

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.expm1(args[0])

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        # Not `out + 1`, which is 0 where the exponential is only small.
        return b.op("mul", v, b.op("exp", args[0]))
