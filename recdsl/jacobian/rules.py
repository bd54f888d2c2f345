"""How each kind of op passes a piece on: the derivative of one result with respect to one argument, applied to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from recdsl.graph.types import Axis, Type
from recdsl.jacobian.pieces import (
    Axes,
    Key,
    Piece,
    Tie,
    chosen,
    cut,
    fit,
    free,
    lane,
    material,
    product,
    released,
    restricted,
    row_axes,
    scaled,
    untied,
    whole,
)
from recdsl.ops import primitive
from recdsl.ops.base import Attrs, Builder, Elementwise


@dataclass(frozen=True)
class Site:
    """One argument of one op: values of the operands and the result, and the axes on both sides and of the seed.

    wanted: the only pattern of the result that anyone reads (empty: all of it).
    """

    b: Builder
    op: str
    attrs: Attrs
    args: tuple[int, ...]
    out: int
    place: int
    before: Axes
    after: Axes
    seed: Axes
    wanted: Key = ()

    def attr(self, key: str) -> Any:
        return dict(self.attrs)[key]


Rule = Callable[[Site, Piece], Piece | None]


def passed(site: Site, piece: Piece) -> Piece | None:
    """The piece behind the op; None where the op has no derivative."""
    rule = RULES.get(site.op)
    if rule is not None:
        return rule(site, piece)
    op = primitive(site.op)
    if op.structure == "zero":
        return None
    if isinstance(op, Elementwise):
        return _elementwise(site, piece)
    raise NotImplementedError(site.op)


def back(site_op: str, attrs: Attrs, wanted: Key, before: Axes, place: int) -> Key:
    """What has to be known of an argument where only a pattern of the result is read (empty: everything)."""
    rule = BACK.get(site_op)
    if rule is not None:
        return rule(dict(attrs), wanted, before, place)
    return wanted if isinstance(primitive(site_op), Elementwise) or site_op in ("where", "rename") else ()


# -- entry by entry ---------------------------------------------------------------------------------------------------
def _elementwise(site: Site, piece: Piece) -> Piece | None:
    op = primitive(site.op)
    assert isinstance(op, Elementwise)
    one = site.b.const(1.0, site.out)
    factor = op.scale(site.b, site.args, site.out, site.attrs, site.place, one)
    return None if factor is None else scaled(site.b, piece, factor, site.before, site.seed)


def _where(site: Site, piece: Piece) -> Piece | None:
    if site.place == 0:
        return None
    return chosen(site.b, piece, site.args[0], site.before, site.seed, then=site.place == 1)


# -- moves ------------------------------------------------------------------------------------------------------------
def _rename(site: Site, piece: Piece) -> Piece:
    return replace(piece, value=fit(site.b, piece.value, whole(piece, site.after, site.seed)))


def _transpose(site: Site, piece: Piece) -> Piece:
    order = tuple(site.attr("order"))
    key = tuple(sorted(replace(tie, axis=order.index(tie.axis)) for tie in piece.key))
    made = replace(piece, key=key)
    rest = range(len(order), len(site.b.type(piece.value).axes))
    value = site.b.op("transpose", piece.value, order=(*order, *rest))
    return replace(made, value=fit(site.b, value, whole(made, site.after, site.seed)))


def _broadcast(site: Site, piece: Piece) -> Piece:
    at, count = tuple(site.attr("at")), len(site.after)
    key = tuple(replace(tie, axis=at[tie.axis]) for tie in piece.key)
    made = replace(piece, key=key)
    axes = whole(made, site.after, site.seed)
    value = fit(site.b, piece.value, tuple(axes[k] for k in (*at, *range(count, len(axes)))))
    value = site.b.op("broadcast", value, axes=axes, at=(*at, *range(count, len(axes))))
    return replace(made, value=value)


def _slice(site: Site, piece: Piece) -> Piece | None:
    at, start, size = int(site.attr("at")), int(site.attr("start")), int(site.attr("axis").size)
    tie = next((t for t in piece.key if t.axis == at), None)
    if tie is None:
        value = cut(site.b, piece.value, at, start, size)
        return _rename(site, replace(piece, value=value))
    lo, hi = max(tie.row, start), min(tie.row + tie.size, start + size)
    if lo >= hi:
        return None
    value = cut(site.b, piece.value, at, lo - tie.row, hi - lo)
    moved = Tie(at, tie.seed, lo - start, tie.column + lo - tie.row, hi - lo)
    key = tuple(moved if t == tie else t for t in piece.key)
    return _rename(site, replace(piece, key=key, value=value))


def _padded(site: Site, piece: Piece, at: int, start: int, axis: Axis) -> Piece:
    tie = next((t for t in piece.key if t.axis == at), None)
    if tie is None:
        value = piece.value
        if site.b.type(value).axes[at].size < axis.size:
            value = site.b.op("pad", value, at=at, start=start, axis=axis)
        return _rename(site, replace(piece, value=value))
    key = tuple(replace(t, row=t.row + start) if t == tie else t for t in piece.key)
    return _rename(site, replace(piece, key=key))


def _pad(site: Site, piece: Piece) -> Piece:
    return _padded(site, piece, int(site.attr("at")), int(site.attr("start")), site.attr("axis"))


def _concat(site: Site, piece: Piece) -> Piece:
    at = int(site.attr("at"))
    start = sum(site.b.type(arg).axes[at].size for arg in site.args[: site.place])
    return _padded(site, piece, at, start, site.attr("axis"))


# -- sums -------------------------------------------------------------------------------------------------------------
def along(site: Site, piece: Piece, over: tuple[int, ...]) -> Piece:
    """The sum over some axes of the value; `after` are the axes that stay."""
    rows, b = list(site.before), site.b
    for axis in sorted(over, reverse=True):
        if any(tie.axis == axis for tie in piece.key):
            piece = released(b, piece, axis, tuple(rows), site.seed)
        else:
            key = tuple(replace(t, axis=t.axis - (t.axis > axis)) for t in piece.key)
            piece = replace(piece, key=key, value=b.op("sum", piece.value, over=(axis,)))
        del rows[axis]
    return _rename(site, piece)


def _sum(site: Site, piece: Piece) -> Piece:
    return along(site, piece, tuple(site.attr("over")))


def _reduce(site: Site, piece: Piece) -> Piece:
    """Ops that shrink one axis: the derivative of the result with respect to each entry, then the sum."""
    one = site.b.const(1.0, site.out)
    (factor,) = primitive(site.op).vjp(site.b, site.args, site.out, one, site.attrs)
    assert factor is not None
    return along(site, scaled(site.b, piece, factor, site.before, site.seed), (int(site.attr("at")),))


def _softmax(site: Site, piece: Piece) -> Piece:
    """y (t - sum(y t)) along its axis, which no seed can share."""
    at, b = int(site.attr("at")), site.b
    if any(tie.axis == at for tie in piece.key):
        piece = untied(b, piece, at, site.before, site.seed)
    piece = material(b, piece, site.before, site.seed)
    weighted = scaled(b, piece, site.out, site.before, site.seed)
    axes = b.type(weighted.value).axes
    total = b.op("sum", weighted.value, over=(at,))
    wide = b.op("broadcast", total, axes=axes, at=tuple(k for k in range(len(axes)) if k != at))
    spread = scaled(b, replace(piece, value=wide), site.out, site.before, site.seed)
    return replace(weighted, value=b.op("sub", weighted.value, spread.value))


def _gather(site: Site, piece: Piece) -> Piece | None:
    if site.place == 1:
        return None
    at, b, index = int(site.attr("at")), site.b, site.args[1]
    tie = next((t for t in piece.key if t.axis == at), None)
    if tie is None:
        value = b.op("gather", piece.value, index, at=at)
        key = tuple(replace(t, axis=t.axis - (t.axis > at)) for t in piece.key)
        return _rename(site, replace(piece, key=key, value=value))
    hit = b.op("one_hot", index, axis=site.before[at])
    if not free(piece.key, site.seed) and is_number(b, piece.value):
        return _indicated(site, piece, tie, cut(b, hit, 0, tie.row, tie.size))
    axes = site.before
    wide = hit if len(axes) == 1 else b.op("broadcast", hit, axes=axes, at=(at,))
    return _rename(site, released(b, scaled(b, piece, wide, axes, site.seed), at, axes, site.seed))


def _indicated(site: Site, piece: Piece, tie: Tie, hit: int) -> Piece:
    """A row of an embedding: the identity on its other axes, times the indicator of the row."""
    key = tuple(replace(t, axis=t.axis - (t.axis > tie.axis)) for t in piece.key if t != tie)
    value = like_number(site.b, piece.value, row_axes(key, site.after))
    return Piece(key, value, _laned(site.b, hit, tie, site.seed))


def _laned(b: Builder, value: int, tie: Tie, seed: Axes) -> int:
    """A value along a tie's range as a factor of the seed's lane."""
    if tie.size < seed[tie.seed].size:
        value = b.op("pad", value, at=0, start=tie.column, axis=lane(seed, tie.seed))
    return fit(b, value, (lane(seed, tie.seed),))


def _scatter(site: Site, piece: Piece) -> Piece | None:
    if site.place == 1:
        return None
    at, b = int(site.attr("at")), site.b
    key = tuple(replace(t, axis=t.axis + (t.axis >= at)) for t in piece.key)
    value = b.op("scatter", piece.value, site.args[1], at=at, axis=site.attr("axis"))
    return _rename(site, replace(piece, key=key, value=value))


# -- products ---------------------------------------------------------------------------------------------------------
def _contract(site: Site, piece: Piece) -> Piece | None:
    """One operand varies, the other is a factor. A tied axis that is summed becomes a lane of the factor."""
    b, out = site.b, tuple(site.attr("out"))
    own, other = (site.attr("x"), site.attr("y")) if site.place == 0 else (site.attr("y"), site.attr("x"))
    own, other = tuple(own), tuple(other)
    y, ties = site.args[1 - site.place], {tie.axis: tie for tie in piece.key}
    for axis, tie in ties.items():
        if own[axis] in other:
            y = cut(b, y, other.index(own[axis]), tie.row, tie.size)
    simple = _outer(site, piece, own, other, out, y)
    if simple is not None:
        return simple
    diagonal = _diagonal(site, piece, own, other, out, y)
    if diagonal is not None:
        return diagonal
    piece = material(b, piece, site.before, site.seed)
    lanes = {place: 100 + place for place in range(len(site.seed))}
    key = list[Tie]()
    for axis, tie in sorted(ties.items()):
        if own[axis] in out:
            key.append(replace(tie, axis=out.index(own[axis])))
        else:
            lanes[tie.seed] = own[axis]
    xl = [*own, *(lanes[k] for k in free(piece.key, site.seed))]
    made = Piece(tuple(sorted(key)), -1)
    labels = [*out, *(lanes[k] for k in free(made.key, site.seed))]
    axes = whole(made, site.after, site.seed)
    small = _small_lanes(axes, len(out), made.key, ties, site.seed)
    value = product(b, piece.value, xl, y, list(other), labels, small)
    value = _full_lanes(b, value, len(out), made.key, ties, site.seed)
    made = replace(made, value=fit(b, value, axes))
    return restricted(b, made, site.wanted, site.after, site.seed) if site.wanted else made


def _small_lanes(axes: Axes, count: int, key: Key, ties: dict[int, Tie], seed: Axes) -> Axes:
    """The result's axes before lanes that come from a range are padded to their extent."""
    sizes = {tie.seed: tie.size for tie in ties.values()}
    lanes = [
        Axis(a.name, min(a.size, sizes.get(k, a.size))) for a, k in zip(axes[count:], free(key, seed), strict=True)
    ]
    return (*axes[:count], *lanes)


def _full_lanes(b: Builder, value: int, count: int, key: Key, ties: dict[int, Tie], seed: Axes) -> int:
    columns = {tie.seed: tie for tie in ties.values()}
    for at, place in enumerate(free(key, seed), count):
        if place in columns and columns[place].size < seed[place].size:
            value = b.op("pad", value, at=at, start=columns[place].column, axis=lane(seed, place))
    return value


def _outer(
    site: Site, piece: Piece, own: tuple[int, ...], other: tuple[int, ...], out: tuple[int, ...], y: int
) -> Piece | None:
    """A matrix that is the seed itself: the identity on its rows, times what it multiplies. None for other cases."""
    b, ties = site.b, {tie.axis: tie for tie in piece.key}
    plain = piece.lanes is None and not free(piece.key, site.seed) and is_number(b, piece.value)
    gone = [axis for axis, label in enumerate(own) if label not in out]
    if not plain or len(gone) != 1 or other != (own[gone[0]],) or gone[0] not in ties:
        return None
    rest = [k for k in range(len(own)) if k != gone[0]]
    if tuple(own[k] for k in rest) != out:
        return None
    tie = ties[gone[0]]
    key = tuple(replace(t, axis=out.index(own[t.axis])) for t in piece.key if t != tie)
    value = like_number(b, piece.value, row_axes(key, site.after))
    return Piece(tuple(sorted(key)), value, _laned(b, y, tie, site.seed))


def _diagonal(
    site: Site, piece: Piece, own: tuple[int, ...], other: tuple[int, ...], out: tuple[int, ...], y: int
) -> Piece | None:
    """Only the diagonal of `W v` is wanted, and v depends on the seed entry by entry: the diagonal of W, times that."""
    if len(site.wanted) != 1 or len(piece.key) != 1:
        return None
    b, tie, want = site.b, piece.key[0], site.wanted[0]
    whole_axis = tie.row == tie.column == want.row == want.column == 0
    label, target = own[tie.axis], out[want.axis]
    matrix = set(other) == {label, target} and target not in own and label not in out
    if not (whole_axis and matrix and tie.seed == want.seed and len(own) == 1 == len(out)):
        return None
    rows = b.type(y).axes
    if not rows[0].size == rows[1].size == tie.size == want.size:
        return None
    eye = b.op("eye", axes=rows if rows[0].name != rows[1].name else (rows[0], Axis("k", rows[1].size)))
    entries = b.op("contract", y, eye, x=(0, 1), y=(0, 1), out=(0,))
    made = replace(piece, key=(want,))
    made = replace(made, value=fit(b, piece.value, whole(made, site.after, site.seed)))
    return scaled(b, made, fit(b, entries, site.after), site.after, site.seed)


@runtime_checkable
class Folder(Protocol):
    """A builder that knows its constants."""

    def uniform(self, value: int) -> float | None: ...

    def constant(self, value: Any, type: Type) -> int: ...


def is_number(b: Builder, value: int) -> bool:
    """Whether a value is known to be one constant for all entries."""
    return isinstance(b, Folder) and b.uniform(value) is not None


def like_number(b: Builder, value: int, axes: Axes) -> int:
    """The same uniform constant with other axes."""
    assert isinstance(b, Folder)
    return b.constant(b.uniform(value), Type("float", axes))


RULES: dict[str, Rule] = {
    "where": _where, "rename": _rename, "transpose": _transpose, "broadcast": _broadcast, "slice": _slice,
    "pad": _pad, "concat": _concat, "sum": _sum, "logsumexp": _reduce, "reduce_max": _reduce, "softmax": _softmax,
    "gather": _gather, "scatter": _scatter, "contract": _contract,
}  # fmt: skip


# -- what is wanted of an argument ------------------------------------------------------------------------------------
Back = Callable[[dict[str, Any], Key, Axes, int], Key]


def _back_contract(attrs: dict[str, Any], wanted: Key, before: Axes, place: int) -> Key:
    own, out = tuple(attrs["x" if place == 0 else "y"]), tuple(attrs["out"])
    return tuple(sorted(replace(t, axis=own.index(out[t.axis])) for t in wanted if out[t.axis] in own))


def _back_broadcast(attrs: dict[str, Any], wanted: Key, before: Axes, place: int) -> Key:
    at = tuple(attrs["at"])
    return tuple(replace(t, axis=at.index(t.axis)) for t in wanted if t.axis in at)


def _back_transpose(attrs: dict[str, Any], wanted: Key, before: Axes, place: int) -> Key:
    return tuple(sorted(replace(t, axis=attrs["order"][t.axis]) for t in wanted))


def _back_sum(attrs: dict[str, Any], wanted: Key, before: Axes, place: int) -> Key:
    kept = [k for k in range(len(before)) if k not in attrs["over"]]
    return tuple(replace(t, axis=kept[t.axis]) for t in wanted)


def _back_reduce(attrs: dict[str, Any], wanted: Key, before: Axes, place: int) -> Key:
    return tuple(replace(t, axis=t.axis + (t.axis >= attrs["at"])) for t in wanted)


def _back_softmax(attrs: dict[str, Any], wanted: Key, before: Axes, place: int) -> Key:
    return tuple(t for t in wanted if t.axis != attrs["at"])


BACK: dict[str, Back] = {
    "contract": _back_contract, "broadcast": _back_broadcast, "transpose": _back_transpose, "sum": _back_sum,
    "logsumexp": _back_reduce, "reduce_max": _back_reduce, "softmax": _back_softmax, "gather": _back_reduce,
    "rename": lambda attrs, wanted, before, place: wanted,
}  # fmt: skip
