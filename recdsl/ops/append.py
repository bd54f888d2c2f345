"""What a step adds to a tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Linear, ShapeError


class Append(Linear):
    """`append(tape, x)`: the tape with one slot more. A tape has the type of one slot; its length is the time's."""

    name = "append"
    arity = 2
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        if types[0] != types[1]:
            raise ShapeError(f"{types[1]} on a tape of {types[0]}")
        return types[0]

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        """Tapes are known by those who run them: slots [batch, slot, *axes]."""
        wide = xp.broadcast_to(args[1], (args[0].shape[0], *args[0].shape[2:]))
        return xp.concatenate((args[0], wide[:, None]), 1)

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        """Which arguments credit goes to: what stays on the tape, and what is new."""
        return cot, cot

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
