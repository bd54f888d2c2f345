"""Gradient stop of the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Elementwise


class Stop(Elementwise):
    """x; derivative declared 0."""

    name = "stop"
    arity = 1
    smooth = False
    structure = "zero"

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return getattr(args[0], "detach", lambda: args[0])()

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        return None
