"""Contraction of two values: products of matrices and vectors, dot, outer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Axis, Type
from recdsl.ops.base import Attrs, Builder, Linear, ShapeError

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Contract(Linear):
    """`contract(x, y; x_labels, y_labels, labels)`: Einstein summation over own axes.

    Labels are small integers. A label of x or y stands in the other operand or in the result (sums over one
    operand alone are `sum`), and none stands twice in one operand.
    """

    name = "contract"
    arity = 2

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        a = dict(attrs)
        sizes: dict[int, Axis] = {}
        for type, labels in zip(types, (a["x"], a["y"]), strict=True):
            for axis, label in zip(type.axes, labels, strict=True):
                if sizes.setdefault(label, axis).size != axis.size:
                    raise ShapeError(f"contraction of `{sizes[label]}` with `{axis}`")
        return Type("float", tuple(sizes[label] for label in a["out"]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        a = dict(attrs)
        x, y, out = ("".join(LETTERS[k] for k in a[side]) for side in ("x", "y", "out"))
        return xp.einsum(f"...{x},...{y}->...{out}", args[0], args[1])

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        a = dict(attrs)
        first = b.op("contract", cot, args[1], x=a["out"], y=a["y"], out=a["x"])
        second = b.op("contract", cot, args[0], x=a["out"], y=a["x"], out=a["y"])
        return first, second

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        a = dict(attrs)
        total = result.numel
        for label, axis in zip(a["x"], types[0].axes, strict=True):
            total *= 1 if label in a["out"] else axis.size
        return 2 * total
