"""Quotient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Div(Elementwise):
    """x / y"""

    name = "div"
    arity = 2

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return args[0] / args[1]

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        if argument == 0:
            return b.op("div", v, args[1])
        return b.op("neg", b.op("mul", v, b.op("div", out, args[1])))
