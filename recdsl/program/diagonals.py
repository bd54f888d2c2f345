"""Diagonals of products: the product of diagonals, so that what is repeated along an axis is never written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recdsl.program.timeline import TimelineBuilder


def diagonal(b: TimelineBuilder, args: Sequence[int], attrs: Mapping[str, Any]) -> int | None:
    """A contraction with the identity that keeps the entries where two axes of x are equal; None where x has to be
    written out for it, or where it is no such contraction."""
    x, matrix = args
    xl, yl, out = (tuple(attrs[side]) for side in ("x", "y", "out"))
    if b.nodes[matrix].op != "eye" or len(set(yl) & set(xl)) != 2 or out != tuple(k for k in xl if k != yl[1]):
        return None
    return _taken(b, x, xl.index(yl[0]), xl.index(yl[1]), matrix, attrs)


def _taken(b: TimelineBuilder, x: int, kept: int, dropped: int, matrix: int, attrs: Mapping[str, Any]) -> int | None:
    node = b.nodes[x]
    if node.op == "broadcast":
        return _repeated(b, x, kept, dropped)
    if node.op != "mul" or any(b.type(arg).axes != node.type.axes for arg in node.args):
        return None
    found = [_taken(b, arg, kept, dropped, matrix, attrs) for arg in node.args]
    if all(part is None for part in found):
        return None
    whole = [
        b.op("contract", arg, matrix, **attrs) if part is None else part
        for arg, part in zip(node.args, found, strict=True)
    ]
    return b.op("mul", *whole)


def _repeated(b: TimelineBuilder, x: int, kept: int, dropped: int) -> int | None:
    """A repetition along one of the two axes has its entries already."""
    node = b.nodes[x]
    axes, at, (value,) = node.attr("axes"), tuple(node.attr("at")), node.args
    if kept in at and dropped in at:
        return None
    moved = tuple(kept if k == dropped else k for k in at)
    if list(moved) != sorted(set(moved)):
        return None
    own = tuple(axes[k] for k in moved)
    value = value if b.type(value).axes == own else b.op("rename", value, axes=own)
    rest = tuple(axis for k, axis in enumerate(axes) if k != dropped)
    places = tuple(k - (k > dropped) for k in moved)
    return value if len(places) == len(rest) else b.op("broadcast", value, axes=rest, at=places)
