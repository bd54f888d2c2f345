"""Largest entry along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Primitive, lead


class ReduceMax(Primitive):
    """`reduce_max(x; at)`; equal largest entries share the derivative evenly (declared)."""

    name = "reduce_max"
    arity = 1
    smooth = False

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        at = dict(attrs)["at"]
        return Type("float", (*types[0].axes[:at], *types[0].axes[at + 1 :]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.amax(args[0], len(lead(args[0], types[0])) + dict(attrs)["at"])

    def _share(self, b: Builder, x: int, out: int, attrs: Attrs) -> int:
        """The derivative: 1 / (number of largest entries) at each of them."""
        at, axes = dict(attrs)["at"], b.type(x).axes
        kept = tuple(k for k in range(len(axes)) if k != at)
        hit = b.op("to_float", b.op("eq", x, b.op("broadcast", out, axes=axes, at=kept)))
        count = b.op("broadcast", b.op("sum", hit, over=(at,)), axes=axes, at=kept)
        return b.op("div", hit, count)

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        at, axes = dict(attrs)["at"], b.type(args[0]).axes
        wide = b.op("broadcast", cot, axes=axes, at=tuple(k for k in range(len(axes)) if k != at))
        return (b.op("mul", wide, self._share(b, args[0], out, attrs)),)

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        if tangents[0] is None:
            return None
        product = b.op("mul", tangents[0], self._share(b, args[0], out, attrs))
        return b.op("sum", product, over=(dict(attrs)["at"],))

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return types[0].numel
