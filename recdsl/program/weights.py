"""Contractions of products: what does not vary is multiplied once, what does is contracted while it is small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recdsl.graph.types import Axis
from recdsl.jacobian.pieces import spread

if TYPE_CHECKING:
    from recdsl.program.timeline import TimelineBuilder

Factor = tuple[int, tuple[int, ...]]
"""A value with the labels of its axes."""


def weighted(b: TimelineBuilder, args: Sequence[int], attrs: Mapping[str, Any]) -> int | None:
    """`contract(F s, G)` as `contract(s, F G)`, where F and G do not vary and s, which does, lacks an axis of theirs.

    The product of weights then leaves the loop, and what is left is a product of a matrix with all steps at once. None
    where there is no such factor, or where F has an axis that G lacks, for F G is then larger than either.
    """
    out = tuple(attrs["out"])
    for side in (0, 1):
        x, xl, y, yl = args[side], tuple(attrs["xy"[side]]), args[1 - side], tuple(attrs["xy"[1 - side]])
        if not b.nodes[x].time or b.nodes[y].time or not set(xl) <= set(yl):
            continue
        factors = _factors(b, x, xl)
        varying = [f for f in factors if b.nodes[f[0]].time]
        fixed = [f for f in factors if not b.nodes[f[0]].time]
        labels = tuple(k for k in xl if any(k in own for _, own in varying))
        if fixed and len(labels) < len(xl):
            axes = dict(zip((*xl, *yl), (*b.type(x).axes, *b.type(y).axes), strict=True))
            weight, moved = _product(b, [(y, yl), *fixed], yl, axes), _product(b, varying, labels, axes)
            return _contracted(b, moved, weight, out)
    return None


def _contracted(b: TimelineBuilder, moved: Factor, weight: Factor, out: tuple[int, ...]) -> int:
    (x, xl), (y, yl) = moved, weight
    gone = tuple(k for k, label in enumerate(yl) if label not in xl and label not in out)
    y, yl = b.op("sum", y, over=gone), tuple(label for label in yl if label in xl or label in out)
    return b.op("contract", x, y, x=xl, y=yl, out=out)


def _factors(b: TimelineBuilder, x: int, labels: tuple[int, ...]) -> list[Factor]:
    """The values that a product is made of, each without the axes along which it is repeated."""
    node = b.nodes[x]
    if node.op == "mul" and all(b.type(arg).axes == node.type.axes for arg in node.args):
        return [factor for arg in node.args for factor in _factors(b, arg, labels)]
    if node.op == "rename":
        return _factors(b, node.args[0], labels)
    if node.op == "broadcast":
        return _factors(b, node.args[0], tuple(labels[k] for k in node.attr("at")))
    return [(x, labels)]


def _product(
    b: TimelineBuilder, factors: Sequence[Factor], labels: tuple[int, ...], sizes: Mapping[int, Axis]
) -> Factor:
    """The product of factors, with these labels."""
    axes = tuple(sizes[label] for label in labels)
    values = [spread(b, value, own, labels, axes) for value, own in factors]
    total = values[0]
    for value in values[1:]:
        total = b.op("mul", total, value)
    return total, labels
