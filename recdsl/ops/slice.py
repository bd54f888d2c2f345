"""A range of one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Axis, Type
from recdsl.ops.base import Attrs, Builder, Linear, ShapeError, lead


class Slice(Linear):
    """`slice(x; at, start, axis)`: `axis.size` entries of own axis `at` from `start`, under the name `axis`."""

    name = "slice"
    arity = 1
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        a = dict(attrs)
        at, start, axis = int(a["at"]), int(a["start"]), a["axis"]
        whole: Axis = types[0].axes[at]
        if start < 0 or start + axis.size > whole.size:
            raise ShapeError(f"entries {start} to {start + axis.size - 1} of `{whole}`")
        return Type(types[0].dtype, (*types[0].axes[:at], axis, *types[0].axes[at + 1 :]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        a = dict(attrs)
        index = [slice(None)] * len(args[0].shape)
        index[len(lead(args[0], types[0])) + a["at"]] = slice(a["start"], a["start"] + a["axis"].size)
        return args[0][tuple(index)]

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        a = dict(attrs)
        return (b.op("pad", cot, at=a["at"], start=a["start"], axis=b.type(args[0]).axes[a["at"]]),)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
