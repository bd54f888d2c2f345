"""Softplus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Softplus(Elementwise):
    """log(1 + exp(x)) without overflow; derivative sigmoid(x)."""

    name = "softplus"
    arity = 1

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.log1p(xp.exp(-abs(args[0]))) + xp.where(args[0] > 0, args[0], xp.zeros_like(args[0]))

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        return b.op("mul", v, b.op("sigmoid", args[0]))
