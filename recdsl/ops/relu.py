"""Rectifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Relu(Elementwise):
    """max(x, 0), which is not a number where x is none; declared derivative 0 at 0."""

    name = "relu"
    arity = 1
    smooth = False

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.where(args[0] <= 0, xp.zeros_like(args[0]), args[0])

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        positive = b.op("gt", args[0], b.const(0.0, args[0]))
        return b.op("where", positive, v, b.const(0.0, v))
