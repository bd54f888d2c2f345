"""Pieces of a Jacobian: how a value depends on a seed (a state on entry, a parameter), kept no larger than it is.

A piece d value / d seed has the value's axes and the seed's. Where only equal indices depend on each other (the entry i
of a state on the entry i of another), both share one axis: they are tied. What is not tied stands as an axis of its own
behind the value's, a lane, whose name ends in a mark that no axis of a spec has. Diagonal blocks, rows of a matrix and
ranges of fused gates are so stored as vectors, and sums and products of pieces stay small (semantics 7.2-7.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from recdsl.graph.types import Axis, Type
from recdsl.ops.base import Builder

Axes = tuple[Axis, ...]
MARK = "'"


@dataclass(frozen=True, order=True)
class Tie:
    """Entry `row + k` along the value's axis stands for entry `column + k` along the seed's, for k < size."""

    axis: int
    seed: int
    row: int
    column: int
    size: int


Key = tuple[Tie, ...]
"""The ties of a piece, sorted. Outside of their ranges the piece is zero; no ties: a dense block."""


@dataclass(frozen=True)
class Piece:
    """`value` has the value's axes (a tied one with its tie's extent), then one lane for each seed axis that is free.

    With `lanes`, which has the free seed axes alone, the piece is the outer product of `value` (then without lanes)
    and `lanes`: the immediate influence of a matrix, for instance, is a vector times the matrix's input.
    """

    key: Key
    value: int
    lanes: int | None = None


def is_lane(axis: Axis) -> bool:
    """Whether an axis is a seed's."""
    return MARK in axis.name


def lane(seed: Axes, place: int) -> Axis:
    """The lane of a seed axis; its place tells apart axes of one name."""
    return Axis(f"{seed[place].name}{MARK}{place}", seed[place].size)


def free(key: Key, seed: Axes) -> tuple[int, ...]:
    """Places of the seed axes that are not tied."""
    tied = {tie.seed for tie in key}
    return tuple(k for k in range(len(seed)) if k not in tied)


def lane_axes(key: Key, seed: Axes) -> Axes:
    return tuple(lane(seed, k) for k in free(key, seed))


def row_axes(key: Key, rows: Axes) -> Axes:
    """The value's axes with the extents of ties."""
    tied = {tie.axis: tie.size for tie in key}
    return tuple(Axis(axis.name, tied.get(k, axis.size)) for k, axis in enumerate(rows))


def whole(piece: Piece, rows: Axes, seed: Axes) -> Axes:
    """The axes of a piece's value."""
    own = row_axes(piece.key, rows)
    return own if piece.lanes is not None else (*own, *lane_axes(piece.key, seed))


def tied(axes: Axes) -> Key:
    """Every axis tied to itself: the identity."""
    return tuple(Tie(k, k, 0, 0, axis.size) for k, axis in enumerate(axes))


def within(inner: Key, outer: Key) -> bool:
    """Whether the entries of one pattern are all entries of another."""
    own = {(tie.axis, tie.seed): tie for tie in inner}
    return all((tie.axis, tie.seed) in own and _covers(tie, own[tie.axis, tie.seed]) for tie in outer)


def _covers(outer: Tie, inner: Tie) -> bool:
    same = outer.column - outer.row == inner.column - inner.row
    return same and outer.row <= inner.row and inner.row + inner.size <= outer.row + outer.size


def absorb(keys: Iterable[Key]) -> tuple[Key, ...]:
    """The patterns without those that lie within others."""
    kept: list[Key] = []
    for key in sorted(set(keys), key=lambda k: (len(k), k)):
        if not any(within(key, other) for other in kept):
            kept.append(key)
    return tuple(kept)


# -- values -----------------------------------------------------------------------------------------------------------
def fit(b: Builder, value: int, axes: Axes) -> int:
    """The value under other axis names."""
    return value if b.type(value).axes == axes else b.op("rename", value, axes=axes)


def spread(b: Builder, value: int, labels: Sequence[int], out: Sequence[int], axes: Axes) -> int:
    """The value, whose axes have these labels, with the axes of the result: moved and repeated."""
    order = sorted(range(len(labels)), key=lambda k: out.index(labels[k]))
    if order != list(range(len(order))):
        value = b.op("transpose", value, order=tuple(order))
    at = tuple(k for k, label in enumerate(out) if label in labels)
    value = fit(b, value, tuple(axes[k] for k in at))
    return value if len(at) == len(axes) else b.op("broadcast", value, axes=axes, at=at)


def product(b: Builder, x: int, xl: Sequence[int], y: int, yl: Sequence[int], out: Sequence[int], axes: Axes) -> int:
    """Einstein summation with named results: a product entry by entry where nothing is summed."""
    if set(xl) | set(yl) == set(out):
        return b.op("mul", spread(b, x, xl, out, axes), spread(b, y, yl, out, axes))
    small = {label: k for k, label in enumerate(dict.fromkeys((*out, *xl, *yl)))}
    left, right, result = (tuple(small[label] for label in labels) for labels in (xl, yl, out))
    return fit(b, b.op("contract", x, y, x=left, y=right, out=result), axes)


def cut(b: Builder, value: int, at: int, start: int, size: int) -> int:
    """A range of one axis, under the axis's name."""
    axis = b.type(value).axes[at]
    if axis.size == size:
        return value
    return b.op("slice", value, at=at, start=start, axis=Axis(axis.name, size))


def rows_of(b: Builder, value: int, key: Key) -> int:
    """A value with the value's axes, in the ranges of the ties."""
    for tie in key:
        value = cut(b, value, tie.axis, tie.row, tie.size)
    return value


def material(b: Builder, piece: Piece, rows: Axes, seed: Axes) -> Piece:
    """The piece without a factor of lanes."""
    if piece.lanes is None:
        return piece
    count, lanes = len(rows), lane_axes(piece.key, seed)
    left, right = list(range(count)), list(range(count, count + len(lanes)))
    axes = (*row_axes(piece.key, rows), *lanes)
    value = product(b, piece.value, left, piece.lanes, right, [*left, *right], axes)
    return Piece(piece.key, value)


def scaled(b: Builder, piece: Piece, factor: int, rows: Axes, seed: Axes) -> Piece:
    """The piece times a value of the value's axes, entry by entry."""
    part = rows_of(b, factor, piece.key)
    axes = whole(piece, rows, seed)
    labels = list(range(len(axes)))
    part = spread(b, part, labels[: len(rows)], labels, axes)
    return replace(piece, value=b.op("mul", piece.value, part))


def chosen(b: Builder, piece: Piece, condition: int, rows: Axes, seed: Axes, *, then: bool) -> Piece:
    """The piece where a condition (not) holds, else zero; never by a product, for infinite entries would stay."""
    axes = whole(piece, rows, seed)
    labels = list(range(len(axes)))
    flag = spread(b, rows_of(b, condition, piece.key), labels[: len(rows)], labels, axes)
    zero = b.const(0.0, piece.value)
    value = b.op("where", flag, piece.value, zero) if then else b.op("where", flag, zero, piece.value)
    return replace(piece, value=value)


def released(b: Builder, piece: Piece, axis: int, rows: Axes, seed: Axes) -> Piece:
    """The sum over a tied axis: what was shared with the seed is a lane now. `rows` are the axes before."""
    piece = material(b, piece, rows, seed)
    tie = next(t for t in piece.key if t.axis == axis)
    key = _without(piece.key, axis)
    names = [("row", k) for k in range(len(rows))] + [("lane", k) for k in free(piece.key, seed)]
    names[axis] = ("lane", tie.seed)
    order = sorted(range(len(names)), key=lambda k: (names[k][0] == "lane", names[k][1]))
    value = b.op("transpose", piece.value, order=tuple(order))
    count = len(rows) - 1
    if tie.size < seed[tie.seed].size:
        at = count + free(key, seed).index(tie.seed)
        value = b.op("pad", value, at=at, start=tie.column, axis=lane(seed, tie.seed))
    left = rows[:axis] + rows[axis + 1 :]
    made = Piece(key, value)
    return replace(made, value=fit(b, value, whole(made, left, seed)))


def _without(key: Key, axis: int) -> Key:
    """The key when an axis of the value disappears."""
    return tuple(replace(t, axis=t.axis - (t.axis > axis)) for t in key if t.axis != axis)


def untied(b: Builder, piece: Piece, axis: int, rows: Axes, seed: Axes) -> Piece:
    """The same piece with an axis written out over the value's entries and the seed's."""
    piece = material(b, piece, rows, seed)
    tie = next(t for t in piece.key if t.axis == axis)
    key = tuple(t for t in piece.key if t.axis != axis)
    made = Piece(key, -1)
    diagonal = diagonal_of(b, rows[axis], seed[tie.seed], tie)
    lanes = free(key, seed)
    out = [("row", k) for k in range(len(rows))] + [("lane", k) for k in lanes]
    table = {name: k for k, name in enumerate(out)}
    xl = [table["row", k] for k in range(len(rows))] + [table["lane", k] for k in free(piece.key, seed)]
    value = piece.value
    if tie.size < rows[axis].size:
        value = b.op("pad", value, at=axis, start=tie.row, axis=rows[axis])
    yl = [table["row", axis], table["lane", tie.seed]]
    value = product(b, value, xl, diagonal, yl, list(range(len(out))), whole(made, rows, seed))
    return Piece(key, value)


def diagonal_of(b: Builder, row: Axis, column: Axis, tie: Tie) -> int:
    """A matrix with 1 at the tied pairs of indices."""
    small = Axis(row.name, tie.size)
    matrix = b.op("eye", axes=(small, Axis(f"{column.name}{MARK}", tie.size)))
    if tie.size < row.size:
        matrix = b.op("pad", matrix, at=0, start=tie.row, axis=row)
    if tie.size < column.size:
        matrix = b.op("pad", matrix, at=1, start=tie.column, axis=Axis(f"{column.name}{MARK}", column.size))
    return matrix


def restricted(b: Builder, piece: Piece, key: Key, rows: Axes, seed: Axes) -> Piece | None:
    """The entries of a piece that lie in a pattern; None if there are none."""
    for tie in key:
        own = next((t for t in piece.key if (t.axis, t.seed) == (tie.axis, tie.seed)), None)
        if own is not None:
            piece_or_none = _narrowed(b, piece, own, tie, rows, seed)
            if piece_or_none is None:
                return None
            piece = piece_or_none
            continue
        for other in [t for t in piece.key if t.axis == tie.axis or t.seed == tie.seed]:
            piece = untied(b, piece, other.axis, rows, seed)
        piece = _extracted(b, piece, tie, rows, seed)
    return piece


def _narrowed(b: Builder, piece: Piece, own: Tie, wanted: Tie, rows: Axes, seed: Axes) -> Piece | None:
    """A piece whose tie reaches further than wanted."""
    if own.column - own.row != wanted.column - wanted.row:
        return None
    start, stop = max(own.row, wanted.row), min(own.row + own.size, wanted.row + wanted.size)
    if start >= stop:
        return None
    tie = Tie(own.axis, own.seed, start, start + own.column - own.row, stop - start)
    value = cut(b, piece.value, own.axis, start - own.row, stop - start)
    made = replace(piece, key=tuple(sorted(tie if t == own else t for t in piece.key)))
    return replace(made, value=fit(b, value, whole(made, rows, seed)))


def _extracted(b: Builder, piece: Piece, tie: Tie, rows: Axes, seed: Axes) -> Piece:
    """The diagonal of a dense pair of axes."""
    piece = material(b, piece, rows, seed)
    key = tuple(sorted((*piece.key, tie)))
    places = free(piece.key, seed)
    value = cut(b, piece.value, tie.axis, tie.row, tie.size)
    value = cut(b, value, len(rows) + places.index(tie.seed), tie.column, tie.size)
    names = [("row", k) for k in range(len(rows))] + [("lane", k) for k in places]
    table = {name: k for k, name in enumerate(names)}
    out = [k for k, name in enumerate(names) if name != ("lane", tie.seed)]
    small = Axis("k", tie.size), Axis(f"k{MARK}", tie.size)
    made = Piece(key, -1)
    matrix = b.op("eye", axes=small)
    yl = [table["row", tie.axis], table["lane", tie.seed]]
    value = product(b, value, list(range(len(names))), matrix, yl, out, whole(made, rows, seed))
    return replace(made, value=value)


def summed(b: Builder, pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces of one pattern (and one factor of lanes) added up, in a stable order."""
    found: dict[tuple[Key, int | None], int] = {}
    for piece in pieces:
        place = (piece.key, piece.lanes)
        found[place] = b.op("add", found[place], piece.value) if place in found else piece.value
    return [Piece(key, value, lanes) for (key, lanes), value in found.items()]


def typed(b: Builder, value: int) -> Type:
    return b.type(value)
