"""Repetition along new axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Linear, lead


class Broadcast(Linear):
    """`broadcast(x; axes, at)`: x's axis k becomes axis `at[k]` of the result, whose axes are `axes`; `at` ascends."""

    name = "broadcast"
    arity = 1
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        return Type(types[0].dtype, tuple(dict(attrs)["axes"]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        axes, at = dict(attrs)["axes"], dict(attrs)["at"]
        front = lead(args[0], types[0])
        own = tuple(axis.size if k in at else 1 for k, axis in enumerate(axes))
        return xp.broadcast_to(args[0].reshape(front + own), front + tuple(axis.size for axis in axes))

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        over = tuple(k for k in range(len(dict(attrs)["axes"])) if k not in dict(attrs)["at"])
        return (b.op("sum", cot, over=over) if over else cot,)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
