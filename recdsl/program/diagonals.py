"""Diagonals without the matrix: of a product the product of diagonals, of a contraction one with an index less.

Rules that keep an influence where two axes are tied ask for such entries; what has both axes is never written out for
them, so that n entries cost n numbers and not n^2 (semantics 7.3: `diag(d1 M1 d2 M2 d3) = d1 rowsum((M1 d2) M2^T) d3`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recdsl.graph.types import Axis

if TYPE_CHECKING:
    from recdsl.program.timeline import TimelineBuilder


def diagonal(b: TimelineBuilder, args: Sequence[int], attrs: Mapping[str, Any]) -> int | None:
    """A contraction with the identity that keeps the entries where two axes of x are equal; None where x has to be
    written out for it, or where it is no such contraction."""
    x, matrix = args
    xl, yl, out = (tuple(attrs[side]) for side in ("x", "y", "out"))
    if b.nodes[matrix].op != "eye" or len(set(yl) & set(xl)) != 2 or out != tuple(k for k in xl if k != yl[1]):
        return None
    return _taken(b, x, xl.index(yl[0]), xl.index(yl[1]))


def entries(b: TimelineBuilder, x: int, kept: int, dropped: int) -> int:
    """The entries of x with equal indices on two of its axes; the first of them stays."""
    found = _taken(b, x, kept, dropped)
    if found is not None:
        return found
    axes = b.type(x).axes
    one, other = axes[kept], axes[dropped]
    eye = b.op("eye", axes=(one, other if other.name != one.name else Axis(f"{one.name} again", other.size)))
    labels = tuple(range(len(axes)))
    return b.op("contract", x, eye, x=labels, y=(kept, dropped), out=tuple(k for k in labels if k != dropped))


def _taken(b: TimelineBuilder, x: int, kept: int, dropped: int) -> int | None:
    node = b.nodes[x]
    if node.op == "broadcast":
        return _repeated(b, x, kept, dropped)
    if node.op == "contract":
        return _contracted(b, x, kept, dropped)
    if node.op == "rename":
        return _renamed(b, x, kept, dropped)
    if node.op == "neg":
        return b.op("neg", entries(b, node.args[0], kept, dropped))
    if node.op not in ("mul", "add", "sub") or any(b.type(arg).axes != node.type.axes for arg in node.args):
        return None
    if all(_taken(b, arg, kept, dropped) is None for arg in node.args):
        return None
    return b.op(node.op, *(entries(b, arg, kept, dropped) for arg in node.args))


def _repeated(b: TimelineBuilder, x: int, kept: int, dropped: int) -> int:
    """A repetition along one of the two axes has its entries already; along others it repeats entries."""
    node = b.nodes[x]
    axes, at, (value,) = node.attr("axes"), tuple(node.attr("at")), node.args
    if kept in at and dropped in at:
        value = entries(b, value, at.index(kept), at.index(dropped))
        at = tuple(k for k in at if k != dropped)
    at = tuple(kept if k == dropped else k for k in at)
    if list(at) != sorted(at):
        order = sorted(range(len(at)), key=lambda k: at[k])
        value, at = b.op("transpose", value, order=tuple(order)), tuple(at[k] for k in order)
    own = tuple(axes[k] for k in at)
    value = value if b.type(value).axes == own else b.op("rename", value, axes=own)
    rest = tuple(axis for k, axis in enumerate(axes) if k != dropped)
    places = tuple(k - (k > dropped) for k in at)
    return value if len(places) == len(rest) else b.op("broadcast", value, axes=rest, at=places)


def _renamed(b: TimelineBuilder, x: int, kept: int, dropped: int) -> int:
    (value,), axes = b.nodes[x].args, b.type(x).axes
    rest = tuple(axis for k, axis in enumerate(axes) if k != dropped)
    return b.op("rename", entries(b, value, kept, dropped), axes=rest)


def _contracted(b: TimelineBuilder, x: int, kept: int, dropped: int) -> int | None:
    """Both axes of a contraction become one index, which its operands share."""
    node = b.nodes[x]
    sides = [(arg, tuple(node.attr(side))) for arg, side in zip(node.args, ("x", "y"), strict=True)]
    out = tuple(node.attr("out"))
    one, other = out[kept], out[dropped]
    if any(b.nodes[arg].op == "eye" for arg, _ in sides):
        return None
    made = [_shared(b, arg, labels, one, other, node.type.axes[kept]) for arg, labels in sides]
    (left, xl), (right, yl) = made
    value = b.op("contract", left, right, x=xl, y=yl, out=tuple(k for k in out if k != other))
    axes = tuple(axis for k, axis in enumerate(node.type.axes) if k != dropped)
    return value if b.type(value).axes == axes else b.op("rename", value, axes=axes)


def _shared(
    b: TimelineBuilder, arg: int, labels: tuple[int, ...], one: int, other: int, axis: Axis
) -> tuple[int, tuple[int, ...]]:
    """An operand with one index for the other, under the name of the first."""
    if one in labels and other in labels:
        return entries(b, arg, labels.index(one), labels.index(other)), tuple(k for k in labels if k != other)
    named = tuple(axis if k == other else own for k, own in zip(labels, b.type(arg).axes, strict=True))
    value = arg if named == b.type(arg).axes else b.op("rename", arg, axes=named)
    return value, tuple(one if k == other else k for k in labels)
