"""Places in an ordering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Discrete, ShapeError, lead


class Rank(Discrete):
    """`rank(x, age; at)`: for each entry, how many along own axis `at` come before it (0: it is the first).

    Larger x come first; among equal ones those of smaller `age`, then those of smaller index. Which entries a place
    belongs to does not change in a neighbourhood, ties aside, so the derivative is 0: what is selected by a rank keeps
    the derivatives of its values (semantics 1.1, declared Jacobians).
    """

    name = "rank"
    arity = 2

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        if types[0].axes != types[1].axes:
            raise ShapeError(f"`rank` of {types[0]} and {types[1]}")
        return Type("float", types[0].axes)

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        x, age = (
            xp.moveaxis(arg, len(lead(arg, t)) + dict(attrs)["at"], -1) for arg, t in zip(args, types, strict=True)
        )
        place = xp.arange(x.shape[-1], device=x.device)
        mine, other = x[..., :, None], x[..., None, :]
        tied = other == mine
        older = age[..., None, :] < age[..., :, None]
        level = age[..., None, :] == age[..., :, None]
        first = (other > mine) | (tied & (older | (level & (place[None, :] < place[:, None]))))
        # A float of x's kind, without a derivative: counts are compared with numbers.
        found = first.sum(-1) * xp.ones((), dtype=x.dtype)
        return xp.moveaxis(found, -1, len(found.shape) - len(types[0].axes) + dict(attrs)["at"])

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        size = result.axes[dict(attrs)["at"]].size
        return result.numel * max(1, size.bit_length())
