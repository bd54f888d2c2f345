"""Logarithm of a sum of exponentials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Builder, Primitive, lead


class Logsumexp(Primitive):
    """`logsumexp(x; at)` over own axis `at`, which disappears; derivative softmax(x)."""

    name = "logsumexp"
    arity = 1

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        at = dict(attrs)["at"]
        return Type("float", (*types[0].axes[:at], *types[0].axes[at + 1 :]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        place = len(lead(args[0], types[0])) + dict(attrs)["at"]
        top = xp.amax(args[0], place, keepdims=True)
        top = getattr(top, "detach", lambda: top)()
        top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
        return xp.log(xp.exp(args[0] - top).sum(place)) + top.squeeze(place)

    def _softmax(self, b: Builder, x: int, out: int, attrs: Attrs) -> int:
        at, axes = dict(attrs)["at"], b.type(x).axes
        wide = b.op("broadcast", out, axes=axes, at=tuple(k for k in range(len(axes)) if k != at))
        return b.op("exp", b.op("sub", x, wide))

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        at, axes = dict(attrs)["at"], b.type(args[0]).axes
        wide = b.op("broadcast", cot, axes=axes, at=tuple(k for k in range(len(axes)) if k != at))
        return (b.op("mul", self._softmax(b, args[0], out, attrs), wide),)

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        if tangents[0] is None:
            return None
        product = b.op("mul", self._softmax(b, args[0], out, attrs), tangents[0])
        return b.op("sum", product, over=(dict(attrs)["at"],))

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        return 4 * types[0].numel
