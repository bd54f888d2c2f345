"""Indicator vector of a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Axis, Type
from recdsl.ops.base import Attrs, Discrete, ShapeError


class OneHot(Discrete):
    """`one_hot(i; axis)`: 1 at index i of a new last axis; -1 gives zeros."""

    name = "one_hot"
    arity = 1

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        if types[0].dtype != "int":
            raise ShapeError(f"`onehot` of {types[0]}", "its operand is a class or token")
        axis: Axis = dict(attrs)["axis"]
        return Type("float", (*types[0].axes, axis))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        size = dict(attrs)["axis"].size
        hit = args[0][..., None] == xp.arange(size, device=args[0].device)
        return hit * xp.ones((), dtype=dict(attrs).get("dtype", xp.float64))
