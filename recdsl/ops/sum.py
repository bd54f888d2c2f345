"""Sum over own axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Linear, lead


class Sum(Linear):
    """`sum(x; over)`: the own axes at the positions `over` are summed away."""

    name = "sum"
    arity = 1

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        over = dict(attrs)["over"]
        return Type("float", tuple(axis for k, axis in enumerate(types[0].axes) if k not in over))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        front = len(lead(args[0], types[0]))
        return args[0].sum(tuple(front + k for k in dict(attrs)["over"]))

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        axes = b.type(args[0]).axes
        kept = tuple(k for k in range(len(axes)) if k not in dict(attrs)["over"])
        return (b.op("broadcast", cot, axes=axes, at=kept),)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return types[0].numel
