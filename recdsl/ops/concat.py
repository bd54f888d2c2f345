"""Concatenation along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Axis, Type
from recdsl.ops.base import Attrs, Builder, Primitive, lead


class Concat(Primitive):
    """`concat(x, y, ...; at, axis)`: operands one after another along own axis `at`, which becomes `axis`."""

    name = "concat"
    arity = -1
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        at: int = dict(attrs)["at"]
        axis: Axis = dict(attrs)["axis"]
        return Type("float", (*types[0].axes[:at], axis, *types[0].axes[at + 1 :]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        at = dict(attrs)["at"]
        fronts = [lead(arg, type) for arg, type in zip(args, types, strict=True)]
        front = max(fronts, key=len)
        full = [xp.broadcast_to(arg, front + type.shape) for arg, type in zip(args, types, strict=True)]
        return xp.concatenate(full, len(front) + at)

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        at, start, found = dict(attrs)["at"], 0, list[int | None]()
        for arg in args:
            axis = b.type(arg).axes[at]
            found.append(b.op("slice", cot, at=at, start=start, axis=axis))
            start += axis.size
        return tuple(found)

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        full = [b.const(0.0, arg) if v is None else v for arg, v in zip(args, tangents, strict=True)]
        return b.op("concat", *full, **dict(attrs))

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
