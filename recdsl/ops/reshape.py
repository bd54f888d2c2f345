"""The same numbers, row by row, under other axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Linear, ShapeError, lead


class Reshape(Linear):
    """`reshape(x; axes)`: x's entries in their order, counted by the axes `axes`."""

    name = "reshape"
    arity = 1
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        result = Type(types[0].dtype, tuple(dict(attrs)["axes"]))
        if result.numel != types[0].numel:
            raise ShapeError(f"{types[0]} as {result}")
        return result

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        sizes = tuple(axis.size for axis in dict(attrs)["axes"])
        return args[0].reshape(lead(args[0], types[0]) + sizes)

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        return (b.op("reshape", cot, axes=b.type(args[0]).axes),)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
