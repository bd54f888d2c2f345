"""Traces of several parameters as one: what is updated by the same Jacobian is one product, however many it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from recdsl.credit.plan import Scope
from recdsl.graph.types import Axis
from recdsl.jacobian.pieces import Axes, Key, Piece, Tie, fit, free, lane, row_axes
from recdsl.ops.base import Builder

PACK = "entries"


@dataclass(frozen=True)
class Member:
    """An effective parameter in a stack: `size` entries from `start`; `slots` are its seed axes that states share."""

    source: int
    start: int
    size: int
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """Traces with one layout. seed: the shared axes, then all other entries of all members in a row.

    stored: by carry, patterns of `seed`. Not `flat`: one parameter as it is, where a layout cannot be shared.
    """

    number: int
    seed: Axes
    members: tuple[Member, ...]
    stored: Mapping[str, tuple[Key, ...]]
    flat: bool = True


Signature = tuple[tuple[int, ...], tuple[tuple[str, tuple[tuple[int, int], ...]], ...]]


def stacks(scopes: Sequence[Scope], axes: Callable[[int], Axes], rows: Callable[[str], Axes]) -> tuple[Stack, ...]:
    """The stored scopes of a class, those of one layout together. axes: of a parameter; rows: of a carried value."""
    stored: dict[int, dict[str, tuple[Key, ...]]] = {}
    for scope in scopes:
        if scope.stored:
            stored.setdefault(scope.source, {})[scope.carry] = scope.stored
    groups: dict[Signature | int, list[int]] = {}
    for source, patterns in sorted(stored.items()):
        layout = _signature(patterns, axes(source), rows)
        groups.setdefault(source if layout is None else layout, []).append(source)
    return tuple(
        _single(k, sources[0], stored[sources[0]], axes(sources[0])) if isinstance(layout, int)
        else _stack(k, layout, {source: stored[source] for source in sources}, axes)
        for k, (layout, sources) in enumerate(groups.items())
    )  # fmt: skip


def _signature(patterns: Mapping[str, tuple[Key, ...]], seed: Axes, rows: Callable[[str], Axes]) -> Signature | None:
    """(extents of the shared axes, which of them each carried value is tied to); None where ties are ranges."""
    if any(len(keys) != 1 for keys in patterns.values()):
        return None
    ties = {tie for keys in patterns.values() for tie in keys[0]}
    if any(tie.row or tie.column or tie.size != seed[tie.seed].size for tie in ties):
        return None
    slots = sorted({tie.seed for tie in ties})
    if any(tie.size != rows(name)[tie.axis].size for name, keys in patterns.items() for tie in keys[0]):
        return None
    table = [
        (name, tuple((tie.axis, slots.index(tie.seed)) for tie in keys[0])) for name, keys in sorted(patterns.items())
    ]
    return tuple(seed[k].size for k in slots), tuple(table)


def _single(number: int, source: int, patterns: Mapping[str, tuple[Key, ...]], seed: Axes) -> Stack:
    size = prod(axis.size for axis in seed)
    return Stack(number, seed, (Member(source, 0, size, ()),), patterns, flat=False)


def _stack(
    number: int,
    layout: Signature,
    sources: Mapping[int, Mapping[str, tuple[Key, ...]]],
    axes: Callable[[int], Axes],
) -> Stack:
    """One stack of all sources with a layout."""
    sizes, table = layout
    members: list[Member] = []
    start = 0
    for source, patterns in sources.items():
        own = axes(source)
        slots = tuple(sorted({tie.seed for keys in patterns.values() for tie in keys[0]}))
        size = prod(axis.size for k, axis in enumerate(own) if k not in slots)
        members.append(Member(source, start, size, slots))
        start += size
    shared = tuple(Axis(f"shared{k}", size) for k, size in enumerate(sizes))
    stored = {
        name: (tuple(sorted(Tie(axis, slot, 0, 0, sizes[slot]) for axis, slot in pairs)),) for name, pairs in table
    }
    return Stack(number, (*shared, Axis(PACK, start)), tuple(members), stored)


def laid_out(b: Builder, piece: Piece, member: Member, rows: Axes, seed: Axes, key: Key, stack: Stack) -> int:
    """A member's own piece with the stack's axes: the shared ones that are not tied, then its entries in a row."""
    places = free(piece.key, seed)
    count = len(rows)
    shared = [member.slots[slot] for slot in free(key, stack.seed)[:-1]]
    rest = [k for k in places if k not in shared]
    order = [*range(count), *(count + places.index(k) for k in (*shared, *rest))]
    value = b.op("transpose", piece.value, order=tuple(order)) if order != sorted(order) else piece.value
    front = (*row_axes(key, rows), *(lane(stack.seed, slot) for slot in free(key, stack.seed)[:-1]))
    own = Axis(lane(stack.seed, len(stack.seed) - 1).name, member.size)
    if not rest:
        return b.op("broadcast", fit(b, value, front), axes=(*front, own), at=tuple(range(len(front))))
    if len(rest) == 1:
        return fit(b, value, (*front, own))
    return b.op("reshape", value, axes=(*front, own))


def taken_apart(b: Builder, total: int, member: Member, seed: Axes, stack: Stack) -> int:
    """A member's part of a value with the stack's seed axes, with the member's own."""
    if not stack.flat:
        return fit(b, total, seed)
    at = len(stack.seed) - 1
    part = b.op("slice", total, at=at, start=member.start, axis=Axis(PACK, member.size))
    rest = [k for k in range(len(seed)) if k not in member.slots]
    axes = (*(seed[k] for k in member.slots), *(seed[k] for k in rest))
    value = b.op("reshape", part, axes=axes)
    places = [*member.slots, *rest]
    order = tuple(places.index(k) for k in range(len(seed)))
    return fit(b, value if order == tuple(range(len(order))) else b.op("transpose", value, order=order), seed)
