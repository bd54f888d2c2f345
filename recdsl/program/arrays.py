"""Arrays with named leading axes, over a passed-in array namespace (torch or numpy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recdsl.graph.types import Type


@dataclass(frozen=True)
class Cell:
    """A value: `array` has one dimension for each name in `lead`, then those of `type`'s own axes."""

    array: Any
    lead: tuple[str, ...]
    type: Type

    @property
    def extents(self) -> dict[str, int]:
        return dict(zip(self.lead, self.array.shape, strict=False))


def dtype(xp: Any, kind: str, precision: str = "float64") -> Any:
    """The array type of a kind of number."""
    names = {"float": precision, "int": "int64", "bool": "bool", "complex": "complex128"}
    return getattr(xp, names[kind])


def copy(array: Any) -> Any:
    """A fresh array: what is loaded must not change when its storage does."""
    return array.clone() if hasattr(array, "clone") else array.copy()


def permute(xp: Any, array: Any, order: Sequence[int]) -> Any:
    """Dimension `order[k]` becomes dimension k."""
    return xp.moveaxis(array, tuple(order), tuple(range(len(order))))


def union(leads: Sequence[Sequence[str]], first: Sequence[str] = ()) -> tuple[str, ...]:
    """All names: those of `first` that occur in its order, then the others as they appear."""
    found = dict.fromkeys(label for lead in leads for label in lead)
    return (*(label for label in first if label in found), *(label for label in found if label not in first))


def extents(cells: Sequence[Cell]) -> dict[str, int]:
    """The size of each leading axis. A size 1 that stands for another must not occur: names decide."""
    sizes: dict[str, int] = {}
    for cell in cells:
        for label, size in cell.extents.items():
            if sizes.setdefault(label, int(size)) != int(size):
                raise ValueError(f"leading axis `{label}` has extents {sizes[label]} and {size}")
    return sizes


def spread(xp: Any, cell: Cell, lead: Sequence[str], sizes: Mapping[str, int]) -> Any:
    """The array with exactly the leading axes `lead`, repeated along those it lacks."""
    missing = [label for label in cell.lead if label not in lead]
    if missing:
        raise ValueError(f"leading axis `{missing[0]}` would be lost")
    kept = [label for label in lead if label in cell.lead]
    own = tuple(range(len(cell.lead), len(cell.array.shape)))
    array = permute(xp, cell.array, (*(cell.lead.index(label) for label in kept), *own))
    tail = tuple(cell.array.shape[len(cell.lead) :])
    present = cell.extents
    array = array.reshape((*(present.get(label, 1) for label in lead), *tail))
    return xp.broadcast_to(array, (*(sizes[label] for label in lead), *tail))


def collapse(xp: Any, cell: Cell, keep: Sequence[str]) -> Cell:
    """The sum over all leading axes that are not in `keep`."""
    gone = tuple(k for k, label in enumerate(cell.lead) if label not in keep)
    if not gone:
        return cell
    return Cell(cell.array.sum(gone), tuple(label for label in cell.lead if label in keep), cell.type)


def view(xp: Any, cell: Cell, lead: Sequence[str], type: Type) -> Cell:
    """The same numbers with other axes in front: leading axes become own ones, or the reverse."""
    have = [*cell.lead, *cell.type.names]
    want = [*lead, *type.names]
    if sorted(have) != sorted(want):
        raise ValueError(f"a view of axes {have} as {want}")
    return Cell(permute(xp, cell.array, [have.index(label) for label in want]), tuple(lead), type)


def rows(xp: Any, storage: Cell, index: Cell) -> Cell:
    """Rows of the storage's first leading axis at an integer value; -1 gives zeros. Other axes align by name."""
    rest = storage.lead[1:]
    lead = (*index.lead, *(label for label in rest if label not in index.lead))
    sizes = {**{label: storage.extents[label] for label in rest}, **index.extents}
    places = spread(xp, index, lead, sizes)
    picks = [xp.where(places < 0, xp.zeros_like(places), places)]
    for label in rest:
        position = Cell(xp.arange(sizes[label]), (label,), index.type)
        picks.append(spread(xp, position, lead, sizes))
    found = storage.array[tuple(picks)]
    hit = (places >= 0).reshape((*places.shape, *(1,) * len(storage.type.axes)))
    return Cell(xp.where(hit, found, xp.zeros_like(found)), lead, storage.type)


def scattered(xp: Any, target: Cell, index: Cell, value: Cell) -> Any:
    """What `target[index] += value` adds to the whole of target: duplicates add, -1 adds nothing."""
    slot, *rest = target.lead
    sizes = {**extents([index, value]), slot: target.array.shape[0]}
    lead = union([index.lead, value.lead], rest)
    places = spread(xp, index, lead, sizes)
    hit = places[..., None] == xp.arange(sizes[slot])
    own = len(value.type.axes)
    array = spread(xp, value, lead, sizes)
    wide = array.reshape((*array.shape[: len(lead)], 1, *array.shape[len(lead) :]))
    mask = hit.reshape((*hit.shape, *(1,) * own))
    full = Cell(xp.where(mask, wide, xp.zeros_like(wide)), (*lead, slot), value.type)
    return spread(xp, collapse(xp, full, target.lead), target.lead, target.extents)
