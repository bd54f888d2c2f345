"""Placement at an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Axis, Type
from recdsl.ops.base import Attrs, Builder, Primitive, lead


class Scatter(Primitive):
    """`scatter(x, i; at, axis)`: zeros along a new own axis at `at`, but x at index i (-1: nowhere).

    The adjoint of `gather`.
    """

    name = "scatter"
    arity = 2
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        at: int = dict(attrs)["at"]
        axis: Axis = dict(attrs)["axis"]
        return Type("float", (*types[0].axes[:at], axis, *types[0].axes[at:]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        at, axis = dict(attrs)["at"], dict(attrs)["axis"]
        front = len(lead(args[0], types[0]))
        hit = args[1][..., None] == xp.arange(axis.size, device=args[1].device)
        value = args[0]
        for _ in range(at):
            hit = hit[..., None, :]
        for _ in range(len(types[0].axes) - at):
            hit = hit[..., None]
        index = (*(slice(None),) * (front + at), None)
        wide = value[index]
        return xp.where(hit, wide, xp.zeros_like(wide))

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        return b.op("gather", cot, args[1], at=dict(attrs)["at"]), None

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        return None if tangents[0] is None else b.op("scatter", tangents[0], args[1], **dict(attrs))

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
