"""Logistic function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Sigmoid(Elementwise):
    """1 / (1 + exp(-x)), written with tanh so that it never overflows; derivative y (1 - y)."""

    name = "sigmoid"
    arity = 1

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return 0.5 * xp.tanh(0.5 * args[0]) + 0.5

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        return b.op("mul", v, b.op("mul", out, b.op("sub", b.const(1.0, out), out)))
