"""How operands with named axes are brought together: by transpose, broadcast, contract and concat nodes."""

from __future__ import annotations

from collections.abc import Sequence

from recdsl.errors.axes import Ambiguous, ConcatAxes, MatmulAxes, MatmulScalar, NoAxis, Refused
from recdsl.graph.emit import UNKNOWN, Emitter
from recdsl.graph.scope import Stop, show_axes
from recdsl.graph.sizes import concatenated
from recdsl.graph.types import Axis, Type
from recdsl.source import Span


def repeats(type: Type) -> str:
    """A name that stands twice in a type, or an empty string."""
    names = type.names
    return next((name for name in names if names.count(name) > 1), "") if len(set(names)) < len(names) else ""


def to_axes(b: Emitter, value: int, axes: tuple[Axis, ...]) -> int:
    """A value with unique axis names, along axes that hold all of its own."""
    own = b.type(value).axes
    if own == axes:
        return value
    kept = [axis for axis in axes if axis in own]
    order = tuple(own.index(axis) for axis in kept)
    if order != tuple(range(len(own))):
        value = b.op("transpose", value, order=order)
    if len(kept) == len(axes):
        return value
    return b.op("broadcast", value, axes=axes, at=tuple(k for k, axis in enumerate(axes) if axis in own))


def same_set(a: Type, b: Type) -> bool:
    """Whether two types have the same axes, in any order (equal where a name repeats)."""
    if repeats(a) or repeats(b):
        return a.axes == b.axes
    return sorted(a.axes) == sorted(b.axes)


def aligned(b: Emitter, values: Sequence[int], what: str, span: Span) -> list[int]:
    """The values along the union of their axes, the first one's order first; all known."""
    types = [b.type(value) for value in values]
    if all(type.axes == types[0].axes for type in types):
        return list(values)
    for type in types:
        name = repeats(type)
        if name:
            return _by_position(b, values, type, what, name, span)
    union: dict[str, Axis] = {}
    for type in types:
        for axis in type.axes:
            if union.setdefault(axis.name, axis) != axis:
                message = f"{what}: axis `{axis.name}` is {union[axis.name].size} here and {axis.size} there"
                raise Stop(Refused(span, message, "give one of them another name with `rename`"))
    return [to_axes(b, value, tuple(union.values())) for value in values]


def _by_position(b: Emitter, values: Sequence[int], wanted: Type, what: str, name: str, span: Span) -> list[int]:
    found: list[int] = []
    for value in values:
        type = b.type(value)
        if type.axes and type.axes != wanted.axes:
            raise Stop(Ambiguous(span, what, str(wanted), str(type), name))
        found.append(value if type.axes else b.op("broadcast", value, axes=wanted.axes, at=()))
    return found


def position(type: Type, axis: str, span: Span, first: bool = False) -> int:
    """Where an axis stands; where its name repeats an error, unless the first is wanted."""
    if axis not in type.names:
        hint = f"it has {show_axes(type.axes)}" if type.axes else "it is a scalar"
        raise Stop(NoAxis(span, axis, str(type), hint))
    if type.names.count(axis) > 1 and not first:
        raise Stop(Ambiguous(span, f"`{axis}`", str(type), str(type), axis))
    return type.names.index(axis)


def matmul(b: Emitter, left: int, right: int, span: Span) -> int:
    """`left @ right`: last axis of the one with the first of the other."""
    x, y = b.type(left), b.type(right)
    if not x.axes or not y.axes:
        raise Stop(MatmulScalar(span, str(x), str(y)))
    if x.axes[-1] != y.axes[0]:
        raise Stop(MatmulAxes(span, str(x), str(y), str(x.axes[-1]), str(y.axes[0]), _advice(x, y)))
    n = len(x.axes)
    second = tuple(range(n - 1, n - 1 + len(y.axes)))
    return b.op("contract", left, right, x=tuple(range(n)), y=second, out=(*range(n - 1), *second[1:]))


def _advice(x: Type, y: Type) -> str:
    """What the user may have meant by a product that does not fit."""
    if len(x.axes) == 2 and x.axes[0] == y.axes[0]:
        return "transpose the left side: `.T`"
    if len(y.axes) == 2 and x.axes[-1] == y.axes[1]:
        return "transpose the right side: `.T`"
    if len(x.axes) == 2 and len(y.axes) == 2 and x.axes[0] == y.axes[1]:
        return "transpose both sides, or swap them"
    if len(y.axes) == 2 and len(x.axes) == 1 and x.axes[0] in y.axes:
        return "swap the two sides"
    if len(x.axes) == 1 and x.axes[0] in y.axes:
        return f"both have `{x.axes[0].name}`: `dot(a, b, over={x.axes[0].name})`"
    if x.axes[-1].size == y.axes[0].size:
        return "the extents are equal but the names are not: use one size for both, or `rename`"
    return f"declare one of them with the other's axis `{y.axes[0].name}`"


def dot(b: Emitter, left: int, right: int, over: Sequence[str], span: Span) -> int:
    """Contraction over named axes; other axes that both have are kept, once."""
    for name in over:
        if name not in b.type(left).names and name not in b.type(right).names:
            position(b.type(left), name, span)
    sides: list[int] = []
    for value, other in ((left, right), (right, left)):
        alone = [name for name in over if name in b.type(value).names and name not in b.type(other).names]
        spots = tuple(position(b.type(value), name, span) for name in alone)
        sides.append(b.op("sum", value, over=spots) if spots else value)
    x, y = (b.type(side) for side in sides)
    for type in (x, y):
        if repeats(type):
            raise Stop(Ambiguous(span, "`dot`", str(x), str(y), repeats(type)))
    labels: dict[Axis, int] = {}
    for axis in (*x.axes, *y.axes):
        labels.setdefault(axis, len(labels))
    out = tuple(label for axis, label in labels.items() if axis.name not in over)
    ends = (tuple(labels[axis] for axis in type.axes) for type in (x, y))
    return b.op("contract", *sides, **dict(zip("xy", ends, strict=True)), out=out)


def concat(b: Emitter, values: Sequence[int], span: Span) -> int:
    """`[a; b; ...]`: along the one axis in which they differ, else the last; scalars are one entry."""
    one = (Axis("1", 1),)
    wide = [v if b.type(v).axes else b.op("broadcast", v, axes=one, at=()) for v in values]
    first = b.type(wide[0])
    at = len(first.axes) - 1
    for value in wide[1:]:
        type = b.type(value)
        differing = [k for k, pair in enumerate(zip(first.axes, type.axes, strict=False)) if pair[0] != pair[1]]
        if len(type.axes) != len(first.axes) or len(differing) > 1:
            raise Stop(ConcatAxes(span, str(first), str(type)))
        at = differing[0] if differing else at
    rests = {(*b.type(v).axes[:at], *b.type(v).axes[at + 1 :]) for v in wide}
    if len(rests) > 1:
        other = next(
            v
            for v in wide
            if b.type(v).axes[:at] != first.axes[:at] or b.type(v).axes[at + 1 :] != first.axes[at + 1 :]
        )
        raise Stop(ConcatAxes(span, str(first), str(b.type(other))))
    if len(wide) == 1:
        return wide[0]
    return b.op("concat", *wide, at=at, axis=concatenated(b.type(v).axes[at] for v in wide))


def known(values: Sequence[int]) -> list[int]:
    """Those whose type is known."""
    return [value for value in values if value != UNKNOWN]
