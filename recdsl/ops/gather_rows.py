"""Rows of a store for all samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Primitive, ShapeError, lead


class GatherRows(Primitive):
    """`gather_rows(table, place; axis)`: the entries at places [axis] of the table's first own axis; zeros at -1."""

    name = "gather_rows"
    arity = 2
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        axis = dict(attrs)["axis"]
        if types[1] != Type("int", (axis,)) or not types[0].axes:
            raise ShapeError(f"rows of {types[0]} at places of type {types[1]}")
        return Type("float", (axis, *types[0].axes[1:]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        table, place = args
        front, rest = lead(table, types[0]), len(types[0].axes) - 1
        safe = xp.where(place < 0, xp.zeros_like(place), place)
        if front:
            wide = xp.broadcast_to(table, (*place.shape[:-1], *table.shape[len(front) :]))
            flat = wide.reshape((-1, *table.shape[len(front) :]))
            rows = safe.reshape((-1, safe.shape[-1]))
            found = flat[xp.arange(flat.shape[0], device=place.device)[:, None], rows]
            found = found.reshape((*place.shape, *table.shape[len(front) + 1 :]))
        else:
            found = table[safe]
        hit = (place >= 0).reshape((*place.shape, *(1,) * rest))
        return xp.where(hit, found, xp.zeros_like(found))

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        return b.op("scatter_rows", cot, args[1], axis=b.type(args[0]).axes[0]), None

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        return None if tangents[0] is None else b.op("gather_rows", tangents[0], args[1], **dict(attrs))

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
