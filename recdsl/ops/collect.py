"""Sum over all leading axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Discrete, lead


class Collect(Discrete):
    """`collect(x)`: the sum over batch, time and every other leading axis. It ends an adjoint: no derivative."""

    name = "collect"
    arity = 1

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        return types[0]

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        front = len(lead(args[0], types[0]))
        return args[0].sum(tuple(range(front))) if front else args[0]
