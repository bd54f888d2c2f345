"""Entries chosen by an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Primitive, ShapeError, lead


class Gather(Primitive):
    """`gather(x, i; at)`: the entry i of own axis `at`, which disappears. i is one integer a sample; -1 gives zeros."""

    name = "gather"
    arity = 2
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        if types[1].dtype != "int" or types[1].axes:
            raise ShapeError(f"an index of type {types[1]}", "index by a class or token, one a sample")
        at = dict(attrs)["at"]
        return Type("float", (*types[0].axes[:at], *types[0].axes[at + 1 :]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        at = dict(attrs)["at"]
        front = lead(args[0], types[0])
        index = args[1]
        rows = xp.moveaxis(args[0], len(front) + at, len(front))
        safe = xp.where(index < 0, xp.zeros_like(index), index)
        if front:
            wide = xp.broadcast_to(rows, tuple(index.shape) + tuple(rows.shape[len(front) :]))
            flat = wide.reshape((-1, *wide.shape[len(index.shape) :]))
            found = flat[xp.arange(flat.shape[0], device=index.device), safe.reshape(-1)]
            found = found.reshape(tuple(index.shape) + tuple(found.shape[1:]))
        else:
            found = rows[safe]
        hit = (index >= 0).reshape(tuple(index.shape) + (1,) * (len(found.shape) - len(index.shape)))
        return xp.where(hit, found, xp.zeros_like(found))

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        at = dict(attrs)["at"]
        return b.op("scatter", cot, args[1], at=at, axis=b.type(args[0]).axes[at]), None

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        return None if tangents[0] is None else b.op("gather", tangents[0], args[1], **dict(attrs))

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
