"""Sums at the rows of a store for all samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Axis, Type
from recdsl.ops.base import Attrs, Builder, Primitive, ShapeError


class ScatterRows(Primitive):
    """`scatter_rows(x, place; axis)`: zeros along `axis`, but at each place the sum of the rows of x that go there (-1:
    nowhere). The adjoint of `gather_rows`.

    Summed over steps and samples, as the gradient of a store's rows is, a backend may keep it sparse: the number of
    rows that are not zero is that of what was read.
    """

    name = "scatter_rows"
    arity = 2
    structure = "dense"  # of two rows at one place the result is the sum

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        axis: Axis = dict(attrs)["axis"]
        if types[1].dtype != "int" or types[0].axes[:1] != types[1].axes:
            raise ShapeError(f"rows of {types[0]} at places of type {types[1]}")
        return Type("float", (axis, *types[0].axes[1:]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        rows, place = args
        axis = dict(attrs)["axis"]
        hit = place[..., None] == xp.arange(axis.size, device=place.device)
        hit = hit.reshape((*hit.shape, *(1,) * (len(types[0].axes) - 1)))
        inner = len(types[0].axes) - 1
        wide = xp.moveaxis(rows[..., None], -1, len(rows.shape) - inner)
        return xp.where(hit, wide, xp.zeros_like(wide)).sum(-2 - inner)

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        return b.op("gather_rows", cot, args[1], axis=b.type(args[0]).axes[0]), None

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        return None if tangents[0] is None else b.op("scatter_rows", tangents[0], args[1], **dict(attrs))

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return types[0].numel
