"""A bool or an integer as a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Discrete


class ToFloat(Discrete):
    """0.0 or 1.0 of a bool, the number of an integer; the attribute `dtype` may say in which precision."""

    name = "to_float"
    arity = 1

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        return Type("float", types[0].axes)

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return args[0] * xp.ones((), dtype=dict(attrs).get("dtype", xp.float64))
