"""The same numbers under other axis names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Linear


class Rename(Linear):
    """`rename(x; axes)`: x with the axes `axes`, of equal extents."""

    name = "rename"
    arity = 1
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        return Type(types[0].dtype, tuple(dict(attrs)["axes"]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return args[0]

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        return (b.op("rename", cot, axes=b.type(args[0]).axes),)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
