"""Slots of a tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Linear, ShapeError


class Fetch(Linear):
    """`fetch(tape, place; axis)`: the slots at the places [axis] of a tape; zeros at -1.

    Linear in the tape; which slots they are does not change in a neighbourhood (semantics 1.1, E3).
    """

    name = "fetch"
    arity = 2
    structure = "map"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        axis = dict(attrs)["axis"]
        if types[1] != Type("int", (axis,)):
            raise ShapeError(f"places of type {types[1]}")
        return Type("float", (axis, *types[0].axes))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        """tape: [batch, slot, *axes]; place: [batch, axis]."""
        tape, place = args
        samples = xp.arange(tape.shape[0], device=tape.device)[:, None]
        hit = (place >= 0).reshape((*place.shape, *(1,) * (len(tape.shape) - 2)))
        if tape.shape[1] == 0:
            return xp.zeros((*place.shape, *tape.shape[2:]), dtype=tape.dtype, device=tape.device)
        found = tape[samples, xp.where(place < 0, xp.zeros_like(place), place)]
        return xp.where(hit, found, xp.zeros_like(found))

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        """Which argument credit goes to; what it is, the program says (`unfetch` of a timeline)."""
        return b.op("sum", cot, over=(0,)), None

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 0
