"""Permutation of own axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Linear, lead


class Transpose(Linear):
    """`transpose(x; order)`: axis k of the result is axis `order[k]` of x."""

    name = "transpose"
    arity = 1
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        return Type(types[0].dtype, tuple(types[0].axes[k] for k in dict(attrs)["order"]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        front = len(lead(args[0], types[0]))
        order = (*range(front), *(front + k for k in dict(attrs)["order"]))
        return args[0].permute(order) if "permute" in dir(args[0]) else args[0].transpose(order)

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        order = dict(attrs)["order"]
        return (b.op("transpose", cot, order=tuple(order.index(k) for k in range(len(order)))),)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
