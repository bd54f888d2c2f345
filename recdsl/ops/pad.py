"""Placement of a range in zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Axis, Type
from recdsl.ops.base import Attrs, Builder, Linear, lead


class Pad(Linear):
    """`pad(x; at, start, axis)`: zeros along `axis`, but x from `start`; the adjoint of `slice`."""

    name = "pad"
    arity = 1
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        a = dict(attrs)
        at: int = a["at"]
        axis: Axis = a["axis"]
        return Type(types[0].dtype, (*types[0].axes[:at], axis, *types[0].axes[at + 1 :]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        a = dict(attrs)
        place = len(lead(args[0], types[0])) + a["at"]
        size = args[0].shape[place]

        def zeros(extent: int) -> Any:
            shape = list(args[0].shape)
            shape[place] = extent
            return args[0].new_zeros(shape) if "new_zeros" in dir(args[0]) else xp.zeros(shape, args[0].dtype)

        return xp.concatenate([zeros(a["start"]), args[0], zeros(a["axis"].size - a["start"] - size)], place)

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        a = dict(attrs)
        return (b.op("slice", cot, at=a["at"], start=a["start"], axis=b.type(args[0]).axes[a["at"]]),)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
