"""Products of Jacobians: the influence on a state, carried one step on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recdsl.graph.types import Axis
from recdsl.jacobian.pieces import (
    Axes,
    Key,
    Piece,
    Tie,
    cut,
    fit,
    free,
    lane,
    lane_axes,
    material,
    product,
    restricted,
    row_axes,
    untied,
    whole,
    within,
)
from recdsl.ops.base import Builder


@dataclass(frozen=True)
class _Link:
    """One axis of the value in the middle: how each side holds it, and the range both share."""

    axis: int
    outer: Tie | None
    inner: Tie | None
    lo: int
    hi: int

    @property
    def tie(self) -> Tie | None:
        """Where both sides are tied, so is the product."""
        if self.outer is None or self.inner is None:
            return None
        row, column = self.lo + self.outer.row - self.outer.column, self.lo + self.inner.column - self.inner.row
        return Tie(self.outer.axis, self.inner.seed, row, column, self.hi - self.lo)


def _links(outer: Key, inner: Key, middle: Axes) -> list[_Link] | None:
    """The middle's axes; None where the two sides share no entry."""
    links: list[_Link] = []
    for k, axis in enumerate(middle):
        left = next((t for t in outer if t.seed == k), None)
        right = next((t for t in inner if t.axis == k), None)
        lo, hi = 0, axis.size
        if left is not None:
            lo, hi = left.column, left.column + left.size
        if right is not None:
            lo, hi = max(lo, right.row), min(hi, right.row + right.size)
        if lo >= hi:
            return None
        links.append(_Link(k, left, right, lo, hi))
    return links


def joined(outer: Key, inner: Key, middle: Axes) -> Key | None:
    """The pattern of a product; None if it is zero."""
    links = _links(outer, inner, middle)
    return None if links is None else tuple(sorted(link.tie for link in links if link.tie is not None))


def composed(b: Builder, outer: Piece, inner: Piece, rows: Axes, middle: Axes, seed: Axes) -> Piece | None:
    """`outer` (of rows, by middle) times `inner` (of middle, by seed); None if it is zero."""
    links = _links(outer.key, inner.key, middle)
    if links is None:
        return None
    outer, inner = material(b, outer, rows, middle), material(b, inner, middle, seed)
    left, right = outer.value, inner.value
    middles, lanes = dict[int, int](), {c: 200 + c for c in range(len(seed))}
    lefts = free(outer.key, middle)
    sizes = dict(enumerate(rows))
    for link in links:
        size = link.hi - link.lo
        if link.outer is not None:
            left = cut(b, left, link.outer.axis, link.lo - link.outer.column, size)
            middles[link.axis] = link.outer.axis
            sizes[link.outer.axis] = Axis(rows[link.outer.axis].name, size)
        else:
            left = cut(b, left, len(rows) + lefts.index(link.axis), link.lo, size)
            middles[link.axis] = 100 + link.axis
            if link.inner is not None:
                lanes[link.inner.seed] = middles[link.axis]
        right = cut(b, right, link.axis, link.lo - (link.inner.row if link.inner is not None else 0), size)
    key = tuple(sorted(link.tie for link in links if link.tie is not None))
    xl = [*range(len(rows)), *(middles[k] for k in lefts)]
    yl = [*(middles[k] for k in range(len(middle))), *(lanes[c] for c in free(inner.key, seed))]
    out = [*range(len(rows)), *(lanes[c] for c in free(key, seed))]
    columns = {link.inner.seed: link for link in links if link.inner is not None and link.outer is None}
    ends = [
        Axis(lane(seed, c).name, columns[c].hi - columns[c].lo if c in columns else seed[c].size)
        for c in free(key, seed)
    ]
    value = product(b, left, xl, right, yl, out, (*(sizes[k] for k in range(len(rows))), *ends))
    return Piece(key, _padded(b, value, key, links, rows, seed))


def _padded(b: Builder, value: int, key: Key, links: list[_Link], rows: Axes, seed: Axes) -> int:
    """Rows and lanes that come from a range get their full extent, with zeros."""
    places = free(key, seed)
    for link in links:
        if link.outer is not None and link.inner is None and link.hi - link.lo < rows[link.outer.axis].size:
            start = link.lo + link.outer.row - link.outer.column
            value = b.op("pad", value, at=link.outer.axis, start=start, axis=rows[link.outer.axis])
        if link.inner is not None and link.outer is None and link.hi - link.lo < seed[link.inner.seed].size:
            start = link.lo + link.inner.column - link.inner.row
            at = len(rows) + places.index(link.inner.seed)
            value = b.op("pad", value, at=at, start=start, axis=lane(seed, link.inner.seed))
    return fit(b, value, (*row_axes(key, rows), *lane_axes(key, seed)))


def confined(
    b: Builder, piece: Piece, keys: tuple[Key, ...], rows: Axes, seed: Axes, *, factored: bool = False
) -> list[Piece]:
    """The entries of a piece that lie in a scope of disjoint patterns, each under the scope's own pattern.

    factored: an outer product stays one, where its pattern ties the same axes.
    """
    found: list[Piece] = []
    for key in keys:
        part = restricted(b, piece, key, rows, seed)
        if part is None:
            continue
        part = part if factored and _tied_alike(part.key, key) else material(b, part, rows, seed)
        for tie in [t for t in part.key if not any((t.axis, t.seed) == (o.axis, o.seed) for o in key)]:
            part = untied(b, part, tie.axis, rows, seed)
        found.append(_widened(b, part, key, rows, seed))
    return found


def _widened(b: Builder, piece: Piece, key: Key, rows: Axes, seed: Axes) -> Piece:
    """A piece whose ties cover less than the scope's: zeros where it has no entries."""
    value = piece.value
    for own, wide in zip(sorted(piece.key), sorted(key), strict=True):
        if own != wide:
            axis = Axis(rows[wide.axis].name, wide.size)
            value = b.op("pad", value, at=wide.axis, start=own.row - wide.row, axis=axis)
    made = replace(piece, key=tuple(sorted(key)))
    return replace(made, value=fit(b, value, whole(made, rows, seed)))


def _tied_alike(one: Key, other: Key) -> bool:
    """Whether two patterns tie the same axes."""
    return {(t.axis, t.seed) for t in one} == {(t.axis, t.seed) for t in other}


def overlaps(one: Key, other: Key) -> bool:
    """Whether two patterns may have an entry in common."""
    for tie in one:
        for mate in other:
            if (tie.axis, tie.seed) != (mate.axis, mate.seed):
                continue
            apart = tie.column - tie.row != mate.column - mate.row
            if apart or tie.row + tie.size <= mate.row or mate.row + mate.size <= tie.row:
                return False
    return True


def inside(pattern: Key, scope: tuple[Key, ...]) -> bool:
    """Whether all entries of a pattern lie in a scope."""
    return any(within(pattern, key) for key in scope)
