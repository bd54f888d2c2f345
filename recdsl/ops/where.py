"""Choice by a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Primitive, ShapeError, add_all


class Where(Primitive):
    """`where(c, x, y)`: x where c holds, else y. The branch not taken has derivative 0, also where it is infinite."""

    name = "where"
    arity = 3
    smooth = False
    structure = "diag"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        if types[0].dtype != "bool":
            raise ShapeError(f"the condition of `where` is {types[0]}", "compare first, as in `x > 0`")
        if not types[0].axes == types[1].axes == types[2].axes:
            raise ShapeError(f"`where` of {types[0]}, {types[1]} and {types[2]}")
        return Type(types[1].dtype if types[1].dtype == types[2].dtype else "float", types[1].axes)

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.where(args[0], args[1], args[2])

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        zero = b.const(0.0, cot)
        return None, b.op("where", args[0], cot, zero), b.op("where", args[0], zero, cot)

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        zero = b.const(0.0, out)
        _, first, second = tangents
        terms = [
            None if first is None else b.op("where", args[0], first, zero),
            None if second is None else b.op("where", args[0], zero, second),
        ]
        return add_all(b, terms)
