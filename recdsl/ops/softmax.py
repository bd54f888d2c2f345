"""Softmax over one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Primitive, lead


class Softmax(Primitive):
    """`softmax(x; at)` over own axis `at`, shifted by the largest entry so that nothing overflows."""

    name = "softmax"
    arity = 1

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        return types[0]

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        place = len(lead(args[0], types[0])) + dict(attrs)["at"]
        top = xp.amax(args[0], place, keepdims=True)
        raised = xp.exp(args[0] - getattr(top, "detach", lambda: top)())
        return raised / raised.sum(place, keepdims=True)

    def _project(self, b: Builder, out: int, v: int, attrs: Attrs) -> int:
        """(diag(y) - y y^T) v, symmetric: vjp and jvp alike."""
        at, axes = dict(attrs)["at"], b.type(out).axes
        weighted = b.op("mul", v, out)
        total = b.op("sum", weighted, over=(at,))
        wide = b.op("broadcast", total, axes=axes, at=tuple(k for k in range(len(axes)) if k != at))
        return b.op("sub", weighted, b.op("mul", out, wide))

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        return (self._project(b, out, cot, attrs),)

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        return None if tangents[0] is None else self._project(b, out, tangents[0], attrs)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 5 * result.numel
