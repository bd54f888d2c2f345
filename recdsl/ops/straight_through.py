"""Straight-through estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class StraightThrough(Elementwise):
    """The first operand; the gradient goes to the second (declared; Bengio et al., arXiv 1308.3432)."""

    name = "straight_through"
    arity = 2
    smooth = False

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return getattr(args[0], "detach", lambda: args[0])() + (args[1] - getattr(args[1], "detach", lambda: args[1])())

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        return v if argument == 1 else None
